"""One query takes a short path; it answers as the long one does, to the last bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("faiss", reason="FAISS isn't installed")

from nearql.engine.types import Metric, SearchRequest
from support.disks import SimulatedDisk
from support.indexes import HARD, SETTINGS, filled, found, index_def, inline, packages

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
