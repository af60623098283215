"""CREATE VIEW: the query is planned and answered over empty tables, which tells its columns.

Whatever can be wrong with it is then told before anything is recorded.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sqlglot import exp

from nearql.engine.errors import InvalidRequest, SqlError
from nearql.engine.named_query import ViewColumn, ViewDef
from nearql.engine.schema import TableDef, TableSchema
from nearql.engine.types import (
    ROW_COLUMN,
    DistanceSpec,
    Metric,
    RowSet,
    SearchHits,
    SearchRequest,
    SearchStats,
    ShardPosition,
)
from nearql.query.binder import common, qualify
from nearql.query.ddl.names import at, check_new_name, done, taken
from nearql.query.parameters import names_in
from nearql.query.plan import relations
from nearql.query.planner import plan_query
from nearql.query.ports import CatalogView
from nearql.query.result import Result, ResultColumn
from nearql.query.set_functions import expand_set_functions
from nearql.query.statements import CreateView
from nearql.query.trees import all_of, copy_of
from nearql.query.writes import Write


def run_create_view(statement: CreateView, write: Write) -> Result:
    """Check the query, find its columns, record the view.

    Raises:
        Conflict: the name is taken; a view that reads the one replaced needs what would go.
        SqlError, InvalidRequest: the query has a parameter, or columns that can't be those of a
            view.
    """
    catalog = write.catalog
    if statement.view.lower() in catalog.tables:
        raise taken(statement, "table", statement.view)
    if statement.view.lower() in catalog.views and not statement.or_replace:
        if statement.if_not_exists:
            return done(f"View {statement.view!r} exists already; nothing was done.")
        raise taken(statement, "view", statement.view)
    check_new_name(statement, "view", statement.view)
    write.database.create_view(_definition(statement, write), or_replace=statement.or_replace)
    return done()


def _definition(statement: CreateView, write: Write) -> ViewDef:
    for name in names_in([statement.tree]):
        raise SqlError(
            f"A view takes no parameters, and its query has :{name}; write the value.",
            position=at(statement, name),
        )
    tree = copy_of(statement.tree)
    expand_set_functions(tree, write.catalog)
    qualify(tree)
    columns = _columns(statement, _answered(tree, write))
    needs = {name.lower() for name in _named(tree)} | {one.source.lower() for one in columns}
    return ViewDef(
        uuid=str(uuid.uuid4()), name=statement.view, query=statement.query, columns=columns,
        reads=tuple(sorted(_reads(tree, write.catalog))), needs=tuple(sorted(needs)),
    )  # fmt: skip


def _answered(tree: exp.Query, write: Write) -> tuple[ResultColumn, ...]:
    """The columns of the query's answer."""
    plan = plan_query(tree, write.catalog)
    views = {step.table.uuid: _Empty(step.table) for step in relations(plan)}
    with write.execution(views) as run:
        return run.run(plan).columns


def _columns(statement: CreateView, given: tuple[ResultColumn, ...]) -> tuple[ViewColumn, ...]:
    names = statement.columns or tuple(column.name for column in given)
    if len(names) > len(given):
        raise SqlError(
            f"The view names {len(names)} columns, but the query returns {len(given)}.",
            position=statement.offset + 1,
        )
    names += tuple(column.name for column in given[len(names) :])
    _check_apart(statement, names)
    _check_apart(statement, tuple(column.name for column in given))
    for name in names:
        check_new_name(statement, "column", name)
    return tuple(
        ViewColumn(name, column.name, column.type)
        for name, column in zip(names, given, strict=True)
    )


def _check_apart(statement: CreateView, names: tuple[str, ...]) -> None:
    lower = [name.lower() for name in names]
    for name in names:
        if lower.count(name.lower()) > 1:
            raise InvalidRequest(
                f"The view would have two columns named {name!r}; name them apart with AS.",
                code="duplicate_column", sqlstate="42701", position=at(statement, name),
            )  # fmt: skip


def _named(tree: exp.Query) -> Iterator[str]:
    """Names that may be those of columns."""
    for column in all_of(tree, exp.Column):
        yield column.name
    for join in all_of(tree, exp.Join):
        yield from (identifier.name for identifier in join.args.get("using") or [])


def _reads(tree: exp.Query, catalog: CatalogView) -> set[str]:
    """The uuids of the tables and views that the query names."""
    found: set[str] = set()
    for node in all_of(tree, exp.Table):
        if not isinstance(node.this, exp.Identifier) or common(node) is not None:
            continue
        if node.text("db").lower() != "nearql":
            name = node.name.lower()
            known = catalog.views.get(name) or catalog.tables.get(name)
            assert known is not None, name  # the guard knows every table
            found.add(known.uuid)
    return found


class _Empty:
    """A read view of a table without rows; implements `query.ports.TableView`."""

    positions: tuple[ShardPosition, ...] = ()
    row_count = 0
    data_version = (-1,)  # no version that a table has: kept filters of the two stay apart

    def __init__(self, table: TableDef) -> None:
        self.schema: TableSchema = table.schema

    def without_damage(self) -> _Empty:
        """Itself."""
        return self

    def scan(
        self,
        columns: Sequence[str],
        *,
        rows: RowSet | None = None,
        distances: Sequence[DistanceSpec] = (),
    ) -> pa.Table:
        """No rows of these columns."""
        fields = [pa.field(ROW_COLUMN, pa.int64()), *self._fields(columns)]
        fields += [pa.field(one.name, pa.float32()) for one in distances]
        return pa.schema(fields).empty_table()

    def values(self, columns: Sequence[str], rows: NDArray[np.int64]) -> None:
        """None: see `take`."""

    def take(self, columns: Sequence[str], rows: NDArray[np.int64]) -> pa.Table:
        """The same without row numbers."""
        return pa.schema(self._fields(columns)).empty_table()

    def _fields(self, columns: Sequence[str]) -> list[pa.Field]:
        kinds = [(name, self.schema.column(name).type) for name in columns]
        return [
            pa.field(
                name, pa.list_(pa.float32(), kind.dimensions) if kind.is_vector else kind.storage
            )
            for name, kind in kinds
        ]

    def row_set(self, rows: NDArray[np.int64]) -> RowSet:
        """The filter that no row satisfies."""
        return RowSet((), 0)

    def text_scores(self, column: str, text: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """No row has any word."""
        return np.empty(0, np.int64), np.empty(0, np.float32)

    def search(self, request: SearchRequest) -> SearchHits:
        """Nothing."""
        return _nothing(len(request.queries))

    def search_range(
        self, column: str, metric: Metric, query: NDArray[np.float32], radius: float,
        *, inclusive: bool, rows: RowSet | None = None,
    ) -> SearchHits:  # fmt: skip
        """Nothing."""
        return _nothing(1)


def _nothing(queries: int) -> SearchHits:
    rows = np.full((queries, 0), -1, np.int64)
    return SearchHits(rows, np.empty((queries, 0), np.float32), SearchStats("exact", "none"))
