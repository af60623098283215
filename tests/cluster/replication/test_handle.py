"""What writers and readers are told, by time alone: over a copy and a clock made by hand."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from nearql.cluster.replication.core import effects as ef
from nearql.cluster.replication.core import events as ev
from nearql.cluster.replication.handle import ShardHandle
from nearql.cluster.replication.link.loop import LoopThread
from nearql.cluster.replication.refusals import REFUSALS
from nearql.cluster.replication.runner import Authority
from nearql.cluster.replication.status import ShardStatus
from nearql.cluster.replication.waiting import Questions
from nearql.engine.deadline import Deadline
from nearql.engine.errors import Conflict, StatementTimeout, Unavailable, WriteUnknown
from nearql.engine.storage.wal_raw import LogEnd

LEASE_MS = 2000
PRIMARY = Authority(epoch=3, active=True, can_read=True, lease_until_ms=5000, commit_lsn=8)
REIGNS = ShardStatus(
    role="primary_active", epoch=3, primary="me", isr=("me", "you"), copies=3, complete=True,
    refusals={"one": None, "majority": None, "all": "not_enough_replicas"},
)  # fmt: skip
FOLLOWS = ShardStatus(
    role="isr", epoch=3, primary="you", isr=("me", "you"), copies=3, complete=True,
    fresh_ms=900, heard_commit_lsn=7,
)  # fmt: skip


class Copy:
    """Of a log with epochs 1 (LSN 1 to 4) and 3 (5 to 8)."""

    def __init__(self) -> None:
        self.epochs = ((1, 1), (3, 5))
        self.end = LogEnd(8, 3, bytes(8))
        self.commit_lsn = self.applied_lsn = 7
        self.wanted: list[int] = []  # LSNs that were waited for

    def wait_applied(self, lsn: int, deadline: Deadline) -> bool:
        self.wanted.append(lsn)
        return lsn <= 8


class Runner:
    """Answers questions at once, as it is told to."""

    def __init__(self) -> None:
        self.shard_uuid, self.copy = "shard", Copy()
        self.authority = PRIMARY
        self.awaits: Questions[ef.Answer] = Questions()
        self.reads: Questions[ef.ReadAnswer] = Questions()
        self.asked: list[ev.Event] = []
        self.answer: Any = None

    def feed(self, event: ev.Event) -> None:
        self.asked.append(event)
        if isinstance(event, ev.Await):
            self.awaits.answer(event.token, replace(self.answer, token=event.token))
        elif isinstance(event, ev.Read):
            self.reads.answer(event.token, replace(self.answer, token=event.token))


class Desk:
    """A handle over a runner, a clock and a status that tests set."""

    def __init__(self, thread: LoopThread) -> None:
        self.now_ms, self.lag_ms = 1000, 0
        self.status = REIGNS
        self.runner = Runner()
        runner: Any = self.runner
        self.handle = ShardHandle(
            runner, thread, lambda: self.now_ms,
            status=lambda: self.status, lag_ms=lambda: self.lag_ms, lease_ms=LEASE_MS,
        )  # fmt: skip

    def read(self, level: str, **options: Any) -> Any:
        return self.handle.read_gate(level, deadline=Deadline(60_000), **options)


@pytest.fixture
def desk() -> Iterator[Desk]:
    thread = LoopThread("handle")
    yield Desk(thread)
    thread.close()


def refusal(desk: Desk, concern: str | int) -> str:
    with pytest.raises(Unavailable) as caught:
        desk.handle.check_writable(concern)
    assert caught.value.definite
    return str(caught.value.extra.get("reason", caught.value.code))


def test_a_lease_that_ran_out_since_it_was_published_counts_as_lost(desk: Desk) -> None:
    assert desk.handle.check_writable("majority") == 3
    desk.now_ms = 4999
    assert desk.handle.check_writable("one") == 3
    desk.now_ms = 5000
    for concern in ("one", "majority", 2):
        assert refusal(desk, concern) == "lease_lost"


def test_a_loop_that_has_not_turned_for_half_a_lease_suspends_the_primary(desk: Desk) -> None:
    """Whatever it published before: it may have been replaced without having heard of it."""
    grant = desk.read("linearizable")
    desk.lag_ms = LEASE_MS // 2
    assert desk.handle.check_writable("one") == 3
    grant.confirm()
    desk.lag_ms += 1
    assert refusal(desk, "majority") == "loop_lag"
    with pytest.raises(Unavailable, match="loop_lag"):
        grant.confirm()


def test_what_the_core_refuses_is_refused_before_anything_is_logged(desk: Desk) -> None:
    assert refusal(desk, "all") == "not_enough_replicas"
    desk.runner.authority = Authority()
    assert refusal(desk, "one") == "not_primary"
    for reason in REFUSALS:
        desk.runner.authority = PRIMARY
        desk.status = replace(REIGNS, refusals={"one": reason})
        assert refusal(desk, "one") == reason


def test_a_write_is_unknown_when_its_time_is_up_or_its_primary_is_not_any_more(desk: Desk) -> None:
    wait = (8, 3, "majority", Deadline(60_000))
    desk.runner.answer = ef.Answer(0, True, True, 2, True)
    progress = desk.handle.committed(*wait)
    assert (progress.committed, progress.acked) == (True, 2)
    desk.runner.answer = ef.Answer(0, True, False, 1, False)
    with pytest.raises(WriteUnknown, match="its time was up") as caught:
        desk.handle.committed(*wait)
    assert caught.value.extra == {"shard_uuid": "shard", "epoch": 3, "lsn": 8}
    desk.runner.answer = ef.Answer(0, False, False, 1, False)
    with pytest.raises(WriteUnknown, match="another copy may be the primary"):
        desk.handle.committed(*wait)
    assert len(desk.runner.awaits) == 0


def test_waiting_for_copies_ends_with_fewer_and_not_with_an_error(desk: Desk) -> None:
    desk.runner.answer = ef.Answer(0, True, False, 1, False)
    progress = desk.handle.wait(8, 3, 3, Deadline(60_000))
    assert (progress.committed, progress.acked) == (False, 1)
    desk.runner.answer = ef.Answer(0, False, False, 0, False)
    with pytest.raises(WriteUnknown):
        desk.handle.wait(8, 3, 3, Deadline(60_000))
    (first, _) = desk.runner.asked
    assert isinstance(first, ev.Await)
    assert first.concern == ev.Concern(committed=False, copies=3)


def test_a_loop_that_never_answers_leaves_nobody_waiting(desk: Desk) -> None:
    asked = threading.Event()
    desk.runner.feed = lambda event: asked.set()  # type: ignore[method-assign]
    with pytest.raises(WriteUnknown):
        desk.handle.committed(8, 3, "one", Deadline(0))
    assert asked.is_set()
    assert len(desk.runner.awaits) == 0


def test_a_linearizable_read_waits_for_what_the_core_has_committed(desk: Desk) -> None:
    """The copy hears of a commit a moment after the core: what it knows itself is too little."""
    assert desk.runner.copy.commit_lsn < PRIMARY.commit_lsn
    desk.read("linearizable").confirm()
    assert desk.runner.copy.wanted == [8]


def test_a_linearizable_read_is_refused_once_another_may_be_primary(desk: Desk) -> None:
    grant = desk.read("linearizable")
    desk.now_ms = 5000
    with pytest.raises(Unavailable, match="lease_lost"):
        grant.confirm()
    with pytest.raises(Unavailable, match="lease_lost"):
        desk.read("linearizable")
    desk.now_ms = 1000
    desk.runner.authority = replace(PRIMARY, epoch=4)
    with pytest.raises(Unavailable, match="not_primary"):
        grant.confirm()


def test_a_new_primary_asks_the_core_until_it_has_committed(desk: Desk) -> None:
    desk.runner.authority = replace(PRIMARY, can_read=False)
    desk.runner.answer = ef.ReadAnswer(0, 8)
    grant = desk.read("linearizable")
    assert isinstance(desk.runner.asked[0], ev.Read)
    with pytest.raises(Unavailable, match="not_committed"):
        grant.confirm()
    desk.runner.authority = PRIMARY
    grant.confirm()


def test_a_replica_asks_its_primary_and_needs_no_confirmation(desk: Desk) -> None:
    desk.status, desk.runner.authority = FOLLOWS, Authority()
    desk.runner.answer = ef.ReadAnswer(0, 8)
    desk.read("linearizable").confirm()
    assert desk.runner.copy.wanted == [8]
    desk.runner.answer = ef.ReadAnswer(0, None, "no_answer")
    with pytest.raises(Unavailable, match="no_answer") as caught:
        desk.read("linearizable")
    assert caught.value.code == "not_linearizable"


def test_a_bounded_read_counts_from_when_the_primary_was_heard_and_its_lease(desk: Desk) -> None:
    """3-replication 2.9: the heartbeat must be younger than the bound less the lease."""
    desk.status, desk.runner.authority = FOLLOWS, Authority()
    assert desk.status.staleness_ms(1000, LEASE_MS) == 2100
    desk.read("bounded", max_staleness_ms=2100)
    assert desk.runner.copy.wanted == [7]
    with pytest.raises(Unavailable, match="2100 ms") as caught:
        desk.read("bounded", max_staleness_ms=2099)
    assert caught.value.code == "too_stale"
    desk.status = replace(FOLLOWS, fresh_ms=None)
    with pytest.raises(Unavailable, match="not known"):
        desk.read("bounded", max_staleness_ms=1 << 40)


def test_the_primary_is_never_stale_while_its_lease_is_valid(desk: Desk) -> None:
    desk.read("bounded", max_staleness_ms=0)
    desk.now_ms = 5000
    with pytest.raises(Unavailable, match="not known"):
        desk.read("bounded", max_staleness_ms=1000)
    desk.runner.authority = replace(PRIMARY, lease_until_ms=math.inf)  # the only copy
    desk.read("bounded", max_staleness_ms=0)


@pytest.mark.parametrize(
    ("token", "kept"),
    [((1, 4), True), ((3, 8), True), ((1, 5), False), ((2, 6), False), ((4, 8), True)],
)
def test_a_session_learns_that_what_it_saw_was_lost(
    desk: Desk, token: tuple[int, int], kept: bool
) -> None:
    """The log says at which LSN each epoch ended; of a later epoch it may still hear."""
    if kept:
        desk.read("session", token=token)
        assert desk.runner.copy.wanted == [token[1]]
    else:
        with pytest.raises(Conflict) as caught:
            desk.read("session", token=token)
        assert caught.value.code == "rolled_back"


def test_a_session_that_is_ahead_waits_no_longer_than_its_time(desk: Desk) -> None:
    with pytest.raises(StatementTimeout):
        desk.read("session", token=(3, 9))


@pytest.mark.parametrize(
    "status",
    [
        replace(FOLLOWS, complete=False),
        replace(FOLLOWS, role="corrupt"),
        replace(FOLLOWS, role="halted"),
    ],
)
def test_a_copy_that_is_not_whole_is_not_read(desk: Desk, status: ShardStatus) -> None:
    desk.status = status
    with pytest.raises(Unavailable) as caught:
        desk.read("any")
    assert caught.value.code == "not_readable"
