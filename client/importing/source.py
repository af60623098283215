"""What a table of another system is to us: columns, indexes, and rows as Arrow tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from nearql.client.schema import quoted

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_AT_ONCE = 2_048  # fetched from the source together


@dataclass(frozen=True)
class ImportColumn:
    """A column as the new table has it. default: SQL text."""

    name: str
    type: str
    not_null: bool = False
    default: str | None = None

    def definition(self, key: str | None) -> str:
        """Its line of CREATE TABLE."""
        parts = [quoted(self.name), self.type]
        if self.name == key:
            parts.append("PRIMARY KEY")
        elif self.not_null:
            parts.append("NOT NULL")
        if self.default is not None:
            parts.append(f"DEFAULT {self.default}")
        return " ".join(parts)


@dataclass(frozen=True)
class ImportIndex:
    """A vector index. options: name -> whole number, as WITH takes them."""

    name: str
    column: str
    kind: str
    operators: str
    options: dict[str, int] = field(default_factory=dict)

    def statement(self, table: str) -> str:
        """CREATE INDEX for it."""
        options = ", ".join(f"{name} = {value}" for name, value in self.options.items())
        return (
            f"CREATE INDEX {quoted(self.name)} ON {quoted(table)} USING {self.kind} "
            f"({quoted(self.column)} {self.operators})" + (f" WITH ({options})" if options else "")
        )


@dataclass
class ImportSource:
    """A table to be copied. rows: how many, None where that is not known.

    notices: what is not copied as it is, for people. close: lets go of the source.
    """

    name: str
    columns: list[ImportColumn]
    key: str | None
    indexes: list[ImportIndex]
    rows: int | None
    tables: Callable[[], Iterator[pa.Table]]
    close: Callable[[], None]
    notices: list[str] = field(default_factory=list)

    def index_statements(self, table: str) -> list[str]:
        """CREATE INDEX for each, under names that follow the table's."""
        old, named = self.name, []
        for index in self.indexes:
            follows = index.name.replace(old, table, 1) if old in index.name else index.name
            name = follows if table == old or follows != index.name else f"{table}_{index.name}"
            named.append(replace(index, name=name).statement(table))
        return named

    def create(self, table: str) -> str:
        """CREATE TABLE for it under a name."""
        columns = ", ".join(column.definition(self.key) for column in self.columns)
        return f"CREATE TABLE {quoted(table)} ({columns})"
