"""DuckDB behind a locked door: the processor of everything in a statement that is not a vector
search.

One in-memory database per process. It has no tables of its own: a statement opens a `Cursor`,
registers the Arrow relations that its plan names, runs SQL over them and closes it. A registered
relation is visible to its own cursor only, so statements can't see each other.

The door: no files, no network, no extensions, no Python variables, no further settings
(`lock_configuration`). Distances that the planner left in the SQL call the `nq_*` functions of
`duck_functions`.
"""

from __future__ import annotations

import atexit
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from nearql.engine.priority import PROCESSORS, step_back
from nearql.query import duck_functions
from nearql.query.duck_errors import translate

_LOCKED = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    "temp_directory": "",  # spilling would write files where the process happens to stand
}
_BIT = re.compile(r"\bBIT\b")  # DuckDB's Arrow form of BIT is its own internal one
_BATCH_ROWS = 4_096  # an answer is received in batches, so that too large a one is cut off early


@dataclass(frozen=True, slots=True)
class DuckOptions:
    """Limits of the processor. memory_limit_bytes 0 = DuckDB's default, 80 % of the machine;
    threads 0 = all. call_length: characters or elements that one call may make.
    """

    memory_limit_bytes: int = 0
    threads: int = 0
    call_length: int = 20_000


@dataclass(frozen=True, slots=True)
class Answer:
    """What a query returned: columns by position (names may repeat), `types` in DuckDB's words; BIT
    is text.
    """

    table: pa.Table
    types: tuple[str, ...]


class Duck:
    """The process's database; get it with `shared`."""

    def __init__(self, options: DuckOptions) -> None:
        config: dict[str, str | bool | int | float | list[str]] = {
            **_LOCKED,
            "threads": str(options.threads or os.cpu_count() or 1),
        }
        if options.memory_limit_bytes:
            config["memory_limit"] = f"{options.memory_limit_bytes >> 10}KiB"
        self._connection = _begun(config)
        duck_functions.install(self._connection, options.call_length)
        self.aggregates = _names(self._connection, "aggregate")
        self._connection.execute("SET TimeZone = 'UTC'")
        self._connection.execute("SET lock_configuration = true")

    def cursor(self) -> Cursor:
        """A cursor with nothing registered; use it in a `with` block."""
        return Cursor(self._connection.cursor())

    def close(self) -> None:
        """Drop the functions and the database; nothing of it outlives this."""
        self._connection.close()


def _begun(config: dict[str, str | bool | int | float | list[str]]) -> duckdb.DuckDBPyConnection:
    """A database whose own threads come after those of searches: they inherit it of this one."""
    with ThreadPoolExecutor(1, initializer=step_back, initargs=(PROCESSORS,)) as first:
        return first.submit(duckdb.connect, ":memory:", config=config).result()


class Cursor:
    """One statement's view of DuckDB. Only `interrupt` may be called from another thread."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._lock = threading.Lock()  # a closed connection must not be interrupted
        self._closed = False

    def __enter__(self) -> Cursor:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._closed = True
            self._connection.close()

    def register(self, name: str, table: pa.Table) -> None:
        """Make `table` readable as `name` in this cursor's SQL; nothing is copied.

        Raises:
            NearQLError: a column's Arrow type is none that DuckDB knows.
        """
        with translating():
            self._connection.register(name, table)

    def query(
        self,
        sql: str,
        params: Mapping[str, Any] | None = None,
        *,
        check_size: Callable[[int, int], None] | None = None,
    ) -> Answer:
        """Run one statement that returns rows.

        Args:
            params: values of the `$name` parameters in `sql`, exactly those.
            check_size: called with the rows and bytes received so far; raises if they are too many.

        Raises:
            NearQLError: whatever DuckDB refused, in NearQL's words.
        """
        with translating():
            relation = self._connection.sql(sql, params=dict(params or {}))
            types = tuple(str(kind) for kind in relation.types)
            if any(_BIT.search(kind) for kind in types):
                relation = relation.project(_bits_as_text(relation.columns, types))
            if check_size is None:
                return Answer(relation.to_arrow_table(), types)
            return Answer(_gathered(relation.to_arrow_reader(_BATCH_ROWS), check_size), types)

    def materialize(self, name: str, sql: str, params: Mapping[str, Any] | None = None) -> None:
        """Keep a query's result as the temporary table `name`, types unchanged, for this cursor."""
        with translating():
            self._connection.execute(f"CREATE TEMP TABLE {name} AS {sql}", dict(params or {}))

    def interrupt(self) -> None:
        """Make the query that runs now end with an error; without one, nothing happens."""
        with self._lock:
            if not self._closed:
                self._connection.interrupt()


def _bits_as_text(names: Sequence[str], types: Sequence[str]) -> str:
    """A select list: bit strings, alone or inside lists and structs, as text of 0 and 1."""
    items = []
    for place, (name, kind) in enumerate(zip(names, types, strict=True), 1):
        value = f"#{place}"
        if _BIT.search(kind):
            value = f"CAST({value} AS {_BIT.sub('VARCHAR', kind)})"
        items.append(f'{value} AS "{name.replace(chr(34), chr(34) * 2)}"')
    return ", ".join(items)


def _gathered(reader: pa.RecordBatchReader, check_size: Callable[[int, int], None]) -> pa.Table:
    batches: list[pa.RecordBatch] = []
    rows = size = 0
    with reader:
        for batch in reader:
            batches.append(batch)
            rows, size = rows + batch.num_rows, size + batch.nbytes
            check_size(rows, size)
        return pa.Table.from_batches(batches, reader.schema)


@contextmanager
def translating() -> Iterator[None]:
    """Turn DuckDB's exceptions into NearQL's."""
    try:
        yield
    except (duckdb.Error, OSError) as error:
        # An error while the answer is being read comes through Arrow's reader, as an OSError.
        raise translate(error) from error


def _names(connection: duckdb.DuckDBPyConnection, kind: str) -> frozenset[str]:
    found = connection.execute(
        "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type = ?", [kind]
    )
    return frozenset(name.lower() for (name,) in found.fetchall())


class _Process:
    """The one database of the process and the options that it is made with."""

    lock = threading.Lock()
    options = DuckOptions()
    duck: Duck | None = None


def configure(options: DuckOptions) -> None:
    """Set the limits; counts only before the first statement of the process."""
    with _Process.lock:
        _Process.options = options


def shared() -> Duck:
    """The process's database, made on first use."""
    if (duck := _Process.duck) is not None:
        return duck
    with _Process.lock:
        if _Process.duck is None:
            _Process.duck = Duck(_Process.options)
            atexit.register(close)
        return _Process.duck


def close() -> None:
    """Close the process's database; the next `shared` makes a new one."""
    with _Process.lock:
        if _Process.duck is not None:
            _Process.duck.close()
            _Process.duck = None
            atexit.unregister(close)
