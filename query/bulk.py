"""Bulk rows: one Arrow batch into a table, the rows that fit, each that doesn't told with its
reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types as t

from nearql.engine.errors import InvalidRequest
from nearql.engine.schema import Column, TableDef
from nearql.engine.types import OnConflict, ShardPosition, WriteOutcome
from nearql.query.casting import RowFailure, cast_column, plain
from nearql.query.rows import Filler, violations
from nearql.query.writes import Write, column_of


@dataclass(frozen=True, slots=True)
class BulkOutcome:
    """What a batch did. failed: in row order, `row` 0-based in the batch.

    write: None where no row was left to write. positions: where it ended in the shards' logs.
    """

    inserted: int
    updated: int
    failed: tuple[RowFailure, ...]
    write: WriteOutcome | None = None
    positions: tuple[ShardPosition, ...] = ()


def run_bulk(table_name: str, rows: pa.Table, on_conflict: OnConflict, write: Write) -> BulkOutcome:
    """Store the rows that fit, atomically per shard.

    A key that exists is a failure of its row under ERROR, silently left out under NOTHING, and
    replaced under REPLACE.

    Raises:
        NotFound: no such table, or a column that it doesn't have, with the nearest name.
        InvalidRequest: a column given twice, or a column of a type that can't be cast.
    """
    table = write.target(table_name)
    write.check_concern(table)
    given, failures = _cast(rows, table)
    kept = _kept(rows.num_rows, failures)
    if failures:
        given = {name: array.filter(pa.array(kept)) for name, array in given.items()}
    complete = Filler(write.database, table).complete(given, int(kept.sum()))
    places = np.flatnonzero(kept)
    wrong = violations(table, complete)
    if wrong:
        failures |= {int(places[f.row]): f for f in wrong}
        good = _kept(complete.num_rows, {f.row: f for f in wrong})
        complete, places = complete.filter(pa.array(good)), places[good]
    return _store(table, _Batch(complete, places, failures), on_conflict, write)


def _cast(rows: pa.Table, table: TableDef) -> tuple[dict[str, pa.Array], dict[int, RowFailure]]:
    """Columns in storage types, and per row the first failure."""
    given: dict[str, pa.Array] = {}
    failures: dict[int, RowFailure] = {}
    for name, array in zip(rows.column_names, rows.columns, strict=True):
        column = column_of(table, name)
        if column.name in given:
            raise InvalidRequest(f"Column {column.name!r} is given twice.", code="duplicate_column")
        cast = cast_column(array, column)
        given[column.name] = cast.array
        for failure in [*cast.failures, *_fractions(array, column)]:
            failures.setdefault(failure.row, failure)
    return given, failures


def _fractions(values: pa.ChunkedArray, column: Column) -> list[RowFailure]:
    """Numbers that an integer column can't hold as they are.

    A statement rounds them, as PostgreSQL does; rows that come as data are stored as they are, or
    told.
    """
    if not t.is_integer(column.type.storage):
        return []
    given = plain(values)
    if t.is_floating(given.type) or t.is_decimal(given.type):
        found = pc.not_equal(given, pc.trunc(given)).fill_null(False)
        rows = np.flatnonzero(found.to_numpy(zero_copy_only=False)).tolist()
    elif t.is_string(given.type):
        written = pc.match_substring_regex(given, r"[.eE]").fill_null(False)
        suspects = np.flatnonzero(written.to_numpy(zero_copy_only=False)).tolist()
        rows = [row for row in suspects if _has_fraction(given[row].as_py())]
    else:
        return []
    return [_fraction(given[row].as_py(), row, column) for row in rows]


def _has_fraction(text: str) -> bool:
    try:
        number = Decimal(text.strip())
    except InvalidOperation:  # no number at all: the cast has said so
        return False
    return number.is_finite() and number != number.to_integral_value()


def _fraction(value: object, row: int, column: Column) -> RowFailure:
    shown = f"Column {column.name!r}: {value} is no {column.type.display}"
    return RowFailure(row, "invalid_value", f"{shown}: it has a fraction.", "22P02")


def _kept(count: int, failures: dict[int, RowFailure]) -> NDArray[np.bool_]:
    kept = np.ones(count, np.bool_)
    kept[list(failures)] = False
    return kept


@dataclass(frozen=True)
class _Batch:
    """Complete rows, where each was in the batch that was given, and what failed there."""

    rows: pa.Table
    places: NDArray[np.int64]
    failures: dict[int, RowFailure]


def _store(table: TableDef, batch: _Batch, on_conflict: OnConflict, write: Write) -> BulkOutcome:
    if not batch.rows.num_rows:
        return BulkOutcome(0, 0, _in_order(batch.failures))
    mode = OnConflict.NOTHING if on_conflict is OnConflict.ERROR else on_conflict
    handle = write.database.table(table.uuid)
    outcome = handle.insert(
        batch.rows, mode, request_id=write.request_id, timeout_ms=write.timeout_ms(),
        until=write.until(table),
    )  # fmt: skip
    write.settle(table, outcome)
    failures = dict(batch.failures)
    if outcome.skipped is not None and on_conflict is OnConflict.ERROR:
        for row in outcome.skipped.tolist():
            failures[int(batch.places[row])] = _duplicate(batch.rows, row, table.schema.key)
    return BulkOutcome(
        outcome.inserted, outcome.updated, _in_order(failures), outcome, outcome.positions
    )


def _duplicate(rows: pa.Table, row: int, key: Column) -> RowFailure:
    value = rows.column(key.name)[row].as_py()
    detail = f"Key {value!r} of column {key.name!r} exists already."
    return RowFailure(row, "duplicate_key", detail, "23505")


def _in_order(failures: dict[int, RowFailure]) -> tuple[RowFailure, ...]:
    return tuple(
        RowFailure(row, failures[row].code, failures[row].detail, failures[row].sqlstate)
        for row in sorted(failures)
    )
