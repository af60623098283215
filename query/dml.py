"""INSERT: rows from VALUES or a query, defaults, ON CONFLICT, RETURNING.

    source -> columns in storage types -> complete rows -> constraints -> the table

Values that are written out (numbers, text, parameters, arrays) become columns without DuckDB;
expressions are evaluated by it in one go. Without ON CONFLICT DO UPDATE, or where that replaces the
whole row, rows go through the table's pipelined insert; else the statement reads existing rows and
is evaluated inside
`modify`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sqlglot import exp

from nearql.engine.errors import Conflict, InvalidRequest, SqlError
from nearql.engine.schema import Column, TableDef
from nearql.engine.types import OnConflict, WriteOutcome
from nearql.query.binder import unwrapped
from nearql.query.casting import cast_column, cast_values
from nearql.query.conflict import upsert
from nearql.query.parameters import parameter_name
from nearql.query.planner import plan_query
from nearql.query.result import Result
from nearql.query.rows import Filler, violations
from nearql.query.statements import ConflictClause, Insert, Truncate
from nearql.query.vector_types import vector_type
from nearql.query.writes import Returning, Write, column_of, refuse


class _Default:
    """Stands for the keyword DEFAULT in a row of VALUES."""


DEFAULT = _Default()


@dataclass(frozen=True)
class _Expression:
    """A cell of VALUES that DuckDB must evaluate."""

    tree: exp.Expr


def run_insert(statement: Insert, write: Write) -> Result:
    """INSERT. Nothing is written unless every row can be."""
    table = write.target(statement.table)
    write.check_concern(table)
    _check_conflict_column(statement.conflict, table)
    rows = insert_rows_of(statement, table, write)
    refuse(violations(table, rows))
    returning = write.returning(table, statement.alias, statement.returning)
    outcome = _store(statement, rows, returning)
    result = write.result(table, outcome, outcome.inserted + outcome.updated)
    return returning.answer(result, outcome)


def insert_rows_of(statement: Insert, table: TableDef, write: Write) -> pa.Table:
    """The complete rows that the statement gives."""
    filler = Filler(write.database, table)
    if statement.source is None:
        return filler.complete({}, 1)
    if isinstance(statement.source, exp.Values):
        return _from_values(statement, statement.source, filler, write)
    return _from_query(statement, filler, write)


def run_truncate(statement: Truncate, write: Write) -> Result:
    """TRUNCATE."""
    table = write.target(statement.table)
    write.check_concern(table)
    outcome = write.database.table(table.uuid).truncate(
        request_id=write.request_id, timeout_ms=write.timeout_ms()
    )
    return write.result(table, outcome, outcome.deleted)


# ---- where rows go --------------------------------------------------------------------


def _check_conflict_column(conflict: ConflictClause | None, table: TableDef) -> None:
    if conflict is None:
        return
    key = table.schema.key
    if conflict.column is not None and (key.hidden or conflict.column.lower() != key.name.lower()):
        column = column_of(table, conflict.column)
        named = "it has none" if key.hidden else f"that is {key.name!r}"
        raise InvalidRequest(
            f"ON CONFLICT ({column.name}) must name the primary key of {table.name!r}; {named}.",
            code="invalid_conflict_target", sqlstate="42P10",
        )  # fmt: skip


def _store(statement: Insert, rows: pa.Table, returning: Returning) -> WriteOutcome:
    conflict, write, table = statement.conflict, returning.write, returning.table
    if conflict is not None and conflict.assignments:
        return upsert(conflict, statement.alias, rows, returning)
    returning.evaluate(rows)
    handle = write.database.table(table.uuid)
    mode = OnConflict.ERROR if conflict is None else OnConflict.NOTHING
    try:
        outcome = handle.insert(
            rows, mode, request_id=write.request_id, timeout_ms=write.timeout_ms(),
            until=write.until(table),
        )  # fmt: skip
    except Conflict as error:
        raise counted_from_one(error) from error.__cause__
    if outcome.skipped is not None:
        kept = np.ones(rows.num_rows, np.bool_)
        kept[outcome.skipped] = False
        returning.keep(kept)
    return outcome


def counted_from_one(error: Conflict) -> Conflict:
    """The engine counts rows from 0, people from 1; `row` of the error stays as it is."""
    row = error.extra.get("row")
    if isinstance(row, int):
        error.detail = error.detail.replace(f"Row {row}:", f"Row {row + 1}:", 1)
        error.args = (error.detail,)
    return error


# ---- rows from a query ----------------------------------------------------------------


def _from_query(statement: Insert, filler: Filler, write: Write) -> pa.Table:
    assert statement.source is not None
    with write.execution() as run:
        plan = plan_query(statement.source, write.catalog)
        answer = run.run(plan)
    names = [column.name for column in answer.columns]
    targets = _targets(statement, filler.table, names)
    given = {}
    for column, array in zip(targets, answer.table.columns, strict=True):
        cast = cast_column(array, column)
        refuse(cast.failures, column.name)
        given[column.name] = cast.array
    return filler.complete(given, answer.table.num_rows)


def _targets(statement: Insert, table: TableDef, source: Sequence[str]) -> list[Column]:
    """The columns that the source's columns go to."""
    if statement.by_name:
        return [column_of(table, name) for name in source]
    columns = _listed(statement, table)
    if statement.columns is not None and len(columns) != len(source):
        raise SqlError(
            f"INSERT names {len(columns)} columns, but its query returns {len(source)}.",
            sqlstate="42601",
        )
    if len(source) > len(columns):
        raise SqlError(
            f"Table {table.name!r} has {len(columns)} columns, "
            f"but the query returns {len(source)}.",
            sqlstate="42601",
        )
    return columns[: len(source)]


def _listed(statement: Insert, table: TableDef) -> list[Column]:
    if statement.columns is None:
        return list(table.schema.visible)
    columns = [column_of(table, name) for name in statement.columns]
    numbers = [column.number for column in columns]
    for column in columns:
        if numbers.count(column.number) > 1:
            raise SqlError(
                f"INSERT names column {column.name!r} twice.",
                code="duplicate_column",
                sqlstate="42701",
            )
    return columns


# ---- rows from VALUES -----------------------------------------------------------------


def _from_values(statement: Insert, values: exp.Values, filler: Filler, write: Write) -> pa.Table:
    columns = _listed(statement, filler.table)
    rows = [_cells(row) for row in values.expressions]
    width = _width(statement, columns, rows)
    given = {}
    cells = _evaluated([[_cell(cell, write) for cell in row] for row in rows], columns, write)
    for at, column in enumerate(columns[:width]):
        given[column.name] = _column([row[at] for row in cells], column, filler)
    return filler.complete(given, len(rows))


def _cells(row: exp.Expr) -> list[exp.Expr]:
    return list(row.expressions) if isinstance(row, exp.Tuple) else [unwrapped(row)]


def _width(statement: Insert, columns: list[Column], rows: list[list[exp.Expr]]) -> int:
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        raise SqlError(
            "All rows of VALUES must have as many values as the first.", sqlstate="42601"
        )
    width = widths.pop()
    exact = statement.columns is not None
    if width > len(columns) or (exact and width != len(columns)):
        named = "names" if exact else "has"
        subject = "INSERT" if exact else f"Table {statement.table!r}"
        raise SqlError(
            f"{subject} {named} {len(columns)} columns, but a row of VALUES has {width} values.",
            sqlstate="42601",
        )
    return width


def _cell(cell: exp.Expr, write: Write) -> Any:
    """A cell's Python value, DEFAULT, or an expression."""
    node = unwrapped(cell)
    if isinstance(node, exp.Cast) and vector_type(node.to) is not None and _is_plain(node.this):
        node = unwrapped(node.this)
    if (name := parameter_name(node)) is not None:
        return write.parameters.value(name)
    if isinstance(node, exp.Var | exp.Column) and node.name.upper() == "DEFAULT":
        return DEFAULT
    if isinstance(node, exp.Null):
        return None
    if isinstance(node, exp.Boolean):
        return bool(node.this)
    number = _number(node)
    if number is not None:
        return number
    if isinstance(node, exp.Literal) and node.is_string:
        return node.name
    if isinstance(node, exp.Array):
        numbers = [_number(unwrapped(item)) for item in node.expressions]
        if numbers and all(one is not None for one in numbers):
            return numbers
    return _Expression(cell)


def _is_plain(node: exp.Expr) -> bool:
    return isinstance(unwrapped(node), exp.Placeholder | exp.Literal | exp.Array | exp.Null)


def _number(node: exp.Expr) -> int | float | None:
    negative = isinstance(node, exp.Neg)
    literal = unwrapped(node.this) if negative else node
    if not isinstance(literal, exp.Literal) or literal.is_string:
        return None
    text = literal.name.replace("_", "")
    if text.isdigit():
        return -int(text) if negative else int(text)
    if len(text) > 15:
        return None  # more digits than a double holds: DuckDB reads it as DECIMAL
    return -float(text) if negative else float(text)


def _evaluated(cells: list[list[Any]], columns: list[Column], write: Write) -> list[list[Any]]:
    """Have DuckDB evaluate the expressions, all at once."""
    places = [
        (at, place)
        for at, row in enumerate(cells)
        for place, cell in enumerate(row)
        if isinstance(cell, _Expression)
    ]
    if not places:
        return cells
    items = [
        exp.alias_(cells[at][place].tree.copy(), f"c{number}")
        for number, (at, place) in enumerate(places)
    ]
    with write.execution() as run:
        table = run.run(plan_query(exp.Select(expressions=items), write.catalog)).table
    for number, (at, place) in enumerate(places):
        cells[at][place] = _Evaluated(table.column(number))
    return cells


@dataclass(frozen=True)
class _Evaluated:
    """The value of an expression, still in the type that DuckDB gave it."""

    column: pa.ChunkedArray


def _column(cells: list[Any], column: Column, filler: Filler) -> pa.Array:
    missing = np.array([cell is DEFAULT for cell in cells], np.bool_)
    plain = [None if cell is DEFAULT or isinstance(cell, _Evaluated) else cell for cell in cells]
    cast = cast_values(plain, column)
    refuse(cast.failures, column.name)
    array = _with_evaluated(cast.array, cells, column)
    return filler.fill(array, missing, column) if missing.any() else array


def _with_evaluated(array: pa.Array, cells: list[Any], column: Column) -> pa.Array:
    rows = [row for row, cell in enumerate(cells) if isinstance(cell, _Evaluated)]
    if not rows:
        return array
    parts = [array]
    take: NDArray[np.int64] = np.arange(len(array))
    for number, row in enumerate(rows):
        cast = cast_column(cells[row].column, column)
        refuse([type(f)(row, f.code, f.detail, f.sqlstate) for f in cast.failures], column.name)
        parts.append(cast.array)
        take[row] = len(array) + number
    return pa.concat_arrays(parts).take(pa.array(take))
