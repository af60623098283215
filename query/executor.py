"""Runs plans: relations are made by the engine and registered, then DuckDB runs the SQL over them.

An `Execution` is one run of one statement. It takes one read view per table, once, so that
everything in the answer belongs together; it evaluates each step once; it ends with an error when
its time is up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nearql.engine import spans
from nearql.engine.distance import canonical_distances
from nearql.engine.errors import Conflict, InvalidValue, NotFound, StatementTimeout, TooLarge
from nearql.engine.schema import TableDef
from nearql.engine.types import (
    ROW_COLUMN,
    DistanceSpec,
    Patience,
    RowSet,
    SearchHits,
    SearchRequest,
    Tuning,
)
from nearql.query import duck, patience
from nearql.query.at_once import run_direct
from nearql.query.bits import bits_of, is_bit_text, signs_of
from nearql.query.duck import Answer, Cursor
from nearql.query.duck_errors import nearest_name
from nearql.query.filters import FilterCache
from nearql.query.found import dense, found_rows, nothing, renamed
from nearql.query.guard import SYSTEM_TABLES, placed
from nearql.query.implied import PartialIndex
from nearql.query.knn import knn_rows
from nearql.query.made import made_rows
from nearql.query.parameters import Parameters, vector
from nearql.query.plan import (
    Distance,
    KnnJoin,
    Made,
    Materialized,
    Nearest,
    Plan,
    Query,
    Relation,
    Scan,
    Step,
    SystemRelation,
    Value,
    Within,
    sql_name,
)
from nearql.query.ports import Database, TableView
from nearql.query.result import Result, ResultColumn, shown_type
from nearql.query.settings import SessionSettings, Variables
from nearql.query.shown import show_vectors
from nearql.query.texts import with_scores
from nearql.query.trace import Searched, Trace
from nearql.query.weight import Deferred

Vector = NDArray[np.float32]
_EXTRA = 32  # rows fetched beyond k at first, where a join may drop some
_WIDEN = 16  # how many times more are fetched when the statement made too few of them


def check_schema(view: TableView, table: TableDef) -> None:
    """Refuse to run what was planned against one schema against another."""
    if view.schema.version != table.schema.version:
        raise Conflict(
            f"The schema of table {table.name!r} changed while the statement ran; send it again.",
            code="schema_changed", sqlstate="40001",
        )  # fmt: skip


class Execution:
    """One run of a statement.

    Args:
        deadline: time.monotonic() at which it must have ended.
        views: read views given from outside (a write's own view), by table uuid.
    """

    def __init__(
        self,
        database: Database,
        parameters: Parameters,
        settings: SessionSettings,
        *,
        filters: FilterCache,
        deadline: float,
        variables: Variables | None = None,
        views: Mapping[str, TableView] | None = None,
    ) -> None:
        self.database = database
        self.parameters = parameters
        self.settings = settings
        self.filters = filters
        self.deadline = deadline
        self.variables = variables or Variables(settings)
        self.views: dict[str, TableView] = dict(views or {})
        self.trace = Trace()
        self.left_out: dict[str, int] = {}  # tables -> rows of damaged segments
        self.searched: list[Searched] | None = None  # a list, where somebody wants to look at them
        self.at_once = False  # raise Deferred instead of evaluating a filter that is not kept
        self._made: dict[str, Step] = {}
        self._cursor: Cursor | None = None
        self._vectors: dict[int, Vector | None] = {}

    def __enter__(self) -> Execution:
        return self

    def __exit__(self, *exception: object) -> None:
        cursor, self._cursor = self._cursor, None
        if cursor is not None:
            cursor.__exit__()

    @property
    def cursor(self) -> Cursor:
        """DuckDB for this run, opened when first needed."""
        if self._cursor is None:
            self._cursor = duck.shared().cursor()
        return self._cursor

    def interrupt(self) -> None:
        """End what DuckDB runs now; from another thread."""
        cursor = self._cursor
        if cursor is not None:
            cursor.interrupt()

    def check_time(self) -> None:
        """Raise StatementTimeout if the time is up."""
        if time.monotonic() > self.deadline:
            raise patience.timed_out()

    def view(self, table: TableDef) -> TableView:
        """The table's read view in this run."""
        found = self.views.get(table.uuid)
        if found is None:
            found = self.database.table(table.uuid).read_view()
            check_schema(found, table)
            if self.variables.get("partial_answers") == "on":
                found = self._whole_part(found, table)
            self.views[table.uuid] = found
        return found

    def _whole_part(self, view: TableView, table: TableDef) -> TableView:
        """What of a table is not damaged; notes what is left out."""
        whole = view.without_damage()
        if whole is not view:
            self.left_out[table.name] = view.row_count - whole.row_count
        return whole

    # ---- statements -------------------------------------------------------------------

    def run(self, plan: Plan) -> Result:
        """The answer of a planned query."""
        if plan.direct is not None:
            return run_direct(self, plan)
        answer = self.query(plan.query, check_size=self._check_size)
        columns = tuple(
            ResultColumn(name, shown_type(kind))
            for name, kind in zip(answer.table.column_names, answer.types, strict=True)
        )
        columns, table = show_vectors(columns, answer.table, plan.vectors)
        return Result(columns, table, table.num_rows, "select")

    def _check_size(self, rows: int, size: int) -> None:
        limits = self.settings
        if rows > limits.result_rows:
            raise TooLarge(
                f"The answer has more than {limits.result_rows} rows (result_rows). "
                "Add a LIMIT or aggregate.",
                code="result_too_large", setting="result_rows",
            )  # fmt: skip
        if size > limits.result_bytes:
            raise TooLarge(
                f"The answer has more than {limits.result_bytes} bytes (result_bytes). "
                "Select fewer columns or rows.",
                code="result_too_large", setting="result_bytes",
            )  # fmt: skip

    def query(
        self, query: Query, *, check_size: Callable[[int, int], None] | None = None
    ) -> Answer:
        """Make the query's relations, then run its SQL."""
        self.prepare(query)
        bound = self.bound(query)
        answer: Answer = self.timed(
            "duckdb", lambda: self.cursor.query(query.sql, bound, check_size=check_size)
        )
        return answer

    def prepare(self, query: Query) -> None:
        """Make and register the relations of a query."""
        for step in query.steps:
            if step.name not in self._made:
                self._made[step.name] = step
                self._make(step)

    def bound(self, query: Query) -> dict[str, Any]:
        """The values of the parameters in the query's SQL."""
        given = self.parameters.scalars(query.parameters)
        values = {sql_name(name): value for name, value in given.items()}
        for name, value in query.vectors.items():
            bound = self.vector(value)
            values[name] = None if bound is None else bound.tolist()
        return values

    def timed(self, what: str, work: Callable[[], Any]) -> Any:
        """What `work()` gives, in the statement's time, which is counted under `what`."""
        self.check_time()
        started = time.perf_counter()
        try:
            if spans.tracer is None:
                return work()
            with spans.span(what):
                return work()
        except StatementTimeout:
            self.check_time()
            raise
        finally:
            spent = (time.perf_counter() - started) * 1000
            self.trace.times[what] = self.trace.times.get(what, 0.0) + spent

    # ---- steps ------------------------------------------------------------------------

    def _make(self, step: Step) -> None:
        if isinstance(step, SystemRelation):
            self.cursor.register(step.name, self._system(step.table))
        elif isinstance(step, Materialized):
            self.prepare(step.query)
            self.timed("duckdb", lambda: self._materialize(step))
        else:
            table = self.relation(step)
            self.trace.rows[step.name] = table.num_rows
            self.cursor.register(step.name, table)

    def _materialize(self, step: Materialized) -> None:
        self.cursor.materialize(step.name, step.query.sql, self.bound(step.query))

    def _system(self, name: str) -> pa.Table:
        table = self.database.system_table(name)
        if table is None:
            near = nearest_name(name, SYSTEM_TABLES)
            hint = (
                f" Did you mean 'nearql.{near}'?"
                if near
                else f" There are: {', '.join(SYSTEM_TABLES)}."
            )
            raise NotFound(f"There is no table 'nearql.{name}'.{hint}", code="undefined_table")
        return table

    def relation(self, step: Relation) -> pa.Table:
        """The rows of a base table that the plan asks for, with columns, helpers and distances."""
        access = step.access
        if isinstance(access, Scan):
            return self.timed("scan", lambda: self._scanned(step, access))
        if isinstance(access, KnnJoin):
            return self.timed("search", lambda: knn_rows(self, step, access))
        if isinstance(access, Made):
            return self.timed("search", lambda: made_rows(self, step, access))
        hits = self.timed("search", lambda: self.hits(step, access))
        self.trace.add_search(step.name, hits.stats)
        rows, distances = found_rows(hits)
        return self.rows_table(step, rows, {access.distance.name: distances})

    def _scanned(self, step: Relation, access: Scan) -> pa.Table:
        view = self.view(step.table)
        columns = self._with_texts(step, self._stored_columns(step))
        rows = self.filter(step, access.filter)
        specs, absent = [], []
        for distance in step.distances:
            query = self.vector(distance.query)
            if query is None:
                absent.append(distance.name)
            else:
                specs.append(DistanceSpec(distance.name, distance.column, distance.metric, query))
        table = view.scan(columns, rows=rows, distances=specs)
        for name in absent:
            table = table.append_column(name, pa.nulls(table.num_rows, pa.float32()))
        return renamed(with_scores(self, step, table), step)

    def _stored_columns(self, step: Relation) -> list[str]:
        key = step.table.schema.key.name
        return [*step.columns, *([key] if step.key and key not in step.columns else [])]

    def _with_texts(self, step: Relation, columns: list[str]) -> list[str]:
        """What scores need, too: their texts tell NULL from what has none of the words."""
        return list(dict.fromkeys([*columns, *(score.column for score in step.texts)]))

    def rows_table(
        self, step: Relation, rows: NDArray[np.int64], given: Mapping[str, NDArray[np.float32]]
    ) -> pa.Table:
        """The columns of these rows, in their order, and their distances; those not `given` are
        computed.
        """
        columns = self._with_texts(step, self._stored_columns(step))
        further = [one for one in step.distances if one.name not in given]
        vectors = [one.column for one in further if one.column not in columns]
        table = self.view(step.table).take([*columns, *dict.fromkeys(vectors)], rows)
        arrays = {ROW_COLUMN: pa.array(rows)} | {name: table.column(name) for name in columns}
        for name, values in given.items():
            arrays[name] = pa.array(values)
        for distance in further:
            arrays[distance.name] = self._computed(distance, table.column(distance.column))
        return renamed(with_scores(self, step, pa.table(arrays)), step)

    def _computed(self, distance: Distance, column: pa.ChunkedArray) -> pa.Array:
        query = self.vector(distance.query)
        if query is None:
            return pa.nulls(len(column), pa.float32())
        vectors, valid = dense(column, len(query))
        values = canonical_distances(vectors, query, distance.metric)
        return pa.array(values, mask=None if valid is None else ~valid)

    # ---- searches ---------------------------------------------------------------------

    def hits(self, step: Relation, access: Nearest | Within) -> SearchHits:
        """What a relation's search finds."""
        query = self.vector(access.distance.query)
        view = self.view(step.table)
        if isinstance(access, Within):
            radius = self.number(access.radius)
            if query is None or radius is None:
                return nothing()
            limit = float(np.nextafter(np.float32(radius), np.float32(np.inf)))
            return view.search_range(
                access.distance.column, access.distance.metric, query, limit, inclusive=True
            )
        count = self.count(access.limit, access.offset)
        rows = self.filter(step, access.filter)
        if query is None or count == 0:
            return nothing()
        request = replace(
            self.request(access, query[np.newaxis], count, rows),
            patience=Patience(self.variables.get("latency_budget_ms"), self.check_time),
        )
        if access.survivors is None:
            return self.search(step.name, view, request)
        return self._widened(step, access, request, access.survivors)

    def search(self, name: str, view: TableView, request: SearchRequest) -> SearchHits:
        """What a view finds; EXPLAIN ANALYZE looks at it again afterwards."""
        hits = view.search(request)
        if self.searched is not None:
            self.searched.append(Searched(name, view, request, hits))
        return hits

    def request(
        self, access: Nearest, queries: Vector, count: int, rows: RowSet | None
    ) -> SearchRequest:
        """What a relation's search asks of the engine. queries: float32 (nq, d)."""
        distance = access.distance
        partial = tuple(one.uuid for one in access.partial if one.serves(self._values_for(one)))
        return SearchRequest(
            distance.column, distance.metric, queries, count, rows,
            tuning=self.tuning(), derived=distance.derived, partial=partial,
        )  # fmt: skip

    def _values_for(self, index: PartialIndex) -> Mapping[str, Any]:
        return self.parameters.scalars(index.parameters) if index.parameters else {}

    def tuning(self) -> Tuning:
        """What the session permits an index."""
        get = self.variables.get
        return Tuning(get("target_recall"), get("hnsw.ef_search"), get("ivfflat.probes"))

    def _widened(
        self, step: Relation, access: Nearest, request: SearchRequest, survivors: Query
    ) -> SearchHits:
        """Search for more rows until the statement makes enough of them, or there are no more."""
        view = self.view(step.table)
        eligible = view.row_count if request.rows is None else request.rows.count
        fetched = min(request.k + _EXTRA, eligible)
        while True:
            self.check_time()
            hits = self.search(step.name, view, replace(request, k=fetched))
            if fetched >= eligible:
                return hits
            rows, distances = found_rows(hits)
            table = self.rows_table(step, rows, {access.distance.name: distances})
            self.cursor.register(step.name, table)
            if self.query(survivors).table.column(0)[0].as_py() >= request.k:
                return hits
            fetched = min(fetched * _WIDEN, eligible)

    def filter(self, step: Relation, query: Query | None) -> RowSet | None:
        """The rows that a filter leaves, from the cache where nothing it reads has changed."""
        if query is None:
            return None
        key = self.filter_key(step, query)
        found = self.filters.get(key) if key is not None else None
        if found is None:
            if self.at_once:
                raise Deferred(None)
            answer = self.query(query)
            rows = answer.table.column(0).to_numpy()
            rows_found = self.view(step.table).row_set(rows)
            if key is not None:
                self.filters.put(key, rows_found)
            self.trace.filters[step.name] = rows_found.count, False
            return rows_found
        self.trace.filters[step.name] = found.count, True
        return found

    def filter_key(self, step: Relation, query: Query) -> Hashable | None:
        """Under which a filter's rows are kept: all that they depend on; None = they are not."""
        versions = self._versions(query)
        if query.volatile or versions is None or query.vectors:
            return None
        values = self.parameters.scalars(query.parameters)
        texts = tuple((name, _fingerprint(value)) for name, value in values.items())
        return query.sql, texts, (step.table.uuid, self.view(step.table).data_version), versions

    def _versions(self, query: Query) -> tuple[Hashable, ...] | None:
        """What the query's relations depend on; None where that is more than tables."""
        found: list[Hashable] = []
        for step in query.steps:
            if (
                not isinstance(step, Relation)
                or step.distances
                or step.texts
                or not isinstance(step.access, Scan)
            ):
                return None
            if step.access.filter is not None:
                return None
            found.append((step.name, step.table.uuid, self.view(step.table).data_version))
        return tuple(found)

    # ---- values -----------------------------------------------------------------------

    def vector(self, value: Value) -> Vector | None:
        """A query vector, evaluated once per run; None for NULL."""
        if id(value) not in self._vectors:
            with placed(value.position):
                self._vectors[id(value)] = self._vector(value)
        return self._vectors[id(value)]

    def _vector(self, value: Value) -> Vector | None:
        if value.query is not None and value.bits is not None:
            return bits_of(self._bit_text(value, value.query), value.bits)
        if value.parameter is not None:
            return signs_of(self.parameters.vector(value.parameter, value.dimensions), value)
        if value.query is None:
            assert isinstance(value.literal, np.ndarray)
            return signs_of(value.literal, value)
        where = f"the vector compared with {value.where}"
        return vector(self._scalar(value.query), dimensions=value.dimensions, where=where)

    def _bit_text(self, value: Value, query: Query) -> str | None:
        """A bit string as text: as it was given where it was given so."""
        if value.parameter is not None and value.bits is not None:
            given = self.parameters.scalars([value.parameter])[value.parameter]
            if is_bit_text(given, value.bits):
                return str(given)
        text: str | None = self._scalar(query)
        return text

    def _scalar(self, query: Query) -> Any:
        table = self.query(query).table
        return table.column(0)[0].as_py() if table.num_rows else None

    def number(self, value: Value) -> float | None:
        """A number, None for NULL.

        Raises:
            InvalidValue: something else was given.
        """
        if value.parameter is not None:
            given = self.parameters.scalars([value.parameter])[value.parameter]
        elif value.query is not None:
            given = self._scalar(value.query)
        else:
            given = value.literal
        if given is None:
            return None
        if isinstance(given, bool | str | bytes | list) or not hasattr(given, "__float__"):
            raise InvalidValue(
                f"{value.where} must be a number, not {given!r}.",
                code="wrong_type",
                sqlstate="42804",
            )
        return float(given)

    def text(self, value: Value) -> str | None:
        """A text, None for NULL.

        Raises:
            InvalidValue: something else was given.
        """
        if value.parameter is not None:
            given = self.parameters.scalars([value.parameter])[value.parameter]
        elif value.query is not None:
            given = self._scalar(value.query)
        else:
            given = value.literal
        if given is not None and not isinstance(given, str):
            raise InvalidValue(
                f"{value.where} must be a text, not {given!r}.",
                code="wrong_type", sqlstate="42804",
            )  # fmt: skip
        return given

    def count(self, limit: Value, offset: Value | None) -> int:
        """limit + offset, whole and within max_limit.

        Raises:
            InvalidValue, TooLarge.
        """
        total = sum(self._whole(value, value is offset) for value in (limit, offset) if value)
        if total > self.settings.max_limit:
            raise TooLarge(
                f"LIMIT + OFFSET of a search is {total}; at most {self.settings.max_limit} are "
                "allowed (limits.max_limit).",
                code="limit_too_large", setting="max_limit", position=limit.position,
            )  # fmt: skip
        return total

    def _whole(self, value: Value, or_null: bool) -> int:
        with placed(value.position):
            number = self.number(value)
            if number is None and or_null:
                return 0
            if number is None or number < 0 or not number.is_integer():
                raise InvalidValue(
                    f"{value.where} must be a whole number of at least 0, not {shown(number)}.",
                    sqlstate="2201W",
                )
            return int(number)


def _fingerprint(value: Any) -> str | bytes:
    """Equal for equal values of one type; short, however long a list of keys is."""
    text = f"{type(value).__name__} {value!r}"
    return text if len(text) <= 64 else blake2b(text.encode("utf-8", "surrogatepass")).digest()


def shown(number: float | None) -> str:
    """A number as SQL writes it."""
    return "NULL" if number is None else f"{number:g}"
