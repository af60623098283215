"""Complete rows of a table: defaults, identity numbers, hidden keys, NOT NULL and CHECK.

Storage wants every column of every row. A column that a statement doesn't give gets its default, a
fresh number or NULL, in that order; then constraints are checked on the whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nearql.engine.errors import InvalidValue
from nearql.engine.schema import Column, TableDef, TableSchema
from nearql.query import duck
from nearql.query.bits import stored_bits
from nearql.query.casting import RowFailure, cast_column
from nearql.query.ports import Database
from nearql.query.rules.common import VOLATILE

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Filler:
    """Makes the values that nobody gave."""

    database: Database
    table: TableDef

    def column(self, column: Column, count: int) -> pa.Array:
        """`count` values of a column that was left out."""
        if column.identity:
            first = self.database.allocate(self.table.uuid, count) if count else 0
            return _numbers(first, count, column)
        if column.default is None:
            return pa.nulls(count, column.type.storage)
        return _defaults(column, column.default, count)

    def fill(self, given: pa.Array, missing: NDArray[np.bool_], column: Column) -> pa.Array:
        """`given`, with the default where `missing`."""
        made = self.column(column, int(missing.sum()))
        positions = np.where(missing, len(given) + np.cumsum(missing) - 1, np.arange(len(given)))
        return pa.concat_arrays([given, made]).take(pa.array(positions))

    def complete(self, given: Mapping[str, pa.Array], count: int) -> pa.Table:
        """Every column in storage types; `given` by the columns' own names."""
        schema = self.table.schema
        arrays = [
            given[column.name] if column.name in given else self.column(column, count)
            for column in schema.columns
        ]
        return pa.Table.from_arrays(arrays, names=[column.name for column in schema.columns])


def _numbers(first: int, count: int, column: Column) -> pa.Array:
    numbers = pa.array(np.arange(first, first + count, dtype=np.int64))
    try:
        return numbers.cast(column.type.storage)
    except pa.ArrowInvalid as error:
        raise InvalidValue(
            f"Column {column.name!r} has no number left: {first + count - 1} is beyond "
            f"{column.type.display}.",
            code="out_of_range", sqlstate="2200H", column=column.name,
        ) from error  # fmt: skip


def _defaults(column: Column, default: str, count: int) -> pa.Array:
    varies = bool(VOLATILE & {word.lower() for word in _WORD.findall(default)})
    with duck.shared().cursor() as cursor:
        answer = cursor.query(
            f"SELECT {default} AS v FROM range({count if varies else min(count, 1)})"
        )
    cast = cast_column(answer.table.column(0), column)
    if cast.failures:
        raise cast.failures[0].error(column.name)
    if varies or not count:
        return cast.array
    return cast.array.take(pa.array(np.zeros(count, np.int64)))


def violations(table: TableDef, rows: pa.Table) -> list[RowFailure]:
    """Rows that NOT NULL or a CHECK forbids, each once, in row order."""
    found = {failure.row: failure for failure in reversed(_check_violations(table, rows))}
    found |= {failure.row: failure for failure in reversed(_null_violations(table.schema, rows))}
    return [found[row] for row in sorted(found)]


def _null_violations(schema: TableSchema, rows: pa.Table) -> list[RowFailure]:
    found: list[RowFailure] = []
    for column in schema.columns:
        array = rows.column(column.name)
        required = column.not_null or column.number == schema.key_number
        if required and array.null_count:
            detail = f"Column {column.name!r} must not be NULL."
            nulls = np.flatnonzero(array.is_null().to_numpy())
            found += [
                RowFailure(row, "not_null_violation", detail, "23502") for row in nulls.tolist()
            ]
    return found


def _check_violations(table: TableDef, rows: pa.Table) -> list[RowFailure]:
    found: list[RowFailure] = []
    if not table.schema.checks or not rows.num_rows:
        return found
    with duck.shared().cursor() as cursor:
        known = _without_halves(rows, table.schema)
        numbered = known.append_column("nq0_row", pa.array(np.arange(rows.num_rows)))
        cursor.register("nq0_rows", numbered)
        source = rows_source(table.schema, "nq0_rows", ["nq0_row"])
        for name, condition in table.schema.checks:
            checked = f"{source} AS {quoted(table.name)}"
            sql = f"SELECT nq0_row FROM {checked} WHERE NOT ({condition}) ORDER BY 1"
            detail = f"The row violates CHECK constraint {name!r}: {condition}."
            failed = cursor.query(sql).table.column(0).to_pylist()
            found += [RowFailure(row, "check_violation", detail, "23514") for row in failed]
    return found


def _without_halves(rows: pa.Table, schema: TableSchema) -> pa.Table:
    """HALFVEC columns as float32: DuckDB knows no float16."""
    for column in schema.vectors:
        if column.type.element == "float16":
            at = rows.schema.get_field_index(column.name)
            kind = pa.list_(pa.float32(), column.type.dimensions)
            rows = rows.set_column(at, column.name, rows.column(at).cast(kind))
    return rows


def rows_source(schema: TableSchema, relation: str, helpers: list[str]) -> str:
    """A sub-query over a registered relation of complete rows, columns as SQL sees them."""
    items = [
        quoted(c.name) if (made := sql_value(c)) is None else f"{made} AS {quoted(c.name)}"
        for c in schema.visible
    ]
    return f"(SELECT {', '.join([*items, *helpers])} FROM {relation})"


def sql_value(column: Column) -> str | None:
    """SQL for a stored column as SQL sees it; None where storage and SQL have the same type."""
    if column.type.bits is not None:
        return stored_bits(quoted(column.name), column.type.bits)
    if "UUID" in column.type.name or "JSON" in column.type.name:
        return f"CAST({quoted(column.name)} AS {column.type.duck})"
    return None


def quoted(name: str) -> str:
    """An identifier in double quotes."""
    return '"' + name.replace('"', '""') + '"'
