"""Names that users give, and how things in the catalog are found by them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from nearql.engine.errors import Conflict, NearQLError, NotFound, SqlError, UndefinedColumn
from nearql.engine.named_query import dependents
from nearql.engine.schema import IndexDef, TableDef
from nearql.query.dialect import did_you_mean
from nearql.query.guard import RESERVED, is_view, undefined_table
from nearql.query.ports import CatalogView
from nearql.query.result import Result, empty
from nearql.query.statements import Statement

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")
_TABLE_WORDS = ("nearql", "excluded")


@dataclass(frozen=True, slots=True)
class DdlLimits:
    """How much a definition may hold."""

    name_chars: int = 128
    columns: int = 1_000
    shards: int = 64


LIMITS = DdlLimits()


def done(*notices: str) -> Result:
    """The answer of a statement that changes the catalog."""
    return replace(empty("ddl"), notices=notices)


def at(statement: Statement, name: str) -> int:
    """1-based position where the statement names something, or where it starts."""
    found = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", statement.text, re.I)
    return statement.offset + 1 + (found.start() if found else 0)


def check_new_name(statement: Statement, kind: str, name: str) -> None:
    """Refuse a name that nothing may have.

    Raises:
        SqlError: code `invalid_name` or `reserved_name`.
    """
    if not name.strip() or _UNPRINTABLE.search(name) or len(name) > LIMITS.name_chars:
        shown = name if len(name) <= 40 else name[:37] + "..."
        raise SqlError(
            f"{shown!r} can't be the name of a {kind}: 1 to {LIMITS.name_chars} "
            f"printable characters.",
            code="invalid_name", sqlstate="42602", position=at(statement, name),
        )  # fmt: skip
    if RESERVED.match(name) or (kind in ("table", "view") and name.lower() in _TABLE_WORDS):
        raise SqlError(
            f"The name {name!r} is reserved; take another for the {kind}.",
            code="reserved_name", sqlstate="42939", position=at(statement, name),
        )  # fmt: skip


def find_table(statement: Statement, catalog: CatalogView, name: str) -> TableDef:
    """The table of this name.

    Raises:
        NotFound: code `undefined_table`, with the nearest name.
    """
    found = catalog.tables.get(name.lower())
    if found is None:
        known = [table.name for table in catalog.tables.values()]
        position = at(statement, name)
        raise is_view(name, catalog, position) or undefined_table(name, known, position)
    return found


def undefined_view(statement: Statement, catalog: CatalogView, name: str) -> NearQLError:
    """The error for a view that isn't there."""
    position = at(statement, name)
    if name.lower() in catalog.tables:
        return SqlError(
            f"{name!r} is a table; write DROP TABLE.",
            code="wrong_object", sqlstate="42809", position=position,
        )  # fmt: skip
    known = [view.name for view in catalog.views.values()]
    return NotFound(
        f"There is no view {name!r}.{did_you_mean(name, known)}",
        code="undefined_table", sqlstate="42P01", position=position, name=name,
    )  # fmt: skip


def check_unread(statement: Statement, catalog: CatalogView, going: Mapping[str, str]) -> None:
    """Refuse to drop what views read that stay. going: names of what is dropped, by uuid.

    Raises:
        Conflict: code `dependent_object`.
    """
    staying = [view for view in catalog.views.values() if view.uuid not in going]
    for view in dependents(going, staying):
        read = [name for uuid, name in going.items() if uuid in view.reads]
        if read:
            raise Conflict(
                f"View {view.name!r} reads {read[0]!r}; drop the view first, or add CASCADE.",
                code="dependent_object", sqlstate="2BP01", position=at(statement, read[0]),
            )  # fmt: skip


def undefined_column(statement: Statement, table: TableDef, name: str) -> UndefinedColumn:
    """The error for a column that a table doesn't have."""
    known = [column.name for column in table.schema.visible]
    return UndefinedColumn(
        f"Table {table.name!r} has no column {name!r}.{did_you_mean(name, known)}",
        position=at(statement, name),
        name=name,
    )


def all_indexes(catalog: CatalogView) -> dict[str, tuple[TableDef, IndexDef]]:
    """Every index with its table, by lower-case name."""
    return {
        index.name.lower(): (table, index)
        for table in catalog.tables.values()
        for index in table.indexes
    }


def undefined_index(statement: Statement, name: str, known: Iterable[str]) -> NotFound:
    """The error for an index that isn't there."""
    return NotFound(
        f"There is no index {name!r}.{did_you_mean(name, known)}",
        code="undefined_index", sqlstate="42704", position=at(statement, name), name=name,
    )  # fmt: skip


def taken(statement: Statement, kind: str, name: str) -> Conflict:
    """The error for a name that another thing of the kind has."""
    code, sqlstate = {
        "table": ("duplicate_table", "42P07"),
        "view": ("duplicate_table", "42P07"),
        "index": ("duplicate_index", "42P07"),
    }.get(kind, ("duplicate_column", "42701"))
    return Conflict(
        f"There is {'an' if kind == 'index' else 'a'} {kind} named {name!r} already.",
        code=code, sqlstate=sqlstate, position=at(statement, name),
    )  # fmt: skip
