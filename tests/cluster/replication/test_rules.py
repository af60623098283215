"""Rules of the protocol one by one, each beside a core without it.

A rule that schedules seldom put to the test is played here by hand: the same scene must pass with
the rule, and fail without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from nearql.cluster.metadata import shards, state
from nearql.cluster.metadata.nodes import NodeRow
from nearql.cluster.metadata.shards import ShardRow
from nearql.cluster.replication.core import effects as ef
from nearql.cluster.replication.core import events as ev
from nearql.cluster.replication.core import messages as msg
from nearql.cluster.replication.core.state import State
from support.shard_mutants import DIRECTED, MUTANTS, mutant
from support.shard_scene import (
    LIVES,
    ROW,
    TIMING,
    Copy,
    ack,
    followed,
    primary,
    sync,
    write,
)

# ---- The scenes ----------------------------------------------------------------------------


def an_earlier_life_is_refused() -> None:
    """A copy that has restarted since it caught up may not have what the primary knows of it."""
    rows = {name: NodeRow(name, name, name, 2) for name in LIVES}
    known = state.Metadata(nodes=rows)
    change = shards.IsrChange(
        request_id="r", shard_uuid="s", expected_version=1, epoch=1, isr=("a", "b", "c"),
        incarnations={"a": 2, "b": 2, "c": 1},
    )  # fmt: skip
    changed = shards._isr_change(known, replace(ROW, isr=("a", "b")), change)
    assert not isinstance(changed, ShardRow)


def acknowledgements_are_of_one_epoch() -> None:
    """Node b acknowledged LSN 5 to an earlier reign of a, and has been cut since."""
    copy = followed(primary(epoch=3), "b", "c", epoch=3)
    lsn = write(copy)
    copy.hear("b", ack(1, 1, lsn))
    copy.hear("c", ack(3, 1, lsn))
    assert copy.core.copy.log.commit_lsn < lsn
    copy.hear("b", ack(3, 1, lsn))
    assert copy.core.copy.log.commit_lsn == lsn


def acknowledgements_are_of_one_session() -> None:
    """Node b has begun anew; what it acknowledged before is not known to be there."""
    copy = followed(primary(), "b", "c")
    lsn = write(copy)
    copy.hear("c", ack(1, 1, lsn))
    copy.hear("b", sync(1, number=2))
    copy.hear("b", ack(1, 1, lsn))
    assert copy.core.copy.log.commit_lsn < lsn
    copy.hear("b", ack(1, 2, lsn))
    assert copy.core.copy.log.commit_lsn == lsn


def a_promise_is_durable_before_anything_is_said() -> None:
    copy = Copy("b")
    copy.row(epoch=4, version=4)
    kinds = [type(effect) for effect in copy.effects]
    assert kinds == [ef.PersistPromise, ef.Send]


def a_restart_waits_for_what_it_may_have_promised() -> None:
    copy = Copy("b", promised=1)
    copy.row(epoch=2, primary="b", version=2)
    assert copy.state is State.PRIMARY_WAIT
    copy.wait(TIMING.lease_ms - 1)
    assert copy.state is State.PRIMARY_WAIT
    copy.wait(1)
    assert copy.state is not State.PRIMARY_WAIT


def following(number: int = 1) -> Copy:
    """Node b follows a in epoch 1; its own boot is long ago."""
    copy = Copy("b")
    copy.row()
    copy.wait(10 * TIMING.lease_ms)
    copy.hear("a", msg.SyncOk(1, msg.Session(1, number), 0))
    return copy


def heartbeat(copy: Copy, hb_id: int) -> None:
    copy.hear("a", msg.Append(1, copy.core.role.session, 0, 0, (), 0, hb_id, True))  # type: ignore[union-attr]


def a_release_frees_from_nothing_later() -> None:
    """The hand-off failed, a goes on with a heartbeat that b answers; then the release comes."""
    copy = following()
    heartbeat(copy, 500)
    copy.hear("a", msg.LeaseRelease(1, 400))
    copy.row(epoch=2, primary="b", version=2)
    assert copy.state is State.PRIMARY_WAIT


def a_release_frees_from_what_was_before() -> None:
    copy = following()
    heartbeat(copy, 500)
    copy.row(epoch=2, primary="b", version=2)
    assert not copy.wanted(ef.Lead)
    copy.hear("a", msg.LeaseRelease(1, 500))
    assert copy.wanted(ef.Lead)
    assert copy.state is State.SUSPENDED  # active, and nobody has answered yet


def nothing_is_read_on_a_released_lease() -> None:
    """A hand-off whose time was up: the promises from before it are void."""
    copy = followed(primary(), "b", "c")
    assert copy.core.lease_valid(copy.now)
    copy.feed(ev.HandOff("b", copy.now + 100))
    assert copy.sent(msg.LeaseRelease)
    assert not copy.core.lease_valid(copy.now)
    copy.wait(100)
    assert copy.wanted(ef.HandOffDone) == [ef.HandOffDone(False, "the time was up first")]
    assert not copy.core.lease_valid(copy.now)
    for node in ("b", "c"):
        copy.hear(node, ack(1, 1, 1, hb_id=copy.now))
    assert copy.core.lease_valid(copy.now)


def a_repeated_session_is_told_by_its_log() -> None:
    """A core made anew in the same life, with another log, is no repetition of the old one."""
    copy = primary()
    for lsn in range(2, 6):
        copy.feed(ev.Appended(1, lsn, 1))
    copy.durable()
    copy.hear("b", sync(1, vector=((1, 1),), end_lsn=2))
    assert [m.cut_lsn for m in copy.sent(msg.SyncOk)] == [2]
    copy.hear("b", sync(1, vector=((1, 1),), end_lsn=2))
    assert [m.cut_lsn for m in copy.sent(msg.SyncOk)] == [2]
    copy.hear("b", sync(1, vector=((1, 1),), end_lsn=4))
    assert [m.cut_lsn for m in copy.sent(msg.SyncOk)] == [4]


def records_belong_to_a_session() -> None:
    """Node b asks anew where its log leaves a's: what was sent before does not say."""
    copy = Copy("b", log=ev.LogState(((1, 1),), 5, 1, 0), promised=1)
    copy.row()
    record = msg.Record(6, 1, 10)
    copy.hear("a", msg.Append(1, msg.Session(1, 0), 5, 1, (record,), 0, 1, True))
    assert not copy.wanted(ef.AppendRecords)


def an_answer_is_to_a_question_of_this_life() -> None:
    """Seed 200345: node b restarts; the answer to what it had asked before comes only now."""
    asked = following()
    asked.feed(ev.Read(1, asked.now + 1000))
    old = asked.sent(msg.ReadIndex)[0]
    copy = Copy("b", promised=1)
    copy.row({**LIVES, "b": 2})
    copy.feed(ev.Read(1, copy.now + 1000))
    copy.hear("a", msg.Index(1, old.token, 5))
    assert not copy.wanted(ef.ReadAnswer)
    copy.hear("a", msg.Index(1, copy.core._questions._count + (2 << 48), 9))
    assert copy.wanted(ef.ReadAnswer) == [ef.ReadAnswer(1, 9)]


def an_in_sync_copy_keeps_its_log() -> None:
    """What it holds is counted on, however far it is behind."""
    copy = primary()
    copy.feed(ev.Trimmed(1, 0, 1 << 30, 1 << 10))
    copy.hear("b", sync(1))
    assert copy.sent(msg.SyncOk)
    assert not copy.sent(msg.SyncFull)
    other = Copy("b", log=ev.LogState(((1, 1),), 5, 1, 0), promised=1)
    other.row()
    other.hear("a", msg.SyncFull(1, msg.Session(1, 1)))
    assert not other.wanted(ef.FetchSnapshot)


def a_strange_copy_is_not_served() -> None:
    """A disk that was replaced has another alloc_id, and is in nobody's set."""
    copy = primary()
    copy.hear("b", sync(1, alloc_id="b-2"))
    assert not copy.sent(msg.SyncOk)
    copy.hear("b", sync(1))
    assert copy.sent(msg.SyncOk)


def a_primary_that_hears_of_a_later_one_stops() -> None:
    copy = followed(primary(), "b", "c")
    write(copy)
    copy.hear("c", msg.Fenced(2))
    assert [answer.known for answer in copy.wanted(ef.Answer)] == [False]
    assert copy.state is State.ISR
    assert copy.wanted(ef.Follow)
    copy.row(epoch=2, primary="c", version=2)
    assert copy.wanted(ef.PersistPromise) == [ef.PersistPromise(2)]


def an_epoch_is_not_resumed() -> None:
    """Seed 28: the copy is closed and opened again in the same life, and its last records are lost;
    b has others than it would write now.
    """
    copy = Copy("a", log=ev.LogState(((1, 1),), 5, 1, 0), promised=1)
    copy.row()
    copy.wait(TIMING.lease_ms)
    assert not copy.wanted(ef.Lead)
    assert [type(e.command) for e in copy.wanted(ef.Propose)] == [shards.Promote]
    copy.row(epoch=2, version=2)
    assert copy.wanted(ef.Lead)


def an_only_copy_resumes_its_epoch() -> None:
    copy = Copy("a", log=ev.LogState(((1, 1),), 5, 1, 0), promised=1)
    copy.row(replicas={"a": "a-1"}, isr=("a",), min_isr=1)
    copy.wait(TIMING.lease_ms)
    assert copy.wanted(ef.Lead)


def commits_need_min_isr() -> None:
    """Metadata has taken out a copy that was lost: one of three is left, two are needed."""
    copy = followed(primary(), "b", "c")
    copy.row(isr=("a",), version=2)
    lsn = write(copy)
    assert copy.core.copy.log.commit_lsn < lsn
    assert copy.core.refusal(copy.now, ev.MAJORITY) == "not_enough_replicas"


def metadata_that_went_back_stops_everything() -> None:
    copy = Copy("b", promised=7)
    copy.row(epoch=6, version=9)
    assert copy.state is State.HALTED
    assert copy.wanted(ef.Alarm)


def what_was_committed_is_never_cut() -> None:
    """After an unclean promotion: the operator has to say what becomes of this copy."""
    copy = Copy("b", log=ev.LogState(((1, 1),), 5, 1, 5), promised=1)
    copy.row(epoch=2, version=2)
    copy.hear("a", msg.SyncOk(2, msg.Session(1, 1), 4))
    assert copy.state is State.HALTED


def a_primary_behind_a_follower_stops() -> None:
    copy = primary(epoch=2)
    copy.hear("b", sync(2, vector=((1, 1),), end_lsn=9, commit_lsn=9))
    assert copy.state is State.HALTED


def a_loss_that_was_ordered_halts_no_primary() -> None:
    copy = primary(epoch=2, unclean_epochs=(2,))
    copy.hear("b", sync(2, vector=((1, 1),), end_lsn=9, commit_lsn=9))
    assert copy.state is not State.HALTED


def a_new_copy_knows_what_was_promised() -> None:
    """Node b was damaged and has an empty copy now: it answers, and so promises, in epoch 3."""
    copy = Copy("b")
    copy.row(epoch=3)
    copy.feed(ev.Corrupted("a bit flipped", "b-2"))
    copy.row(epoch=3, replicas={"a": "a-1", "b": "b-2", "c": "c-1"}, isr=("a", "c"), version=2)
    copy.feed(ev.CopyReplaced("b-2"))
    assert copy.wanted(ef.PersistPromise) == [ef.PersistPromise(3)]
    assert copy.sent(msg.Sync)


SCENES: dict[str, Callable[[], None]] = {
    "an earlier life is taken into the set": an_earlier_life_is_refused,
    "any acknowledgement counts": acknowledgements_are_of_one_epoch,
    "acknowledgements of older sessions count": acknowledgements_are_of_one_session,
    "a promise is not persisted": a_promise_is_durable_before_anything_is_said,
    "a restarted copy has promised nothing": a_restart_waits_for_what_it_may_have_promised,
    "a release frees from later promises": a_release_frees_from_nothing_later,
    "a released lease is relied on": nothing_is_read_on_a_released_lease,
    "an answer to a former life's question is taken": an_answer_is_to_a_question_of_this_life,
    "records of any session are taken": records_belong_to_a_session,
    "a session is known by its number alone": a_repeated_session_is_told_by_its_log,
    "an in-sync copy takes a snapshot": an_in_sync_copy_keeps_its_log,
    "a copy that is not listed is served": a_strange_copy_is_not_served,
    "a primary reigns on beside a later one": a_primary_that_hears_of_a_later_one_stops,
    "a copy that is opened again resumes its epoch": an_epoch_is_not_resumed,
    "commits with too few in sync": commits_need_min_isr,
    "metadata may go back": metadata_that_went_back_stops_everything,
    "a committed record is cut": what_was_committed_is_never_cut,
    "a primary need not have what others committed": a_primary_behind_a_follower_stops,
    "a copy in the place of another one has promised nothing": a_new_copy_knows_what_was_promised,
}


def test_each_rule_that_needs_a_scene_has_one() -> None:
    assert set(SCENES) >= DIRECTED
    assert set(SCENES) <= set(MUTANTS)


@pytest.mark.parametrize("scene", SCENES.values(), ids=lambda scene: scene.__name__)
def test_the_rule_holds(scene: Callable[[], None]) -> None:
    scene()


@pytest.mark.parametrize("name", SCENES)
def test_its_absence_is_noticed(name: str) -> None:
    with mutant(name), pytest.raises(AssertionError):
        SCENES[name]()


def test_a_release_frees_from_what_was_before() -> None:
    a_release_frees_from_what_was_before()


def test_an_only_copy_resumes_its_epoch() -> None:
    an_only_copy_resumes_its_epoch()


def test_a_loss_that_was_ordered_halts_no_primary() -> None:
    a_loss_that_was_ordered_halts_no_primary()
