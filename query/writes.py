"""What every write needs: the request's context, the answer, and RETURNING."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sqlglot import exp

from nearql.engine.distance import canonical_distances
from nearql.engine.errors import (
    InternalError,
    NotFound,
    SqlError,
    UndefinedColumn,
    Unsupported,
)
from nearql.engine.schema import Column, TableDef, TableSchema
from nearql.engine.types import (
    ROW_COLUMN,
    DistanceSpec,
    Metric,
    RowSet,
    SearchHits,
    SearchRequest,
    ShardPosition,
    WriteOutcome,
)
from nearql.engine.writes import Until
from nearql.query import duck
from nearql.query.casting import RowFailure
from nearql.query.duck_errors import nearest_name
from nearql.query.executor import Execution
from nearql.query.filters import FilterCache
from nearql.query.found import dense
from nearql.query.guard import is_view
from nearql.query.parameters import Parameters
from nearql.query.plan import Plan
from nearql.query.planner import plan_query
from nearql.query.ports import CatalogView, Database, TableView
from nearql.query.replicas import ALONE, Replicas, Settled
from nearql.query.result import Result, ResultColumn, empty
from nearql.query.settings import SessionSettings, Variables
from nearql.query.trees import copy_of, nodes_of


def _make_plan(part: str, version: int, make: Callable[[], Plan]) -> Plan:
    return make()


@dataclass(frozen=True)
class Write:
    """One write statement's context.

    deadline: time.monotonic() at which evaluating must have ended.
    started: called with each execution, so that a timeout can interrupt it.
    planned: looks up a kept plan by part and catalog version, or makes it.
    replicas: the copies of what is written.
    """

    database: Database
    catalog: CatalogView
    parameters: Parameters
    settings: SessionSettings
    variables: Variables
    filters: FilterCache
    request_id: bytes | None
    deadline: float
    started: Callable[[Execution], None]
    planned: Callable[[str, int, Callable[[], Plan]], Plan] = _make_plan
    replicas: Replicas = ALONE

    def plan(self, part: str, make: Callable[[], Plan]) -> Plan:
        """A plan that this statement needs, kept with its text where that is kept."""
        return self.planned(part, self.catalog.version, make)

    def execution(self, views: Mapping[str, TableView] | None = None) -> Execution:
        """A run of a query that the write needs; given views stand in for the tables' own."""
        run = Execution(
            self.database, self.parameters, self.settings,
            filters=self.filters, deadline=self.deadline, variables=self.variables, views=views,
        )  # fmt: skip
        self.started(run)
        return run

    def timeout_ms(self) -> int:
        """How long the write may be waited for: the statement's time, less if the request says so.

        The default of `write_timeout_ms` is for waiting for other copies, if there are any.
        """
        left = int((self.deadline - time.monotonic()) * 1000)
        default = left if self.replicas is ALONE else self.variables.get("write_timeout_ms")
        return max(1, min(int(self.variables.values.get("write_timeout_ms", default)), left))

    def until(self, table: TableDef) -> Until:
        """What the table waits for itself; further copies are `settle`'s."""
        is_one = self.replicas is not ALONE and self.concern(table) == "one"
        return "durable" if is_one else "applied"

    def check_concern(self, table: TableDef) -> None:
        """Refuse a write concern that the copies can't fulfil.

        Raises:
            InvalidValue, Unavailable: before anything is written.
        """
        self.replicas.check(table, self.concern(table))

    def concern(self, table: TableDef) -> str:
        """The concern that holds: of the request, else of the table, else the default."""
        given = self.variables.values.get("write_concern") or table.write_concern
        return str(given or self.variables.get("write_concern"))

    def settle(self, table: TableDef, outcome: WriteOutcome) -> Settled:
        """Wait until what was written is as durable as the concern says.

        Raises:
            WriteUnknown: the time was up first.
        """
        until = time.monotonic() + self.timeout_ms() / 1000
        return self.replicas.settle(table, outcome, self.concern(table), until)

    def target(self, name: str, position: int | None = None) -> TableDef:
        """The table that is written.

        Raises:
            NotFound: with the nearest name.
        """
        found = self.catalog.tables.get(name.lower())
        if found is None:
            if (error := is_view(name, self.catalog, position)) is not None:
                raise error
            near = nearest_name(name, [table.name for table in self.catalog.tables.values()])
            hint = f" Did you mean {near!r}?" if near else " SHOW TABLES lists them."
            raise NotFound(
                f"There is no table {name!r}.{hint}", code="undefined_table", position=position
            )
        return found

    def result(self, table: TableDef, outcome: WriteOutcome, count: int) -> Result:
        """The answer of a write without RETURNING."""
        shards = [
            {"table": table.name, "shard": p.shard, "epoch": p.epoch, "lsn": p.lsn}
            for p in outcome.positions
        ]
        settled = self.settle(table, outcome)
        write = {
            "concern": self.concern(table), "committed": settled.committed,
            "copies": settled.copies,
        }  # fmt: skip
        return empty("dml", row_count=count, shards=shards, write=write)

    def returning(self, table: TableDef, alias: str | None, items: Sequence[exp.Expr]) -> Returning:
        """What the write's RETURNING gives.

        Raises:
            Unsupported: a sub-query in it.
        """
        if any(_beyond_a_row(node) for item in items for node in nodes_of(item)):
            raise Unsupported(
                "RETURNING takes expressions over the row's columns: no sub-queries, no aggregates."
            )
        tree = exp.Select(expressions=[copy_of(item) for item in items])
        tree.set("from_", exp.From(this=table_node(table, alias)))
        plan = self.plan("returning", lambda: plan_query(tree, self.catalog)) if items else None
        return Returning(self, table, plan)


_REPEATED = (
    "This request id was seen before: the write was done then and not again, and what it returned "
    "is not remembered. Read the rows to see them."
)


@dataclass
class Returning:
    """RETURNING, evaluated over the rows before they are written: if it fails, nothing is.

    Invariant: it gives one row for each.
    """

    write: Write
    table: TableDef
    plan: Plan | None
    _answer: Result | None = None

    def evaluate(self, rows: pa.Table) -> None:
        """Compute it for these rows, in storage types."""
        if self.plan is None:
            return
        with self.write.execution({self.table.uuid: RowsView(self.table.schema, rows)}) as run:
            self._answer = run.run(self.plan)
        assert self._answer.row_count == rows.num_rows

    def keep(self, kept: NDArray[np.bool_]) -> None:
        """Leave out rows that were not written."""
        if self._answer is not None:
            table = self._answer.table.filter(pa.array(kept))
            self._answer = replace(self._answer, table=table)

    def answer(self, result: Result, outcome: WriteOutcome) -> Result:
        """The write's answer, with what it returns.

        Of a write that was done before no rows are known: what would be computed now, from other
        rows or with fresh numbers, is not what was stored then.
        """
        if self.plan is None:
            return result
        if outcome.repeated:
            self.evaluate(self.table.schema.storage_schema().empty_table())
            result = replace(result, notices=(*result.notices, _REPEATED))
        assert self._answer is not None
        return replace(result, columns=self._answer.columns, table=self._answer.table)


def _beyond_a_row(node: exp.Expr) -> bool:
    if isinstance(node, exp.Query | exp.Window | exp.AggFunc | exp.Unnest):
        return True
    name = str(node.this).lower() if isinstance(node, exp.Anonymous) else ""
    return name == "unnest" or name in duck.shared().aggregates


def table_node(table: TableDef, alias: str | None) -> exp.Table:
    """A FROM item for a table."""
    node = exp.Table(this=exp.to_identifier(table.name, quoted=True))
    if alias:
        node.set("alias", exp.TableAlias(this=exp.to_identifier(alias, quoted=True)))
    return node


def column_of(table: TableDef, name: str) -> Column:
    """The visible column of this name.

    Raises:
        UndefinedColumn: with the nearest name.
    """
    column = table.schema.by_name.get(name.lower())
    if column is None or column.hidden:
        near = nearest_name(name, [one.name for one in table.schema.visible])
        hint = f" Did you mean {near!r}?" if near else ""
        raise UndefinedColumn(f"Table {table.name!r} has no column {name!r}.{hint}", name=name)
    return column


def refuse(
    failures: Sequence[RowFailure], column: str | None = None, *, numbered: bool = True
) -> None:
    """Raise the first failure, if there is one; nothing is written then."""
    if not failures:
        return
    error = failures[0].error(column)
    if numbered:
        error.detail = f"Row {failures[0].row + 1}: {error.detail}"
        error.args = (error.detail,)
    raise error


def stored(rows: pa.Table, columns: Sequence[Column]) -> pa.Table:
    """Rows taken from a view in storage types: HALFVEC columns come out as float32."""
    arrays = []
    for column in columns:
        array = rows.column(column.name)
        if array.type != column.type.storage:
            array = _as_stored(array, column)
        arrays.append(array)
    return pa.Table.from_arrays(arrays, names=[column.name for column in columns])


def _as_stored(array: pa.ChunkedArray, column: Column) -> pa.Array:
    if not column.type.is_vector:
        return array.cast(column.type.storage)
    vectors, valid = dense(array, column.type.dimensions or 0)
    flat = pa.array(vectors.astype(column.type.element).reshape(-1))
    mask = None if valid is None else pa.array(~valid)
    made = pa.FixedSizeListArray.from_arrays(flat, column.type.dimensions, mask=mask)
    return made.cast(column.type.storage)


@dataclass(frozen=True)
class RowsView:
    """A table view of a few rows in memory, for RETURNING. Its row numbers are positions."""

    schema: TableSchema
    rows: pa.Table

    @property
    def positions(self) -> tuple[ShardPosition, ...]:
        """It reflects no shard."""
        return ()

    @property
    def row_count(self) -> int:
        """How many rows there are."""
        return int(self.rows.num_rows)

    @property
    def data_version(self) -> tuple[int, ...]:
        """Never equal to another's."""
        return -1, id(self.rows)

    def without_damage(self) -> RowsView:
        """See `TableView.without_damage`."""
        return self

    def scan(
        self,
        columns: Sequence[str],
        *,
        rows: RowSet | None = None,
        distances: Sequence[DistanceSpec] = (),
    ) -> pa.Table:
        """See `TableView.scan`."""
        numbers = np.arange(self.row_count) if rows is None else np.flatnonzero(rows.masks[0])
        arrays = {ROW_COLUMN: pa.array(numbers, pa.int64())}
        wanted = dict.fromkeys([*columns, *(one.column for one in distances)])
        taken = self.take(list(wanted), numbers)
        arrays |= {name: taken.column(name) for name in columns}
        for spec in distances:
            vectors, valid = dense(taken.column(spec.column), len(spec.query))
            values = canonical_distances(vectors, spec.query, spec.metric)
            arrays[spec.name] = pa.array(values, mask=None if valid is None else ~valid)
        return pa.table(arrays)

    def values(self, columns: Sequence[str], rows: NDArray[np.int64]) -> None:
        """None: see `take`."""

    def take(self, columns: Sequence[str], rows: NDArray[np.int64]) -> pa.Table:
        """See `TableView.take`."""
        kept = self.rows.select(list(dict.fromkeys(columns))).take(pa.array(rows))
        arrays = [_as_shown(kept.column(name), self.schema.column(name)) for name in columns]
        return pa.Table.from_arrays(arrays, names=list(columns))

    def row_set(self, rows: NDArray[np.int64]) -> RowSet:
        """See `TableView.row_set`."""
        mask = np.zeros(self.row_count, np.bool_)
        mask[rows] = True
        return RowSet((mask,), int(mask.sum()))

    def text_scores(self, column: str, text: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """How rare a word is depends on the whole table, of which these rows are a few."""
        raise Unsupported("bm25() is not offered in RETURNING; select the rows afterwards.")

    def search(self, request: SearchRequest) -> SearchHits:
        """RETURNING has no ORDER BY, so nothing is searched."""
        raise InternalError("A write's rows are not searched.")

    def search_range(
        self, column: str, metric: Metric, query: NDArray[np.float32], radius: float,
        *, inclusive: bool, rows: RowSet | None = None,
    ) -> SearchHits:  # fmt: skip
        """RETURNING has no WHERE, so nothing is searched."""
        raise InternalError("A write's rows are not searched.")


def _as_shown(array: pa.ChunkedArray, column: Column) -> pa.ChunkedArray | pa.Array:
    if column.type.element != "float16" or not column.type.is_vector:
        return array
    vectors, valid = _halves(array, column.type.dimensions or 0)
    mask = None if valid is None else pa.array(~valid)
    return pa.FixedSizeListArray.from_arrays(
        pa.array(vectors.reshape(-1)), column.type.dimensions, mask=mask
    )


def _halves(
    array: pa.ChunkedArray, dimensions: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    vectors, valid = dense(array, dimensions)
    return vectors.astype(np.float32), valid


def require_vector_or_scalar(columns: Sequence[ResultColumn], wanted: int) -> None:
    """A query that fills columns must return as many."""
    if len(columns) != wanted:
        raise SqlError(
            f"The query returns {len(columns)} columns, but {wanted} are to be filled.",
            sqlstate="42601",
        )
