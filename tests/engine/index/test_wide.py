"""Vectors of as many dimensions as a column may have, by every kind of index; slow."""

from __future__ import annotations

import uuid
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

pytest.importorskip("faiss", reason="FAISS isn't installed")

from nearql.engine.index.registry import index_kinds
from nearql.engine.schema import (
    MAX_DIMENSIONS,
    Column,
    ColumnType,
    IndexDef,
    TableDef,
    TableSchema,
)
from nearql.engine.settings import EngineSettings
from nearql.engine.table import Table
from nearql.engine.types import Metric, OnConflict
from support.indexed import IndexedTable, debian_vectors, halfway, make_context

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
ROWS = 100


def spread(few: NDArray[np.float32]) -> NDArray[np.float32]:
    """Real vectors, turned into as many dimensions as there may be; their distances stay."""
    return np.ascontiguousarray(few @ turned(few.shape[1]).T, np.float32)


@cache
def turned(dimensions: int) -> NDArray[np.float64]:
    """Orthogonal columns, (most dimensions, dimensions)."""
    drawn = np.random.default_rng(5).standard_normal((MAX_DIMENSIONS, dimensions))
    found: NDArray[np.float64] = np.linalg.qr(drawn)[0]
    return found


CASES = [*((kind, "VECTOR") for kind in index_kinds()), ("hnsw", "HALFVEC")]


@pytest.mark.parametrize(("kind", "element"), CASES)
def test_every_kind_is_built_and_asked(kind: str, element: str, tmp_path: Path) -> None:
    few = debian_vectors()[:ROWS]
    queries = spread(halfway(few, 10))
    settings = EngineSettings(index_min_rows=64, search_threads=1, tune_quiet_ms=0)
    columns = (
        Column(1, "id", ColumnType("BIGINT"), not_null=True),
        Column(2, "vec", ColumnType(f"{element}({MAX_DIMENSIONS})")),
    )
    index = IndexDef(str(uuid.UUID(int=2)), "near", "vec", kind, Metric.COSINE)
    schema = TableSchema(columns, key_number=1)
    definition = TableDef(str(uuid.UUID(int=1)), "docs", schema, indexes=(index,))
    context = make_context(settings)
    made = Table.create(tmp_path, definition, context)
    docs = IndexedTable(made, context, Metric.COSINE, tmp_path)
    try:
        flat = spread(few).ravel().astype("f2" if element == "HALFVEC" else "f4")
        rows = {
            "id": np.arange(ROWS),
            "vec": pa.FixedSizeListArray.from_arrays(flat, MAX_DIMENSIONS),
        }
        made.insert(pa.table(rows), OnConflict.ERROR)
        docs.build()
        [progress] = made.index_progress().values()
        assert (progress.phase, progress.detail) == ("ready", None)
        assert not docs.search(queries).stats.strategy.startswith("exact")
        assert docs.recall(queries) >= 0.94
        docs.reopen()
        assert not docs.search(queries).stats.strategy.startswith("exact")
    finally:
        docs.close()
