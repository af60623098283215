"""What columns, defaults and checks may be; DuckDB itself tells whether an expression fits its
type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlglot import exp

from nearql.engine.errors import InvalidValue, NearQLError, SqlError, Unsupported
from nearql.engine.schema import KEY_TYPES, Column, TableDef, TableSchema
from nearql.query import duck
from nearql.query.ddl.names import LIMITS, at, check_new_name
from nearql.query.dialect import did_you_mean, parse, to_duckdb
from nearql.query.guard import check_constant, check_scalar
from nearql.query.ports import Database
from nearql.query.rows import Filler, quoted
from nearql.query.statements import Select, Statement

_INTEGERS = ("SMALLINT", "INTEGER", "BIGINT")


def check_columns(statement: Statement, columns: Sequence[Column], key: str | None) -> None:
    """Names, number and key type of the columns of a new table.

    Raises:
        SqlError, Unsupported.
    """
    if len(columns) > LIMITS.columns:
        raise SqlError(
            f"The table has {len(columns)} columns; at most {LIMITS.columns} are possible.",
            code="too_many_columns", sqlstate="54011", position=statement.offset + 1,
        )  # fmt: skip
    seen: set[str] = set()
    for column in columns:
        check_new_name(statement, "column", column.name)
        if column.name.lower() in seen:
            raise SqlError(
                f"Column {column.name!r} is declared twice.",
                code="duplicate_column", sqlstate="42701", position=at(statement, column.name),
            )  # fmt: skip
        seen.add(column.name.lower())
        if key is not None and column.name.lower() == key.lower():
            _check_key(statement, column)
    _check_identities(statement, columns)


def _check_key(statement: Statement, column: Column) -> None:
    if column.type.name not in KEY_TYPES:
        raise Unsupported(
            f"The primary key {column.name!r} can't be a {column.type.display}; "
            "integers, TEXT and UUID can be keys.",
            position=at(statement, column.name),
        )


def _check_identities(statement: Statement, columns: Sequence[Column]) -> None:
    identities = [column for column in columns if column.identity]
    if len(identities) > 1:
        raise Unsupported(
            f"A table numbers one column, not {len(identities)}.",
            position=at(statement, identities[1].name),
        )
    for column in identities:
        if column.type.name not in _INTEGERS:
            raise Unsupported(
                f"The identity column {column.name!r} must be a SMALLINT, INTEGER or BIGINT.",
                position=at(statement, column.name),
            )
        if column.default is not None:
            raise SqlError(
                f"Column {column.name!r} is numbered by itself, so it takes no DEFAULT.",
                position=at(statement, column.name),
            )


def expression(statement: Statement, text: str) -> exp.Expr:
    """A stored expression's text as a tree."""
    parsed = parse(f"SELECT {text}")[0]
    assert isinstance(parsed, Select)
    found = parsed.tree.expressions[0]
    assert isinstance(found, exp.Expr)
    return found


def with_default(statement: Statement, column: Column, database: Database) -> Column:
    """The column with its default as DuckDB's SQL, after trying it once.

    Raises:
        SqlError: it reads columns or parameters, or calls what isn't there.
        InvalidValue: its value doesn't fit the column.
    """
    if column.default is None:
        return column
    try:
        tree = expression(statement, column.default)
        check_constant(tree, f"The default of column {column.name!r}")
        made = replace(column, default=to_duckdb(tree))
        table = TableDef("", "new", TableSchema((made,), made.number))
        Filler(database, table).column(made, 1)
    except NearQLError as error:
        raise _of_column(error, statement, column) from error
    return made


def _of_column(error: NearQLError, statement: Statement, column: Column) -> NearQLError:
    if repr(column.name) not in error.detail:
        error.detail = f"The default of column {column.name!r}: {error.detail}"
        error.args = (error.detail,)
    error.position = at(statement, column.name)
    return error


def checked_conditions(
    statement: Statement, checks: Sequence[tuple[str, str]], columns: Sequence[Column], table: str
) -> tuple[tuple[str, str], ...]:
    """The checks with DuckDB's SQL, each bound once against the columns.

    Raises:
        SqlError, NotFound: a condition that can't be evaluated over one row of the table.
    """
    names = [name.lower() for name, _ in checks]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SqlError(
            f"There are two constraints named {twice!r}.",
            code="duplicate_object", sqlstate="42710", position=at(statement, twice),
        )  # fmt: skip
    made = []
    for name, text in checks:
        tree = expression(statement, text)
        check_scalar(tree, f"CHECK constraint {name!r}")
        condition = to_duckdb(tree)
        _bind(statement, condition, columns, table)
        made.append((name, condition))
    return tuple(made)


def _bind(statement: Statement, condition: str, columns: Sequence[Column], table: str) -> None:
    sql = f"SELECT CAST(({condition}) AS BOOLEAN) FROM {_one_row(columns, table)}"
    _try(statement, sql, f"CHECK ({condition})", columns)


def check_expression(statement: Statement, tree: exp.Expr, what: str, table: TableDef) -> str:
    """DuckDB's type of an expression over one row of the table.

    Raises:
        SqlError: it can't be evaluated over one row.
    """
    check_scalar(tree, what)
    columns = table.schema.visible
    sql = f"SELECT ({to_duckdb(tree)}) FROM {_one_row(columns, table.name)}"
    return _try(statement, sql, what, columns)


def _one_row(columns: Sequence[Column], table: str) -> str:
    items = ", ".join(f"CAST(NULL AS {c.type.duck}) AS {quoted(c.name)}" for c in columns)
    return f"(SELECT {items}) AS {quoted(table)}"


def _try(statement: Statement, sql: str, what: str, columns: Sequence[Column]) -> str:
    """The type of the query's first column; its error as that of `what`."""
    try:
        with duck.shared().cursor() as cursor:
            return cursor.query(sql).types[0]
    except NearQLError as error:
        name = str(error.extra.pop("name", None) or "")  # the session would look in every table
        hint = did_you_mean(name, [column.name for column in columns]) if name else ""
        error.detail = f"{what}: {error.detail}{hint}"
        error.args = (error.detail,)
        error.position = at(statement, name) if name else statement.offset + 1
        raise


def check_added(statement: Statement, column: Column) -> None:
    """What ADD COLUMN may add.

    Raises:
        Unsupported: an identity column.
    """
    check_new_name(statement, "column", column.name)
    if column.identity:
        raise Unsupported(
            f"Column {column.name!r}: identity columns are declared in CREATE TABLE.",
            position=at(statement, column.name),
        )


def invalid_option(statement: Statement, name: str, wanted: str) -> InvalidValue:
    """The error for a WITH option's value."""
    return InvalidValue(
        f"Option {name} must be {wanted}.", code="invalid_option", position=at(statement, name)
    )
