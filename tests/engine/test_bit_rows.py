"""Bit strings as words: distances are those that counting bits one by one gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nearql.engine import bit_rows
from nearql.engine.distance import candidate_distances
from nearql.engine.types import Metric

LENGTHS = (1, 7, 8, 20, 63, 64, 65, 129, 384)


def naive(left: NDArray[np.bool_], right: NDArray[np.bool_], metric: Metric) -> np.float32:
    """As SQL reckons it."""
    if metric is Metric.HAMMING:
        return np.float32((left != right).sum())
    both = int((left & right).sum())
    return np.float32(1 if both == 0 else 1 - both / int((left | right).sum()))


@pytest.mark.parametrize("bits", LENGTHS)
@pytest.mark.parametrize("metric", [Metric.HAMMING, Metric.JACCARD])
def test_distances_are_those_of_single_bits(bits: int, metric: Metric) -> None:
    random = np.random.default_rng(bits)
    rows = random.random((40, bits)) < random.random((40, 1))
    rows[:2] = [[False], [True]]
    words: Any = bit_rows.from_bytes(np.packbits(rows, axis=1))
    assert words.shape == (40, bit_rows.word_count(bits))
    queries = rows[::7].astype(np.float32)
    packed = bit_rows.from_queries(queries)
    for at, query in enumerate(rows[::7]):
        expected = np.array([naive(row, query, metric) for row in rows])
        assert np.array_equal(bit_rows.distances(words, packed[at], metric), expected)
        positions = np.arange(39, -1, -1)
        found = candidate_distances(words, positions, queries, np.full(40, at), metric)
        assert np.array_equal(found, expected[::-1])


def test_signs_are_ones_for_what_is_above_zero() -> None:
    vectors = np.array([[0.0, -0.0, 1e-30, -1, 5], [1, 1, 1, 1, 1]], np.float32)
    expected = np.packbits([[0, 0, 1, 0, 1], [1, 1, 1, 1, 1]], axis=1)
    assert np.array_equal(bit_rows.from_signs(vectors), bit_rows.from_bytes(expected))
    halves = vectors.astype(np.float16)  # 1e-30 is none there
    expected = np.packbits([[0, 0, 0, 0, 1], [1, 1, 1, 1, 1]], axis=1)
    assert np.array_equal(bit_rows.from_signs(halves), bit_rows.from_bytes(expected))


def test_more_rows_than_are_looked_at_at_once() -> None:
    vectors = np.random.default_rng(1).standard_normal((20_000, 70)).astype(np.float32)
    words = bit_rows.from_signs(vectors)
    assert np.array_equal(words, bit_rows.from_bytes(np.packbits(vectors > 0, axis=1)))
    query = bit_rows.from_signs(vectors[7:8])[0]
    expected = ((vectors > 0) != (vectors[7] > 0)).sum(axis=1)
    assert np.array_equal(bit_rows.distances(words, query, Metric.HAMMING), expected)
