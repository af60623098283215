"""UPDATE and DELETE: evaluated once, inside the table's `modify`, into row numbers and complete new
rows.

The rows and the new values of scalar columns come from one query over the write's own view; columns
that are not assigned, vectors among them, are taken by row number.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sqlglot import exp

from nearql.engine.errors import Conflict, Unsupported
from nearql.engine.schema import Column, TableDef
from nearql.engine.types import Change
from nearql.query.binder import unwrapped
from nearql.query.casting import cast_column, cast_values
from nearql.query.executor import check_schema
from nearql.query.keyed import columns_read, is_worth, keys_named, reads_once
from nearql.query.parameters import parameter_name
from nearql.query.plan import Plan
from nearql.query.planner import plan_rows
from nearql.query.ports import TableView
from nearql.query.result import Result
from nearql.query.rows import Filler, violations
from nearql.query.statements import Delete, Update
from nearql.query.trees import copy_of
from nearql.query.vector_types import vector_type
from nearql.query.writes import RowsView, Write, column_of, refuse, stored, table_node

NO_ROWS: NDArray[np.int64] = np.empty(0, np.int64)


def run_update(statement: Update, write: Write) -> Result:
    """UPDATE."""
    change = _Updating(statement, write)
    return change.run()


def run_delete(statement: Delete, write: Write) -> Result:
    """DELETE."""
    change = _Deleting(statement, write)
    return change.run()


def plan_change(statement: Update | Delete, write: Write) -> Plan:
    """The query for the rows that the statement would change, for EXPLAIN."""
    kind = _Updating if isinstance(statement, Update) else _Deleting
    changing: _Changing = kind(statement, write)  # type: ignore[arg-type]  # matched above
    return changing.plan()


class _Changing:
    """One UPDATE or DELETE."""

    def __init__(self, statement: Update | Delete, write: Write) -> None:
        self.statement = statement
        self.write = write
        self.table: TableDef = write.target(statement.table)
        self.returning = write.returning(self.table, statement.alias, statement.returning)

    def run(self) -> Result:
        """Evaluate and write; the answer."""
        self.write.check_concern(self.table)
        plan = self.write.plan("rows", self.plan)
        handle = self.write.database.table(self.table.uuid)
        outcome = handle.modify(
            lambda view: self.evaluate(view, plan),
            request_id=self.write.request_id, timeout_ms=self.write.timeout_ms(),
            until=self.write.until(self.table),
        )  # fmt: skip
        count = outcome.inserted + outcome.updated + outcome.deleted
        return self.returning.answer(self.write.result(self.table, outcome, count), outcome)

    def plan(self) -> Plan:
        """The query for the rows that change, with the assigned values after the row number."""
        statement = self.statement
        tree = exp.Select(expressions=[copy_of(item) for item in self.items()])
        tree.set("from_", exp.From(this=table_node(self.table, statement.alias)))
        for source in statement.sources:
            join = copy_of(source)
            tree.append("joins", join if isinstance(join, exp.Join) else exp.Join(this=join))
        if statement.where is not None:
            tree.set("where", exp.Where(this=copy_of(statement.where)))
        return plan_rows(tree, self.write.catalog)

    def items(self) -> list[exp.Expr]:
        """What the query computes beside the row number."""
        return []

    def evaluate(self, view: TableView, plan: Plan) -> Change:
        """The change, on everything written before."""
        raise NotImplementedError

    def affected(self, view: TableView, plan: Plan) -> pa.Table:
        """Row number and values, once per row: of several matches in FROM, the first counts."""
        check_schema(view, self.table)
        rows = self._named_rows(view, plan)
        if rows is None:
            return self._found(view, plan)
        columns = columns_read(plan, self.table)  # others may be damaged, and about to be replaced
        taken = stored(view.take([column.name for column in columns], rows), columns)
        found = self._found(RowsView(self.table.schema, taken), plan)
        places = found.column(0).to_numpy()
        return found.set_column(0, found.field(0).name, pa.array(rows[places]))

    def _found(self, view: TableView, plan: Plan) -> pa.Table:
        with self.write.execution({self.table.uuid: view}) as run:
            answer = run.query(plan.query).table
        _, first = np.unique(answer.column(0).to_numpy(), return_index=True)
        return answer.take(pa.array(first)) if len(first) else answer.slice(0, 0)

    def _named_rows(self, view: TableView, plan: Plan) -> NDArray[np.int64] | None:
        """The rows that WHERE names by their keys, ascending; None where it may be any."""
        statement = self.statement
        if statement.sources or not reads_once(plan, self.table):
            return None
        keys = keys_named(statement.where, self.table, statement.alias, self.write.parameters)
        if keys is None or not is_worth(keys, view.row_count):
            return None
        rows = self.write.database.table(self.table.uuid).find(keys)
        found: NDArray[np.int64] = np.sort(rows[rows >= 0])
        return found

    def take(self, view: TableView, rows: NDArray[np.int64]) -> pa.Table:
        """Complete rows in storage types."""
        names = [column.name for column in self.table.schema.columns]
        return stored(view.take(names, rows), self.table.schema.columns)


class _Deleting(_Changing):
    def evaluate(self, view: TableView, plan: Plan) -> Change:
        """Delete the rows found."""
        rows = self.affected(view, plan).column(0).to_numpy()
        if self.statement.returning:
            self.returning.evaluate(self.take(view, rows))
        return Change(rows, None, deleted=len(rows))


class _Updating(_Changing):
    def __init__(self, statement: Update, write: Write) -> None:
        super().__init__(statement, write)
        self.computed: list[tuple[Column, exp.Expr]] = []
        self.constant: list[tuple[Column, pa.Array]] = []
        self.defaults: list[Column] = []
        for name, value in statement.assignments:
            self._assign(column_of(self.table, name), value)

    def _assign(self, column: Column, value: exp.Expr) -> None:
        if isinstance(value, exp.Column | exp.Var) and value.name.upper() == "DEFAULT":
            if column.identity:  # numbers come from metadata, which must not be asked under a lock
                raise Unsupported(
                    f"UPDATE can't set {column.name!r} to DEFAULT: give the number itself."
                )
            self.defaults.append(column)
        elif (
            column.type.is_vector and (given := _plain_vector(value, self.write)) is not _NOT_PLAIN
        ):
            cast = cast_values([given], column)
            refuse(cast.failures, column.name, numbered=False)
            self.constant.append((column, cast.array))
        else:
            self.computed.append((column, value))

    def items(self) -> list[exp.Expr]:
        """The assigned expressions."""
        return [exp.alias_(copy_of(value), f"c{at}") for at, (_, value) in enumerate(self.computed)]

    def evaluate(self, view: TableView, plan: Plan) -> Change:
        """Replace the rows found by themselves with the assigned columns."""
        found = self.affected(view, plan)
        rows = found.column(0).to_numpy()
        assigned = {column.name: array for column, array in self._values(found)}
        key = self.table.schema.key
        kept = [c for c in self.table.schema.columns if c.name not in assigned or c is key]
        before = stored(view.take([column.name for column in kept], rows), kept)
        columns = {name: before.column(name) for name in before.column_names} | assigned
        after = pa.table(
            {column.name: columns[column.name] for column in self.table.schema.columns}
        )
        refuse(violations(self.table, after), numbered=False)
        moved = self._moved(view, rows, before, after)
        self.returning.evaluate(after)
        return Change(moved, after, updated=len(rows))

    def _values(self, found: pa.Table) -> list[tuple[Column, pa.Array]]:
        made = []
        for at, (column, _) in enumerate(self.computed, 1):
            cast = cast_column(found.column(at), column)
            refuse(cast.failures, column.name, numbered=False)
            made.append((column, cast.array))
        repeats = pa.array(np.zeros(found.num_rows, np.int64))
        made += [(column, array.take(repeats)) for column, array in self.constant]
        filler = Filler(self.write.database, self.table)
        return made + [(column, filler.column(column, found.num_rows)) for column in self.defaults]

    def _moved(
        self, view: TableView, rows: NDArray[np.int64], before: pa.Table, after: pa.Table
    ) -> NDArray[np.int64]:
        """Rows whose key changed; their old versions are deleted.

        Raises:
            Conflict: code `duplicate_key`, another row has the new key.
        """
        key = self.table.schema.key.name
        old, new = before.column(key).combine_chunks(), after.column(key).combine_chunks()
        if new.equals(old):
            return NO_ROWS
        counts = pc.value_counts(new)
        twice = [one["values"] for one in counts if one["counts"].as_py() > 1]
        others = view.scan([key]).column(key).combine_chunks()
        staying = others.filter(pc.invert(pc.is_in(others, value_set=old)))
        taken = new.filter(pc.is_in(new, value_set=staying))
        for value in [*twice, *taken]:
            raise Conflict(
                f"Key {value.as_py()!r} exists already in table {self.table.name!r}.",
                code="duplicate_key", key=value.as_py(),
            )  # fmt: skip
        changed: NDArray[np.bool_] = pc.not_equal(old, new).to_numpy(zero_copy_only=False)
        return rows[changed]


_NOT_PLAIN = object()


def _plain_vector(value: exp.Expr, write: Write) -> object:
    """A vector that is written out or a parameter, without a trip through DuckDB."""
    node = unwrapped(value)
    if isinstance(node, exp.Cast) and vector_type(node.to) is not None:
        node = unwrapped(node.this)
    if (name := parameter_name(node)) is not None:
        return write.parameters.value(name)
    if isinstance(node, exp.Null):
        return None
    return node.name if isinstance(node, exp.Literal) and node.is_string else _NOT_PLAIN
