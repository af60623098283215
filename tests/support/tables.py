"""Small tables of the engine for tests: definitions, rows, a context on any disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from nearql.engine.backends.numpy import NumpyBackend
from nearql.engine.context import EngineContext
from nearql.engine.schema import Column, ColumnType, TableDef, TableSchema
from nearql.engine.search import Searcher
from nearql.engine.settings import EngineSettings
from nearql.engine.storage.files import FileSystem, LocalFileSystem
from nearql.engine.table import Table
from nearql.engine.types import ROW_COLUMN, Change, OnConflict, WriteOutcome
from nearql.engine.view import TableView

CLUSTER = b"0123456789abcdef"
DIMENSIONS = 3
SCHEMA = TableSchema(
    (
        Column(1, "id", ColumnType("BIGINT"), not_null=True),
        Column(2, "title", ColumnType("VARCHAR")),
        Column(3, "vec", ColumnType(f"VECTOR({DIMENSIONS})")),
    ),
    key_number=1,
)
#: small limits, so that a few rows make several segments and records
SMALL = EngineSettings(seal_rows=16, wal_record_bytes=4096, search_threads=1)


class Fatal(Exception):
    """The engine wanted to end the process."""


def fatal(reason: str) -> NoReturn:
    """What tests give as `on_fatal`."""
    raise Fatal(reason)


@cache
def searcher() -> Searcher:
    """One for all tests: it holds threads."""
    settings = EngineSettings(search_threads=1)
    return Searcher(NumpyBackend(), settings)


class AtOnce:
    """A flusher that makes all durable in the thread that appends: nothing is left to chance."""

    def schedule(self, log: Any) -> None:
        """Flush now."""
        while log.flush_group():
            pass

    def forget(self, log: Any) -> None:
        """No hints are written."""


class Inline(ThreadPoolExecutor):
    """Background work in the thread that asks for it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run now."""
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def context(settings: EngineSettings = SMALL, *, fs: FileSystem | None = None) -> EngineContext:
    """What tables need of a node."""
    return EngineContext(settings, searcher(), fs or LocalFileSystem(), CLUSTER, fatal)


def one_thread(settings: EngineSettings, fs: FileSystem) -> EngineContext:
    """A context with nothing in other threads, so that every run is the same."""
    flusher: Any = AtOnce()
    made = EngineContext(settings, searcher(), fs, CLUSTER, fatal, flusher)
    made.background = Inline(1)
    return made


def definition(schema: TableSchema = SCHEMA, **changes: Any) -> TableDef:
    """A table named docs."""
    return replace(TableDef("11111111-2222-3333-4444-555555555555", "docs", schema), **changes)


def vector(key: int, dimensions: int = DIMENSIONS) -> list[float]:
    """A vector that belongs to a key: different for different keys."""
    return [float(key % 101), float(key // 101), *([1.0] * (dimensions - 2))]


def row(key: int, title: str | None = None) -> dict[str, Any]:
    """A row of SCHEMA."""
    return {"id": key, "title": title if title is not None else f"t{key}", "vec": vector(key)}


def table_of(rows: Sequence[Mapping[str, Any]], schema: TableSchema = SCHEMA) -> pa.Table:
    """Rows in storage types."""
    storage = schema.storage_schema()
    columns = [
        pa.array([_value(row[field.name], field.type) for row in rows], field.type)
        for field in storage
    ]
    return pa.Table.from_arrays(columns, schema=storage)


def _value(value: Any, kind: pa.DataType) -> Any:
    half = pa.types.is_fixed_size_list(kind) and pa.types.is_float16(kind.value_type)
    return [np.float16(item) for item in value] if half and value is not None else value


def rows_of(keys: Iterable[int], title: str | None = None) -> pa.Table:
    """Rows of SCHEMA with these keys."""
    return table_of([row(key, title) for key in keys])


def insert(
    table: Table, keys: Iterable[int], title: str | None = None, **options: Any
) -> WriteOutcome:
    """Insert rows of SCHEMA; duplicates are an error."""
    conflict = options.pop("on_conflict", OnConflict.ERROR)
    return table.insert(rows_of(keys, title), conflict, **options)


def contents(view: TableView) -> dict[Any, dict[str, Any]]:
    """Every row by key, the vector included."""
    names = [column.name for column in view.schema.columns]
    found = view.scan(names).select(names).to_pylist()
    result = {row[view.schema.key.name]: row for row in found}
    assert len(result) == len(found), "a key was scanned twice"
    return result


def create(directory: Path, **options: Any) -> Table:
    """A new empty table."""
    given = options.pop("definition", None) or definition()
    return Table.create(directory, given, options.pop("context", None) or context(**options))


def keys(table: Table) -> set[Any]:
    """Keys that the table shows now."""
    return set(contents(table.read_view()))


def delete(view: TableView, *wanted: Any) -> Change:
    """The change that deletes these ids; what `modify` evaluates."""
    rows = view.scan(["id"]).to_pylist()
    gone = np.array([r[ROW_COLUMN] for r in rows if r["id"] in wanted], np.int64)
    return Change(gone, None, deleted=len(gone))
