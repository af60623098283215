"""The spine: text -> statements -> plans -> answers.

    parse -> bind -> plan -> optimise -> execute

A `Session` serves all requests of a node, in as many threads as call it; what belongs to one
request (its parameters, its variables, its deadline) lives in a `_Request`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pyarrow as pa

from nearql.engine import spans
from nearql.engine.errors import (
    Conflict,
    NearQLError,
    SqlError,
    Unsupported,
)
from nearql.engine.request_id import part_of
from nearql.engine.types import OnConflict
from nearql.query import duck, guard, patience, utility
from nearql.query.bulk import BulkOutcome, run_bulk
from nearql.query.changes import run_delete, run_update
from nearql.query.copying import copy_to, run_copy_from
from nearql.query.create_as import run_create_as
from nearql.query.create_view import run_create_view
from nearql.query.ddl import run_ddl
from nearql.query.dialect import Limits, parse
from nearql.query.dialect.redact import without_values
from nearql.query.dml import run_insert, run_truncate
from nearql.query.duck_errors import in_words_of
from nearql.query.executor import Execution
from nearql.query.explain import explain
from nearql.query.filters import FilterCache
from nearql.query.guard import trees_of
from nearql.query.nature import Nature, nature_of
from nearql.query.parameters import Parameters, names_in
from nearql.query.plan import Nearest, Plan, Relation
from nearql.query.plan_cache import PlanCache, Prepared
from nearql.query.planner import plan_query
from nearql.query.ports import CatalogView, Database
from nearql.query.positions import furthest, with_stats
from nearql.query.privileges import tables_read_by
from nearql.query.replicas import ALONE, Confirm, Freshness, Position, Reads, Replicas
from nearql.query.result import Result, empty
from nearql.query.running import RunningStatement, Statements
from nearql.query.settings import SessionSettings, Variables
from nearql.query.settled import settled
from nearql.query.statements import (
    AlterTable,
    ChangeGrants,
    CopyFrom,
    CopyTo,
    CreateExtension,
    CreateIndex,
    CreateTable,
    CreateUser,
    CreateView,
    Delete,
    Describe,
    DropIndex,
    DropTable,
    DropUser,
    DropView,
    Explain,
    Insert,
    Kill,
    Reindex,
    Select,
    SetVariable,
    Show,
    Statement,
    Transaction,
    Truncate,
    Update,
    Wait,
)
from nearql.query.watchdog import WATCHDOG, Stop
from nearql.query.weight import Deferred, is_light, may_begin
from nearql.query.writes import Write

_DDL = (
    CreateTable, DropTable, AlterTable, CreateIndex, DropIndex, Reindex, CreateView, DropView,
)  # fmt: skip
_LEFT_OUT = (
    "partial_answers is on: {rows} rows of table {table!r} are in damaged segments and were left "
    "out (nearql.damage)."
)
_OTHER_DEVICE = "device = {asked}: this node searches on the {used}; the answer is the same."
_WRITES = (Insert, Update, Delete, Truncate, CopyFrom)
_AGAIN = (Select, Explain, *_WRITES)  # done again when a table was altered meanwhile
_NOTHING_YET = empty("utility")
_SHOWN = 1_000  # characters of a statement in its span
_NO_TIMEOUT_S = 365 * 86_400
Authorise = Callable[[Statement, CatalogView], None]


class Session:
    """Runs SQL against a database; thread-safe."""

    def __init__(self, database: Database, settings: SessionSettings | None = None) -> None:
        self._database = database
        self._settings = settings or SessionSettings()
        self._authorise: Authorise | None = None
        self.replicas: Replicas = ALONE
        duck.configure(
            duck.DuckOptions(
                self._settings.duck_memory_bytes,
                self._settings.duck_threads,
                self._settings.call_length,
            )
        )
        self._filters = FilterCache(self._settings.filter_cache_bytes)
        self._plans = PlanCache(self._settings.plan_cache_entries, self._settings.plan_cache_text)
        self._statements = Statements(
            self._settings.slow_statement_ms, self._settings.slow_statements
        )

    def restricted(self, database: Database, authorise: Authorise) -> Session:
        """A session over a part of the database, with plans of its own; the rest is shared.

        authorise: raises Forbidden for a statement that may not run. It is asked once per
        statement and version of the catalog, so its answer may depend on nothing else.
        """
        other = copy(self)
        other._database, other._authorise = database, authorise
        other._plans = PlanCache(self._settings.plan_cache_entries, self._settings.plan_cache_text)
        return other

    @property
    def filters(self) -> FilterCache:
        """The kept filters, for their statistics."""
        return self._filters

    @property
    def plans(self) -> PlanCache:
        """The kept plans, for their statistics."""
        return self._plans

    @property
    def statements(self) -> Statements:
        """What runs now and what was slow."""
        return self._statements

    def execute(
        self,
        text: str,
        params: Mapping[str, Any] | Sequence[Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        *,
        request_id: bytes | None = None,
        stop: Stop | None = None,
        user: str | None = None,
        reads: Reads | None = None,
        waited_s: float = 0.0,
        light_only: bool = False,
        prepared: Prepared | None = None,
        at_once: bool = False,
    ) -> Result:
        """Run every statement of `text`, in order, and answer the last one's result.

        Args:
            params: values of `:name` (a mapping) or of `$1`, `?` (a sequence).
            settings: variables for this request, as SET would set them.
            request_id: 16 bytes; a write repeated under the same id is not done again.
            stop: ends the request from another thread; a write that is logged already stands.
            user: who asks, for nearql.queries.
            reads: what a read must wait for; None = every level reads what is visible here.
            waited_s: seconds that the request waited before; they count against its time.
            light_only: raise Deferred, having done nothing, where a statement is heavy.
            prepared: what Deferred held, so that the text is not parsed again.
            at_once: share no call with other searches, which takes waiting for them, and raise
                Deferred where a filter would have to be evaluated first.

        Raises:
            NearQLError: with the position in `text` where there is one. Earlier statements stand.
        """
        request = self._request(params, settings, request_id)
        request.stop, request.user, request.reads = stop, user, reads
        request.waited_s, request.light_only = waited_s, light_only
        request.at_once = at_once
        if at_once:
            request.variables.values["latency_budget_ms"] = 0
        if prepared is None:
            prepared = self._plans.get(text, lambda new: request.prepared(new))
        if light_only and not may_begin(prepared.statements):
            raise Deferred(prepared)
        request.parameters.check_used(prepared.parameters)
        result, touched = _NOTHING_YET, list[Position]()
        for place, statement in enumerate(prepared.statements):
            try:
                request.notices += result.notices
                result = request.run(statement, place, prepared)
                touched += result.stats.get("shards") or ()
            except RecursionError as error:  # found while planning, so nothing was done
                raise SqlError(
                    "The statement can't be planned: it is nested too deeply or malformed.",
                    code="statement_too_complex",
                    position=statement.offset + 1,
                ) from error
        if len(prepared.statements) > 1 and touched:
            result = replace(result, stats={**result.stats, "shards": furthest(touched)})
        return (
            replace(result, notices=(*request.notices, *result.notices))
            if request.notices
            else result
        )

    def nature(self, text: str) -> tuple[Nature, Prepared]:
        """What the statements of a text would do, and what `execute` takes as `prepared`.

        Raises:
            SqlError: with the position in `text`.
        """
        request = self._request(None, None, None)
        prepared = self._plans.get(text, lambda new: request.prepared(new))
        catalog = self._database.catalog()
        if prepared.nature is None or prepared.nature[0] != catalog.version:
            prepared.nature = catalog.version, nature_of(prepared.statements, catalog)
        return prepared.nature[1], prepared

    def known_search(self, text: str) -> Prepared | None:
        """What `execute` takes as `prepared`, where the text is one search for plain columns, was
        planned before for the catalog as it is, and has a LIMIT that no parameter changes.
        """
        prepared = self._plans.kept(text)
        kept = prepared and prepared.plans.get((0, "select"))
        if not kept or kept[0] != self._database.catalog().version or kept[1].direct is None:
            return None
        return prepared if _has_constant_size(kept[1]) else None

    def insert_rows(
        self,
        table_name: str,
        rows: pa.Table,
        on_conflict: OnConflict,
        *,
        settings: Mapping[str, Any] | None = None,
        request_id: bytes | None = None,
        user: str | None = None,
    ) -> BulkOutcome:
        """Durably add rows of one batch, casts and checks per row; see `bulk.run_bulk`."""
        request = self._request(None, settings, request_id)
        text = f"bulk {on_conflict.value} of {rows.num_rows} rows into {table_name}"
        with self._statements.running(text, user) as running, request.timed(running):
            outcome = settled(
                self._database,
                lambda: run_bulk(table_name, rows, on_conflict, request.write(request_id)),
            )
            running.rows = outcome.inserted + outcome.updated
            return outcome

    def _request(
        self, params: Any, settings: Mapping[str, Any] | None, request_id: bytes | None
    ) -> _Request:
        variables = Variables(self._settings)
        for name, value in (settings or {}).items():
            variables.set(name, value)
        return _Request(
            self._database,
            self._settings,
            self._filters,
            self._statements,
            Parameters.of(params),
            variables,
            request_id,
            authorise=self._authorise,
            replicas=self.replicas,
        )

    def close(self) -> None:
        """Nothing is held between requests but caches and the process's DuckDB."""
        duck.close()


def _prepare(text: str, settings: SessionSettings) -> Prepared:
    limits = Limits(
        text_chars=settings.sql_chars, nesting=settings.sql_depth, tokens=settings.sql_tokens
    )
    statements = tuple(parse(text, limits))
    if not statements:
        raise SqlError("The request holds no statement.", position=1)
    names = names_in(tree for statement in statements for tree in trees_of(statement))
    return Prepared(statements, tuple(names))


@dataclass
class _Request:
    """One request: what its statements share."""

    database: Database
    settings: SessionSettings
    filters: FilterCache
    statements: Statements
    parameters: Parameters
    variables: Variables
    request_id: bytes | None
    notices: list[str] = field(default_factory=list)
    wrote: bool = False
    stop: Stop | None = None
    user: str | None = None
    authorise: Authorise | None = None
    replicas: Replicas = ALONE
    reads: Reads | None = None
    waited_s: float = 0.0
    light_only: bool = False
    at_once: bool = False
    written: list[Position] = field(default_factory=list)
    _deadline: float = 0.0
    _running: Execution | None = None
    _statement: RunningStatement | None = None

    def run(self, statement: Statement, place: int, prepared: Prepared) -> Result:
        """One statement, within its time, its errors with their place in the text."""
        if spans.tracer is None:
            return self._run(statement, place, prepared)
        with spans.span("statement", text=without_values(statement.text)[:_SHOWN]) as span:
            result = self._run(statement, place, prepared)
            span.tell(strategy=result.stats.get("strategy"), rows=result.row_count)
            return result

    def _run(self, statement: Statement, place: int, prepared: Prepared) -> Result:
        with self.statements.running(statement.text, self.user) as running, self.timed(running):
            if isinstance(statement, _AGAIN):
                result = settled(self.database, lambda: self._once(statement, place, prepared))
            else:
                result = self._once(statement, place, prepared)
            running.rows = result.row_count
            self.waited_s = 0.0  # the next one's time begins now
            return result

    def _once(self, statement: Statement, place: int, prepared: Prepared) -> Result:
        catalog = self.database.catalog()
        try:
            if prepared.checked.get(place) != catalog.version or isinstance(statement, Kill):
                if self.authorise is not None and not self.statements.owns(statement, self.user):
                    self.authorise(statement, catalog)
                guard.check(
                    statement,
                    catalog,
                    guard.GuardLimits(self.settings.call_length, self.settings.sql_joins),
                )
                prepared.checked[place] = catalog.version
            if self.light_only:
                self._weigh(statement, place, prepared, catalog)
            return self._dispatch(statement, place, prepared, catalog)
        except NearQLError as error:
            told = in_words_of(error, statement.text, statement.offset, _columns(catalog))
            if told.position is None and told.http_status == 400:
                told.position = statement.offset + 1  # the statement at least, among several
            raise told from error.__cause__

    def _dispatch(
        self, statement: Statement, place: int, prepared: Prepared, catalog: CatalogView
    ) -> Result:
        if isinstance(statement, Select):
            return self._select(statement, place, prepared, catalog)
        if isinstance(statement, CopyTo):
            rows = self._select(statement.query, place, prepared, catalog)
            return copy_to(statement, rows, self.settings.copy_dir)
        if isinstance(statement, _WRITES):
            self._enter_sources(statement, catalog)
            return self._write(statement, place, prepared)
        if isinstance(statement, _DDL):
            self._enter_sources(statement, catalog)
            self.wrote = True
            return self._ddl(statement)
        if isinstance(statement, Explain):
            inner = Prepared((statement.statement,), ())
            return explain(
                statement, self.write(None), lambda one: self._dispatch(one, place, inner, catalog)
            )
        return self._utility(statement, catalog)

    def _weigh(
        self, statement: Statement, place: int, prepared: Prepared, catalog: CatalogView
    ) -> None:
        """Raise Deferred for a heavy statement."""
        if not prepared.light(
            place,
            catalog.version,
            lambda: is_light(statement, lambda: _planned(statement, place, prepared, catalog)),
        ):
            raise Deferred(prepared)

    # ---- the kinds of statements ------------------------------------------------------

    def _select(
        self, statement: Select, place: int, prepared: Prepared, catalog: CatalogView
    ) -> Result:
        plan = _planned(statement, place, prepared, catalog)
        confirm = self._entered(plan)
        with self.execution() as run:
            result = with_stats(run.run(plan), run, plan)
        confirm()
        notices = self._device_notices(run) + tuple(
            _LEFT_OUT.format(rows=rows, table=table) for table, rows in run.left_out.items()
        )
        return replace(result, notices=(*result.notices, *notices)) if notices else result

    def _entered(self, plan: Plan) -> Confirm:
        """Wait until the copies here are as recent as the request wants them."""
        return self._enter(plan.tables.keys())

    def _enter_sources(self, statement: Statement, catalog: CatalogView) -> None:
        """The same for what a write reads: the tables of INSERT ... SELECT, sub-queries."""
        if self.reads is not None:
            names = {name.lower() for name in tables_read_by(statement, catalog)}
            self._enter({t.uuid for name, t in catalog.tables.items() if name in names})

    def _enter(self, uuids: Set[str]) -> Confirm:
        if self.reads is None or not uuids:
            return _nothing
        get = self.variables.values.get
        wanted = Freshness(get("read_level"), get("max_staleness_ms"), self._deadline)
        return self.reads.enter(uuids, wanted)

    def _device_notices(self, run: Execution) -> tuple[str, ...]:
        """Where the session asked for a device, and another one answered."""
        asked = self.variables.get("device")
        if asked == "auto":
            return ()
        used = {stats.device for stats in run.trace.searches.values()} - {asked}
        if not used:
            return ()
        return (_OTHER_DEVICE.format(asked=asked, used=used.pop().upper()),)

    def _write(self, statement: Statement, place: int, prepared: Prepared) -> Result:
        self.wrote = True
        write = self.write(_request_id(self.request_id, place))
        write = replace(write, planned=partial(prepared.plan, place))
        result = _run_write(statement, write)
        self.written += result.stats.get("shards") or ()
        return result

    def _ddl(self, statement: Statement) -> Result:
        if isinstance(statement, CreateTable) and statement.source is not None:
            return run_create_as(statement, self.write(None))
        if isinstance(statement, CreateView):
            return run_create_view(statement, self.write(None))
        return run_ddl(statement, self.database)

    def _utility(self, statement: Statement, catalog: CatalogView) -> Result:
        if isinstance(statement, SetVariable):
            return utility.set_variable(statement, self.variables)
        if isinstance(statement, Show):
            return utility.show(statement, self.database, catalog, self.variables)
        if isinstance(statement, Describe):
            return utility.describe(statement, self.database, catalog)
        if isinstance(statement, Transaction):
            return self._transaction(statement)
        if isinstance(statement, Wait):
            seen = [*(self.reads.seen if self.reads else ()), *self.written]
            return utility.wait(statement, seen, self.replicas)
        if isinstance(statement, Kill):
            self.statements.kill(statement.id)
            return empty("utility")
        if isinstance(statement, ChangeGrants | CreateUser | DropUser):
            return utility.change_access(statement, self.database, catalog)
        if isinstance(statement, CreateExtension):
            return replace(empty("ddl"), notices=utility.extension_notices(statement))
        raise Unsupported(f"{type(statement).__name__} is not offered.")

    def _transaction(self, statement: Transaction) -> Result:
        if statement.action == "rollback" and self.wrote:
            raise Conflict(
                "ROLLBACK is not possible: every statement commits by itself, and this request has "
                "already written.",
                code="cannot_rollback", sqlstate="25000",
            )  # fmt: skip
        return empty("utility")

    # ---- runs -------------------------------------------------------------------------

    def execution(self) -> Execution:
        """A run that the statement's deadline interrupts."""
        run = Execution(
            self.database,
            self.parameters,
            self.settings,
            filters=self.filters,
            deadline=self._deadline,
            variables=self.variables,
        )
        run.at_once = self.at_once
        self._started(run)
        return run

    def write(self, request_id: bytes | None) -> Write:
        """The context of a write."""
        return Write(
            database=self.database, catalog=self.database.catalog(), parameters=self.parameters,
            settings=self.settings, variables=self.variables, filters=self.filters,
            request_id=request_id, deadline=self._deadline, started=self._started,
            replicas=self.replicas,
        )  # fmt: skip

    def _started(self, run: Execution) -> None:
        self._running = run
        if self._statement is not None:
            self._statement.traces.append(run.trace)

    @contextmanager
    def timed(self, statement: RunningStatement) -> Iterator[None]:
        """Interrupt what runs when `statement_timeout_ms` have passed, or when it is to stop."""
        self._statement = statement
        self._deadline = self._from_now()
        with (
            WATCHDOG.watch(self._deadline, self._interrupt),
            statement.stop.watching(self._expire),
            patience.until(lambda: self._deadline),
        ):
            if self.stop is None:
                yield
                return
            with self.stop.watching(self._expire):
                yield

    def _from_now(self) -> float:
        """The deadline of a statement that starts now; a node's 0 means none."""
        timeout_ms = self.variables.get("statement_timeout_ms")
        return time.monotonic() + (timeout_ms / 1000 or _NO_TIMEOUT_S) - self.waited_s

    def prepared(self, text: str) -> Prepared:
        """The text parsed, within the time of one statement."""
        until = self._from_now()
        with patience.until(lambda: until), spans.span("parse", characters=len(text)):
            return _prepare(text, self.settings)

    def _expire(self) -> None:
        """As if the time were up: nobody waits for the answer any more."""
        self._deadline = 0.0
        if self._running is not None:
            self._running.deadline = 0.0
        self._interrupt()

    def _interrupt(self) -> None:
        if self._running is not None:
            self._running.interrupt()


def _planned(statement: Statement, place: int, prepared: Prepared, catalog: CatalogView) -> Plan:
    assert isinstance(statement, Select)
    return prepared.plan(place, "select", catalog.version, lambda: _plan(statement, catalog))


def _plan(statement: Select, catalog: CatalogView) -> Plan:
    with spans.span("plan"):
        return plan_query(statement.tree, catalog)


def _has_constant_size(plan: Plan) -> bool:
    """Whether neither a parameter nor a sub-query changes how much a direct search is to do."""
    step = plan.query.steps[0]
    if not isinstance(step, Relation) or not isinstance(step.access, Nearest):
        return False
    access = step.access
    sizes = [access.limit, *([access.offset] if access.offset else [])]
    return access.distance.query.query is None and all(size.literal is not None for size in sizes)


def _nothing() -> None:
    return


def _run_write(statement: Statement, write: Write) -> Result:
    runs: dict[type[Statement], Callable[[Any, Write], Result]] = {
        Insert: run_insert, Update: run_update, Delete: run_delete, Truncate: run_truncate,
        CopyFrom: run_copy_from,
    }  # fmt: skip
    return runs[type(statement)](statement, write)


def _columns(catalog: CatalogView) -> list[str]:
    return [column.name for table in catalog.tables.values() for column in table.schema.visible]


def _request_id(request_id: bytes | None, place: int) -> bytes | None:
    """Each statement of a request has an id of its own, the same in a repetition."""
    if request_id is None or place == 0:
        return request_id
    return part_of(request_id, place)
