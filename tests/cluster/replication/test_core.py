"""What the core decides, case by case: where logs part, when writers are answered, who is sent
what, how a part is handed over.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearql.cluster.replication.core import effects as ef
from nearql.cluster.replication.core import events as ev
from nearql.cluster.replication.core import messages as msg
from nearql.cluster.replication.core.epochs import (
    common_end,
    end_of,
    epoch_at,
    extended,
    is_rolled_back,
    shortened,
)
from nearql.cluster.replication.core.state import State
from support.shard_scene import TIMING, Copy, ack, followed, primary, sync, write

EPOCHS = st.lists(st.integers(1, 6), max_size=12).map(sorted)


def vector_of(epochs: list[int]) -> msg.Vector:
    vector: msg.Vector = ()
    for lsn, epoch in enumerate(epochs, 1):
        vector = extended(vector, epoch, lsn)
    return vector


# ---- Epoch vectors -------------------------------------------------------------------------


@given(shared=EPOCHS, mine=st.integers(0, 5), yours=st.integers(0, 5), more=st.booleans())
def test_logs_part_where_they_do(shared: list[int], mine: int, yours: int, more: bool) -> None:
    """Two logs with a common beginning, and behind it records of epochs that the other never saw,
    or more of the last common epoch on one side.
    """
    last = shared[-1] if shared else 0
    left = shared + [last or 7] * (mine if more else 0) + [10] * (0 if more else mine)
    right = shared + [20] * yours
    if more and not shared:
        left = []
    cut = common_end(vector_of(left), len(left), vector_of(right), len(right))
    assert cut == len(shared)


@given(epochs=EPOCHS, lsn=st.integers(0, 12))
def test_a_vector_tells_what_its_log_does(epochs: list[int], lsn: int) -> None:
    vector = vector_of(epochs)
    assert epoch_at(vector, min(lsn, len(epochs))) == ([0, *epochs])[min(lsn, len(epochs))]
    assert shortened(vector, lsn) == vector_of(epochs[:lsn])
    for epoch in range(1, 7):
        ends = [at for at, found in enumerate(epochs, 1) if found == epoch]
        assert end_of(vector, epoch, len(epochs)) == (ends[-1] if ends else None)


@pytest.mark.parametrize(
    ("epoch", "lsn", "lost"),
    [
        (2, 4, False),  # it is here
        (1, 3, False),
        (1, 4, True),  # epoch 1 ended before it
        (3, 4, False),  # of an epoch that this log may not have seen yet
        (2, 9, False),  # may come
    ],
)
def test_a_position_that_a_failover_took_back(epoch: int, lsn: int, lost: bool) -> None:
    vector = vector_of([1, 1, 1, 2, 2])
    assert is_rolled_back(vector, 5, epoch, lsn) is lost


# ---- Write concern -------------------------------------------------------------------------


def answers(copy: Copy) -> list[ef.Answer]:
    found: list[ef.Answer] = copy.wanted(ef.Answer)
    return found


def test_majority_is_answered_when_the_whole_set_has_it() -> None:
    copy = followed(primary(), "b", "c")
    lsn = write(copy)
    assert answers(copy) == []
    copy.hear("b", ack(1, 1, lsn))
    assert answers(copy) == []
    copy.hear("c", ack(1, 1, lsn))
    assert answers(copy) == [ef.Answer(1, True, True, 3, True)]
    assert copy.wanted(ef.SetCommit) == [ef.SetCommit(lsn)]


def test_one_is_answered_by_the_primarys_own_disk() -> None:
    copy = followed(primary(), "b", "c")
    write(copy, concern=ev.ONE)
    assert answers(copy) == [ef.Answer(1, True, True, 1, False)]


def test_all_needs_every_copy() -> None:
    """Node c was dropped: majority is done without it, all is not."""
    copy = followed(primary(), "b", "c")
    lsn = write(copy, token=1, concern=ev.ALL)
    copy.feed(ev.Await(2, 1, lsn, ev.MAJORITY, copy.now + 1000))
    copy.row(isr=("a", "b"), version=2)
    copy.hear("b", ack(1, 1, lsn))
    assert [answer.token for answer in answers(copy)] == [2]
    copy.hear("c", ack(1, 1, lsn))
    assert answers(copy) == [ef.Answer(1, True, True, 3, True)]


def test_a_number_of_copies_is_counted_with_the_primary() -> None:
    copy = followed(primary(isr=("a", "b")), "b", "c")
    lsn = write(copy, concern=ev.Concern(committed=False, copies=2))
    assert answers(copy) == []
    copy.hear("c", ack(1, 1, lsn))
    assert answers(copy) == [ef.Answer(1, True, True, 2, False)]


def test_whose_time_is_up_hears_how_far_it_is() -> None:
    copy = followed(primary(), "b", "c")
    lsn = copy.core.copy.log.end_lsn + 1
    copy.feed(ev.Appended(1, lsn, 10))
    copy.feed(ev.Await(1, 1, lsn, ev.MAJORITY, copy.now + 30))
    copy.durable()
    copy.wait(30)
    assert answers(copy) == [ef.Answer(1, True, False, 1, False)]


def test_nobody_is_answered_without_the_lease() -> None:
    copy = followed(primary(), "b", "c")
    copy.now += TIMING.lease_ms
    write(copy, concern=ev.ONE)
    assert copy.state is State.SUSPENDED
    assert answers(copy) == []
    assert copy.core.refusal(copy.now, ev.ONE) == "lease_lost"
    for node in ("b", "c"):
        copy.hear(node, ack(1, 1, 1, hb_id=copy.now))
    assert [answer.met for answer in answers(copy)] == [True]


def test_an_awaited_write_of_another_epoch_is_unknown() -> None:
    copy = followed(primary(epoch=2), "b", "c", epoch=2)
    copy.feed(ev.Await(1, 1, 1, ev.MAJORITY, copy.now + 1000))
    assert answers(copy) == [ef.Answer(1, False, False, 0, False)]


@pytest.mark.parametrize(
    ("isr", "concern", "refusal"),
    [
        (("a", "b", "c"), ev.ALL, None),
        (("a", "b"), ev.ALL, "not_enough_replicas"),
        (("a", "b"), ev.MAJORITY, None),
        (("a",), ev.MAJORITY, "not_enough_replicas"),
        (("a",), ev.ONE, None),
    ],
)
def test_what_is_refused_before_it_is_logged(
    isr: tuple[str, ...], concern: ev.Concern, refusal: str | None
) -> None:
    copy = followed(primary(isr=isr), "b", "c")
    assert copy.core.refusal(copy.now, concern) == refusal


def test_what_cannot_commit_is_taken_up_to_a_limit() -> None:
    copy = followed(primary(isr=("a",)), "b", "c")
    limit = TIMING.uncommitted_bytes
    copy.feed(ev.Appended(1, 2, limit - 1))
    assert copy.core.refusal(copy.now, ev.ONE) is None
    copy.feed(ev.Appended(1, 3, 1))
    assert copy.core.refusal(copy.now, ev.ONE) == "too_much_uncommitted"


# ---- Catching up ---------------------------------------------------------------------------


def behind(cut: int, trimmed: ev.Trimmed) -> Copy:
    """A primary with 100 records asked by b, which is not in sync and has `cut` of them."""
    copy = primary(isr=("a", "c"))
    copy.feed(ev.Appended(1, 100, 1000))
    copy.durable()
    copy.hear("c", sync(1, node="c", vector=((1, 1),), end_lsn=100))
    copy.hear("c", ack(1, 1, 100, hb_id=copy.now))
    copy.feed(ev.Applied(100))
    copy.feed(trimmed)
    copy.hear("b", sync(1, vector=((1, 1),) if cut else (), end_lsn=cut))
    return copy


def test_missing_records_are_sent() -> None:
    copy = behind(40, ev.Trimmed(41, 50, 1000, 10_000))
    assert [m.cut_lsn for m in copy.sent(msg.SyncOk)] == [40]
    copy.hear("b", ack(1, 1, 40))
    (ship,) = copy.wanted(ef.Ship)
    assert (ship.append.prev_lsn, ship.append.prev_epoch, ship.last_lsn) == (40, 1, 100)


def test_what_is_trimmed_needs_a_snapshot() -> None:
    assert behind(39, ev.Trimmed(41, 50, 1000, 10_000)).sent(msg.SyncFull)


def test_a_snapshot_is_sent_where_it_saves_enough() -> None:
    """90 records below the checkpoint, 1000 bytes of log for 100: 900 bytes saved."""
    assert behind(0, ev.Trimmed(1, 90, 1000, 1_790)).sent(msg.SyncFull)
    assert behind(0, ev.Trimmed(1, 90, 1000, 1_810)).sent(msg.SyncOk)


def test_a_copy_that_needs_what_was_trimmed_meanwhile_begins_anew() -> None:
    copy = behind(10, ev.Trimmed(1, 50, 1000, 1 << 20))
    copy.feed(ev.Trimmed(51, 50, 500, 1 << 20))
    copy.hear("b", ack(1, 1, 10))
    assert not copy.wanted(ef.Ship)
    assert "b" not in copy.core.status(copy.now).copies


def test_records_wait_for_credit() -> None:
    copy = behind(40, ev.Trimmed(41, 50, 1000, 1 << 20))
    copy.feed(ev.Shipped("b", 41, 60, TIMING.credit_bytes))
    assert not copy.wanted(ef.Ship)
    copy.hear("b", ack(1, 1, 60))
    assert [ship.append.prev_lsn for ship in copy.wanted(ef.Ship)] == [60]


def test_lost_records_are_sent_again() -> None:
    copy = behind(40, ev.Trimmed(41, 50, 1000, 1 << 20))
    copy.feed(ev.Shipped("b", 41, 100, 10))
    copy.wait(TIMING.resend_ms)
    assert [ship.append.prev_lsn for ship in copy.wanted(ef.Ship)] == [40]


def test_a_copy_that_caught_up_joins() -> None:
    copy = behind(40, ev.Trimmed(41, 50, 1000, 1 << 20))
    copy.feed(ev.Shipped("b", 41, 100, 10))
    copy.wait(TIMING.retry_ms)
    assert not copy.wanted(ef.Propose)
    copy.hear("b", ack(1, 1, 100))
    copy.hear("c", ack(1, 1, 100))
    copy.wait(TIMING.tick_ms)
    (proposal,) = copy.wanted(ef.Propose)
    assert proposal.command.isr == ("a", "b", "c")


def test_a_silent_member_is_dropped() -> None:
    copy = followed(primary(), "b", "c")
    proposed: list[tuple[str, ...]] = []
    for _ in range(TIMING.silent_ms // TIMING.tick_ms + 1):
        copy.hear("b", ack(1, 1, 1, hb_id=copy.now))
        assert not proposed
        copy.wait(TIMING.tick_ms)
        proposed += [effect.command.isr for effect in copy.wanted(ef.Propose)]
    assert proposed == [("a", "b")]


def proposed_in(copy: Copy, ms: int, *speaking: str) -> list[tuple[str, ...]]:
    """In-sync sets that are proposed in that time, while these nodes answer."""
    found = []
    for _ in range(ms // TIMING.tick_ms):
        for node in speaking:
            copy.hear(node, ack(1, 1, 1, hb_id=copy.now))
            found += [effect.command.isr for effect in copy.wanted(ef.Propose)]
        copy.wait(TIMING.tick_ms)
        found += [effect.command.isr for effect in copy.wanted(ef.Propose)]
        if found:
            return found
    return found


def test_who_flaps_must_keep_up_for_a_while_before_it_joins_again() -> None:
    copy = followed(primary(), "b", "c")
    everybody, without = ("a", "b", "c"), ("a", "b")
    assert proposed_in(copy, 2 * TIMING.silent_ms, "b") == [without]
    copy.row(isr=without, version=2)
    assert proposed_in(copy, 2 * TIMING.retry_ms, "b", "c") == [everybody]  # once is not flapping
    copy.row(isr=everybody, version=3)
    assert proposed_in(copy, 2 * TIMING.silent_ms, "b") == [without]
    copy.row(isr=without, version=4)
    assert proposed_in(copy, TIMING.stable_ms - 1000, "b", "c") == []
    assert proposed_in(copy, 2000, "b", "c") == [everybody]


def test_who_falls_silent_again_much_later_does_not_flap() -> None:
    copy = followed(primary(), "b", "c")
    everybody, without = ("a", "b", "c"), ("a", "b")
    for version in (2, 4):
        assert proposed_in(copy, 2 * TIMING.silent_ms, "b") == [without]
        copy.row(isr=without, version=version)
        assert proposed_in(copy, 2 * TIMING.retry_ms, "b", "c") == [everybody]
        copy.row(isr=everybody, version=version + 1)
        assert proposed_in(copy, TIMING.flapping_ms, "b", "c") == []


# ---- Handing over --------------------------------------------------------------------------


def test_a_part_is_handed_over_when_the_target_has_everything() -> None:
    copy = followed(primary(), "b", "c")
    lsn = write(copy)
    copy.feed(ev.HandOff("b", copy.now + 5000))
    assert copy.wanted(ef.Admit) == [ef.Admit("hand_off")]
    assert not copy.wanted(ef.Propose)
    copy.hear("b", ack(1, 1, lsn, hb_id=copy.now))
    copy.hear("c", ack(1, 1, lsn, hb_id=copy.now))
    assert [answer.met for answer in answers(copy)] == [True]
    copy.wait(TIMING.tick_ms)
    assert [e.command.node_id for e in copy.wanted(ef.Propose)] == ["b"]
    assert copy.sent(msg.LeaseRelease)
    copy.row(epoch=2, primary="b", version=2)
    assert copy.wanted(ef.HandOffDone) == [ef.HandOffDone(True)]
    assert copy.state is State.ISR


def test_a_part_goes_to_no_copy_that_is_not_in_sync() -> None:
    copy = followed(primary(isr=("a", "c")), "b", "c")
    copy.feed(ev.HandOff("b", copy.now + 5000))
    (done,) = copy.wanted(ef.HandOffDone)
    assert not done.ok
    assert "b" in done.reason


# ---- A damaged copy ------------------------------------------------------------------------


def test_a_damaged_copy_is_replaced_once_metadata_knows() -> None:
    copy = Copy("b")
    copy.row()
    copy.feed(ev.Corrupted("a bit flipped", "b-2"))
    (proposal,) = copy.wanted(ef.Propose)
    assert (proposal.command.alloc_id, proposal.command.new_alloc_id) == ("b-1", "b-2")
    assert copy.state is State.CORRUPT
    copy.row(replicas={"a": "a-1", "b": "b-2", "c": "c-1"}, isr=("a", "c"), version=2)
    assert copy.wanted(ef.StartAnew) == [ef.StartAnew("b-2")]
    copy.feed(ev.CopyReplaced("b-2"))
    assert copy.sent(msg.Sync)


def test_the_operators_word_makes_a_copy_primary_once_its_snapshot_is_there() -> None:
    copy = Copy("b")
    copy.row(isr=("a", "c"))
    copy.hear("a", msg.SyncFull(1, msg.Session(1, 1)))
    assert copy.state is State.SNAPSHOT
    copy.row(epoch=2, primary="b", isr=("b",), version=2, unclean_epochs=(2,))
    copy.wait(TIMING.lease_ms)
    assert not copy.wanted(ef.Lead)
    copy.feed(ev.SnapshotInstalled(ev.LogState(((1, 1),), 9, 10, 9)))
    copy.wait(TIMING.tick_ms)
    assert [lead.lsn for lead in copy.wanted(ef.Lead)] == [10]
