"""Recall is a promise: under every filter, every kind of index, as data and queries change.

Reading is made dear, so that an index is asked wherever its profile reaches the target.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from support.indexed import IndexedTable, Vectors, debian_vectors, halfway

KINDS = (
    "hnsw",
    "ivfpq",
    pytest.param("ivfflat", marks=pytest.mark.slow),
    pytest.param("ivfrabitq", marks=pytest.mark.slow),
)
TARGET = 0.95
VECTORS = debian_vectors()
QUERIES = halfway(VECTORS, 200)


@pytest.fixture(scope="module", params=KINDS)
def docs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[IndexedTable]:
    """The 5,000 packages with an index of each kind."""
    pytest.importorskip("faiss")
    made = IndexedTable.create(tmp_path_factory.mktemp("docs"), request.param, dimensions=64)
    made.put(0, VECTORS)
    made.build()
    yield made
    made.close()


def test_without_a_filter(docs: IndexedTable) -> None:
    """Where no effort reaches the target, as ivfrabitq's on some machines, rows are read."""
    assert docs.recall(QUERIES) >= TARGET - 0.01
    kind = docs.table.definition.indexes[0].kind
    allowed = {"index", "exact"} if kind == "ivfrabitq" else {"index"}
    assert docs.search(QUERIES).stats.strategy in allowed


@pytest.mark.parametrize("percent", [50, 10, 2, 0.5, 0.1])
def test_under_a_filter_of_any_selectivity(docs: IndexedTable, percent: float) -> None:
    """LIMIT rows, or all that qualify, each time; `recall` checks it."""
    random = np.random.default_rng(1)
    keys = random.choice(5_000, int(5_000 * percent / 100), replace=False)
    rows = docs.rows_with(keys)
    assert docs.recall(QUERIES, rows) >= TARGET - 0.01
    if percent >= 10:
        kind = docs.table.definition.indexes[0].kind
        allowed = {"widening"} if kind == "hnsw" else {"widening", "bitmap"}
        assert docs.search(QUERIES, rows).stats.strategy in allowed


def test_under_a_filter_alone_and_among_others(docs: IndexedTable) -> None:
    """Also where some of the queries are too far from what qualifies for a bitmap."""
    for keys in (range(0, 5_000, 8), by_distance(QUERIES[0], "near")[:1_500]):
        rows = docs.rows_with(np.array(keys))
        together = docs.search(QUERIES[:40], rows)
        for at in range(40):
            alone = docs.search(QUERIES[at : at + 1], rows)
            np.testing.assert_array_equal(alone.rows[0], together.rows[at])
            np.testing.assert_array_equal(alone.distances[0], together.distances[at])


@pytest.mark.parametrize("percent", [50, 10, 2, 0.5, 0.1])
@pytest.mark.parametrize("side", ["near", "far"])
def test_under_a_filter_correlated_with_the_vectors(
    docs: IndexedTable, percent: float, side: str
) -> None:
    """The rows nearest to some point qualify, or the farthest; it is near some queries, far off
    others.
    """
    rows = docs.rows_with(by_distance(QUERIES[0], side)[: int(5_000 * percent / 100)])
    assert docs.recall(QUERIES, rows) >= TARGET - 0.01


@pytest.mark.parametrize("side", ["near", "far"])
def test_under_a_filter_correlated_with_each_query(docs: IndexedTable, side: str) -> None:
    """Of all rows those nearest to the query itself, or those that are not."""
    found = []
    for at in range(len(QUERIES)):
        rows = docs.rows_with(by_distance(QUERIES[at], side)[:1_500])
        found.append(docs.recall(QUERIES[at : at + 1], rows))
    assert np.mean(found) >= TARGET - 0.01


def by_distance(centre: Vectors, side: str) -> NDArray[np.int64]:
    """All keys, the nearest to a point first, or the farthest."""
    order = np.argsort(-(VECTORS @ centre), kind="stable")
    return order if side == "near" else order[::-1]


@pytest.mark.parametrize("target", [0.8, 0.9, 0.99])
def test_the_session_s_target(docs: IndexedTable, target: float) -> None:
    assert docs.recall(QUERIES, target_recall=target) >= target - 0.01


def test_a_target_of_one_is_exact(docs: IndexedTable) -> None:
    assert docs.search(QUERIES, target_recall=1.0).stats.strategy == "exact"


def test_larger_k(docs: IndexedTable) -> None:
    for k in (1, 40, 41, 640):
        assert docs.recall(QUERIES[:50], k=k) >= TARGET - 0.01
    assert docs.search(QUERIES[:2], k=641).stats.strategy == "exact"  # nothing says how well


def test_efforts_given_by_hand_win(docs: IndexedTable) -> None:
    """Whatever they cost in recall; but LIMIT rows are there under any filter."""
    low = docs.recall(QUERIES, ef_search=1, probes=1, target_recall=0.99)
    assert low < 0.99
    assert docs.recall(QUERIES, ef_search=400, probes=400) > low
    rows = docs.rows_with(np.arange(0, 5_000, 50))
    docs.recall(QUERIES, rows, ef_search=1, probes=1)


def test_a_graph_s_effort_given_by_hand_finds_as_much_under_a_filter(docs: IndexedTable) -> None:
    """Lists are another matter: as many are looked into as were asked for."""
    if docs.table.definition.indexes[0].kind != "hnsw":
        return
    without = docs.recall(QUERIES, ef_search=24)
    for every in (2, 10):
        rows = docs.rows_with(np.arange(0, 5_000, every))
        assert docs.recall(QUERIES, rows, ef_search=24) >= without - 0.02


def test_one_by_one_as_in_a_batch(docs: IndexedTable) -> None:
    """A query's answer doesn't depend on what it was asked with."""
    rows = docs.rows_with(np.arange(0, 5_000, 3))
    together = docs.search(QUERIES[:40], rows)
    for at in range(40):
        alone = docs.search(QUERIES[at : at + 1], rows)
        assert len(np.intersect1d(alone.rows, together.rows[at])) >= 9
