"""PySyncObj 0.3.17, and nothing else imports it.

Of the library we keep the rules: `SyncObj`'s elections, log matching and commit. What it would read
or write itself is replaced before it exists: journal, snapshot, poller, transport. It decodes
nothing: a command stays the bytes it was, and its pickle is taken away, so that no input can
reach one. The private names used are checked at start (`self_check`); another version is refused.
"""

from __future__ import annotations

import math
import threading
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, NoReturn, Protocol

import pysyncobj.syncobj as syncobj
from pysyncobj.config import FAIL_REASON, SERIALIZER_STATE, SyncObjConf
from pysyncobj.journal import Journal
from pysyncobj.node import Node
from pysyncobj.transport import Transport
from pysyncobj.version import VERSION

from nearql.cluster.metadata.raft import messages
from nearql.cluster.metadata.raft.journal import Entry, RaftJournal
from nearql.cluster.metadata.raft.messages import Message
from nearql.engine.errors import InternalError, InvalidRequest

PINNED_VERSION = "0.3.17"
QUEUE_LIMIT = 2000  # commands that wait for a tick; more are refused
_PRIVATE_NAMES = frozenset(
    {"raftLog", "newAppendEntriesTime", "raftElectionDeadline", "commandsWaitingCommit",
     "raftLastApplied", "raftCommitIndex", "commandsLocalCounter"}
)  # fmt: skip
_PRIVATE_METHODS = ("doApplyCommand", "loadDumpFile", "generateRaftTimeout")
_REPLACED = ("createJournal", "Serializer", "createPoller", "pickle", "monotonicTime", "random")
_construction = threading.Lock()  # the replaced names are the module's, one member at a time


class Outcome(Enum):
    """What became of a command."""

    APPLIED = "applied"
    REFUSED = "refused"  # certainly not executed: no leader, or a full queue
    UNKNOWN = "unknown"  # perhaps executed: ask again with the same request id


Done = Callable[[Outcome, Any], None]

_OUTCOMES = {
    FAIL_REASON.SUCCESS: Outcome.APPLIED,
    FAIL_REASON.LEADER_CHANGED: Outcome.UNKNOWN,
    FAIL_REASON.UNKNOWN_OUTCOME: Outcome.UNKNOWN,
}


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. A follower stands for election after a silence between the two timeouts."""

    election_min_s: float = 1.0
    election_max_s: float = 2.5
    heartbeat_s: float = 0.1

    def __post_init__(self) -> None:
        if not 3 * self.heartbeat_s < self.election_min_s < self.election_max_s:
            raise InvalidRequest(
                f"raft.election_timeout_ms = [{self.election_min_s * 1000:g}, "
                f"{self.election_max_s * 1000:g}]: the first must be above "
                f"{3000 * self.heartbeat_s:g}, three heartbeats, and the second above the first."
            )


class Surroundings(Protocol):
    """What the library lives in: the member implements it."""

    journal: RaftJournal

    def apply(self, index: int, command: bytes) -> Any:
        """Apply a committed command; must not raise."""

    def take_snapshot(self, previous: Entry, last: Entry) -> bytes:
        """The state after `last`, as the bytes of a snapshot."""

    def accept_snapshot(self, snapshot: bytes) -> tuple[Entry, Entry] | None:
        """Check a snapshot from the leader: its (previous, last) entries, or None if not needed."""

    def adopt_snapshot(self) -> None:
        """The snapshot accepted last becomes the state."""

    def send(self, receiver: str, message: Message) -> bool:
        """Make the journal durable, then send."""

    def wait(self, timeout_s: float) -> None:
        """Wait for messages or commands, and handle messages."""

    def on_fatal(self, reason: str) -> NoReturn:
        """End the process."""


def self_check() -> None:
    """Refuse a PySyncObj that is not the one this was written against.

    Raises:
        InternalError: names what differs.
    """
    missing = [name for name in _REPLACED if not hasattr(syncobj, name)]
    known = syncobj.SyncObj.__init__.__code__.co_names
    missing += [name for name in sorted(_PRIVATE_NAMES) if f"_SyncObj__{name}" not in known]
    missing += [m for m in _PRIVATE_METHODS if not hasattr(syncobj.SyncObj, f"_SyncObj__{m}")]
    if VERSION != PINNED_VERSION or missing:
        raise InternalError(
            f"PySyncObj {VERSION} is installed; NearQL is built on {PINNED_VERSION} exactly"
            + (f" (it lacks {', '.join(missing)})" if missing else "")
            + f". Install it: pip install pysyncobj=={PINNED_VERSION}.",
            code="wrong_pysyncobj",
        )


class Library(syncobj.SyncObj):  # type: ignore[misc]
    """One member's Raft rules. Every call but `submit` is the tick thread's."""

    def __init__(
        self,
        me: str,
        others: tuple[str, ...],
        surroundings: Surroundings,
        timing: Timing,
        compact_entries: int,
    ) -> None:
        self._around = surroundings
        self._links: _Link
        self._snapshots = _Snapshots(surroundings)
        self._finished: deque[Callable[[], None]] = deque()
        config = _configuration(timing, compact_entries)
        nodes = [_Voter(name) for name in others]
        with _construction:
            replaced = {name: getattr(syncobj, name) for name in _REPLACED[:3]}
            syncobj.pickle = _NoPickle
            syncobj.createJournal = lambda _file: _Log(surroundings.journal)
            syncobj.Serializer = lambda *_arguments: self._snapshots
            syncobj.createPoller = lambda _kind: _Poller(surroundings)
            try:
                super().__init__(_Voter(me), nodes, config, transportClass=_Link)
            finally:
                for name, value in replaced.items():
                    setattr(syncobj, name, value)
        # An answer to a request of this member's former life must find none of this one's.
        self._SyncObj__commandsLocalCounter = surroundings.journal.unique_number()

    # ---- what the member asks ---------------------------------------------------------------

    @property
    def term(self) -> int:
        """The current term."""
        return int(self.raftCurrentTerm)

    @property
    def committed(self) -> int:
        """The highest index known to be committed."""
        return int(self.raftCommitIndex)

    @property
    def applied(self) -> int:
        """The highest index that was applied."""
        return int(self.raftLastApplied)

    @property
    def leading(self) -> bool:
        """Whether this member believes to lead; never a licence to answer reads."""
        return bool(self._isLeader())

    @property
    def leader(self) -> str | None:
        """The leader's name, as far as known."""
        node = self._getLeader()
        return None if node is None else str(node.id)

    def submit(self, command: bytes, done: Done) -> None:
        """Queue a command; `done` comes in the tick's thread, or never."""

        def finished(result: Any, reason: int) -> None:
            # Not called from here: where a callback raises, the library applies the entry again.
            outcome = _OUTCOMES.get(reason, Outcome.REFUSED)
            self._finished.append(lambda: done(outcome, result))

        self._applyCommand(command, finished, messages.REGULAR)

    def call_back(self) -> None:
        """Tell the callers of what was finished."""
        while self._finished:
            self._finished.popleft()()

    def deliver(self, sender: str, message: Message) -> None:
        """A message that passed the guard."""
        self._links._onMessageReceived(_Voter(sender), message)

    def connected(self, name: str, up: bool) -> None:
        """A link to another member came up or went down."""
        if up:
            self._links._onNodeConnected(_Voter(name))
        else:
            self._links._onNodeDisconnected(_Voter(name))

    def hand_over(self) -> None:
        """Ask the follower that has everything to stand at once; nothing where there is none."""
        self.transferLeadership()

    def send_at_once(self) -> None:
        """Let the next tick send entries without waiting for the heartbeat."""
        self._SyncObj__newAppendEntriesTime = 0

    def never_stand(self) -> None:
        """Put this member's candidacy off for ever."""
        self._SyncObj__raftElectionDeadline = math.inf

    def stand_again(self) -> None:
        """Let it stand after a silence, like any other."""
        silence = self._SyncObj__generateRaftTimeout()
        self._SyncObj__raftElectionDeadline = syncobj.monotonicTime() + silence

    def load_snapshot(self, previous: Entry, last: Entry) -> None:
        """At start: begin behind the journal's snapshot instead of at the first entry."""
        self._snapshots.loading = (previous, last)
        self._SyncObj__loadDumpFile(False)

    # ---- what the library would do otherwise -----------------------------------------------

    def _SyncObj__doApplyCommand(self, command: bytes) -> Any:
        """Instead of unpickling a call: the command's own bytes go to the state machine."""
        if command[0] != messages.REGULAR:
            return None
        try:
            return self._around.apply(self.applied + 1, command[1:])
        except Exception as error:  # noqa: BLE001  whatever it was, the others may not have had it
            self._around.on_fatal(
                f"metadata entry {self.applied + 1} could not be applied: {error!r}"
            )

    def _SyncObj__loadDumpFile(self, clearJournal: bool) -> None:
        """As the library does it, but a failure is never logged and passed over."""
        assert self._snapshots.loading is not None
        last = self._snapshots.loading[1].log_index
        if clearJournal:
            self._around.adopt_snapshot()
        super()._SyncObj__loadDumpFile(clearJournal)
        if self.applied != last or self._around.journal.entries[1].log_index != last:
            self._around.on_fatal(f"the metadata snapshot at index {last} could not be loaded")
        self._fail_jumped_over(last)

    def _fail_jumped_over(self, last: int) -> None:
        """Commands whose index a snapshot covers: nobody can tell any more what they did."""
        waiting = self._SyncObj__commandsWaitingCommit
        for index in [index for index in waiting if index <= last]:
            for _, done in waiting.pop(index):
                done(None, FAIL_REASON.UNKNOWN_OUTCOME)


def _configuration(timing: Timing, compact_entries: int) -> Any:
    return SyncObjConf(
        autoTick=False,
        raftMinTimeout=timing.election_min_s,
        raftMaxTimeout=timing.election_max_s,
        appendEntriesPeriod=timing.heartbeat_s,
        leaderFallbackTimeout=timing.election_min_s,  # bounds a stale leader; not a lease
        connectionTimeout=3600.0,
        appendEntriesUseBatch=True,  # with `send_at_once`: one fsync per batch, and no delay
        appendEntriesBatchSizeBytes=messages.BATCH_BYTES,
        commandsWaitLeader=False,
        commandsQueueSize=QUEUE_LIMIT,
        dynamicMembershipChange=False,
        logCompactionMinEntries=compact_entries,
        logCompactionMinTime=365 * 24 * 3600,
        useFork=False,
    )


class _Voter(Node):  # type: ignore[misc]
    """A member by its name, hashed alike in every process: the library iterates over sets of them,
    and one seed of the simulator must be one run.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._hash = zlib.crc32(name.encode())

    def __hash__(self) -> int:
        return self._hash


class _NoPickle:
    """Stands where the library's pickle was."""

    @staticmethod
    def refuse(*_arguments: object, **_options: object) -> NoReturn:
        raise RuntimeError("PySyncObj tried to pickle; NearQL has no use for that")

    loads = dumps = load = dump = refuse


class _Link(Transport):  # type: ignore[misc]
    """The library's side of the network."""

    def __init__(self, library: Library, me: Node, others: set[Node]) -> None:
        super().__init__(library, me, others)
        self._around = library._around
        library._links = self

    def send(self, node: Node, message: Message) -> bool:
        return self._around.send(node.id, message)


class _Poller:
    """The end of each tick: wait for messages."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._around = surroundings

    def poll(self, timeout: float) -> None:
        self._around.wait(timeout)


class _Log(Journal):  # type: ignore[misc]
    """`RaftJournal` under the library's names."""

    def __init__(self, journal: RaftJournal) -> None:
        self._journal = journal
        self.add = journal.add
        self.clear = journal.clear
        self.deleteEntriesFrom = journal.truncate_from
        self.deleteEntriesTo = journal.compact_to
        self.setRaftCommitIndex = journal.set_commit_index

    def __getitem__(self, item: Any) -> Any:
        return self._journal.entries[item]

    def __len__(self) -> int:
        return len(self._journal.entries)

    def getRaftCommitIndex(self) -> int:
        return self._journal.commit_index

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        self._journal.set_vote(term, votedForNodeId or "")

    def getCurrentTerm(self) -> int:
        return self._journal.term

    def getVotedForNodeId(self) -> str | None:
        return self._journal.vote or None

    def _destroy(self) -> None:
        """The member closes its journal itself."""


class _Snapshots:
    """Instead of the library's serializer: snapshots live in the journal's file and in memory."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._around = surroundings
        self._taken: int | None = None
        self._sent: dict[str, int] = {}  # receiver -> bytes of the snapshot sent so far
        self._arriving: bytearray | None = None
        self.loading: tuple[Entry, Entry] | None = None  # (before the last, last) of what loads

    def serialize(self, data: tuple[Any, ...], id: int) -> None:
        """Take a snapshot behind the applied entries; the next tick compacts the log to it."""
        _, last, previous, _ = data
        snapshot = self._around.take_snapshot(previous, last)
        self._around.journal.stage_snapshot(snapshot)
        self._taken = id

    def checkSerializing(self) -> tuple[int, int | None]:
        """SUCCESS once after `serialize`."""
        if self._taken is None:
            return SERIALIZER_STATE.NOT_SERIALIZING, None
        taken, self._taken = self._taken, None
        self._sent.clear()  # what was sent of an older snapshot is of no use
        return SERIALIZER_STATE.SUCCESS, taken

    def getTransmissionData(self, receiver: Node) -> tuple[bytes, bool, bool]:
        """The next chunk for a member that lacks what the log no longer has.

        Never None, which the library would send again and again for a tenth of a second: while a
        new snapshot waits to be put in place, the journal still holds the one before.
        """
        snapshot = self._around.journal.snapshot
        if snapshot is None:
            self._around.on_fatal("a member asks for entries before the first")
        start = self._sent.get(receiver.id, 0)
        end = min(start + messages.CHUNK_BYTES, len(snapshot))
        self._sent[receiver.id] = end
        last = end == len(snapshot)
        if last:
            del self._sent[receiver.id]
        return snapshot[start:end], start == 0, last

    def setTransmissionData(self, chunk: tuple[bytes, bool, bool] | None) -> bool:
        """Take a chunk; whether the snapshot is whole, checked, and to be loaded."""
        if chunk is None:
            return False
        data, first, last = chunk
        if first:
            self._arriving = bytearray()
        if self._arriving is None:
            return False
        self._arriving += data
        if not last:
            return False
        whole, self._arriving = bytes(self._arriving), None
        self.loading = self._around.accept_snapshot(whole)
        return self.loading is not None

    def deserialize(self) -> tuple[Any, ...]:
        """(own data, last entry, the one before, members), as the library asks."""
        assert self.loading is not None
        previous, last = self.loading
        return None, last, previous, ()

    def cancelTransmisstion(self, receiver: Node) -> None:
        """Start anew when the receiver is back."""
        self._sent.pop(receiver.id, None)
