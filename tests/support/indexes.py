"""Tables with indexes for tests: real vectors, builds in the thread that asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nearql.engine.context import EngineContext
from nearql.engine.distance import canonical_distances
from nearql.engine.index.builder import Builder
from nearql.engine.schema import Column, ColumnType, IndexDef, TableDef, TableSchema
from nearql.engine.settings import EngineSettings
from nearql.engine.storage.files import FileSystem
from nearql.engine.table import Table
from nearql.engine.types import Metric, OnConflict, SearchHits, SearchRequest, Tuning
from nearql.engine.view import TableView
from support.datasets import SMALL
from support.tables import one_thread

UUID = "22222222-3333-4444-5555-666666666666"
TABLE_UUID = "11111111-2222-3333-4444-555555555555"
#: enough for an index over a few hundred rows
SETTINGS = EngineSettings(
    seal_rows=400, join_rows=400, index_min_rows=100, search_threads=1, disk_reserve_bytes=0,
    wal_record_bytes=1 << 20,
)  # fmt: skip
HARD = Tuning(ef_search=1000, probes=1000)  # as good as an index gets


@cache
def packages() -> NDArray[np.float32]:
    """The embeddings of 5,000 packages, float32 (5000, 384), of unit length."""
    column = pq.read_table(SMALL, columns=["embedding"])["embedding"].combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat.reshape(len(column), -1), np.float32)


def exact_recall(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], metric: Metric,
    positions: NDArray[np.int64], *, k: int = 10,
) -> float:  # fmt: skip
    """Share of the k nearest that are among each query's positions; ties count."""
    hits = 0
    for query, found in zip(queries, positions, strict=True):
        distances = canonical_distances(vectors, query, metric)
        kth = np.partition(distances, k - 1)[k - 1]
        mine = np.unique(found[found >= 0])
        hits += min(k, int((distances[mine] <= kth + 1e-5).sum()))
    return hits / (k * len(queries))


def inline(settings: EngineSettings, fs: FileSystem) -> EngineContext:
    """A context in which everything, builds too, happens in the caller's thread."""
    made = one_thread(settings, fs)
    made.index_builder = Builder(inline=True)
    return made


def schema(dimensions: int, kind: str = "VECTOR") -> TableSchema:
    """Key `id` and the vector column `vec`."""
    vec = Column(2, "vec", ColumnType(f"{kind}({dimensions})"))
    return TableSchema((Column(1, "id", ColumnType("BIGINT"), True), vec), key_number=1)


def index_def(kind: str, metric: Metric = Metric.L2, **options: Any) -> IndexDef:
    """An index of `vec`."""
    return IndexDef(UUID, "ix", "vec", kind, metric, options)


def table_def(dimensions: int, *indexes: IndexDef, kind: str = "VECTOR") -> TableDef:
    """A table named docs."""
    return TableDef(TABLE_UUID, "docs", schema(dimensions, kind), indexes=indexes)


def put(table: Table, ids: Sequence[int] | NDArray[np.int64], vectors: Any) -> None:
    """Insert or replace rows; a vector may be None."""
    column = table.definition.schema.by_name["vec"]
    element = np.dtype(column.type.element)
    rows = [None if one is None else np.asarray(one, element) for one in vectors]
    array = pa.array(rows, column.type.storage)
    table.insert(pa.table({"id": pa.array(ids, pa.int64()), "vec": array}), OnConflict.REPLACE)


def filled(
    directory: Path, context: EngineContext, vectors: NDArray[np.float32], *indexes: IndexDef,
    kind: str = "VECTOR",
) -> Table:  # fmt: skip
    """A table with these vectors, ids from 0, then these indexes, built."""
    table = Table.create(directory, table_def(vectors.shape[1], kind=kind), context)
    for low in range(0, len(vectors), 200):
        part = vectors[low : low + 200]
        put(table, np.arange(low, low + len(part)), list(part))
    table.declare_indexes(indexes)
    return table


def found(
    view: TableView, query: NDArray[np.float32], k: int, *, metric: Metric = Metric.L2,
    tuning: Tuning = HARD, rows: Any = None,
) -> SearchHits:  # fmt: skip
    """The hits of one query."""
    return view.search(SearchRequest("vec", metric, query[np.newaxis], k, rows, tuning=tuning))


def ids(view: TableView, hits: SearchHits) -> list[int]:
    """The keys of a single query's hits."""
    rows = hits.rows[0]
    return view.take(["id"], rows[rows >= 0]).column(0).to_pylist()  # type: ignore[no-any-return]
