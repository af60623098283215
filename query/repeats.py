"""A search that comes again: all that does not depend on its query vector is kept.

Of a search of 30 us most of the time goes into finding out once more what it is: its variables, its
plan, the rows its filter leaves, the names and types of its answer. For requests of one text,
settings and values besides the query vector all of that is the same as long as the table's read
view is: the view is one object while nothing changes, and whatever is written makes another.

    Repeat.of(request, prepared)     once; None where a repetition could differ
    repeat.view()                    the view, while everything kept still holds; else None
    repeat.answers(view, queries)    each a vector check, the search and the look-up of columns

Invariants: a repeat answers as a whole run of the statement would. It keeps neither rows nor
filters alive: the view is held weakly, the filter by its key in the cache, which may let it go.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nearql.engine.types import Patience, RowSet, SearchHits, SearchRequest
from nearql.query import patience
from nearql.query.at_once import columns_of, search_of, shown, shown_distances
from nearql.query.parameters import Parameters, Vector
from nearql.query.plan import Plan, Relation
from nearql.query.ports import Database, TableView
from nearql.query.positions import shards_of
from nearql.query.replicas import Reads
from nearql.query.result import Found, Result
from nearql.query.trace import Trace

if TYPE_CHECKING:
    from nearql.query.executor import Execution
    from nearql.query.plan_cache import Prepared
    from nearql.query.request import Request

Rows = NDArray[np.int64]
KEPT = 16  # of one text, with different settings and values


@dataclass(frozen=True, slots=True)
class Repeated:
    """Answers, one for each request, and what happened."""

    answers: Sequence[Result | Found]
    trace: Trace
    elapsed_s: float


class Repeat:
    """One search; used by one thread at a time. Made by `of`."""

    def __init__(self, run: Execution, plan: Plan, version: int) -> None:
        """run: has resolved the filter; nothing else was done. version: of the catalog."""
        step, access = search_of(plan)
        self._database: Database = run.database
        self._filters = run.filters
        self._version = version
        self._step = step
        self._outputs = plan.direct or ()
        self._names = [one.column for one in self._outputs if one.column is not None]
        self._columns = columns_of(step, self._outputs)
        self._value = access.distance.query
        self._skipped = run.count(access.offset, None) if access.offset else 0
        count = run.count(access.limit, access.offset)
        nothing = np.empty((0, self._value.dimensions or 0), np.float32)
        self._asked = run.request(access, nothing, count, None)
        self._filter_key = None if access.filter is None else run.filter_key(step, access.filter)
        view = run.view(step.table)
        self._view = weakref.ref(view)
        self._shards = shards_of(plan, {step.table.uuid: view})
        self.level: str | None = run.variables.values.get("read_level")
        self.tables = frozenset(plan.tables)  # uuids
        self._timeout_ms = run.variables.get("statement_timeout_ms")
        self._until = 0.0
        self._patience = Patience(0, self._check_time)
        self._shares = False

    @staticmethod
    def of(request: Request, prepared: Prepared, version: int, plan: Plan) -> Repeat | None:
        """What is kept of a direct plan; None where a repetition could differ by more than the
        query vector says, or has nothing to do.

        Raises:
            Deferred: the filter has to be evaluated first.
            NearQLError: as the statement itself.
        """
        step, access = search_of(plan)
        get = request.variables.get
        if get("partial_answers") == "on" or get("device") != "auto" or access.survivors:
            return None
        if access.distance.query.parameter is None or access.distance.query.bits is not None:
            return None
        request.parameters.check_used(prepared.parameters)
        run = request.execution()
        if access.filter is not None and not _reads_only(run, step, access.filter):
            return None
        run.filter(step, access.filter)
        return Repeat(run, plan, version) if run.count(access.limit, access.offset) else None

    def may_begin(self, reads: Sequence[Reads]) -> bool:
        """Whether the table here is as recent as each request wants it; asked before `view`."""
        return all(one.at_once(self.tables, self.level) for one in reads)

    def view(self) -> TableView | None:
        """The table's view now, if it is the one that all of this was made for.

        Raises:
            NearQLError: the table is gone, or may not be read.
        """
        if self._database.catalog().version != self._version:
            return None
        view = self._database.table(self._step.table.uuid).read_view()
        return view if view is self._view() else None

    def rows(self) -> tuple[bool, RowSet | None]:
        """Whether the filter is still kept, and the rows that it leaves; None = no filter."""
        if self._filter_key is None:
            return True, None
        found = self._filters.get(self._filter_key)
        return found is not None, found

    def answers(
        self, view: TableView, rows: RowSet | None, given: Sequence[Parameters]
    ) -> Repeated | None:
        """The answers for several requests; None where one of them has no vector.

        Raises:
            NearQLError: one of them has a wrong vector, or what a search raises.
        """
        assert self._value.parameter is not None
        started = time.perf_counter()
        vectors = []
        for one in given:
            vector = one.vector(self._value.parameter, self._value.dimensions)
            if vector is None:
                return None
            vectors.append(vector)
        begun = time.perf_counter()
        self._until = time.monotonic() + self._timeout_ms / 1000
        found = self._search(view, rows, vectors)
        trace = Trace(times={"search": (time.perf_counter() - begun) * 1000})
        answers = self._told(view, found, trace)
        return Repeated(answers, trace, time.perf_counter() - started)

    def _search(
        self, view: TableView, rows: RowSet | None, vectors: Sequence[Vector]
    ) -> list[SearchHits]:
        """In one call where an index answers: several queries take it less than one by one, however
        few they are, and exact search more.
        """
        queries = vectors[0][np.newaxis] if len(vectors) == 1 else np.stack(vectors)
        step = len(vectors) if self._shares else 1
        found = [
            view.search(self._request(queries[at : at + step], rows))
            for at in range(0, len(vectors), step)
        ]
        self._shares = not found[-1].stats.strategy.startswith("exact")
        return found

    def _request(self, queries: Vector, rows: RowSet | None) -> SearchRequest:
        asked = self._asked
        return SearchRequest(
            asked.column, asked.metric, queries, asked.k, rows, self._patience,
            asked.tuning, asked.derived, asked.partial,
        )  # fmt: skip

    def _told(
        self, view: TableView, found: Sequence[SearchHits], trace: Trace
    ) -> Sequence[Result | Found]:
        for hits in found:
            trace.add_search(self._step.name, hits.stats)
        one = len(found) == 1
        rows = found[0].rows if one else np.concatenate([hits.rows for hits in found])
        far = found[0].distances if one else np.concatenate([hits.distances for hits in found])
        rows, far = rows[:, self._skipped :], far[:, self._skipped :]
        stats: dict[str, Any] = {
            "strategy": trace.strategy(),
            "shards": self._shards,
            "search_ms": round(trace.times["search"], 3),
        }
        answers = self._plain(view, rows, far, stats)
        if answers is None:
            results = shown(view, self._outputs, self._columns, rows, far)
            answers = [replace(each, stats=stats) for each in results]
        trace.rows[self._step.name] = sum(answer.row_count for answer in answers)
        return answers

    def _plain(
        self, view: TableView, rows: Rows, far: Vector, stats: dict[str, Any]
    ) -> Sequence[Result | Found] | None:
        """The answers in Python's objects; None where a column has no such form."""
        count, k = rows.shape
        if rows.size and rows.min() < 0:  # fewer than asked for
            return None
        flat = rows.ravel()
        taken = view.values(self._names, flat)
        if taken is None:
            return None
        columns, stored = [], iter(taken)
        for output in self._outputs:
            is_distance = output.column is None
            columns.append(
                list(shown_distances(far.ravel(), output)) if is_distance else next(stored)
            )
        return [
            Found(
                self._columns,
                columns if count == 1 else [one[at * k : at * k + k] for one in columns],
                k, stats, partial(self._table, view, rows[at : at + 1], far[at : at + 1]),
            )
            for at in range(count)
        ]  # fmt: skip

    def _table(self, view: TableView, rows: Rows, far: Vector) -> pa.Table:
        return shown(view, self._outputs, self._columns, rows, far)[0].table

    def _check_time(self) -> None:
        if self._timeout_ms and time.monotonic() > self._until:
            raise patience.timed_out()


def keep(prepared: Prepared, key: Hashable, repeat: Repeat) -> None:
    """Under the settings and values that it was made for; of many, those before it go."""
    if len(prepared.repeats) >= KEPT:
        prepared.repeats.clear()
    prepared.repeats[key] = repeat


def _reads_only(run: Execution, step: Relation, query: Any) -> bool:
    """Whether a filter depends on nothing but the table that is searched."""
    if run.filter_key(step, query) is None:
        return False
    return all(one.table.uuid == step.table.uuid for one in query.steps)
