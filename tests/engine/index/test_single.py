"""One query takes a short path; it answers as the long one does, to the last bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("faiss", reason="FAISS isn't installed")

from nearql.engine.types import ROW_COLUMN, VECTOR_METRICS, Metric, SearchRequest
from nearql.engine.view import TableView
from support.disks import SimulatedDisk
from support.indexes import HARD, SETTINGS, filled, found, index_def, inline, packages, put

DIRECTORY = Path("/data/table")


@pytest.mark.parametrize("metric", [Metric.L2, Metric.COSINE, Metric.INNER_PRODUCT])
@pytest.mark.parametrize("kind", ["hnsw", "ivfpq"])
@pytest.mark.parametrize("element", ["VECTOR", "HALFVEC"])
def test_alone_and_among_others(metric: Metric, kind: str, element: str) -> None:
    rng = np.random.default_rng(6)
    stretch = rng.uniform(0.5, 2, (900, 1)).astype(np.float32)
    vectors = np.ascontiguousarray(packages()[:900, :48] * stretch)
    vectors[100:140] = vectors[100]  # ties, that keys decide
    context = inline(SETTINGS, SimulatedDisk())
    table = filled(DIRECTORY, context, vectors, index_def(kind, metric), kind=element)
    view = table.read_view()
    queries = np.concatenate([vectors[95:105], packages()[2000:2030, :48]])
    chosen = view.row_set(np.flatnonzero(rng.random(900) < 0.6))
    for rows in (None, chosen):
        for k in (1, 10, 60):
            together = view.search(SearchRequest("vec", metric, queries, k, rows, tuning=HARD))
            for at, query in enumerate(queries):
                alone = found(view, query, k, metric=metric, rows=rows)
                assert alone.stats.backend == kind
                np.testing.assert_array_equal(alone.rows[0], together.rows[at])
                np.testing.assert_array_equal(alone.distances[0], together.distances[at])


@pytest.mark.parametrize("metric", list(VECTOR_METRICS))
@pytest.mark.parametrize("element", ["VECTOR", "HALFVEC"])
def test_few_rows_that_qualify_alone_and_among_others(metric: Metric, element: str) -> None:
    """Fewer than LIMIT, a handful, hundreds; equal ones, zero vectors, NULLs; with dead rows."""
    rng = np.random.default_rng(8)
    vectors = packages()[:900, :48].copy()
    vectors[100:140] = vectors[100]
    vectors[200:203] = 0
    table = filled(DIRECTORY, inline(SETTINGS, SimulatedDisk()), vectors, kind=element)
    put(table, range(300, 310), [None] * 10)
    view = table.read_view()
    queries = np.concatenate([vectors[98:104], packages()[2000:2010, :48]])
    for share in (0.005, 0.03, 0.4):
        for _ in range(4):  # a row set may lie where one lay that is gone
            keys = np.union1d(np.flatnonzero(rng.random(900) < share), [99, 100, 120, 201, 305])
            rows = view.row_set(places(view, keys[rng.random(len(keys)) < 0.9]))
            for k in (1, 3, 10, 60):
                together = view.search(SearchRequest("vec", metric, queries, k, rows))
                for at, query in enumerate(queries):
                    alone = found(view, query, k, metric=metric, rows=rows)
                    assert alone.stats.strategy == "exact_filtered"
                    assert alone.stats.selectivity == together.stats.selectivity
                    np.testing.assert_array_equal(alone.rows[0], together.rows[at])
                    np.testing.assert_array_equal(alone.distances[0], together.distances[at])


@pytest.mark.parametrize("metric", [Metric.L2, Metric.COSINE])
def test_an_index_and_new_rows_alone_and_among_others(metric: Metric) -> None:
    """What is in no index yet is read beside it."""
    vectors = packages()[:1000, :48]
    context = inline(SETTINGS, SimulatedDisk())
    table = filled(DIRECTORY, context, vectors[:900], index_def("hnsw", metric))
    put(table, range(900, 950), list(vectors[900:950]))
    view = table.read_view()
    chosen = view.row_set(places(view, np.arange(0, 1000, 3)))
    for rows in (None, chosen):
        together = view.search(
            SearchRequest("vec", metric, vectors[880:960], 10, rows, tuning=HARD)
        )
        for at, query in enumerate(vectors[880:960]):
            alone = found(view, query, 10, metric=metric, rows=rows)
            assert alone.stats.backend == "hnsw"
            assert alone.stats.candidates > (50 if rows is None else 17)  # the new ones, and named
            np.testing.assert_array_equal(alone.rows[0], together.rows[at])
            np.testing.assert_array_equal(alone.distances[0], together.distances[at])


def test_what_is_kept_of_a_filter_goes_with_it() -> None:
    table = filled(DIRECTORY, inline(SETTINGS, SimulatedDisk()), packages()[:300, :16])
    view = table.read_view()
    rows = view.row_set(places(view, np.arange(0, 300, 3)))
    for _ in range(2):
        found(view, packages()[5, :16], 3, rows=rows)
    (kept,) = view._indexed.values()
    assert len(kept.filtered) == 1
    del rows
    assert not kept.filtered


def places(view: TableView, keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """The row numbers of keys, those of them that the view has."""
    scanned = view.scan(["id"])
    rows, ids = (np.asarray(scanned.column(name)) for name in (ROW_COLUMN, "id"))
    return rows[np.isin(ids, keys)]
