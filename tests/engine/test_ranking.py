"""Ranking: order by distance, ties by key, NaN last; keys of every type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from nearql.engine.ranking import Ranking

NAN = float("nan")


def rank(queries: list[int], rows: list[int], distances: list[float], query_count: int) -> Ranking:
    """A ranking of plain lists."""
    return Ranking.of(
        np.array(queries, np.int64),
        np.array(rows, np.int64),
        np.array(distances, np.float32),
        query_count,
    )


def no_keys(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Keys that must not be asked for."""
    raise AssertionError(f"keys of {rows} were asked for")


def test_queries_are_kept_apart() -> None:
    ranking = rank([1, 0, 1, 0, 1], [10, 11, 12, 13, 14], [3, 2, 1, NAN, 2], 3)
    ranking.settle(2, no_keys)
    rows, distances = ranking.top(2)
    assert rows.tolist() == [[11, 13], [12, 14], [-1, -1]]
    np.testing.assert_array_equal(distances, [[2, NAN], [1, 2], [NAN, NAN]])
    np.testing.assert_array_equal(ranking.kth(3), [NAN, 3, NAN])
    np.testing.assert_array_equal(ranking.kth(1), [2, 1, NAN])


@pytest.mark.parametrize(
    "keys",
    [
        np.array([5, 4, 3, 2, 1, 0]),
        np.array(["f", "e", "d", "c", "b", "a"]),
        pa.array([2**63 + 5, 2**63 + 4, 2**63 + 3, 2, 1, 0], pa.uint64()),
        pa.array(["é", "z", "b", "aa", "a", "Z"]),  # by code point
        pa.chunked_array([["f", "e"], ["d", "c", "b"], ["a"]]),
    ],
)
def test_ties_are_ordered_by_keys_of_every_type(keys: Any) -> None:
    """Keys fall with the row number, so that tied rows come in reverse."""
    ranking = rank([0] * 6, [0, 1, 2, 3, 4, 5], [1, 0, 1, NAN, 1, NAN], 1)
    ranking.settle(6, lambda rows: keys.take(rows))
    assert ranking.top(6)[0].tolist() == [[1, 4, 2, 0, 5, 3]]


def test_ties_beyond_k_are_left_alone() -> None:
    ranking = rank([0] * 5, [0, 1, 2, 3, 4], [1, 2, 3, 4, 4], 1)
    ranking.settle(3, no_keys)
    asked: list[int] = []

    def keys_of(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        asked.extend(rows.tolist())
        return -rows

    ranking.settle(4, keys_of)
    assert sorted(asked) == [3, 4]
    assert ranking.top(4)[0].tolist() == [[0, 1, 2, 4]]


def test_equal_distances_of_different_queries_are_no_tie() -> None:
    ranking = rank([0, 1, 2], [7, 7, 7], [1, 1, 1], 3)
    ranking.settle(1, no_keys)
    assert ranking.top(1)[0].tolist() == [[7], [7], [7]]


def test_nothing_to_rank() -> None:
    ranking = rank([], [], [], 2)
    ranking.settle(3, no_keys)
    assert ranking.top(3)[0].tolist() == [[-1] * 3] * 2
    assert np.isnan(ranking.kth(1)).all()
