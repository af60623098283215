"""ON CONFLICT DO UPDATE: rows whose key exists are updated, the others inserted, as one statement.

Existing rows are read inside the table's `modify`, with no other writer in between. Columns that
are set to EXCLUDED's, and columns that keep their value, are taken by row; only other expressions
go through DuckDB.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sqlglot import exp

from nearql.engine.errors import InvalidRequest
from nearql.engine.schema import Column, TableDef
from nearql.engine.types import Change, OnConflict, WriteOutcome
from nearql.query.casting import cast_column
from nearql.query.executor import check_schema
from nearql.query.planner import plan_rows
from nearql.query.ports import TableView
from nearql.query.rows import violations
from nearql.query.statements import ConflictClause
from nearql.query.trees import copy_of
from nearql.query.writes import (
    Returning,
    RowsView,
    column_of,
    refuse,
    stored,
    table_node,
)

_EXCLUDED = "excluded"


def is_replacement(conflict: ConflictClause, table: TableDef) -> bool:
    """Whether DO UPDATE sets every column but the key to EXCLUDED's: an upsert of whole rows."""
    if conflict.where is not None:
        return False
    plain = {
        name.lower()
        for name, value in conflict.assignments
        if (source := _excluded_column(value)) is not None and source == name.lower()
    }
    key = table.schema.key.name.lower()
    return plain - {key} == {column.name.lower() for column in table.schema.columns} - {
        key
    } and len(plain) == len(conflict.assignments)


def _excluded_column(value: exp.Expr) -> str | None:
    if isinstance(value, exp.Column) and value.table.lower() == _EXCLUDED:
        return value.name.lower()
    return None


def upsert(
    conflict: ConflictClause, alias: str | None, rows: pa.Table, returning: Returning
) -> WriteOutcome:
    """Write the rows.

    Raises:
        InvalidRequest: code `row_affected_twice`, two of the rows have the same key.
    """
    table, write = returning.table, returning.write
    keys = rows.column(table.schema.key.name)
    _refuse_twice(keys)
    for name, _ in conflict.assignments:
        column_of(table, name)
    handle = write.database.table(table.uuid)
    if is_replacement(conflict, table):
        returning.evaluate(rows)
        return handle.insert(
            rows, OnConflict.REPLACE, request_id=write.request_id, timeout_ms=write.timeout_ms(),
            until=write.until(table),
        )  # fmt: skip
    merge = _Merge(conflict, alias, rows, returning)
    return handle.modify(
        merge.evaluate, request_id=write.request_id, timeout_ms=write.timeout_ms(),
        until=write.until(table),
    )  # fmt: skip


def _refuse_twice(keys: pa.ChunkedArray) -> None:
    counts = pc.value_counts(keys)
    twice = (
        [one["values"].as_py() for one in counts if one["counts"].as_py() > 1]
        if len(counts) < len(keys)
        else []
    )
    if twice:
        raise InvalidRequest(
            f"ON CONFLICT DO UPDATE can't affect a row twice: key {twice[0]!r} is given more than "
            "once.",
            code="row_affected_twice", sqlstate="21000",
        )  # fmt: skip


class _Merge:
    """Evaluates one DO UPDATE against the rows that exist."""

    def __init__(
        self,
        conflict: ConflictClause,
        alias: str | None,
        rows: pa.Table,
        returning: Returning,
    ) -> None:
        self.conflict = conflict
        self.alias = alias
        self.table = returning.table
        self.rows = rows
        self.write = returning.write
        self.handle = self.write.database.table(self.table.uuid)
        self.returning = returning

    def evaluate(self, view: TableView) -> Change:
        """New rows as given; of the conflicting ones, those that WHERE lets through, updated."""
        check_schema(view, self.table)
        new, mine, theirs = self._matched()
        chosen, values = self._values(view, mine, theirs)
        columns, key = self.table.schema.columns, self.table.schema.key
        kept = [column for column in columns if column.name not in values or column is key]
        existing = stored(view.take([column.name for column in kept], theirs[chosen]), kept)
        arrays = {name: existing.column(name) for name in existing.column_names} | values
        updated = pa.table({column.name: arrays[column.name] for column in columns})
        self._check_keys(updated, existing)
        given = mine[chosen]
        refuse([replace(one, row=int(given[one.row])) for one in violations(self.table, updated)])
        put = pa.concat_tables([self.rows.take(pa.array(new)), updated])
        put = put.take(pa.array(np.argsort(np.concatenate([new, given]))))  # as they were given
        self.returning.evaluate(put)
        return Change(np.empty(0, np.int64), put, inserted=len(new), updated=updated.num_rows)

    def _matched(
        self,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """(positions of new rows, positions of conflicting rows, row numbers of what they conflict
        with).
        """
        given = self.rows.column(self.table.schema.key.name).combine_chunks()
        found = self.handle.find(given)
        exists = found >= 0
        return np.flatnonzero(~exists), np.flatnonzero(exists), found[exists]

    def _values(
        self, view: TableView, mine: NDArray[np.int64], theirs: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], dict[str, pa.Array]]:
        """Which conflicting rows are updated, and the assigned columns' new values for them."""
        direct: dict[str, str] = {}
        computed: list[tuple[Column, exp.Expr]] = []
        for name, value in self.conflict.assignments:
            column = column_of(self.table, name)
            source = _excluded_column(value)
            if source is not None and column_of(self.table, source).type == column.type:
                direct[column.name] = column_of(self.table, source).name
            else:
                computed.append((column, value))
        chosen: NDArray[np.int64] = np.arange(len(mine))
        arrays: dict[str, pa.Array] = {}
        if computed or self.conflict.where is not None:
            chosen, arrays = self._computed(view, mine, theirs, computed)
        for name, source in direct.items():
            arrays[name] = self.rows.column(source).take(pa.array(mine[chosen])).combine_chunks()
        return chosen, arrays

    def _computed(
        self, view: TableView, mine: NDArray[np.int64], theirs: NDArray[np.int64],
        computed: list[tuple[Column, exp.Expr]],
    ) -> tuple[NDArray[np.int64], dict[str, pa.Array]]:  # fmt: skip
        """Evaluate SET expressions and WHERE over pairs (existing row, excluded row) at equal
        positions.
        """
        names = [column.name for column in self.table.schema.columns]
        given = RowsView(self.table.schema, self.rows.take(pa.array(mine)))
        there = RowsView(
            self.table.schema, stored(view.take(names, theirs), self.table.schema.columns)
        )
        items = [exp.alias_(copy_of(value), f"c{at}") for at, (_, value) in enumerate(computed)]
        tree = exp.Select(expressions=items)
        tree.set("from_", exp.From(this=table_node(self.table, self.alias)))
        if self.conflict.where is not None:
            tree.set("where", exp.Where(this=copy_of(self.conflict.where)))
        pair = replace(self.table, uuid=f"{self.table.uuid} {_EXCLUDED}", name=_EXCLUDED)
        plan = plan_rows(tree, self.write.catalog, pair=pair)
        views = {self.table.uuid: there, pair.uuid: given}
        with self.write.execution(views) as run:
            answer = run.query(plan.query).table
        chosen = answer.column(0).to_numpy()
        order = np.argsort(chosen, kind="stable")
        arrays: dict[str, pa.Array] = {}
        for at, (column, _) in enumerate(computed, 1):
            cast = cast_column(answer.column(at).take(pa.array(order)), column)
            refuse(cast.failures, column.name)
            arrays[column.name] = cast.array
        return chosen[order], arrays

    def _check_keys(self, updated: pa.Table, existing: pa.Table) -> None:
        key = self.table.schema.key.name
        if not updated.column(key).equals(existing.column(key)):
            raise InvalidRequest(
                f"ON CONFLICT DO UPDATE can't change the primary key {key!r}.", code="key_changed"
            )
