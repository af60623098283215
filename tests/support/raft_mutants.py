"""Members without one of the guard's rules: the library's own behaviour at that place.

A test runs schedules on each until the checkers notice; a rule whose absence nobody notices would
be one that nobody tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nearql.cluster.metadata.raft import messages
from nearql.cluster.metadata.raft.guard import Guard, Rules
from nearql.cluster.metadata.raft.journal import Entry, RaftJournal
from nearql.cluster.metadata.raft.member import MemberConfig, RaftMember
from nearql.cluster.metadata.raft.messages import Message
from support.raft_world import Faults, Machine, World, _Wire


class MutantWorld(World):
    """A world whose members are changed by `mutate` as they start."""

    def __init__(self, seed: int, mutate: Callable[[RaftMember], None], **options: Any) -> None:
        super().__init__(seed, **options)
        self.mutate = mutate

    def make_member(
        self, config: MemberConfig, journal: RaftJournal, machine: Machine, wire: _Wire
    ) -> RaftMember:
        member = super().make_member(config, journal, machine, wire)
        self.mutate(member)
        return member


def _with_guard(**rules: Callable[..., Any]) -> Callable[[RaftMember], None]:
    """Members whose guard has these methods instead."""
    kind = type("MutantGuard", (Guard,), rules)

    def mutate(member: RaftMember) -> None:
        member.guard.__class__ = kind

    return mutate


def _pass(_guard: Guard, rules: Rules, sender: str, message: Message) -> None:
    rules.deliver(sender, message)


def _as_it_came(_guard: Guard, message: Message, _committed: int) -> Message:
    return message


def _chunks_commit(guard: Guard, rules: Rules, sender: str, message: Message) -> None:
    """A snapshot's chunk raises the commit index over entries that nothing proved."""
    if "serialized" in message and message["term"] >= rules.term:
        rules.deliver(sender, message)
    else:
        Guard._on_append_entries(guard, rules, sender, message)


def _longer_end(guard: Guard, message: Message, committed: int) -> Message:
    """An answer that names our own end, whatever of it matches."""
    mended = _REAL(guard, message, committed)
    if guard._matched is not None:
        guard._matched = guard._journal.entries[-1].log_index
    return mended


_REAL = Guard._without_what_we_hold


def _learner_votes(member: RaftMember) -> None:
    member.guard.learning = False


def _sends_before_sync(member: RaftMember) -> None:
    """What leaves may speak of what the disk does not have yet; it gets it with the tick's end."""

    def send(receiver: str, message: Message) -> bool:
        stamped = member.guard.outgoing(message, member.library.term)
        return member._link.send(receiver, messages.encode(stamped))

    member.send = send  # type: ignore[method-assign]


def _every_snapshot(member: RaftMember) -> None:
    """A snapshot from the leader is loaded even where it takes us back."""

    class Short:
        def __getattr__(self, name: str) -> Any:
            return getattr(member.library, name)

        applied = -1

    accept = RaftMember.accept_snapshot

    def accept_snapshot(snapshot: bytes) -> tuple[Entry, Entry] | None:
        entries = member.journal.entries
        member.journal.entries = [Entry(b"\x01", 1 << 50, 0)]
        library = member.library
        member.library = Short()  # type: ignore[assignment]
        try:
            return accept(member, snapshot)
        finally:
            member.journal.entries, member.library = entries, library

    member.accept_snapshot = accept_snapshot  # type: ignore[method-assign]


def _straight_in(guard: Guard, rules: Rules, sender: str, message: Message) -> None:
    if message["type"] != "term_notice" and sender in guard._voters:
        rules.deliver(sender, message)


def _straight_out(_guard: Guard, message: Message, term: int) -> Message:
    return {**message, "term": term} if message["type"] == "next_node_idx" else message


MUTANTS: dict[str, Callable[[RaftMember], None]] = {
    "acknowledgements of older terms count": _with_guard(_on_next_node_idx=_pass),
    "matching entries are truncated": _with_guard(_without_what_we_hold=_as_it_came),
    "an answer names our own longer end": _with_guard(_without_what_we_hold=_longer_end),
    "a snapshot's chunk commits": _with_guard(_on_append_entries=_chunks_commit),
    "a vote counts twice": _with_guard(_on_response_vote=_pass),
    "a learner votes": _learner_votes,
    "sent before fsync": _sends_before_sync,
    "every snapshot is loaded": _every_snapshot,
    "none of our rules": _with_guard(incoming=_straight_in, outgoing=_straight_out),
}
__all__ = ["MUTANTS", "Faults", "MutantWorld"]
