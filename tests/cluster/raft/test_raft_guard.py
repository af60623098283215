"""Each rule of the guard, beside what the library alone does in the same place."""

from __future__ import annotations

import pytest

from nearql.cluster.metadata.raft.library import Outcome
from nearql.cluster.metadata.raft.messages import CHUNK_BYTES
from support.raft_mutants import MUTANTS
from support.raft_stage import Stage, entries, on_stage
from support.raft_world import Died


def matched(stage: Stage, follower: str) -> int:
    """How far the leader believes that a follower's log reaches."""
    return int(stage.member.library.getStatus()[f"match_idx_server_{follower}"])


@pytest.mark.parametrize("guarded", [True, False])
def test_an_acknowledgement_of_an_older_term_does_not_count(guarded: bool) -> None:
    """5-raft 4.5: the stock leader counts entries that the follower threw away since."""
    with on_stage() as stage:
        if not guarded:
            MUTANTS["acknowledgements of older terms count"](stage.member)
        stage.append(1, (1, 0), entries(1, 2, 9))
        stage.lead(2)
        late = {"type": "next_node_idx", "next_node_idx": 10, "reset": False, "success": True}
        stage.hear("c", term=1, **late)
        assert matched(stage, "c") == (0 if guarded else 9)
        stage.hear("c", term=2, **late)
        assert matched(stage, "c") == 9


@pytest.mark.parametrize("guarded", [True, False])
def test_a_late_append_truncates_nothing_that_matches(guarded: bool) -> None:
    """Group 6: pipelined appends; the stock follower drops entries it has acknowledged."""
    with on_stage() as stage:
        if not guarded:
            MUTANTS["matching entries are truncated"](stage.member)
        stage.append(1, (1, 0), entries(1, 2, 5))
        stage.append(1, (5, 1), entries(1, 6, 9))
        stage.append(1, (1, 0), entries(1, 2, 5))
        assert stage.log[-1] == (9 if guarded else 5)


@pytest.mark.parametrize("guarded", [True, False])
def test_an_answer_names_what_matched_and_not_our_own_longer_end(guarded: bool) -> None:
    """Our end may be a former leader's, and be replaced by the next message."""
    with on_stage() as stage:
        if not guarded:
            MUTANTS["an answer names our own longer end"](stage.member)
        stage.append(1, (1, 0), entries(1, 2, 9))
        (answer,) = stage.append(2, (3, 1), [])
        assert answer["success"]
        assert answer["next_node_idx"] == (4 if guarded else 10)
        stage.append(2, (3, 1), entries(2, 4, 4))
        assert stage.log[-1] == 4


def test_an_entry_that_differs_replaces_ours_and_all_behind_it() -> None:
    with on_stage() as stage:
        stage.append(1, (1, 0), entries(1, 2, 9))
        stage.append(3, (4, 1), [*entries(1, 5, 5), *entries(3, 6, 7)])
        assert stage.log[-1] == 7
        assert [entry.term for entry in stage.member.journal.entries[-3:]] == [1, 3, 3]


@pytest.mark.parametrize("guarded", [True, False])
def test_a_chunk_of_a_snapshot_commits_nothing(guarded: bool) -> None:
    """Group 5: a deposed leader with a pending command rejoins by snapshot; stock says SUCCESS."""
    with on_stage() as stage:
        if not guarded:
            MUTANTS["a snapshot's chunk commits"](stage.member)
        stage.lead(1)
        stage.propose(b"never committed")
        assert stage.log[-1] == 3
        stage.hear(
            "b", type="append_entries", term=5, commit_index=90, serialized=(b"part", True, False)
        )
        if guarded:
            assert stage.machine.commands == []
            assert stage.outcomes == []
        else:
            assert stage.machine.commands == [b"never committed"]
            assert stage.outcomes == [(Outcome.APPLIED, 1)]


@pytest.mark.parametrize("guarded", [True, False])
def test_a_vote_counts_once(guarded: bool) -> None:
    with on_stage() as stage:
        stage.config = stage.config.__class__("a", ("b", "c", "d", "e"), stage.config.timing)
        stage.open()
        if not guarded:
            MUTANTS["a vote counts twice"](stage.member)
        while stage.member.library.term < 1:
            stage.advance(0.5)
        term = stage.member.library.term
        stage.hear("b", type="response_vote", term=term)
        stage.hear("b", type="response_vote", term=term)
        assert stage.member.library.leading is not guarded


@pytest.mark.parametrize("guarded", [True, False])
def test_a_member_whose_disk_was_empty_neither_votes_nor_stands(guarded: bool) -> None:
    """Group 14: it may have voted before it forgot."""
    with on_stage(learning=True) as stage:
        if not guarded:
            MUTANTS["a learner votes"](stage.member)
        answers = stage.hear("b", type="request_vote", term=7, last_log_index=9, last_log_term=6)
        assert [m["type"] for m in answers] == ([] if guarded else ["response_vote"])
        assert stage.member.library.term == 7
        stage.sent.clear()
        if guarded:
            stage.advance(20.0)
            assert stage.sent == []


def test_a_learner_votes_again_after_a_barrier_and_two_timeouts() -> None:
    with on_stage(learning=True) as stage:
        stage.append(3, (1, 0), entries(3, 2, 2), commit=2)
        sent = [m for _, m in stage.sent if m["type"] == "apply_command"]
        assert sent, "the learner asks the leader for a barrier"
        number = sent[0]["request_id"]
        stage.hear("b", type="apply_command_response", request_id=number, log_idx=3, log_term=3)
        stage.append(3, (2, 3), [(b"\x00", 3, 3)], commit=3)
        assert stage.member.learning
        for _ in range(60):
            stage.advance(0.1)
            stage.append(3, (3, 3), [], commit=3)
        assert not stage.member.learning
        stage.advance(0.4)
        answers = stage.hear("c", type="request_vote", term=9, last_log_index=9, last_log_term=9)
        assert [m["type"] for m in answers] == ["response_vote"]


def test_a_stale_leader_is_told_and_steps_down_at_once() -> None:
    """Group 9: under a partial cut the stock library drops its messages without an answer."""
    with on_stage() as stage:
        stage.append(5, (1, 0), [])
        (answer,) = stage.append(4, (1, 0), entries(4, 2, 2))
        assert answer == {"type": "term_notice", "term": 5}
        assert stage.log == [1]
    with on_stage() as stage:
        stage.lead(1)
        stage.hear("c", type="term_notice", term=8)
        assert not stage.member.library.leading
        assert stage.member.library.term == 8
        assert not [m for _, m in stage.sent if m["type"] == "response_vote"]


def test_who_hears_a_leader_helps_nobody_to_depose_it() -> None:
    """Group 9: terms do not grow while one member is cut off from the leader alone."""
    request = {"type": "request_vote", "last_log_index": 9, "last_log_term": 9}
    with on_stage() as stage:
        stage.append(5, (1, 0), [])
        assert stage.hear("c", term=6, **request) == []
        assert stage.member.library.term == 5
        stage.advance(0.3)
        assert [m["type"] for m in stage.hear("c", term=6, **request)] == ["response_vote"]


def test_a_candidate_that_the_leader_called_for_is_helped_at_once() -> None:
    """A leader that shuts down asks a follower to stand; nobody else's word counts."""
    with on_stage() as stage:
        stage.append(5, (1, 0), [])
        request = {"type": "request_vote", "last_log_index": 9, "last_log_term": 9, "term": 6}
        (answer,) = stage.hear("c", called=True, **request)
        assert answer == {"type": "response_vote", "term": 6}
    with on_stage() as stage:
        stage.append(5, (1, 0), [])
        assert stage.hear("c", type="timeout_now", term=5) == []  # c does not lead
        asked = stage.hear("b", type="timeout_now", term=5)
        assert [(m["type"], m["term"], m["called"]) for m in asked] == [
            ("request_vote", 6, True)
        ] * 2
        while stage.member.library.term < 7:  # nobody answers, and nobody called for the next one
            stage.advance(0.05)
        assert "called" not in [m for _, m in stage.sent if m["type"] == "request_vote"][-1]


def test_a_member_that_is_none_is_not_heard() -> None:
    with on_stage() as stage:
        answers = stage.hear(
            "stranger", type="request_vote", term=50, last_log_index=99, last_log_term=49
        )
        assert answers == []
        assert stage.member.library.term == 0
        assert stage.member.guard.counts["stranger"] == 1


def test_a_contradiction_of_what_is_committed_stops_the_member() -> None:
    with on_stage() as stage:
        stage.append(1, (1, 0), entries(1, 2, 5), commit=5)
        with pytest.raises(Died, match="contradicts one that is committed"):
            stage.append(2, (2, 1), entries(2, 3, 3))


def test_a_leader_that_does_not_fit_begins_behind_what_is_committed() -> None:
    """Group 8: a long isolated leader's entries would go one by one, a heartbeat each."""
    with on_stage() as stage:
        stage.append(1, (1, 0), entries(1, 2, 90), commit=20)
        (answer,) = stage.append(2, (80, 2), entries(2, 81, 81))
        assert (answer["success"], answer["reset"]) == (False, True)
        assert answer["next_node_idx"] == 21
        with pytest.raises(Died, match="contradicts"):
            stage.append(2, (15, 2), [])


def test_a_request_of_a_former_life_is_not_answered_in_this_one() -> None:
    """An old connection may deliver late, and the library would count from one again."""
    with on_stage() as stage:
        numbers = []
        for _ in range(2):
            stage.append(1, (1, 0), [])
            stage.propose(b"x")
            numbers += [m["request_id"] for _, m in stage.sent if m["type"] == "apply_command"]
            stage.sent.clear()
            stage.open()
        first, second = numbers
        assert abs(first - second) > 1000


def test_a_commit_index_reaches_as_far_as_the_message_proves() -> None:
    with on_stage() as stage:
        stage.append(1, (1, 0), entries(1, 2, 9))
        stage.append(2, (4, 1), [], commit=9)
        assert stage.machine.commands == [b"2", b"3", b"4"]


def chunks(snapshot: bytes) -> list[tuple[bytes, bool, bool]]:
    starts = range(0, len(snapshot), CHUNK_BYTES)
    return [
        (snapshot[start : start + CHUNK_BYTES], start == 0, start + CHUNK_BYTES >= len(snapshot))
        for start in starts
    ]


def snapshot_of(last: int) -> bytes:
    """What another member, which compacted up to an index, would send."""
    with on_stage(compact_entries=3) as stage:
        stage.append(1, (1, 0), entries(1, 2, last), commit=last)
        stage.advance(0.2)
        assert stage.member.journal.snapshot is not None
        assert stage.log == [last - 1, last]
        return stage.member.journal.snapshot


def test_a_snapshot_is_loaded_durable_and_answered() -> None:
    snapshot = snapshot_of(20)
    with on_stage() as stage:
        for chunk in chunks(snapshot):
            answers = stage.hear(
                "b", type="append_entries", term=1, commit_index=20, serialized=chunk
            )
        assert [m["next_node_idx"] for m in answers] == [21]
        assert stage.machine.commands == [b"%d" % n for n in range(2, 21)]
        stage.open()
        assert stage.machine.commands == [b"%d" % n for n in range(2, 21)]
        stage.append(1, (20, 1), entries(1, 21, 21), commit=21)
        assert stage.machine.commands[-1] == b"21"


@pytest.mark.parametrize("guarded", [True, False])
def test_a_late_snapshot_takes_nothing_back(guarded: bool) -> None:
    snapshot = snapshot_of(20)
    with on_stage() as stage:
        stage.append(1, (1, 0), entries(1, 2, 30), commit=25)
        if not guarded:
            MUTANTS["every snapshot is loaded"](stage.member)
        for chunk in chunks(snapshot):
            stage.hear("b", type="append_entries", term=1, commit_index=25, serialized=chunk)
        assert stage.log[-1] == (30 if guarded else 20)


def test_a_damaged_snapshot_is_refused_and_counted() -> None:
    """A stock member logs that it could not load it, and acknowledges it all the same."""
    snapshot = bytearray(snapshot_of(20))
    snapshot[len(snapshot) // 2] ^= 1
    with on_stage() as stage:
        for chunk in chunks(bytes(snapshot)):
            answers = stage.hear(
                "b", type="append_entries", term=1, commit_index=20, serialized=chunk
            )
        assert answers == []
        assert stage.member.guard.counts["bad_snapshot"] == 1
        assert stage.log == [1]


def test_an_apply_that_raises_stops_the_member_rather_than_blocking_it_for_ever() -> None:
    """Group 11."""
    with on_stage() as stage, pytest.raises(Died, match="entry 2 could not be applied"):
        stage.append(1, (1, 0), [(b"\x00raise", 2, 1)], commit=2)


def test_a_callback_that_raises_applies_nothing_twice() -> None:
    """Group 11: the stock library applies the entry again, on this member alone."""
    with on_stage() as stage:
        stage.config = stage.config.__class__("a", (), stage.config.timing)
        stage.open()
        while not stage.member.library.leading:
            stage.advance(0.5)

        def done(*_end: object) -> None:
            raise ConnectionError("the caller has gone")

        stage.member.post_submit(b"once", done)
        with pytest.raises(ConnectionError):
            stage.tick()
        stage.tick()
        assert stage.machine.commands == [b"once"]


def test_a_voter_alone_answers_after_its_fsync() -> None:
    with on_stage() as stage:
        stage.config = stage.config.__class__("a", (), stage.config.timing)
        stage.open()
        while not stage.member.library.leading:
            stage.advance(0.5)
        durable: list[bool] = []
        stage.member.post_submit(
            b"x", lambda *_end: durable.append(not stage.member.journal.unsynced)
        )
        stage.tick()
        assert durable == [True]


def test_an_idle_leader_that_dies_is_replaced_by_one_candidacy() -> None:
    """Group 7, the rules' part of it: no link has to be woken up (the mesh pings idle ones)."""
    with on_stage() as stage:
        for _ in range(600):
            stage.advance(0.1)
            stage.append(1, (1, 0), [])
        stage.sent.clear()
        while not any(m["type"] == "request_vote" for _, m in stage.sent):
            stage.advance(0.1)
        stage.hear("c", type="response_vote", term=2)
        assert stage.member.library.leading
        assert [r for r, m in stage.sent if m["type"] == "request_vote"] == ["b", "c"]
