"""Searches that came together are answered together, each as if it were alone.

Every call is held at a gate until the test lets it go, so nothing depends on time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest

from nearql.engine import batching, strategy
from nearql.engine.batching import Batcher, BatchStats
from nearql.engine.errors import StatementTimeout
from nearql.engine.types import Metric, Patience, SearchHits, SearchRequest, SearchStats
from support.waiting import wait_for

FOREVER = 1e9


class Broken(Exception):
    """What a call of the tests fails with."""


@dataclass
class Calls:
    """Calls of the engine: each waits at the gate; which queries came together is remembered."""

    gate: threading.Event = field(default_factory=threading.Event)
    seen: list[list[float]] = field(default_factory=list)
    poison: float | None = None  # a query that breaks the call it is in

    def run(self, request: SearchRequest) -> SearchHits:
        """Row i is at distance query + i."""
        values = request.queries[:, 0]
        self.seen.append(values.tolist())
        assert self.gate.wait(60)
        if self.poison in values.tolist():
            raise Broken(self.poison)
        rows = np.tile(np.arange(request.k), (len(values), 1))
        distances = (values[:, np.newaxis] + rows).astype(np.float32)
        stats = SearchStats(
            "exact", "numpy", candidates=100 * len(values), reranked=12 * len(values),
            batch=len(values),
        )  # fmt: skip
        return SearchHits(rows, distances, stats)


def nothing() -> None:
    """The statement may go on."""


def ask(
    value: float, k: int = 3, budget_ms: float = FOREVER, check: Callable[[], None] = nothing
) -> SearchRequest:
    """A search for one query."""
    query = np.array([[value]], np.float32)
    return SearchRequest("vec", Metric.L2, query, k, None, Patience(budget_ms, check))


@dataclass
class Clients:
    """A batcher, calls and threads that ask."""

    batcher: Batcher
    calls: Calls
    pool: ThreadPoolExecutor
    least: int = 2  # from so many on a shared call is cheaper

    def send(self, request: SearchRequest, key: str = "docs") -> Future[SearchHits]:
        """Ask in a thread."""
        return self.pool.submit(
            self.batcher.search,
            key,
            request,
            self.calls.run,
            pays=lambda count: count >= self.least,
        )

    def queue(
        self, requests: Sequence[SearchRequest], key: str = "docs"
    ) -> list[Future[SearchHits]]:
        """Ask one after the other, each once the one before waits."""
        sent = []
        for request in requests:
            waiting = self.batcher.waiting
            sent.append(self.send(request, key))
            wait_for(partial(self._more_wait_than, waiting), "it waits")
        return sent

    def _more_wait_than(self, count: int) -> bool:
        return self.batcher.waiting > count

    def begin(self, request: SearchRequest, key: str = "docs") -> Future[SearchHits]:
        """Ask, and wait until a call has begun."""
        begun = len(self.calls.seen)
        sent = self.send(request, key)
        wait_for(lambda: len(self.calls.seen) > begun, "its call begins")
        return sent

    def first(self, value: float = 0.0, key: str = "docs") -> Future[SearchHits]:
        """A search that finds nobody before it."""
        return self.begin(ask(value), key)


@pytest.fixture
def clients() -> Iterator[Clients]:
    """Up to 300 threads; none is left behind."""
    calls = Calls()
    with ThreadPoolExecutor(300) as pool:
        yield Clients(Batcher(), calls, pool)
        calls.gate.set()


def test_alone_it_runs_at_once(clients: Clients) -> None:
    """No thread but its own; the call is its own, down to what is counted."""
    clients.calls.gate.set()
    hits = clients.send(ask(7)).result()
    assert hits.distances.tolist() == [[7, 8, 9]]
    assert hits.stats.batch == 1
    assert clients.batcher.stats() == BatchStats(0, 0)


def test_those_that_came_meanwhile_are_one_call(clients: Clients) -> None:
    first = clients.first()
    others = clients.queue([ask(10), ask(20, k=1), ask(30, k=5)])
    clients.calls.gate.set()
    assert first.result().stats.batch == 1
    answers = [other.result() for other in others]
    assert clients.calls.seen == [[0], [10, 20, 30]]
    assert [hits.distances.tolist() for hits in answers] == [
        [[10, 11, 12]], [[20]], [[30, 31, 32, 33, 34]],
    ]  # fmt: skip
    assert [hits.rows.shape for hits in answers] == [(1, 3), (1, 1), (1, 5)]
    for hits in answers:
        assert (hits.stats.batch, hits.stats.candidates, hits.stats.reranked) == (3, 100, 12)
    assert clients.batcher.stats() == BatchStats(1, 3)
    assert clients.batcher.waiting == 0


def test_other_tables_are_not_waited_for(clients: Clients) -> None:
    """A search of another table begins while the first table's call is held at the gate."""
    first = clients.first()
    waits = clients.queue([ask(1)])
    other = clients.first(5, key="other")
    assert clients.calls.seen == [[0], [5]]
    clients.calls.gate.set()
    assert [one.result().rows.shape for one in (first, *waits, other)] == [(1, 3)] * 3


def test_much_larger_k_has_a_call_of_its_own(clients: Clients) -> None:
    first = clients.first()
    large = clients.begin(ask(1, k=1_000))
    assert not first.done()
    clients.calls.gate.set()
    assert large.result().rows.shape == (1, 1_000)


def test_no_budget_no_waiting(clients: Clients) -> None:
    clients.first()
    for request in (ask(1, budget_ms=0), SearchRequest("vec", Metric.L2, ask(2).queries, 3)):
        clients.begin(request)
    assert clients.batcher.waiting == 0


def test_few_dont_wait_where_it_does_not_pay(clients: Clients) -> None:
    """Three run beside each other; with the fourth it begins to pay."""
    clients.least = 4
    for value in range(3):
        clients.first(value)
    (waits,) = clients.queue([ask(3)])
    assert clients.calls.seen == [[0], [1], [2]]
    clients.calls.gate.set()
    assert waits.result().distances[0, 0] == 3


def test_clients_that_were_many_are_expected_again(clients: Clients) -> None:
    """Four shared a call: the next one waits behind the first, though they are only two by then."""
    first = clients.first()
    crowd = clients.queue([ask(value) for value in (1, 2, 3, 4)])
    clients.calls.gate.set()
    for one in (first, *crowd):
        one.result()
    clients.least = 4
    clients.calls.gate.clear()
    clients.first(5)
    (waits,) = clients.queue([ask(6)])
    clients.calls.gate.set()
    assert waits.result().distances[0, 0] == 6


def test_lanes_are_let_go(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    """One lane per read view and filter: there would be more and more of them."""
    monkeypatch.setattr(batching, "_LANES", 2)
    held = clients.first(key="held")
    clients.calls.gate.set()
    for key in "abcdef":
        clients.send(ask(1), key).result()
    assert clients.batcher.lanes <= 7  # none before the one in use, which is the oldest
    held.result()
    clients.send(ask(1), "g").result()
    assert clients.batcher.lanes == 2


def test_many_queries_are_a_batch_already(clients: Clients) -> None:
    clients.first()
    queries = np.zeros((4, 1), np.float32)
    clients.begin(SearchRequest("vec", Metric.L2, queries, 3, None, Patience(FOREVER, nothing)))
    assert clients.calls.seen == [[0], [0] * 4]


def test_nobody_waits_longer_than_its_budget(clients: Clients) -> None:
    """While the first call is still held, the one whose budget is over leads all who wait."""
    first = clients.first()
    patient = clients.queue([ask(1), ask(2)])
    hasty = clients.send(ask(3, budget_ms=0.01))
    wait_for(lambda: [3, 1, 2] in clients.calls.seen, "the third leads")
    assert not first.done()
    clients.calls.gate.set()
    assert [one.result().distances[0, 0] for one in (*patient, hasty)] == [1, 2, 3]


def test_a_call_is_bounded(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy, "BATCH_QUERIES", 2)
    clients.first()
    others = clients.queue([ask(value) for value in (1, 2, 3, 4, 5)])
    clients.calls.gate.set()
    assert [one.result().distances[0, 0] for one in others] == [1, 2, 3, 4, 5]
    assert clients.calls.seen == [[0], [1, 2], [3, 4], [5]]


@pytest.mark.parametrize("poisoned", [1, 2])
def test_an_error_is_its_own(clients: Clients, poisoned: int) -> None:
    """Whether it leads or follows: the others are answered, each by a call of its own."""
    clients.calls.poison = poisoned
    first = clients.first()
    others = clients.queue([ask(1), ask(2), ask(3)])
    clients.calls.gate.set()
    first.result()
    for value, other in zip((1, 2, 3), others, strict=True):
        if value == poisoned:
            with pytest.raises(Broken):
                other.result()
        else:
            assert other.result().distances[0, 0] == value
    assert clients.batcher.stats() == BatchStats(0, 0)
    assert clients.first(9).result().distances[0, 0] == 9  # the lane is free again


def test_an_error_alone_is_told(clients: Clients) -> None:
    clients.calls.poison = 4
    clients.calls.gate.set()
    with pytest.raises(Broken):
        clients.send(ask(4)).result()
    assert clients.first(5).result().distances[0, 0] == 5


class Impatient:
    """A statement whose time is over once told so."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def check(self) -> None:
        """What the executor gives as `check`."""
        if self.over.is_set():
            raise StatementTimeout("The statement took too long.")


def test_one_that_gives_up_leaves_the_others(clients: Clients) -> None:
    """It ends while the call that it waits behind is still held; the others are answered."""
    first, statement = clients.first(), Impatient()
    gives_up, stays = clients.queue([ask(1, check=statement.check), ask(2)])
    statement.over.set()
    with pytest.raises(StatementTimeout):
        gives_up.result()
    assert not first.done()
    clients.calls.gate.set()
    assert stays.result().distances[0, 0] == 2
    assert clients.calls.seen == [[0], [2]]


def test_one_that_gives_up_while_another_answers_it(clients: Clients) -> None:
    """Its place in the shared call stays; only its own statement ends, at once."""
    clients.first()
    statement = Impatient()
    (waits,) = clients.queue([ask(1, check=statement.check)])
    leader = clients.send(ask(2, budget_ms=0.01))
    wait_for(lambda: [2, 1] in clients.calls.seen, "the second leads")
    statement.over.set()
    with pytest.raises(StatementTimeout):
        waits.result()
    assert not leader.done()
    clients.calls.gate.set()
    assert leader.result().distances[0, 0] == 2


def test_a_leader_that_gives_up_hands_over(clients: Clients) -> None:
    """It is told to lead, and finds that its time is over: the next leads instead."""
    clients.first()
    told = threading.Event()

    def check() -> None:
        if told.is_set():
            raise StatementTimeout("The statement took too long.")

    others = clients.queue([ask(1, check=check), ask(2), ask(3)])
    # Its checks every few hundredths of a second may see it first: then it leaves the queue. Both
    # ways end the same.
    told.set()
    clients.calls.gate.set()
    with pytest.raises(StatementTimeout):
        others[0].result()
    assert [one.result().distances[0, 0] for one in others[1:]] == [2, 3]
    assert clients.batcher.waiting == 0


def test_many_threads(clients: Clients) -> None:
    """Free running: every answer is its own question's."""
    clients.calls.gate.set()
    sent = [clients.send(ask(value, k=1 + value % 7), "ab"[value % 2]) for value in range(2_000)]
    for value, one in enumerate(sent):
        hits = one.result()
        assert hits.distances.tolist() == [[value + at for at in range(1 + value % 7)]]
    assert clients.batcher.waiting == 0
