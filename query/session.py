"""The spine: text -> statements -> plans -> answers.

    parse -> bind -> plan -> optimise -> execute

A `Session` serves all requests of a node, in as many threads as call it; what belongs to one
request (its parameters, its variables, its deadline) lives in a `Request`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import pyarrow as pa

from nearql.engine.errors import SqlError
from nearql.engine.types import OnConflict
from nearql.query import duck
from nearql.query.at_once import has_constant_size
from nearql.query.bulk import BulkOutcome, run_bulk
from nearql.query.filters import FilterCache
from nearql.query.nature import Nature, nature_of
from nearql.query.parameters import Parameters
from nearql.query.plan_cache import PlanCache, Prepared
from nearql.query.ports import Database
from nearql.query.positions import furthest
from nearql.query.repeats import Repeated, keep
from nearql.query.replicas import ALONE, Position, Reads, Replicas
from nearql.query.request import Authorise, Request
from nearql.query.result import Result, empty
from nearql.query.running import Statements
from nearql.query.settings import SessionSettings, Variables
from nearql.query.settled import settled
from nearql.query.statements import Transaction
from nearql.query.watchdog import Stop
from nearql.query.weight import Deferred, may_begin

_NOTHING_YET = empty("utility")


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
                answer = request.run(statement, place, prepared)
                touched += answer.stats.get("shards") or ()
                # BEGIN and COMMIT do nothing, so what was answered before them stands.
                has_own = place == 0 or not isinstance(statement, Transaction)
                result = answer if has_own else replace(result, notices=answer.notices)
            except RecursionError as error:  # found while planning, so nothing was done
                raise SqlError(
                    "The statement can't be planned: it is nested too deeply or malformed.",
                    code="statement_too_complex",
                    position=statement.offset + 1,
                ) from error
        prepared.strategy = result.stats.get("strategy", "")
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
        prepared = self._plans.peek(text)
        if prepared is None or len(prepared.statements) != 1:
            return None
        kept = prepared.plans.get((0, "select"))
        if not kept or kept[0] != self._database.catalog().version or kept[1].direct is None:
            return None
        if not has_constant_size(kept[1]):
            return None
        self._plans.kept(text)  # what is none of these is looked up again, and counted there
        return prepared

    def repeat(
        self,
        prepared: Prepared,
        key: Hashable,
        params: Sequence[Mapping[str, Any] | Sequence[Any] | None],
        settings: Mapping[str, Any] | None,
        reads: Sequence[Reads] = (),
    ) -> Repeated | None:
        """The answers of one known search for one or several requests, without what they share with
        those before them; None where something has changed since, or nothing is kept.

        Args:
            prepared: from `known_search`. key: `shared_key` with the settings. params: of each
                request; they differ in the query vector alone. reads: in a cluster, of each
                request: none is waited for.

        Raises:
            Deferred, NearQLError: not so; perhaps one of them alone is to blame.
        """
        given = [Parameters.of(one) for one in params]
        kept = prepared.repeats.get(key)
        if kept is not None and not kept.may_begin(reads):
            return None
        view = None if kept is None else kept.view()
        if kept is None or view is None:
            kept = self._request(params[0], settings, None).repeat(prepared)
            view = None if kept is None or not kept.may_begin(reads) else kept.view()
            if kept is None or view is None:
                return None
            keep(prepared, key, kept)
        there, rows = kept.rows()
        found = kept.answers(view, rows, given) if there else None
        if found is not None:
            prepared.strategy = found.answers[0].stats["strategy"]
        return found

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
    ) -> Request:
        variables = Variables(self._settings)
        for name, value in (settings or {}).items():
            variables.set(name, value)
        return Request(
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
