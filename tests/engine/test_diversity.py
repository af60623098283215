"""Maximal marginal relevance, beside a loop over its definition."""

from __future__ import annotations

import numpy as np
import pytest

from nearql.engine.distance import canonical_distances
from nearql.engine.diversity import diversified
from nearql.engine.types import VECTOR_METRICS, Metric


def nothing() -> None:
    """Never over."""


@pytest.mark.parametrize("metric", list(VECTOR_METRICS))
@pytest.mark.parametrize("balance", [0.0, 0.3, 0.5, 1.0])
def test_it_is_its_definition(metric: Metric, balance: float) -> None:
    random = np.random.default_rng(2)
    vectors = random.integers(-3, 4, (30, 4)).astype(np.float32)
    vectors = vectors[vectors.any(axis=1)]
    distances = canonical_distances(vectors, vectors[0], metric)
    order = np.argsort(distances, kind="stable")
    vectors, distances = vectors[order], distances[order]
    chosen = diversified(vectors, distances, metric, count=8, balance=balance, check=nothing)
    expected: list[int] = [0]
    while len(expected) < 8:
        gains = {}
        for one in set(range(len(vectors))) - set(expected):
            apart = canonical_distances(vectors[expected], vectors[one], metric).astype(float)
            gains[one] = (1 - balance) * apart.min() - balance * float(distances[one])
        expected.append(max(sorted(gains), key=lambda one: gains[one]))
    assert chosen.tolist() == expected


def test_all_rows_come_however_odd() -> None:
    """Zero vectors have no distance under cosine; they come last."""
    vectors = np.array([[1, 0], [0, 1], [0, 0], [0, 0]], np.float32)
    distances = canonical_distances(vectors, vectors[0], Metric.COSINE)
    for balance in (0.0, 0.5, 1.0):
        chosen = diversified(
            vectors, distances, Metric.COSINE, count=9, balance=balance, check=nothing
        )
        assert chosen.tolist() == [0, 1, 2, 3]


def test_none_of_none() -> None:
    empty = np.empty((0, 2), np.float32)
    none = np.empty(0, np.float32)
    assert not len(diversified(empty, none, Metric.L2, count=3, balance=0.5, check=nothing))
