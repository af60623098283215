"""One request: what its statements share, and how each of them is run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from nearql.engine import spans
from nearql.engine.errors import (
    Conflict,
    NearQLError,
    SqlError,
    Unsupported,
)
from nearql.engine.request_id import part_of
from nearql.query import guard, patience, utility
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
from nearql.query.parameters import Parameters, names_in
from nearql.query.plan import Plan
from nearql.query.plan_cache import Prepared
from nearql.query.planner import plan_query
from nearql.query.ports import CatalogView, Database
from nearql.query.positions import with_stats
from nearql.query.privileges import tables_read_by
from nearql.query.repeats import Repeat
from nearql.query.replicas import ALONE, Confirm, Freshness, Position, Reads, Replicas
from nearql.query.result import Result, empty
from nearql.query.running import RunningStatement, Statements
from nearql.query.settings import SessionSettings, Variables
from nearql.query.settled import settled
from nearql.query.statements import (
    AlterTable,
    ChangeGrants,
    CheckTable,
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
    SetOptions,
    SetVariable,
    Show,
    Statement,
    Transaction,
    Truncate,
    Update,
    Wait,
)
from nearql.query.watchdog import WATCHDOG, Stop
from nearql.query.weight import Deferred, is_light
from nearql.query.writes import Write

_DDL = (
    CreateTable, DropTable, AlterTable, CreateIndex, DropIndex, Reindex, CreateView, DropView,
    CheckTable, SetOptions,
)  # fmt: skip
_LEFT_OUT = (
    "partial_answers is on: {rows} rows of table {table!r} are in damaged segments and were left "
    "out (nearql.damage)."
)
_OTHER_DEVICE = "device = {asked}: this node searches on the {used}; the answer is the same."
_WRITES = (Insert, Update, Delete, Truncate, CopyFrom)
_AGAIN = (Select, Explain, *_WRITES)  # done again when a table was altered meanwhile
_SHOWN = 1_000  # characters of a statement in its span
_NO_TIMEOUT_S = 365 * 86_400
Authorise = Callable[[Statement, CatalogView], None]


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
class Request:
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
                result = settled(
                    self.database,
                    lambda: self._once(statement, place, prepared),
                    at_once=self.at_once,
                )
            else:
                result = self._once(statement, place, prepared)
            running.rows = result.row_count
            self.waited_s = 0.0  # the next one's time begins now
            return result

    def repeat(self, prepared: Prepared) -> Repeat | None:
        """See `Session.repeat`; None where the statement was not checked for this catalog."""
        version = self.database.catalog().version
        kept = prepared.plans.get((0, "select"))
        if kept is None or kept[0] != version or prepared.checked.get(0) != version:
            return None
        self.at_once, self._deadline = True, self._from_now()
        return Repeat.of(self, prepared, version, kept[1])

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
        notices = self._notices(run)
        return replace(result, notices=(*result.notices, *notices)) if notices else result

    def _notices(self, run: Execution) -> tuple[str, ...]:
        return self._device_notices(run) + tuple(
            _LEFT_OUT.format(rows=rows, table=table) for table, rows in run.left_out.items()
        )

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
