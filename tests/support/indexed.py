"""A table of vectors with an index that is really asked, whatever reading would cost."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nearql.engine.backends import choose_backend
from nearql.engine.context import EngineContext
from nearql.engine.costs import Machine
from nearql.engine.index.builder import Builder
from nearql.engine.schema import Column, ColumnType, IndexDef, TableDef, TableSchema
from nearql.engine.search import Searcher
from nearql.engine.settings import EngineSettings
from nearql.engine.storage.files import LocalFileSystem
from nearql.engine.table import Table
from nearql.engine.tuning import recalls
from nearql.engine.types import (
    Change,
    Metric,
    OnConflict,
    RowSet,
    SearchHits,
    SearchRequest,
    Tuning,
)
from support.datasets import SMALL
from support.tables import CLUSTER, Inline, fatal

READING_IS_DEAR = Machine(call_us=20_000)  # any index that reaches its target is cheaper
Vectors = NDArray[np.float32]


@cache
def debian_vectors() -> Vectors:
    """The 5,000 packages that ship with the project, projected: float32 (5000, 64), unit length.

    With a sixth of the dimensions everything takes a sixth of the time, and is real data still.
    """
    column = pq.read_table(SMALL, columns=["embedding"])["embedding"].combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    vectors = flat.reshape(len(column), -1)
    projected = vectors @ np.random.default_rng(7).standard_normal((384, 64)).astype(np.float32)
    lengths = np.linalg.norm(projected, axis=1, keepdims=True)
    return np.ascontiguousarray(projected / lengths, np.float32)


def halfway(vectors: Vectors, count: int, seed: int = 0) -> Vectors:
    """Queries between a row and one of its ten nearest, off both a little: float32 (count, d)."""
    random = np.random.default_rng(seed)
    first = vectors[random.choice(len(vectors), count)]
    some = vectors[:: max(1, len(vectors) // 1_000)]
    near = np.argpartition(first @ some.T, -10, axis=1)[:, -10:]
    second = some[near[np.arange(count), random.integers(0, 10, count)]]
    noise = random.standard_normal(first.shape).astype(np.float32) * np.float32(0.02)
    return np.ascontiguousarray(first + second + noise, np.float32)


@dataclass
class IndexedTable:
    """One table `docs (id BIGINT PRIMARY KEY, vec VECTOR(d))` with one index on `vec`."""

    table: Table
    context: EngineContext
    metric: Metric
    folder: Path

    @classmethod
    def create(
        cls,
        folder: Path,
        kind: str,
        *,
        dimensions: int,
        metric: Metric = Metric.COSINE,
        options: Mapping[str, Any] | None = None,
        settings: EngineSettings | None = None,
    ) -> IndexedTable:
        """An empty table; builds run in the thread that asks for them."""
        context = make_context(
            settings or EngineSettings(index_min_rows=64, search_threads=2, tune_quiet_ms=0)
        )
        columns = (
            Column(1, "id", ColumnType("BIGINT"), not_null=True),
            Column(2, "vec", ColumnType(f"VECTOR({dimensions})")),
        )
        index = IndexDef(str(uuid.UUID(int=2)), "near", "vec", kind, metric, dict(options or {}))
        schema = TableSchema(columns, key_number=1)
        definition = TableDef(str(uuid.UUID(int=1)), "docs", schema, indexes=(index,))
        return cls(Table.create(folder, definition, context), context, metric, folder)

    def close(self) -> None:
        """Close the table and its context's threads."""
        self.table.close()
        self.context.searcher.close()
        self.context.background.shutdown()

    def reopen(self) -> None:
        """Close the table and open it again, as a restart does."""
        definition = self.table.definition
        self.table.close()
        self.table = Table.open(self.folder, definition, self.context)

    def put(self, first: int, vectors: Vectors, *, step: int = 1) -> None:
        """Rows with keys from `first` on, new or not."""
        items = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        ids = pa.array(np.arange(first, first + step * len(vectors), step))
        self.table.insert(pa.table({"id": ids, "vec": items}), OnConflict.REPLACE)

    def build(self) -> None:
        """Seal what is in memory; the index of every segment is built and measured."""
        self.table.checkpoint()

    def delete(self, keys: NDArray[np.int64]) -> None:
        """Delete these keys."""
        view = self.table.read_view()
        found = view.scan(["id"])
        rows = found.column(0).to_numpy()[np.isin(found.column(1).to_numpy(), keys)]
        self.table.modify(lambda _: Change(rows, None, deleted=len(rows)))

    def rows_with(self, keys: NDArray[np.int64]) -> RowSet:
        """The filter that leaves these keys."""
        view = self.table.read_view()
        found = view.scan(["id"])
        return view.row_set(found.column(0).to_numpy()[np.isin(found.column(1).to_numpy(), keys)])

    def search(self, queries: Vectors, rows: RowSet | None = None, **tuning: Any) -> SearchHits:
        """The ten nearest."""
        k = tuning.get("k", 10)
        settings = Tuning(**{name: value for name, value in tuning.items() if name != "k"})
        request = SearchRequest("vec", self.metric, queries, k, rows, tuning=settings)
        return self.table.read_view().search(request)

    def recall(self, queries: Vectors, rows: RowSet | None = None, **tuning: Any) -> float:
        """Mean recall of the ten nearest; as many rows as qualify must be there."""
        hits = self.search(queries, rows, **tuning)
        exact = self.search(queries, rows, target_recall=1.0, k=tuning.get("k", 10))
        assert exact.stats.strategy.startswith("exact")
        assert ((hits.rows >= 0).sum(axis=1) == (exact.rows >= 0).sum(axis=1)).all()
        return float(recalls(exact.distances, hits.distances).mean())


def make_context(settings: EngineSettings) -> EngineContext:
    """A context whose builds run inline and for which reading is dear."""
    searcher = Searcher(choose_backend(settings), settings)
    searcher.machine = READING_IS_DEAR
    context = EngineContext(settings, searcher, LocalFileSystem(), CLUSTER, fatal)
    context.index_builder = Builder(inline=True)
    context.background = Inline(1)
    return context
