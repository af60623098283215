"""CREATE TABLE ... AS SELECT: the query's columns become the table's, its rows the first rows."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from nearql.engine.errors import NearQLError, SqlError, Unsupported
from nearql.engine.schema import Column, ColumnType
from nearql.engine.types import OnConflict
from nearql.query.casting import cast_column
from nearql.query.ddl import run_ddl
from nearql.query.planner import plan_query
from nearql.query.result import Result, ResultColumn
from nearql.query.rows import Filler, violations
from nearql.query.statements import CreateTable
from nearql.query.writes import Write, refuse

_STORED_AS = {
    "HUGEINT": "DECIMAL(38,0)",
    "UHUGEINT": "DECIMAL(38,0)",
    "NULL": "INTEGER",
    '"NULL"': "INTEGER",
}


def run_create_as(statement: CreateTable, write: Write) -> Result:
    """Create the table and fill it; if a row can't be stored, the table is gone again."""
    assert statement.source is not None
    if statement.if_not_exists and statement.table.lower() in write.catalog.tables:
        return run_ddl(replace(statement, source=None), write.database)
    with write.execution() as run:
        answer = run.run(plan_query(statement.source, write.catalog))
    columns = _columns(statement, answer.columns)
    result = run_ddl(replace(statement, columns=columns, source=None), write.database)
    try:
        written = _fill(statement.table, answer.table, write)
    except NearQLError:
        write.database.drop_table(statement.table, if_exists=True)
        raise
    return replace(result, row_count=written)


def _columns(statement: CreateTable, given: tuple[ResultColumn, ...]) -> tuple[Column, ...]:
    if statement.columns:
        if len(statement.columns) != len(given):
            raise SqlError(
                f"The table has {len(statement.columns)} columns, "
                f"but the query returns {len(given)}.",
                sqlstate="42601",
            )
        return statement.columns
    names = [column.name.lower() for column in given]
    for column in given:
        if names.count(column.name.lower()) > 1:
            raise SqlError(
                f"The query returns two columns named {column.name!r}; name them apart with AS.",
                code="duplicate_column", sqlstate="42701",
            )  # fmt: skip
    return tuple(Column(at, one.name, _type(one)) for at, one in enumerate(given, 1))


def _type(column: ResultColumn) -> ColumnType:
    if column.type == "BIT":
        raise Unsupported(
            f"Column {column.name!r} of the query holds bit strings of no or several lengths; "
            "give them one, as in ::bit(8)."
        )
    name = "TEXT" if column.type.startswith("ENUM") else _STORED_AS.get(column.type, column.type)
    try:
        return ColumnType.parse(name)
    except Unsupported as error:
        raise Unsupported(f"Column {column.name!r} of the query: {error.detail}") from error


def _fill(name: str, rows: pa.Table, write: Write) -> int:
    table = write.database.catalog().tables[name.lower()]
    visible = table.schema.visible
    given: dict[str, pa.Array] = {}
    for column, array in zip(visible, rows.columns, strict=True):
        cast = cast_column(array, column)
        refuse(cast.failures, column.name)
        given[column.name] = cast.array
    if not rows.num_rows:
        return 0
    complete = Filler(write.database, table).complete(given, rows.num_rows)
    refuse(violations(table, complete))
    handle = write.database.table(table.uuid)
    return handle.insert(complete, OnConflict.ERROR, timeout_ms=write.timeout_ms()).inserted
