"""One voter of the metadata: the library, its journal, its guard and the state machine, in one
thread.

The owner calls `tick` again and again from one thread, and hands in what happens elsewhere by
`post_*`, from any thread. There is no socket, file or clock here but those handed in, so that a
simulator runs exactly this.

A command takes this way: `post_submit` -> next tick: appended to the journal, here or at the leader
-> the tick after: fdatasync, sent to all, once for all that came meanwhile -> acknowledged by a
majority: committed -> applied everywhere, and `done` called where it was submitted.
"""

from __future__ import annotations

import queue
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import crc32c

from nearql.cluster.metadata.codec import MAX_BYTES, pack, unpack
from nearql.cluster.metadata.raft import messages
from nearql.cluster.metadata.raft.guard import Guard
from nearql.cluster.metadata.raft.journal import Entry, RaftJournal
from nearql.cluster.metadata.raft.library import Done, Library, Outcome, Timing
from nearql.cluster.metadata.raft.messages import Message
from nearql.engine.errors import Corruption

BARRIER = b""  # a command that changes nothing: once applied here, so is all that was before it
COMPACT_ENTRIES = 5000
_EVENTS_PER_TICK = 1000
_LEARNER_BARRIER_S = 1.0  # between a learner's tries to reach the leader


class Machine(Protocol):
    """The replicated state."""

    def apply(self, index: int, command: bytes) -> Any:
        """Apply a committed command; deterministic, and never raises."""

    def dump(self) -> bytes:
        """The whole state."""

    def parse(self, dumped: bytes) -> Any:
        """A state that `dump` wrote; raises Corruption."""

    def adopt(self, index: int, state: Any) -> None:
        """Make a parsed state the present one: what is applied up to `index`."""


class Link(Protocol):
    """The way to the other members. A message arrives whole, in order, or not at all."""

    def send(self, receiver: str, data: bytes) -> bool:
        """Queue a message; False where there is no connection."""


@dataclass(frozen=True, slots=True)
class MemberConfig:
    """me and others: the voters' names. learning: the disk was empty and is not the first's."""

    me: str
    others: tuple[str, ...]
    timing: Timing = Timing()
    compact_entries: int = COMPACT_ENTRIES
    learning: bool = False


class RaftMember:
    """One voter. `tick` and the properties: one thread; `post_*`: any."""

    def __init__(
        self,
        config: MemberConfig,
        journal: RaftJournal,
        machine: Machine,
        link: Link,
        *,
        clock: Callable[[], float],
        on_fatal: Callable[[str], NoReturn],
    ) -> None:
        """Load what the journal holds.

        Raises:
            Corruption: the journal's snapshot is no state. InternalError: another PySyncObj.
        """
        self.config, self.journal, self.on_fatal = config, journal, on_fatal
        self._machine, self._link, self._clock = machine, link, clock
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._accepted: Any = None
        self._told: tuple[int, int] = (0, 0)
        self._again = False
        self.guard = Guard(
            config.others,
            journal,
            self._send_past_library,
            on_fatal,
            clock=clock,
            loyal_s=config.timing.election_min_s / 2,
        )
        self.guard.learning = config.learning
        self._learner = _Learner(config, clock())
        loaded = None if journal.snapshot is None else _parts(journal.snapshot)
        self.library = Library(
            config.me, config.others, self, config.timing, config.compact_entries
        )
        if loaded is not None:
            previous, last, dumped = loaded
            machine.adopt(last.log_index, machine.parse(dumped))
            self.library.load_snapshot(previous, last)

    # ---- from any thread --------------------------------------------------------------------

    def post_submit(self, command: bytes, done: Done) -> None:
        """Propose a command; `done` comes in the tick's thread, or never: keep a deadline.

        Raises:
            ValueError: more bytes than Raft's messages carry.
        """
        if len(command) > MAX_BYTES:
            raise ValueError(f"a command of {len(command)} bytes; at most {MAX_BYTES} are possible")
        self._events.put(lambda: self._submit(command, done))

    def post_message(self, sender: str, data: bytes) -> None:
        """Bytes from another member, whose name its certificate proved."""
        self._events.put(lambda: self._receive(sender, data))

    def post_link(self, name: str, up: bool) -> None:
        """The link to a member came up or went down."""
        self._events.put(lambda: self.library.connected(name, up))

    def post_hand_over(self) -> None:
        """If this member leads, let a follower that has everything stand at once."""
        self._events.put(lambda: self.library.hand_over())

    def post(self, event: Callable[[], None]) -> None:
        """Run something in the tick's thread."""
        self._events.put(event)

    # ---- the tick's thread ------------------------------------------------------------------

    def tick(self, wait_s: float) -> None:
        """One round of the rules, then at most `wait_s` of waiting for something to happen."""
        if self.guard.learning:
            self._learn()
        self.library.doTick(0.0 if self._again else wait_s)
        self._again = self._has_news()
        if self._again:  # to be sent at once, and once for all that came together
            self._told = self._news()
            self.library.send_at_once()
        self.journal.sync()  # a voter alone sends nothing, and commits with the next tick

    def _news(self) -> tuple[int, int]:
        return self.journal.entries[-1].log_index, self.library.committed

    def _has_news(self) -> bool:
        return self.library.leading and self._news() != self._told

    @property
    def idle(self) -> bool:
        """Whether nothing waits for the next tick: no message, no command, nothing to send."""
        return not self._again and self._events.empty()

    @property
    def learning(self) -> bool:
        """Whether this member may not vote yet."""
        return self.guard.learning

    def stop_learning(self) -> None:
        """Vote from now on: this disk was empty because there was no cluster before."""
        self.guard.learning = False
        self.library.stand_again()

    def close(self) -> None:
        """Make everything durable and close the journal."""
        self.journal.close()

    def _learn(self) -> None:
        self.library.never_stand()
        if self._learner.wants_barrier(self._clock(), self.library.leader):
            self._submit(BARRIER, self._learner.reached)
        if self._learner.is_done(self._clock()):
            self.stop_learning()

    def _submit(self, command: bytes, done: Done) -> None:
        self.library.submit(command, done)

    def _receive(self, sender: str, data: bytes) -> None:
        try:
            message = messages.decode(data)
        except messages.Malformed:
            self.guard.counts["malformed"] += 1
            return
        self.guard.incoming(self.library, sender, message)

    def _send_past_library(self, receiver: str, message: Message) -> None:
        self.send(receiver, message)

    # ---- Surroundings of the library ----------------------------------------------------------

    def apply(self, index: int, command: bytes) -> Any:
        """See `library.Surroundings`."""
        return None if command == BARRIER else self._machine.apply(index, command)

    def take_snapshot(self, previous: Entry, last: Entry) -> bytes:
        """See `library.Surroundings`."""
        body = pack({"previous": previous, "last": last, "state": self._machine.dump()})
        return struct.pack("<I", crc32c.crc32c(body)) + body

    def accept_snapshot(self, snapshot: bytes) -> tuple[Entry, Entry] | None:
        """See `library.Surroundings`. Never gives up entries that the snapshot's end matches."""
        try:
            previous, last, dumped = _parts(snapshot)
            state = self._machine.parse(dumped)
        except Corruption:
            self.guard.counts["bad_snapshot"] += 1
            return None
        ours = self.journal.entries
        place = last.log_index - ours[0].log_index
        if last.log_index <= self.library.applied or (
            0 <= place < len(ours) and ours[place].term == last.term
        ):
            self.guard.counts["needless_snapshot"] += 1
            return None
        self.journal.stage_snapshot(snapshot)
        self._accepted = (last.log_index, state)
        return previous, last

    def adopt_snapshot(self) -> None:
        """See `library.Surroundings`."""
        index, state = self._accepted
        self._accepted = None
        self._machine.adopt(index, state)

    def send(self, receiver: str, message: Message) -> bool:
        """See `library.Surroundings`: nothing leaves before the disk has what it speaks of."""
        stamped = self.guard.outgoing(message, self.library.term)
        self.journal.sync()
        return self._link.send(receiver, messages.encode(stamped))

    def wait(self, timeout_s: float) -> None:
        """See `library.Surroundings`. Who waits for an answer or for news waits no longer."""
        self.library.call_back()
        try:
            self._events.get(timeout_s > 0 and not self._has_news(), timeout_s)()
            for _ in range(_EVENTS_PER_TICK):
                self._events.get(False)()
        except queue.Empty:
            return


class _Learner:
    """When a member whose disk was empty may vote again.

    It may have voted in a term that it forgot. It waits until whatever that vote was for is over:
    twice the longest election timeout, and a barrier through a leader applied here.
    """

    def __init__(self, config: MemberConfig, now: float) -> None:
        self._earliest = now + 2 * config.timing.election_max_s
        self._next_barrier = now
        self._barrier_applied = False

    def wants_barrier(self, now: float, leader: str | None) -> bool:
        """Whether to try to reach the leader now."""
        if self._barrier_applied or leader is None or now < self._next_barrier:
            return False
        self._next_barrier = now + _LEARNER_BARRIER_S
        return True

    def reached(self, outcome: Outcome, _result: Any) -> None:
        """A barrier's end."""
        self._barrier_applied = self._barrier_applied or outcome is Outcome.APPLIED

    def is_done(self, now: float) -> bool:
        """Whether it may vote."""
        return self._barrier_applied and now >= self._earliest


def _parts(snapshot: bytes) -> tuple[Entry, Entry, bytes]:
    """(entry before the last, last entry, dumped state) of a snapshot; raises Corruption."""
    if len(snapshot) < 4 or snapshot[:4] != struct.pack("<I", crc32c.crc32c(snapshot[4:])):
        raise Corruption("A metadata snapshot fails its checksum.", code="metadata_corrupt")
    plain = unpack(snapshot[4:])
    try:
        previous, last = Entry(*plain["previous"]), Entry(*plain["last"])
        return previous, last, plain["state"]
    except (KeyError, TypeError) as error:
        raise Corruption("A metadata snapshot is incomplete.", code="metadata_corrupt") from error
