"""A shard on this node as one of its copies: implements `copy.ShardCopy` over `Shard`.

Applying has two paths, chosen under the shard's lock:

    following            committed records are read from the log (mostly from memory), put together
                         to statements, and applied by an applier's thread
    leading              up to EPOCH_START likewise; after that statements are in the tail already,
                         and whoever waits for them applies them, or an applier

`_read_lsn` is the last record that was fed to the reader; a statement of several records lies
across it until its last record is committed. It never falls, but when this copy stops leading: then
the tail is dropped, and what of it is committed comes from the log.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from nearql.engine.context import EngineContext
from nearql.engine.deadline import Deadline
from nearql.engine.errors import NearQLError
from nearql.engine.segment.damage import damage_of
from nearql.engine.settings import MIB
from nearql.engine.shard.contents import Holds, content_hashes
from nearql.engine.shard.copy import (
    Appended,
    ContentHashes,
    CopyListener,
    SnapshotExport,
    SnapshotImport,
)
from nearql.engine.shard.gate import CommitGate
from nearql.engine.shard.meta import write_meta
from nearql.engine.shard.records import Counts, Statement, StatementReader
from nearql.engine.shard.shard import Shard
from nearql.engine.shard.snapshot import SnapshotManifest
from nearql.engine.shard.snapshot_export import Exports
from nearql.engine.shard.snapshot_import import Import
from nearql.engine.storage.wal import RecordKind
from nearql.engine.storage.wal_raw import LogEnd, RawRecord
from nearql.engine.storage.wal_scan import as_record
from nearql.engine.storage.wal_shared import SharedWal

_APPLY_BYTES = 4 * MIB  # of records that are applied in one go: writers and others wait for it
_PATIENCE_S = 0.02  # that an applier waits for a shard's lock before it looks after other shards
_LOG_SHARE = 5  # the log takes at most one part in so many of what the disk has left for us


class LocalCopy:
    """See the module and `ShardCopy`."""

    def __init__(self, shard: Shard, context: EngineContext) -> None:
        self._shard = shard
        self._context = context
        assert isinstance(shard.gate, CommitGate), "the context says that it is not replicated"
        self._gate: CommitGate = shard.gate
        self._listener: CopyListener | None = None
        self._retained: int | None = None
        self._exports = Exports(shard, context.fs)
        # Guarded by the shard's lock:
        self._reader = StatementReader()
        self._read_lsn = shard.read_view().lsn
        self._holds = Holds()
        # EPOCH_START behind which statements are in the tail. Not the gate's: that changes without
        # the lock, and what the tail has given must not be read from the log again.
        self._tail_from: int | None = None
        # Guarded by its own:
        self._applying = threading.Lock()
        self._promising = threading.Lock()
        self._applier_wanted = self._applier_runs = False
        shard.trims = self._trim_to
        shard.before_apply = self._before_apply
        self._gate.on_applied = self._on_applied
        self._closed = False
        self.on_applied: Callable[[], None] = _nothing  # by an applier; called without locks
        self._connect()

    def close(self) -> None:
        """Admit no writers, apply nothing more."""
        self._gate.end()
        with self._shard.lock:
            self._closed = True

    def _connect(self) -> None:
        self._wal.on_logged = self._on_logged
        self._wal.on_durable = self._on_durable

    @property
    def _wal(self) -> SharedWal:
        wal = self._shard.wal
        assert isinstance(wal, SharedWal)
        return wal

    # ---- Identity ----------------------------------------------------------------------

    @property
    def shard_uuid(self) -> bytes:
        """See `ShardCopy.shard_uuid`."""
        return self._shard.meta.shard_uuid

    @property
    def alloc_id(self) -> bytes:
        """See `ShardCopy.alloc_id`."""
        return self._shard.meta.alloc_id

    @property
    def promised_epoch(self) -> int:
        """See `ShardCopy.promised_epoch`."""
        return self._shard.meta.promised_epoch

    def promise(self, epoch: int) -> None:
        """See `ShardCopy.promise`."""
        shard = self._shard
        with self._promising:
            if epoch > shard.meta.promised_epoch:
                meta = replace(shard.meta, promised_epoch=epoch)
                write_meta(self._context.fs, shard.directory, meta)
                shard.meta = meta

    # ---- The log -----------------------------------------------------------------------

    @property
    def end(self) -> LogEnd:
        """See `ShardCopy.end`."""
        return self._wal.end

    @property
    def epochs(self) -> tuple[tuple[int, int], ...]:
        """See `ShardCopy.epochs`."""
        return self._wal.epochs

    @property
    def durable_lsn(self) -> int:
        """See `ShardCopy.durable_lsn`."""
        return self._wal.durable_lsn

    @property
    def commit_lsn(self) -> int:
        """See `ShardCopy.commit_lsn`."""
        return min(self._gate.commit_lsn, self._wal.last_lsn)

    @property
    def applied_lsn(self) -> int:
        """See `ShardCopy.applied_lsn`."""
        return self._gate.applied_lsn

    @property
    def first_lsn(self) -> int:
        """See `ShardCopy.first_lsn`."""
        return self._wal.first_shared_lsn

    @property
    def base_lsn(self) -> int:
        """See `ShardCopy.base_lsn`."""
        return self._shard.flushed_lsn

    def end_at(self, lsn: int) -> LogEnd | None:
        """See `ShardCopy.end_at`."""
        return self._wal.end_at(lsn)

    def read(self, from_lsn: int, max_bytes: int) -> list[RawRecord]:
        """See `ShardCopy.read`."""
        return self._wal.read_raw(from_lsn, max_bytes)

    @property
    def damage(self) -> str | None:
        """See `ShardCopy.damage`."""
        found = (damage_of(segment.data) for segment in self._shard.read_view().segments)
        return next((damage.error().detail for damage in found if damage is not None), None)

    def remembers(self, lsn: int) -> bool:
        """See `ShardCopy.remembers`."""
        return self._wal.remembers(lsn)

    @property
    def log_bytes(self) -> int:
        """See `ShardCopy.log_bytes`."""
        return self._wal.size_bytes

    @property
    def snapshot_bytes(self) -> int:
        """See `ShardCopy.snapshot_bytes`."""
        return self._shard.store.bytes

    def retain(self, lsn: int | None) -> None:
        """See `ShardCopy.retain`."""
        self._retained = lsn

    def _trim_to(self, wanted: int) -> int:
        """What the log may go below, after a checkpoint that needs nothing below `wanted`."""
        wal, limits = self._wal, self._context.settings
        pins = [lsn for lsn in (self._retained, self._exports.oldest_lsn) if lsn is not None]
        kept = min(wanted, wal.lsn_keeping(limits.wal_retention_bytes), *pins)
        room = self._context.fs.free_bytes(self._shard.directory) + wal.size_bytes
        return min(wanted, max(kept, wal.lsn_keeping(room // _LOG_SHARE)))

    def listen(self, listener: CopyListener | None) -> None:
        """See `ShardCopy.listen`."""
        self._listener = listener

    def _on_logged(self, lsn: int) -> None:
        if (listener := self._listener) is not None:
            listener.logged(lsn)

    def _on_applied(self, lsn: int) -> None:
        if (listener := self._listener) is not None:
            listener.applied(lsn)

    def _on_durable(self, lsn: int) -> None:
        self._gate.synced()
        if self._gate.commit_lsn > self._gate.applied_lsn:
            self._apply_soon()
        if (listener := self._listener) is not None:
            listener.durable(lsn)

    # ---- Following ---------------------------------------------------------------------

    def follow(self) -> None:
        """See `ShardCopy.follow`."""
        self._gate.end()  # wakes writers that hold the lock and wait
        with self._shard.lock:
            if self._tail_from is not None:
                self._tail_from = None
                self._shard.tail.clear()
                self._reader, self._read_lsn = StatementReader(), self._gate.applied_lsn
        self._apply_soon()

    def append(self, records: Sequence[RawRecord]) -> Appended:
        """See `ShardCopy.append`."""
        assert self.leads is None, "a leading copy takes no records of others"
        wal = self._wal
        for place, record in enumerate(records):
            end = wal.end
            if record.lsn <= end.lsn:
                mine = wal.end_at(record.lsn)
                if mine is not None and mine != LogEnd(record.lsn, record.epoch, record.link):
                    return Appended(end, mismatch=record.lsn)
            elif record.lsn > end.lsn + 1:
                assert not place, "records are not in order"
                return Appended(end, gap=True)
            elif record.previous_link != end.link or record.epoch < end.epoch:
                return Appended(end, mismatch=record.lsn)
            else:
                wal.append_raw(record)
        return Appended(wal.end)

    def truncate(self, after_lsn: int) -> None:
        """See `ShardCopy.truncate`."""
        with self._shard.lock:
            assert self.leads is None, "a leading copy cuts nothing"
            held = max(self.commit_lsn, self.applied_lsn, self.base_lsn)
            assert after_lsn >= held, f"a cut after {after_lsn}, though {held} is committed"
            self._wal.truncate(after_lsn)

    # ---- Leading -----------------------------------------------------------------------

    def lead(self, epoch: int) -> int:
        """See `ShardCopy.lead`."""
        shard = self._shard
        with shard.lock:
            assert self.leads is None, "it leads already"
            assert epoch >= self.promised_epoch, "a higher epoch was promised"
            assert epoch > self.end.epoch, "the log has records of that epoch or a later one"
            statement = Statement(RecordKind.EPOCH_START, Counts())
            shard.append(statement, shard.encode(statement), epoch)
            self._tail_from = statement.lsn
            self._gate.lead(epoch, statement.lsn)
            return statement.lsn

    @property
    def leads(self) -> int | None:
        """See `ShardCopy.leads`."""
        return self._gate.epoch

    def refuse_writes(self, reason: str | None) -> None:
        """See `ShardCopy.refuse_writes`."""
        self._gate.refuse(reason)

    @property
    def uncommitted_bytes(self) -> int:
        """See `ShardCopy.uncommitted_bytes`."""
        return self._shard.tail.nbytes

    # ---- Applying ----------------------------------------------------------------------

    def advance(self, commit_lsn: int) -> None:
        """See `ShardCopy.advance`."""
        if self._gate.advance(min(commit_lsn, self._wal.last_lsn)):
            self._apply_soon()

    def wait_applied(self, lsn: int, deadline: Deadline) -> bool:
        """See `ShardCopy.wait_applied`."""
        return self._gate.wait_applied(lsn, deadline)

    def _apply_soon(self) -> None:
        """Have an applier's thread apply what is committed, once more if one is at it."""
        with self._applying:
            self._applier_wanted = True
            if self._applier_runs:
                return
            self._applier_runs = True
        self._submit()

    def _submit(self) -> None:
        try:
            self._context.appliers.submit(self._apply)
        except RuntimeError:  # the interpreter is going down; the log keeps everything
            self._applier_runs = False

    def _apply(self) -> None:
        """One go, then the next in line: other shards use the same threads."""
        with self._applying:
            self._applier_wanted = False
        before = self._gate.applied_lsn
        try:
            more = self._apply_some()
            if self._gate.applied_lsn > before:
                self.on_applied()
        except Exception as error:
            self._context.on_fatal(f"shard {self._shard.directory}: applying failed: {error!r}")
            raise
        with self._applying:
            if not more and not self._applier_wanted:
                self._applier_runs = False
                return
        self._submit()

    def _apply_some(self) -> bool:
        """Apply committed records, some MiB at most; whether there are more.

        A writer that holds the lock may wait for replication itself: others' work goes first.
        """
        wal, records = self._wal, self._records()
        if not self._shard.lock.acquire(timeout=_PATIENCE_S):
            return True
        try:
            if self._closed:
                return False
            if records and records[0].lsn == self._read_lsn + 1 and wal is self._wal:
                self._feed([record for record in records if record.lsn <= self._last_from_log()])
            self._shard.apply_tail()
            self._holds.settle(self._settled_lsn(), self._shard.read_view)
            return self._read_lsn < self._last_from_log()
        finally:
            self._shard.lock.release()

    def _records(self) -> list[RawRecord]:
        wal, start = self._wal, self._read_lsn + 1
        try:
            wanted = start <= self._last_from_log()
            return wal.read_raw(start, _APPLY_BYTES) if wanted else []
        except NearQLError:
            if self._closed or wal is not self._wal:  # a snapshot took its place
                return []
            raise

    def _last_from_log(self) -> int:
        """The last committed record that is not in the tail."""
        committed, tail_from = self._gate.committed_lsn, self._tail_from
        return committed if tail_from is None else min(committed, tail_from)

    def _settled_lsn(self) -> int:
        """Every statement up to there is applied. Needs the lock."""
        if self._tail_from is None or self._read_lsn < self._tail_from:
            return self._read_lsn
        return self._gate.committed_lsn

    def _before_apply(self, next_lsn: int) -> None:
        self._holds.settle(next_lsn - 1, self._shard.view_now)

    def _feed(self, records: Sequence[RawRecord]) -> None:
        """Apply the statements that these committed records complete. Needs the lock."""
        done: list[tuple[Statement, int]] = []
        nbytes = 0
        for record in records:
            nbytes += len(record.payload)
            statement = self._reader.feed(as_record(record.header, memoryview(record.payload)))
            if statement is not None:
                done.append((statement, nbytes))
                nbytes = 0
        self._shard.unflushed_bytes += nbytes
        self._shard.apply_all(done)
        if records:
            self._read_lsn = records[-1].lsn

    # ---- Snapshots ---------------------------------------------------------------------

    def export(self) -> SnapshotExport:
        """See `ShardCopy.export`."""
        return self._exports.open()

    def receive(self, manifest: SnapshotManifest) -> SnapshotImport:
        """See `ShardCopy.receive`."""
        return Import(self._shard, manifest, self._context, self._switched)

    def _switched(self, manifest: SnapshotManifest) -> None:
        assert self.leads is None, "a leading copy takes no snapshot"
        self._reader, self._read_lsn = StatementReader(), manifest.end.lsn
        self._gate.advance(manifest.end.lsn)
        self._connect()

    def content_hashes(
        self, lsn: int, columns: Sequence[int], deadline: Deadline,
        between: Callable[[], None] = lambda: None,
    ) -> ContentHashes | None:  # fmt: skip
        """See `ShardCopy.content_hashes`."""
        shard = self._shard
        with shard.lock:
            shard.apply_tail()
            view = shard.read_view()
            if lsn < view.lsn:
                return None
            hold = None if lsn <= self._settled_lsn() else self._holds.want(lsn)
        if hold is not None:
            left = deadline.left_s
            hold.there.wait(None if left < 0 else left)
            with shard.lock:
                self._holds.forget(hold)
            if hold.view is None:
                return None
            view = hold.view
        return content_hashes(view, lsn, shard.key_number, columns, between)


def _nothing() -> None:
    """Nobody wants to know."""
