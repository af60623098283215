"""Concurrent searches for the same thing are answered together, where that is cheaper.

A search that finds nobody before it runs at once: alone, nothing is ever waited for. One that
comes while a search of its *lane* runs waits behind it, with those that come after; the next of
them takes all who wait and answers them in one call. A lane is one read view, vector column,
metric, filter and size of k: every table has lanes of its own and none can hold another up.

    clients    1 runs ---------|                           nobody before it: alone
               2    waits .....| leads: 2, 3, 4 ---|       one call for three
               3      waits ...|                   |
               4        waits .|                   |
               5                  waits ...........| leads: 5 ---|

They wait only where so many together are cheaper than one by one, which the caller knows. How many
there are is what is inside the lane now, or was when its last call ended: clients that got their
answer from one call are about to ask again.

Nobody waits longer than its latency budget: then it leads those who wait beside whatever runs. So a
search that takes long keeps nobody, and under load there are a few batches, not a thread a search.

Invariants: a request is answered by exactly one call, its own or its leader's; what goes wrong in a
shared call is nobody's answer: each request is then run alone and gets its own error. A request
that gives up (its time is over, it was cancelled) leaves the others as they are.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace

import numpy as np

from nearql.engine import strategy
from nearql.engine.types import Patience, SearchHits, SearchRequest

Run = Callable[[SearchRequest], SearchHits]
_SMALL_K = 64  # k up to here cost nearly the same
_LANES = 256  # that are kept while nobody is inside
_CHECK_S = 0.05  # how often one that waits looks whether it still should


@dataclass(frozen=True, slots=True)
class BatchStats:
    """Counted since the start. calls: shared ones; queries: those that they answered."""

    calls: int
    queries: int


@dataclass(eq=False)
class _Ticket:
    """A request that waits. `woken` is set when it was answered, or is to lead or to run alone."""

    request: SearchRequest
    woken: threading.Event = field(default_factory=threading.Event)
    group: list[_Ticket] | None = None  # whom it leads, itself first
    taken: bool = False  # another answers it
    hits: SearchHits | None = None


@dataclass(eq=False)
class _Lane:
    """Who asks for the same thing. waiting: in order of arrival.

    running: calls under way. inside: requests under way or waiting. before: those that were inside
    when the last call ended.
    """

    running: int = 0
    inside: int = 0
    before: int = 0
    waiting: list[_Ticket] = field(default_factory=list)


class Batcher:
    """Thread-safe; has no thread of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lanes: OrderedDict[Hashable, _Lane] = OrderedDict()  # the last used one is last
        self._asked = 0
        self._calls = 0
        self._queries = 0

    def search(
        self, key: Hashable, request: SearchRequest, run: Run, *, pays: Callable[[int], bool]
    ) -> SearchHits:
        """What `run(request)` gives, perhaps from a call that answers others too.

        key: equal for requests that may share a call: all but query vectors and k are alike. What
            it names must stay alive while the call lasts.
        pays: whether so many requests cost less together than one by one.
        """
        patience = request.patience
        with self._lock:
            self._asked += 1
        if patience is None or patience.budget_ms <= 0 or len(request.queries) != 1:
            return run(request)
        ticket = _Ticket(request)
        lane = self._enter((key, _k_class(request.k)), ticket, pays)
        try:
            if ticket.group is None:
                self._wait(lane, ticket, patience)
            if ticket.group is None:
                return run(request) if ticket.hits is None else ticket.hits
            try:
                return self._lead(ticket.group, run)
            finally:
                with self._lock:
                    self._ended(lane)
        finally:
            with self._lock:
                lane.inside -= 1

    def _enter(self, key: Hashable, ticket: _Ticket, pays: Callable[[int], bool]) -> _Lane:
        """Run alone, as a group of one, or wait."""
        with self._lock:
            lane = self._lanes.setdefault(key, _Lane())
            self._lanes.move_to_end(key)
            lane.inside += 1
            if lane.running and pays(max(lane.inside, lane.before)):
                lane.waiting.append(ticket)
            else:
                lane.running += 1
                ticket.group = [ticket]
            self._forget()
        return lane

    def _forget(self) -> None:
        """Let go of lanes that nobody used for long; they only remember how many came."""
        while len(self._lanes) > _LANES:
            key, lane = next(iter(self._lanes.items()))
            if lane.inside:
                return
            del self._lanes[key]

    def stats(self) -> BatchStats:
        """How much was answered together."""
        with self._lock:
            return BatchStats(self._calls, self._queries)

    @property
    def asked(self) -> int:
        """Searches since the start; while it stays the same, nobody searches."""
        with self._lock:
            return self._asked

    @property
    def waiting(self) -> int:
        """Searches that wait now."""
        with self._lock:
            return sum(len(lane.waiting) for lane in self._lanes.values())

    @property
    def lanes(self) -> int:
        """Lanes that are remembered."""
        with self._lock:
            return len(self._lanes)

    def _lead(self, group: list[_Ticket], run: Run) -> SearchHits:
        """Answer a group; what its first one gets."""
        try:
            found = _together([one.request for one in group], run)
            for one, hits in zip(group, found, strict=True):
                one.hits = hits
        except Exception:
            if len(group) == 1:
                raise
            return run(group[0].request)  # the others, woken without an answer, do likewise
        finally:
            for one in group[1:]:
                one.woken.set()
        if len(group) > 1:
            with self._lock:
                self._calls += 1
                self._queries += len(group)
        return found[0]

    def _wait(self, lane: _Lane, ticket: _Ticket, patience: Patience) -> None:
        """Until it was answered, or is to lead or to run alone; raises what `patience` does."""
        until = time.monotonic() + patience.budget_ms / 1000
        try:
            while not ticket.woken.wait(_pause_s(ticket, until)):
                patience.check()
                if time.monotonic() >= until and self._takes(lane, ticket):
                    return
            patience.check()
        except BaseException:
            with self._lock:
                self._leave(lane, ticket)
            raise

    def _takes(self, lane: _Lane, ticket: _Ticket) -> bool:
        """Lead those who wait, unless another took this one meanwhile."""
        with self._lock:
            if ticket.group is None and not ticket.taken:
                self._take(lane, ticket)
            return ticket.group is not None

    def _take(self, lane: _Lane, ticket: _Ticket) -> None:
        others = [one for one in lane.waiting if one is not ticket][: strategy.BATCH_QUERIES - 1]
        gone = {id(ticket), *map(id, others)}
        lane.waiting = [one for one in lane.waiting if id(one) not in gone]
        for one in others:
            one.taken = True
        ticket.group = [ticket, *others]
        lane.running += 1

    def _ended(self, lane: _Lane) -> None:
        """After a call: let the first who waits lead the others."""
        lane.running -= 1
        lane.before = lane.inside
        if lane.running or not lane.waiting:
            return
        first = lane.waiting[0]
        self._take(lane, first)
        first.woken.set()

    def _leave(self, lane: _Lane, ticket: _Ticket) -> None:
        """Give up waiting. Whom it was to lead go back to the head of the queue; the next leads."""
        if ticket in lane.waiting:
            lane.waiting.remove(ticket)
        if ticket.group is None:
            return
        for one in ticket.group[1:]:
            one.taken = False
        lane.waiting[:0] = ticket.group[1:]
        self._ended(lane)


def _k_class(k: int) -> int:
    """Requests of one class share a call, which finds as many rows as the largest k needs."""
    return 0 if k <= _SMALL_K else (k - 1).bit_length()


def _pause_s(ticket: _Ticket, until: float) -> float:
    if ticket.taken:
        return _CHECK_S
    return max(0.0, min(_CHECK_S, until - time.monotonic()))


def _together(requests: list[SearchRequest], run: Run) -> list[SearchHits]:
    """The answers of requests that differ in query vector and k, from one call."""
    if len(requests) == 1:
        return [run(requests[0])]
    queries = np.concatenate([one.queries for one in requests])
    asked = replace(requests[0], queries=queries, k=max(one.k for one in requests), patience=None)
    hits = run(asked)
    return [_share(hits, at, one.k, len(requests)) for at, one in enumerate(requests)]


def _share(hits: SearchHits, at: int, k: int, count: int) -> SearchHits:
    """One query's part. What was re-ranked is counted for all together: it gets its share."""
    stats = replace(
        hits.stats,
        candidates=hits.stats.candidates // count,
        reranked=hits.stats.reranked // count,
    )
    return SearchHits(hits.rows[at : at + 1, :k], hits.distances[at : at + 1, :k], stats)
