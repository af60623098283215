"""One copy of a shard as replication drives it: the port between `cluster.replication` and a shard.

The log may be truncated, the state never: a copy applies only what replication calls committed.

    log          1 ....... flushed ....... applied ....... commit ....... durable ....... end
                 | checkpoint   | log and memory  | applied soon | may be truncated         |

A copy follows or leads. It follows from its opening on: it takes `append`, refuses writers (code
`not_primary`), and applies nothing above its checkpoint until `advance` says what is committed.
`lead(epoch)` makes it write EPOCH_START and admit writers, whose statements are logged here,
shipped by replication (`read`), and answered once `advance` has reached them. `follow()` ends that:
whoever still waits gets `WriteUnknown`, never success or failure.

Example, a primary P and a replica R:

    P.lead(1); R.promise(1)                       # Raft made epoch 1
    records = P.read(R.end.lsn + 1, MIB)          # in memory, durable or not
    R.append(records)                             # same bytes, chain verified, synced soon
    P.advance(min(P.durable_lsn, R.durable_lsn))  # P's writers are answered
    R.advance(P.commit_lsn)                       # R's readers see it

Threads: everything may be called from any thread; what says "may block" waits for a disk, a writer
or an applier and does not belong on an event loop. Nothing here decides what is safe: epochs,
promises and cuts are the core's; what would break the state (a cut below the commit LSN, a leader
that appends, an epoch that goes back) is an AssertionError, as it can only be a bug there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from nearql.engine.deadline import Deadline
from nearql.engine.shard.snapshot import SnapshotManifest
from nearql.engine.storage.wal_raw import LogEnd, RawRecord


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of records from elsewhere.

    end: of the log now. mismatch: LSN of the first one that contradicts the log (another epoch or
    link there): nothing from it on was taken, nothing was cut; the core has to SYNC. gap: the first
    one does not join the log's end; nothing was taken.
    """

    end: LogEnd
    mismatch: int | None = None
    gap: bool = False


@dataclass(frozen=True, slots=True)
class ContentHashes:
    """What a copy holds at an LSN, whatever its segments look like.

    rows: live ones. buckets: 256 sums mod 2^128 of blake2b-16(key, row), by a hash of the key.
    columns: numbers of those that were hashed; other columns, other hashes.
    """

    lsn: int
    rows: int
    buckets: tuple[int, ...]
    columns: tuple[int, ...]


class CopyListener(Protocol):
    """Who wants to know what happens in a copy. Called on other threads, often, some of them with
    locks held: it may wake its loop and do no more.
    """

    def logged(self, lsn: int) -> None:
        """A writer here logged a record, the last one so far; `read` gives it."""
        ...

    def durable(self, lsn: int) -> None:
        """This copy's disk has everything up to this LSN."""
        ...

    def applied(self, lsn: int) -> None:
        """Read views show everything up to this LSN."""
        ...


class ShardCopy(Protocol):
    """See the module. Implemented by `engine.shard.local_copy.LocalCopy`."""

    # ---- Identity ----------------------------------------------------------------------

    @property
    def shard_uuid(self) -> bytes:
        """16 bytes, the same for all copies: a hash of the table's uuid and the shard's number."""
        ...

    @property
    def alloc_id(self) -> bytes:
        """16 bytes, of this one physical copy; a new disk has another one."""
        ...

    @property
    def promised_epoch(self) -> int:
        """The highest epoch that was promised, durably; 0 before the first."""
        ...

    def promise(self, epoch: int) -> None:
        """Never again follow or lead in a lower epoch; durable on return (one small file, fsync).

        A lower or equal one changes nothing.
        """
        ...

    # ---- The log -----------------------------------------------------------------------

    @property
    def end(self) -> LogEnd:
        """Where the log ends, durable or not."""
        ...

    @property
    def epochs(self) -> tuple[tuple[int, int], ...]:
        """(epoch, LSN of its first record) for every epoch in the log, trimmed ones included,
        ascending; the next entry or `end` says where an epoch ended.
        """
        ...

    @property
    def durable_lsn(self) -> int:
        """Everything up to here is on this copy's disk."""
        ...

    @property
    def commit_lsn(self) -> int:
        """What `advance` said last, at most `end.lsn`; after a restart, what the checkpoint has."""
        ...

    @property
    def applied_lsn(self) -> int:
        """The last statement that read views show."""
        ...

    @property
    def first_lsn(self) -> int:
        """The first record that `read` can still give."""
        ...

    @property
    def base_lsn(self) -> int:
        """What the last checkpoint or installed snapshot holds; no cut may be below it."""
        ...

    def end_at(self, lsn: int) -> LogEnd | None:
        """The place after that record, for `first_lsn - 1 <= lsn <= end.lsn`; else None.

        Near the end it is known in memory; elsewhere it may block.
        """
        ...

    def read(self, from_lsn: int, max_bytes: int) -> list[RawRecord]:
        """Records from there on, durable or not: one at least, if there is one, and more as far as
        they fit and are in the same file.

        The last 16 MiB are served from memory; what is older may block.

        Raises:
            NotFound: code `log_trimmed`; below `first_lsn`, and not in memory either.
            Corruption: the copy's log is bad there; names file, offset and LSN.
        """
        ...

    @property
    def damage(self) -> str | None:
        """Which file of this copy was found to be damaged, and how; None where none is. Such a copy
        is to be made anew from another one. Cheap.
        """
        ...

    def remembers(self, lsn: int) -> bool:
        """Whether `read` from there is answered from memory, and so does not block."""
        ...

    @property
    def log_bytes(self) -> int:
        """Bytes of the log's files, pre-allocated room included."""
        ...

    @property
    def snapshot_bytes(self) -> int:
        """Bytes of the last checkpoint's segments; 0 before the first."""
        ...

    def retain(self, lsn: int | None) -> None:
        """Keep the log from this LSN on (the slowest replica's next one); None = no such wish.

        Beyond that, `engine.wal_retention` bytes are kept anyway. A snapshot that is being read
        keeps the log behind it.
        """
        ...

    def listen(self, listener: CopyListener | None) -> None:
        """Tell this one from now on, instead of the one before."""
        ...

    # ---- Following ---------------------------------------------------------------------

    def follow(self) -> None:
        """Stop admitting writers; those that wait get `WriteUnknown`. What is in the log stays.

        May block until a writer has let go of the shard (a statement's evaluation). Idempotent.
        """
        ...

    def append(self, records: Sequence[RawRecord]) -> Appended:
        """Log records of another copy, dense and in order, verbatim. Those that are here already
        (same LSN, epoch and link) are skipped. They are durable when `durable_lsn` says so.

        Raises:
            StorageFull: too little room; the records before the refused one were taken.
            Unavailable: the log is closed or failed.
        """
        ...

    def truncate(self, after_lsn: int) -> None:
        """Cut everything after that LSN off, durably; only while following, never below
        `commit_lsn`, `applied_lsn` or `base_lsn`. May block.

        A kill in the middle leaves a log that ends somewhere between the cut and the old end.
        """
        ...

    # ---- Leading -----------------------------------------------------------------------

    def lead(self, epoch: int) -> int:
        """Log EPOCH_START of this epoch and admit writers; its LSN. May block.

        What was in the log and not committed counts for the evaluation of new statements: their
        keys, and the request ids of those under way.
        """
        ...

    @property
    def leads(self) -> int | None:
        """The epoch in which this copy admits writers; None while it follows."""
        ...

    def refuse_writes(self, reason: str | None) -> None:
        """While leading: refuse new statements with `Unavailable`, code `not_enough_replicas` and
        this reason, before anything is logged (lease lost, too few in sync, handing over). None =
        admit them again. Those that wait already go on waiting.
        """
        ...

    @property
    def uncommitted_bytes(self) -> int:
        """Payload bytes of statements logged here and not applied yet."""
        ...

    # ---- Both --------------------------------------------------------------------------

    def advance(self, commit_lsn: int) -> None:
        """Everything up to there is committed: apply it (on an applier's thread, as far as it is
        durable here) and answer whoever waits for it. A lower one than before changes nothing; one
        beyond `end` counts up to `end` only, so say it again after the next `append`.
        """
        ...

    def wait_applied(self, lsn: int, deadline: Deadline) -> bool:
        """Wait until `applied_lsn` >= lsn; False when the time is up first. Blocks."""
        ...

    # ---- Snapshots ---------------------------------------------------------------------

    def export(self) -> SnapshotExport:
        """The newest checkpoint's files, made first if there is none or the log behind it is not
        kept; they and the log behind them stay until it is closed. Blocks: reads every byte.
        """
        ...

    def receive(self, manifest: SnapshotManifest) -> SnapshotImport:
        """Begin to take a snapshot, or go on with it: what a former try left on disk and fits is
        kept. One at a time: beginning another drops the last one. Reads and `append` go on.
        """
        ...

    def content_hashes(
        self, lsn: int, columns: Sequence[int], deadline: Deadline,
        between: Callable[[], None] = lambda: None,
    ) -> ContentHashes | None:  # fmt: skip
        """Hashes of the rows at exactly this LSN; waits until it is applied. Blocks.

        columns: numbers, the key's among them; copies are asked for the same. Ask all copies for an
        LSN that they have not passed: None where this one has (or the time is up). between: called
        after every few thousand rows: it may wait, to leave others room, or raise.
        """
        ...


class SnapshotExport(Protocol):
    """A snapshot being read. Thread-safe."""

    @property
    def manifest(self) -> SnapshotManifest:
        """What there is to read."""
        ...

    def read(self, file: int, offset: int, size: int) -> bytes:
        """Bytes of the manifest's `file`-th file; fewer only at its end."""
        ...

    def close(self) -> None:
        """Let files and log go. Harmless when repeated."""
        ...


class SnapshotImport(Protocol):
    """A snapshot being taken. Not thread-safe."""

    def missing(self) -> list[tuple[int, int, int]]:
        """(file, offset, size) of what is still to be fetched, runs of whole MiB pieces."""
        ...

    def write(self, file: int, offset: int, data: bytes | memoryview) -> None:
        """Take a piece: whole MiB pieces, or up to the file's end. Not durable until `install`.

        Raises:
            Corruption: it does not fit its checksum; fetch it again.
            StorageFull: no room; what was written stays.
        """
        ...

    def install(self) -> None:
        """Verify everything, make it durable, and put it in place of what the copy holds, in one
        step: readers go from the old rows to the new ones, the log goes on at `end`. Blocks. A kill
        at any moment leaves the old state or the new one. Only while following.

        Raises:
            Corruption: a file does not fit its hash; nothing was switched, and it is missing again.
            StorageFull: nothing was switched.
        """
        ...

    def abandon(self) -> None:
        """Drop what was fetched."""
        ...
