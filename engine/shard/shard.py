"""The writer of one shard: check, log, wait until durable, apply.

A statement passes four steps, kept apart so that replication can later decide what is committed:

    plan      under the lock: against the state and the tail, which is what was logged but not
              applied yet
    log       under the lock: records appended to the WAL; the statement joins the tail
    commit    without the lock: wait until the WAL is durable up to it. Writers that come meanwhile
              log behind it, so one fsync serves many
    apply     under the lock: whoever comes first applies every committed statement of the tail, in
              order, and publishes one read view

The state is never undone: only committed statements are applied. A statement whose waiting ended
early (`WriteUnknown`) stays in the tail and is applied by whoever comes next.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nearql.engine.context import EngineContext
from nearql.engine.deadline import Deadline
from nearql.engine.errors import (
    Corruption,
    StatementTimeout,
    StorageFull,
    WriteUnknown,
)
from nearql.engine.keys import NOWHERE, Key
from nearql.engine.request_id import NO_REQUEST, asker, check_same
from nearql.engine.segment.damage import Damage, damage_of
from nearql.engine.segment.data import SegmentData
from nearql.engine.shard.checkpoint import WAL_DIRECTORY, CheckpointStore, FoundDamage, Image
from nearql.engine.shard.dedup import Recorded
from nearql.engine.shard.meta import ShardMeta, new_meta, read_meta, write_meta
from nearql.engine.shard.plan import InsertPlan, plan_insert
from nearql.engine.shard.records import (
    Payload,
    Statement,
    StatementReader,
    encode,
)
from nearql.engine.shard.state import ShardState, ShardView, is_sparse
from nearql.engine.shard.watcher import Watcher
from nearql.engine.storage.wal import RecordKind, Wal
from nearql.engine.types import SHARD_SHIFT, OnConflict

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Pending:
    """A statement in the tail. applied: set, under the lock, when read views show it."""

    statement: Statement
    keys: dict[Key, bool]  # whether each key that it touches exists after it
    nbytes: int
    applied: bool = False


class Shard:
    """One shard's data on this node. Thread-safe.

    Methods that need the lock say so; take it with `writing`.
    """

    def __init__(
        self, directory: Path, meta: ShardMeta, key: tuple[int, pa.DataType], context: EngineContext
    ) -> None:
        self.directory = directory
        self.meta = meta
        self.number = meta.shard
        self._key_type = key[1]
        self._context = context
        self._settings = context.settings
        self._lock = threading.RLock()
        self._state = ShardState(meta.shard, key[0], context.settings)
        self._store = CheckpointStore(context.fs, directory, context.settings)
        self._tail: deque[Pending] = deque()  # invariant: in log order, none applied
        self._oldest_pending: float = inf  # LSN of the tail's first; read without the lock
        self._tail_keys: dict[Key, tuple[bool, int]] = {}  # key -> (exists, LSN of who says so)
        self._in_flight: dict[bytes, Pending] = {}
        self._checkpoint_lock = threading.Lock()
        self.unflushed_bytes = 0  # logged since the last checkpoint
        self.watcher: Watcher | None = None
        self._recover()
        self._view = self._state.view()

    @classmethod
    def create(
        cls, directory: Path, table_uuid: str, number: int, key: tuple[int, pa.DataType],
        *, context: EngineContext,
    ) -> Shard:  # fmt: skip
        """Make a new, empty copy; one that is complete already is opened as it is."""
        fs = context.fs
        fs.make_directory(directory)
        if read_meta(fs, directory) is None:
            for name in fs.names(directory / WAL_DIRECTORY):  # of a making that was broken off
                fs.unlink(directory / WAL_DIRECTORY / name)
            meta = new_meta(context.cluster_id, table_uuid, number)
            wal = Wal.open(
                directory / WAL_DIRECTORY, meta.identity, context.settings,
                fs=fs, flusher=context.flusher, on_fatal=context.on_fatal,
            )  # fmt: skip
            wal.close()
            write_meta(fs, directory, meta)  # last: with it the copy is complete
        return cls.open(directory, table_uuid, number, key, context=context)

    @classmethod
    def open(
        cls, directory: Path, table_uuid: str, number: int, key: tuple[int, pa.DataType],
        *, context: EngineContext,
    ) -> Shard:  # fmt: skip
        """Recover: last checkpoint, then the log behind it.

        Raises:
            Corruption: names the file and the place; nothing was changed.
        """
        meta = read_meta(context.fs, directory)
        if meta is None:
            raise Corruption(
                f"{directory} holds no copy of shard {number}: the file shard.meta is missing; "
                "restore this copy from a backup or another node.",
                file=str(directory),
            )
        if meta.shard_uuid != new_meta(context.cluster_id, table_uuid, number).shard_uuid:
            raise Corruption(
                f"{directory} holds a copy of another table's shard; it was put there by mistake.",
                file=str(directory),
            )
        return cls(directory, meta, key, context)

    def _recover(self) -> None:
        manifest = self._store.read_manifest()
        self._state.epoch = self.meta.epoch
        if manifest is not None:
            self._store.load(manifest, self._state)
        self._store.remove_orphans()
        flushed = self._state.applied_lsn
        self._check_log_exists()
        self.wal = Wal.open(
            self.directory / WAL_DIRECTORY, self.meta.identity, self._settings,
            fs=self._context.fs, start_lsn=flushed + 1, flusher=self._context.flusher,
            on_fatal=self._context.on_fatal,
        )  # fmt: skip
        self._check_log_joins(flushed)
        reader = StatementReader()
        for record in self.wal.read(flushed + 1):
            self.unflushed_bytes += len(record.payload)
            statement = reader.feed(record)
            if statement is not None:
                self._state.apply(statement)

    def _check_log_exists(self) -> None:
        """A copy has a log from its making on: a missing one is never replaced by an empty one."""
        directory = self.directory / WAL_DIRECTORY
        if not self._context.fs.names(directory):
            raise Corruption(
                f"The log in {directory} is missing; restore this copy from a backup or another "
                "node.",
                file=str(directory),
            )

    def _check_log_joins(self, flushed: int) -> None:
        """The log must begin where the checkpoint ends, or before, and not end earlier."""
        if self.wal.first_lsn > flushed + 1 or self.wal.last_lsn < flushed:
            raise Corruption(
                f"The log in {self.directory / WAL_DIRECTORY} holds LSN {self.wal.first_lsn} to "
                f"{self.wal.last_lsn}, but the checkpoint ends at {flushed}: files are missing. "
                "Restore this copy from a backup or another node.",
                file=str(self.directory / WAL_DIRECTORY),
            )

    # ---- Reading ---------------------------------------------------------------------------

    def read_view(self) -> ShardView:
        """The newest read view.

        Applies what a writer that gave up waiting left in the tail, if nobody else writes.
        """
        if self._oldest_pending <= self.wal.durable_lsn:
            self._apply_abandoned()
        return self._view

    def _apply_abandoned(self) -> None:
        if self._lock.acquire(blocking=False):
            try:
                self._apply_committed()
            finally:
                self._lock.release()

    # ---- Plan ------------------------------------------------------------------------------

    @contextmanager
    def writing(self, deadline: Deadline) -> Iterator[None]:
        """Hold the writer lock.

        Raises:
            StatementTimeout: not before the deadline; nothing was written.
        """
        if not self._lock.acquire(timeout=deadline.left_s):
            raise StatementTimeout(
                "The statement waited for other writers until its time was up; nothing was written."
            )
        try:
            yield
        finally:
            self._lock.release()

    def seen(self, request_id: bytes | None) -> Recorded | Pending | None:
        """The write of this request id, done or under way. Needs the lock.

        Raises:
            Conflict: code `request_id_reused`; that write was another one.
        """
        if request_id is None:
            return None
        under_way = self._in_flight.get(asker(request_id))
        if under_way is not None:
            check_same(under_way.statement.request_id, request_id)
        return self._state.dedup.get(request_id) or under_way

    def plan_insert(
        self,
        keys: Sequence[Key],
        on_conflict: OnConflict,
        offsets: NDArray[np.int64] | None = None,
    ) -> InsertPlan:
        """What an insert of rows with these keys does. Needs the lock.

        offsets: of the rows in what the user gave, for the error; None = all of it.

        Raises:
            Conflict: code `duplicate_key`, extra `key` and `row`, if ERROR.
        """
        held, distinct = self._held(keys), set(keys)
        if len(distinct) == len(keys) and not held:
            return InsertPlan(None, len(keys), 0)
        return plan_insert(keys, on_conflict, held, offsets)

    def _held(self, keys: Sequence[Key]) -> set[Key]:
        """Those of the keys that exist, after all that was logged."""
        positions = self._state.index.positions(keys)
        held = {keys[at] for at in np.flatnonzero(positions != NOWHERE).tolist()}
        if self._tail_keys:
            for key in keys:
                if (pending := self._tail_keys.get(key)) is not None:
                    (held.add if pending[0] else held.discard)(key)
        return held

    def find(self, keys: Sequence[Key]) -> NDArray[np.int64]:
        """Row numbers of the keys' live row versions, -1 where there is none. Needs the lock."""
        positions = self._state.index.positions(keys)
        return np.where(positions == NOWHERE, -1, positions + (self.number << SHARD_SHIFT))

    def drain(self, deadline: Deadline) -> None:
        """Wait until all that was logged is applied. Needs the lock, keeps it: nobody writes.

        Raises:
            StatementTimeout: not before the deadline; the caller has logged nothing.
        """
        if self._tail:
            last = self._tail[-1].statement.lsn
            if not self.wal.wait_durable(last, deadline.left_ms):
                raise StatementTimeout(
                    "The statement waited for earlier writes until its time was up; "
                    "nothing was written."
                )
            self._apply_committed()

    def holds(self, keys: Sequence[Key], rows: NDArray[np.int64]) -> bool:
        """Whether these are the live row versions of their keys. Needs the lock, after `drain`."""
        positions = rows & ((1 << SHARD_SHIFT) - 1)
        return bool(np.array_equal(self._state.index.positions(keys), positions))

    # ---- Log -------------------------------------------------------------------------------

    def encode(self, statement: Statement) -> list[Payload]:
        """The statement's records. Raises TooLarge where one row is larger than a record."""
        return encode(statement, self._key_type, self._settings.wal_record_bytes)

    def log(self, statement: Statement, payloads: list[Payload], keys: dict[Key, bool]) -> Pending:
        """Append to the WAL; the statement joins the tail. Needs the lock.

        keys: every key that the statement touches -> whether it exists afterwards.

        Raises:
            StorageFull: the statement is not and will not be done.
        """
        now_ms = time.time_ns() // 1_000_000
        last = len(payloads) - 1
        for part, payload in enumerate(payloads):
            statement.lsn = self.wal.append(
                payload.kind, payload.parts, epoch=self._state.epoch,
                request_id=statement.request_id, more=part < last, timestamp_ms=now_ms,
            )  # fmt: skip
        statement.epoch, statement.timestamp_ms = self._state.epoch, now_ms
        nbytes = sum(memoryview(part).nbytes for p in payloads for part in p.parts)
        pending = Pending(statement, keys, nbytes)
        self._tail.append(pending)
        self._oldest_pending = min(self._oldest_pending, statement.lsn)
        for key, exists in keys.items():
            self._tail_keys[key] = exists, statement.lsn
        if statement.request_id != NO_REQUEST:
            self._in_flight[asker(statement.request_id)] = pending
        return pending

    # ---- Commit and apply ------------------------------------------------------------------

    def finish(self, pending: Pending, deadline: Deadline) -> None:
        """Wait until the statement is committed and applied.

        Raises:
            WriteUnknown: the time was up first; it may or may not survive.
        """
        if pending.applied:
            return
        if not self.wal.wait_durable(pending.statement.lsn, deadline.left_ms):
            raise self._unknown(pending)
        if pending.applied:
            return
        if not self._lock.acquire(timeout=deadline.left_s):
            raise self._unknown(pending)
        try:
            self._apply_committed()
        finally:
            self._lock.release()

    def _unknown(self, pending: Pending) -> WriteUnknown:
        statement = pending.statement
        return WriteUnknown(
            "The write was logged, but its time was up before it was durable and visible: it may "
            "have happened. Retry with the same request id to learn its outcome.",
            shard=self.number, epoch=statement.epoch, lsn=statement.lsn,
        )  # fmt: skip

    def _apply_committed(self) -> None:
        """Apply the committed part of the tail and publish it. Needs the lock."""
        committed = self.wal.durable_lsn
        if not self._tail or self._tail[0].statement.lsn > committed:
            return
        try:
            while self._tail and self._tail[0].statement.lsn <= committed:
                self._apply(self._tail[0])
                self._tail.popleft()
        except Exception as error:
            # Half-applied state must not be served, and the log holds the truth.
            self._context.on_fatal(f"shard {self.directory}: applying the log failed: {error!r}")
            raise
        self._oldest_pending = self._tail[0].statement.lsn if self._tail else inf
        self._view = self._state.view()

    def _apply(self, pending: Pending) -> None:
        statement = pending.statement
        self._state.apply(statement)
        for key in pending.keys:
            if self._tail_keys[key][1] == statement.lsn:
                del self._tail_keys[key]
        self._in_flight.pop(asker(statement.request_id), None)
        self.unflushed_bytes += pending.nbytes
        pending.applied = True

    # ---- Checkpoint ------------------------------------------------------------------------

    @property
    def wants_checkpoint(self) -> bool:
        """Whether there are segments to seal or to write anew without dead rows, or the log behind
        the last checkpoint grew long.
        """
        if self._state.lost is not None:
            return False
        due = any(not segment.sealed or is_sparse(segment) for segment in self._state.closed)
        return due or self.unflushed_bytes > self._settings.checkpoint_wal_bytes

    def checkpoint(self) -> None:
        """Write the state to files and drop the log behind it. Readers never wait, writers briefly.

        A shard with keys that nobody knows is left as it is: when its file is put back, the log
        behind the last checkpoint still knows what happened to its rows.

        Raises:
            StorageFull: the last checkpoint still stands.
        """
        with self._checkpoint_lock:
            while not self._checkpointed():
                pass
        if self.watcher is not None:
            self.watcher.refresh()

    def sealed_files(self) -> list[tuple[SegmentData, str]]:
        """Segments of the last checkpoint with the names of their files."""
        return [(data, entry.file) for data, entry in self._store.segments()]

    def _checkpointed(self) -> bool:
        """One try; False where it found damage, which is set aside now. Needs the lock of it."""
        with self._lock:
            if self._state.lost is not None:
                return True
            image = Image.of(self._state, self.meta.shard_uuid)
            self._view = self._state.view()
            covered = self.unflushed_bytes
        try:
            flushed = self._store.write(image)
        except FoundDamage as found:
            logger.error("%s", found.damage.error().detail)
            self._set_aside(found.data, found.damage)
            return False
        with self._lock:
            flushed.into(self._state, self.watcher)
            self._view = self._state.view()
            self.unflushed_bytes -= covered
        self.wal.trim(image.manifest.flushed_lsn + 1)
        self._store.remove_orphans()
        return True

    # ---- Damage ----------------------------------------------------------------------------

    def scrub(self, paced: Callable[[int], None]) -> list[Damage]:
        """Verify every file of the last checkpoint again; what is bad now is set aside.

        paced: called with the bytes that are about to be read; may wait.
        """
        found = []
        for data, entry in self._store.segments():
            if damage_of(data) is not None:
                continue
            damage = self._store.inspect(entry, paced)
            if damage is None:
                continue
            with self._checkpoint_lock:
                if self._set_aside(data, damage):
                    found.append(damage)
        return found

    def _set_aside(self, data: SegmentData, damage: Damage) -> bool:
        """Whether the segment was still in use. Needs the checkpoints' lock."""
        with self._lock:
            left = self._state.set_aside(data, damage)
            if left is None:
                return False
            self._store.set_aside(data, left)
            self._view = self._state.view()
            return True

    def check_writable(self, kind: RecordKind) -> None:
        """Refuse rows while the keys of a segment are unknown: they could exist twice.

        Raises:
            Corruption: names the file; nothing was written.
        """
        lost = self._state.lost
        if lost is not None and kind in (RecordKind.BATCH, RecordKind.DELETE):
            raise lost.error()

    @property
    def schema_version(self) -> int:
        """The schema version that the log has reached."""
        return self._state.schema_version

    def close(self, *, checkpoint_bytes: int | None = None) -> None:
        """Apply what was logged, close the log; first a checkpoint, if so much was logged."""
        with self._lock:
            self.drain(Deadline(None))
        if checkpoint_bytes is not None and self.unflushed_bytes > checkpoint_bytes:
            self._checkpoint_if_room()
        with self._checkpoint_lock:
            self.wal.close()

    def _checkpoint_if_room(self) -> None:
        try:
            self.checkpoint()
        except StorageFull as error:
            logger.warning("%s closed without a checkpoint: %s", self.directory, error.detail)

    def check_invariants(self) -> None:
        """Raise AssertionError where state contradicts itself."""
        with self._lock:
            self._state.check_invariants()
            self._view.check_invariants()
            lsns = [pending.statement.lsn for pending in self._tail]
            assert lsns == sorted(lsns)
            assert not lsns or lsns[0] > self._state.applied_lsn
            assert set(self._tail_keys) <= {key for p in self._tail for key in p.keys}
            assert self._state.applied_lsn <= self.wal.durable_lsn <= self.wal.last_lsn
