"""One real member on a stage: the test speaks for all others, and sees every message it sends."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any, NoReturn

import pysyncobj.syncobj as syncobj

from nearql.cluster.metadata.raft.journal import RaftJournal
from nearql.cluster.metadata.raft.library import Outcome
from nearql.cluster.metadata.raft.member import MemberConfig, RaftMember
from nearql.cluster.metadata.raft.messages import Message, decode, encode
from support.disks import SimulatedDisk
from support.raft_world import LOG, TIMING, Died

Entries = list[tuple[bytes, int, int]]


class Collector:
    """A state machine that keeps what it was given."""

    def __init__(self) -> None:
        self.commands: list[bytes] = []

    def apply(self, _index: int, command: bytes) -> int:
        if command == b"raise":
            raise RuntimeError("by the test")
        self.commands.append(command)
        return len(self.commands)

    def dump(self) -> bytes:
        return b"\n".join(self.commands)

    def parse(self, dumped: bytes) -> list[bytes]:
        return dumped.split(b"\n") if dumped else []

    def adopt(self, _index: int, state: Any) -> None:
        self.commands = list(state)


class Stage:
    """Member "a" of voters a, b, c. Time passes by `advance` only."""

    def __init__(self, *, learning: bool = False, compact_entries: int = 5000) -> None:
        self.now = 100.0
        self.disk = SimulatedDisk()
        self.sent: list[tuple[str, Message]] = []
        self.outcomes: list[tuple[Outcome, Any]] = []
        self.config = MemberConfig("a", ("b", "c"), TIMING, compact_entries, learning)
        self.open()

    def open(self) -> None:
        """Start the member on what the disk has."""
        self.machine = Collector()
        journal = RaftJournal(LOG, self.disk, self._on_fatal)
        self.member = RaftMember(
            self.config,
            journal,
            self.machine,
            self,
            clock=lambda: self.now,
            on_fatal=self._on_fatal,
        )
        for other in self.config.others:
            self.member.post_link(other, True)
        self.tick()

    def _on_fatal(self, reason: str) -> NoReturn:
        raise Died(reason)

    def send(self, receiver: str, data: bytes) -> bool:
        """The member's link."""
        assert not self.member.journal.unsynced
        assert self.disk.is_durable(LOG)
        self.sent.append((receiver, decode(data)))
        return True

    def tick(self) -> None:
        for _ in range(4):
            self.member.tick(0.0)

    def advance(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.05)):
            self.now += 0.05
            self.member.tick(0.0)

    def hear(self, sender: str, **message: Any) -> list[Message]:
        """A message arrives; what the member sends in answer."""
        start = len(self.sent)
        self.member.post_message(sender, encode(message))
        self.tick()
        return [message for _, message in self.sent[start:]]

    def lead(self, term: int) -> None:
        """Win the election of this term with b's vote."""
        while self.member.library.term < term:
            self.advance(0.05)
        assert self.member.library.term == term
        self.hear("b", type="response_vote", term=term)
        assert self.member.library.leading

    def append(
        self, term: int, previous: tuple[int, int], entries: Entries, commit: int = 1
    ) -> list[Message]:
        """AppendEntries from b, leader of `term`; previous: (index, term) before the entries."""
        return self.hear(
            "b", type="append_entries", term=term, commit_index=commit, entries=entries,
            prevLogIdx=previous[0], prevLogTerm=previous[1],
        )  # fmt: skip

    def propose(self, command: bytes) -> None:
        self.member.post_submit(command, lambda *end: self.outcomes.append(end))
        self.tick()

    @property
    def log(self) -> list[int]:
        """Indexes in the log."""
        return [entry.log_index for entry in self.member.journal.entries]


def entries(term: int, first: int, last: int) -> Entries:
    """Commands "first" to "last" of one term, numbered by their indexes."""
    return [(b"\x00%d" % index, index, term) for index in range(first, last + 1)]


@contextlib.contextmanager
def on_stage(**options: Any) -> Iterator[Stage]:
    """A stage whose member's clock is the stage's."""
    before = syncobj.monotonicTime, syncobj.random
    now = [100.0]
    stage: list[Stage] = []
    syncobj.monotonicTime = lambda: stage[0].now if stage else now[0]
    syncobj.random = random.Random(1)
    try:
        stage.append(Stage(**options))
        yield stage[0]
    finally:
        syncobj.monotonicTime, syncobj.random = before
