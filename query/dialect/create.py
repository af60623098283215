"""CREATE TABLE: every column form of PostgreSQL that means something here, the others refused by
name."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from nearql.engine.errors import InvalidValue, SqlError, Unsupported
from nearql.engine.schema import Column, ColumnType
from nearql.query.dialect.cursor import Cursor
from nearql.query.dialect.dml import query
from nearql.query.dialect.render import to_nearql
from nearql.query.statements import CreateTable

_SERIAL = {
    "SMALLSERIAL": "SMALLINT",
    "SERIAL2": "SMALLINT",
    "SERIAL": "INTEGER",
    "SERIAL4": "INTEGER",
    "BIGSERIAL": "BIGINT",
    "SERIAL8": "BIGINT",
}
_AFTER_TYPE = (
    "PRIMARY KEY",
    "PRIMARY",
    "NOT",
    "NULL",
    "DEFAULT",
    "CHECK",
    "UNIQUE",
    "REFERENCES",
    "GENERATED",
    "CONSTRAINT",
    "COLLATE",
    "AS",
    "USING",
)
_TABLE_CONSTRAINTS = ("PRIMARY", "UNIQUE", "FOREIGN", "CHECK", "CONSTRAINT", "EXCLUDE", "LIKE")


@dataclass
class Parts:
    """What the brackets of CREATE TABLE hold, gathered while they are read."""

    columns: list[Column] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    checks: list[tuple[str, str]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def create_table(cursor: Cursor) -> CreateTable:
    """After CREATE: TABLE [IF NOT EXISTS] name (...) [WITH (...)] [AS query]."""
    cursor.expect("TABLE")
    if_not_exists = cursor.accept("IF", "NOT", "EXISTS")
    table = cursor.table()
    made = Parts()
    if cursor.word() == "(":
        _read_items(cursor.inside(), made)
    if cursor.word() in ("PARTITION", "INHERITS"):
        raise cursor.refuse(
            f"{cursor.word()} is not offered: a filter never costs recall here, and WITH (shards = "
            "n) spreads a table's rows."
        )
    options = with_options(cursor)
    source = query(cursor) if cursor.accept("AS") else None
    cursor.expect_end()
    if source is None and not made.columns:
        raise cursor.unexpected("columns in brackets, or AS and a query")
    return CreateTable(
        table=table,
        columns=tuple(made.columns),
        key=_one_key(cursor, made),
        checks=tuple(made.checks),
        if_not_exists=if_not_exists,
        options=options,
        source=source,
        notices=tuple(made.notices),
        text=cursor.source.text,
        offset=cursor.source.offset,
    )


def _read_items(inside: Cursor, made: Parts) -> None:
    if inside.done:
        raise inside.unexpected("a column")
    for item in inside.split():
        if item.word() in _TABLE_CONSTRAINTS:
            _table_constraint(item, made)
        else:
            made.columns.append(column_definition(item, len(made.columns) + 1, made))


def _one_key(cursor: Cursor, made: Parts) -> str | None:
    if len(made.keys) > 1:
        raise Unsupported(
            f"A table has one primary key column, not {len(made.keys)} ({', '.join(made.keys)}); "
            "make one column of them.",
            position=cursor.source.offset + 1,
        )
    if not made.keys:
        return None
    name = made.keys[0]
    if all(column.name.lower() != name.lower() for column in made.columns):
        raise SqlError(
            f"The primary key names column {name!r}, which the table doesn't have.",
            position=cursor.source.offset + 1,
            code="undefined_column",
            sqlstate="42703",
        )
    return name


def _table_constraint(item: Cursor, made: Parts) -> None:
    name = item.name("a constraint's name") if item.accept("CONSTRAINT") else None
    if item.accept("PRIMARY", "KEY"):
        inside = item.inside()
        made.keys.extend(inside.listed(lambda: inside.name("a column name")))
        inside.expect_end()
    elif item.accept("CHECK"):
        made.checks.append(_check(item, made, name))
    else:
        raise _refused_constraint(item)
    item.expect_end()


def _check(item: Cursor, made: Parts, name: str | None) -> tuple[str, str]:
    condition = item.inside().expression("a condition")
    return name or f"check_{len(made.checks) + 1}", to_nearql(condition)


def _refused_constraint(item: Cursor) -> Unsupported | SqlError:
    refused = {
        "UNIQUE": "UNIQUE is not offered: only the primary key is unique.",
        "FOREIGN": (
            "FOREIGN KEY is not offered; check references when you load rows, or join to find them."
        ),
        "REFERENCES": (
            "REFERENCES is not offered; check references when you load rows, or join to find them."
        ),
        "EXCLUDE": "EXCLUDE constraints are not offered.",
        "LIKE": (
            "CREATE TABLE (LIKE ...) is not offered; write the columns, or CREATE "
            "TABLE ... AS SELECT."
        ),
        "COLLATE": "A column can't have a COLLATE of its own; write COLLATE in the query.",
        "USING": "USING is not offered in a column.",
        "AS": "Generated columns are not offered; compute the value in the query.",
    }.get(item.word())
    return item.refuse(refused) if refused else item.unexpected("a constraint")


def column_definition(item: Cursor, number: int, made: Parts | None = None) -> Column:
    """One column: name, type, constraints."""
    made = made or Parts()
    name = item.name("a column name")
    position = item.position
    type_part = item.until(*_AFTER_TYPE)
    if type_part.done:
        raise item.unexpected(f"a type for column {name!r}")
    column = _typed(name, type_part.text, number, position)
    while not item.done:
        column = _constraint(item, column, made)
    return column


def _typed(name: str, written: str, number: int, position: int) -> Column:
    serial = _SERIAL.get(written.upper())
    try:
        kind = ColumnType.parse(serial or written)
    except (InvalidValue, Unsupported) as error:
        error.detail = f"Column {name!r}: {error.detail}"
        error.args = (error.detail,)
        error.position = position
        raise
    return Column(number, name, kind, not_null=serial is not None, identity=serial is not None)


def _constraint(item: Cursor, column: Column, made: Parts) -> Column:
    name = item.name("a constraint's name") if item.accept("CONSTRAINT") else None
    if item.accept("PRIMARY", "KEY"):
        made.keys.append(column.name)
        return replace(column, not_null=True)
    if item.accept("NOT", "NULL"):
        return replace(column, not_null=True)
    if item.accept("NULL"):
        return column
    if item.accept("DEFAULT", "NULL"):  # what a column has without a default
        return replace(column, default=None)
    if item.accept("DEFAULT"):
        value = item.until(*_AFTER_TYPE).expression("a default value")
        return replace(column, default=to_nearql(value))
    if item.accept("CHECK"):
        made.checks.append(_check(item, made, name))
        return column
    if item.word() == "GENERATED":
        return _identity(item, column)
    raise _refused_constraint(item)


def _identity(item: Cursor, column: Column) -> Column:
    item.expect("GENERATED")
    if not (item.accept("ALWAYS") or item.accept("BY", "DEFAULT")):
        raise item.unexpected("ALWAYS or BY DEFAULT")
    item.expect("AS")
    if not item.accept("IDENTITY"):
        raise item.refuse("Generated columns are not offered; compute the value in the query.")
    if item.word() == "(":
        raise item.refuse("Identity columns take no options: numbers start at 1 and may have gaps.")
    return replace(column, identity=True, not_null=True)


def with_options(cursor: Cursor) -> tuple[tuple[str, Any], ...]:
    """[WITH (name = value, ...)], names in lower case."""
    if not cursor.accept("WITH"):
        return ()
    return options_in(cursor.inside())


def options_in(inside: Cursor) -> tuple[tuple[str, Any], ...]:
    """name = value, ...; names in lower case."""
    found: dict[str, Any] = {}
    for item in inside.split():
        position = item.position
        name = item.name("an option's name").lower()
        item.expect("=")
        if name in found:
            raise SqlError(f"Option {name!r} is given twice.", position=position)
        found[name] = option_value(item)
        item.expect_end()
    return tuple(found.items())


def option_value(item: Cursor) -> str | int | float | bool:
    """A number, a string, TRUE, FALSE, ON, OFF or a bare word."""
    if item.done:
        raise item.unexpected("a value")
    negative = item.accept("-")
    number = item.word().replace("_", "")
    if number[:1].isdigit() or number[:1] == ".":
        item.at += 1
        try:
            value = int(number) if number.isdigit() else float(number)
        except ValueError:
            item.at -= 1
            raise item.unexpected("a number") from None
        return -value if negative else value
    if negative:
        raise item.unexpected("a number")
    if not item.word():
        token_text = (
            item.string("a value")
            if item.tokens[item.at].token_type.name != "IDENTIFIER"
            else item.name()
        )
        return token_text
    word = item.name("a value")
    return {"true": True, "on": True, "false": False, "off": False}.get(word.lower(), word)
