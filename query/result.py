"""What a statement answers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from nearql.engine.schema import ColumnType

Kind = Literal["select", "dml", "ddl", "utility"]
_VECTOR = re.compile(r"^FLOAT\[(\d+)\]$")


@dataclass(frozen=True, slots=True)
class ResultColumn:
    """A column of an answer. type: as people see it, `BIGINT`, `TEXT`, `VECTOR(384)`."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Result:
    """An answer. row_count: rows returned, or rows affected by DML.

    stats: `strategy`, `shards` and, for DML, `write`.
    """

    columns: tuple[ResultColumn, ...]
    table: pa.Table
    row_count: int
    kind: Kind
    stats: dict[str, Any] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    @property
    def values(self) -> None:
        """See `Found`."""


class Found:
    """The answer to a search as Python's objects; a `Result` for who takes it as a table.

    values: column by column. make: the table, when it is asked for.
    """

    __slots__ = ("_make", "_table", "columns", "kind", "notices", "row_count", "stats", "values")

    def __init__(
        self, columns: tuple[ResultColumn, ...], values: list[list[Any]], row_count: int,
        stats: dict[str, Any], make: Callable[[], pa.Table],
    ) -> None:  # fmt: skip
        self.columns, self.values, self.row_count = columns, values, row_count
        self.stats, self.kind, self.notices = stats, "select", ()
        self._make = make
        self._table: pa.Table | None = None

    @property
    def table(self) -> pa.Table:
        """The rows, one Arrow column per column; made once."""
        if self._table is None:
            self._table = self._make()
        return self._table


def empty(kind: Kind, *, row_count: int = 0, **stats: Any) -> Result:
    """An answer without columns."""
    return Result((), pa.table({}), row_count, kind, stats)


def shown_type(duck: str) -> str:
    """The type that people see for a DuckDB type."""
    if match := _VECTOR.match(duck):
        return f"VECTOR({match[1]})"
    return ColumnType(duck).display


def rows_of(names: tuple[str, ...], types: tuple[str, ...], table: pa.Table) -> Result:
    """A SELECT's answer; `types` as DuckDB spells them."""
    columns = tuple(ResultColumn(n, shown_type(t)) for n, t in zip(names, types, strict=True))
    return Result(columns, table, table.num_rows, "select")


def listing(table: pa.Table, *types: str) -> Result:
    """A utility's answer; TEXT where no type is given for a column."""
    kinds = [*types, *["TEXT"] * (table.num_columns - len(types))]
    columns = tuple(ResultColumn(n, t) for n, t in zip(table.column_names, kinds, strict=True))
    return Result(columns, table, table.num_rows, "utility")
