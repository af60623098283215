"""The writer of one shard: check, log, wait until durable, apply.

A statement passes four steps, kept apart because `gate` decides what is committed:

    plan      under the lock: against the state and the tail, which is what was logged but not
              applied yet
    log       under the lock: records appended to the WAL; the statement joins the tail
    commit    without the lock: wait until it is committed: on a node alone, durable. Writers that
              come meanwhile log behind it, so one fsync serves many
    apply     under the lock: whoever comes first applies every committed statement of the tail, in
              order, and publishes one read view

The state is never undone: only committed statements are applied. A statement whose waiting ended
early (`WriteUnknown`) stays in the tail and is applied by whoever comes next. A copy that is
replicated (`local_copy`) drops its tail when it stops being the primary: what of it is committed
later is applied from the log, like everything on the other copies.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nearql.engine.context import EngineContext
from nearql.engine.deadline import Deadline
from nearql.engine.errors import (
    StatementTimeout,
    StorageFull,
    WriteUnknown,
)
from nearql.engine.keys import NOWHERE, Key
from nearql.engine.segment.damage import Damage, damage_of
from nearql.engine.segment.data import SegmentData
from nearql.engine.shard.checkpoint import WAL_DIRECTORIES, CheckpointStore, FoundDamage, Image
from nearql.engine.shard.dedup import Recorded
from nearql.engine.shard.gate import CommitGate, DurableGate, Gate, Waited
from nearql.engine.shard.meta import ShardMeta
from nearql.engine.shard.opening import (
    check_log_exists,
    check_log_joins,
    epochs_of,
    find_copy,
    make_copy,
    wal_of,
)
from nearql.engine.shard.plan import InsertPlan, plan_insert
from nearql.engine.shard.records import (
    Payload,
    Statement,
    StatementReader,
    encode,
)
from nearql.engine.shard.state import ShardState, ShardView, is_sparse
from nearql.engine.shard.tail import Pending, Tail
from nearql.engine.shard.watcher import Watcher
from nearql.engine.storage.wal import RecordKind, Wal
from nearql.engine.storage.wal_shared import SharedWal
from nearql.engine.types import SHARD_SHIFT, OnConflict

logger = logging.getLogger(__name__)


class Shard:
    """One shard's data on this node. Thread-safe.

    Methods that need the lock say so; take it with `writing`.

    gate: what is committed, who may write. tail: what was logged here and is not applied yet.
    unflushed_bytes: logged since the last checkpoint, which is of `flushed_lsn`.
    """

    gate: Gate
    wal: Wal

    def __init__(
        self, directory: Path, meta: ShardMeta, key: tuple[int, pa.DataType], context: EngineContext
    ) -> None:
        self.directory = directory
        self.meta = meta
        self.number = meta.shard
        self.key_number, self._key_type = key
        self._context = context
        self._settings = context.settings
        self.lock = threading.RLock()
        self._state = ShardState(meta.shard, key[0], context.settings)
        self.store = CheckpointStore(context.fs, directory, context.settings)
        self.tail = Tail()
        self.checkpoint_lock = threading.Lock()  # taken before `lock`
        self.unflushed_bytes = 0
        self.watcher: Watcher | None = None
        self.trims: Callable[[int], int] = _as_it_is  # what the log may go below, after the wish
        self.before_apply: Callable[[int], None] = _nothing  # with the LSN of what is applied next
        self.log_name = WAL_DIRECTORIES[0]
        self._recover()
        self._view = self._state.view()

    @classmethod
    def create(
        cls, directory: Path, table_uuid: str, number: int, key: tuple[int, pa.DataType],
        *, context: EngineContext, alloc_id: bytes | None = None,
    ) -> Shard:  # fmt: skip
        """Make a new, empty copy; one that is complete already is opened as it is.

        alloc_id: 16 bytes, what to call it; None = something new.
        """
        make_copy(directory, table_uuid, number, context, alloc_id)
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
        meta = find_copy(directory, table_uuid, number, context)
        return cls(directory, meta, key, context)

    def _recover(self) -> None:
        manifest = self.store.read_manifest()
        self._state.epoch = self.meta.epoch
        if manifest is not None:
            self.store.load(manifest, self._state)
            self.log_name = manifest.extra.get("log", self.log_name)
        self.store.remove_orphans()
        flushed = self.flushed_lsn = self._state.applied_lsn
        log = self.directory / self.log_name
        check_log_exists(log, self._context)
        self.wal = wal_of(self._context).open(
            log, self.meta.identity, self._settings,
            fs=self._context.fs, start_lsn=flushed + 1, flusher=self._context.flusher,
            on_fatal=self._context.on_fatal,
        )  # fmt: skip
        check_log_joins(log, self.wal, flushed)
        if isinstance(self.wal, SharedWal):
            self.wal.learn_epochs(epochs_of(manifest), flushed)
            self._replay(flushed + 1, self.wal.first_shared_lsn - 1)
            self.gate = CommitGate(lambda: self.wal.durable_lsn, self._state.applied_lsn)
        else:
            self.gate = DurableGate(self.wal)
            self._replay(flushed + 1, self.wal.durable_lsn)

    def _replay(self, first: int, last: int) -> None:
        """Apply what is behind the checkpoint and was logged by a node alone: it is committed."""
        reader = StatementReader()
        for record in self.wal.read(first):
            if record.lsn > last:
                break
            self.unflushed_bytes += len(record.payload)
            statement = reader.feed(record)
            if statement is not None:
                self._state.apply(statement)

    # ---- Reading ---------------------------------------------------------------------------

    def read_view(self) -> ShardView:
        """The newest read view.

        Applies what a writer that gave up waiting left in the tail, if nobody else writes.
        """
        if self.tail.oldest_lsn <= self.gate.committed_lsn:
            self._apply_abandoned()
        return self._view

    def _apply_abandoned(self) -> None:
        if self.lock.acquire(blocking=False):
            try:
                self._apply_committed()
            finally:
                self.lock.release()

    # ---- Plan ------------------------------------------------------------------------------

    @contextmanager
    def writing(self, deadline: Deadline) -> Iterator[None]:
        """Hold the writer lock.

        Raises:
            StatementTimeout: not before the deadline; nothing was written.
        """
        if not self.lock.acquire(timeout=deadline.left_s):
            raise StatementTimeout(
                "The statement waited for other writers until its time was up; nothing was written."
            )
        try:
            yield
        finally:
            self.lock.release()

    def seen(self, request_id: bytes | None) -> Recorded | Pending | None:
        """The write of this request id, done or under way. Needs the lock.

        Raises:
            Conflict: code `request_id_reused`; that write was another one.
        """
        if request_id is None:
            return None
        under_way = self.tail.under_way(request_id)
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
        self.tail.amend(held, keys)
        return held

    def find(self, keys: Sequence[Key]) -> NDArray[np.int64]:
        """Row numbers of the keys' live row versions, -1 where there is none. Needs the lock."""
        positions = self._state.index.positions(keys)
        return np.where(positions == NOWHERE, -1, positions + (self.number << SHARD_SHIFT))

    def newest_uncommitted(self) -> Pending | None:
        """The last statement that was logged here and may yet be taken back. Needs the lock."""
        return None if self.gate.epoch is None else self.tail.newest

    def drain(self, deadline: Deadline) -> None:
        """Wait until all that was logged is applied. Needs the lock, keeps it: nobody writes.

        Raises:
            StatementTimeout: not before the deadline; the caller has logged nothing.
            Unavailable: code `not_primary`; likewise.
        """
        if (newest := self.tail.newest) is not None:
            last = newest.statement
            waited = self.gate.wait_committed(last.lsn, last.epoch, deadline)
            if waited is Waited.LATE:
                raise StatementTimeout(
                    "The statement waited for earlier writes until its time was up; "
                    "nothing was written."
                )
            self.gate.check()
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
            Unavailable: code `not_primary` or `not_enough_replicas`; likewise.
        """
        self.gate.check()
        self.append(statement, payloads, self.gate.epoch or self._state.epoch)
        nbytes = sum(memoryview(part).nbytes for p in payloads for part in p.parts)
        pending = Pending(statement, keys, nbytes)
        self.tail.add(pending)
        return pending

    def append(self, statement: Statement, payloads: list[Payload], epoch: int) -> None:
        """Put the records at the end of the WAL, and say in the statement where it is."""
        now_ms = statement.timestamp_ms or time.time_ns() // 1_000_000
        last = len(payloads) - 1
        for part, payload in enumerate(payloads):
            statement.lsn = self.wal.append(
                payload.kind, payload.parts, epoch=epoch,
                request_id=statement.request_id, more=part < last, timestamp_ms=now_ms,
            )  # fmt: skip
        statement.epoch, statement.timestamp_ms = epoch, now_ms

    # ---- Commit and apply ------------------------------------------------------------------

    def finish(self, pending: Pending, deadline: Deadline) -> None:
        """Wait until the statement is committed and applied.

        Raises:
            WriteUnknown: the time was up first, or this copy is the primary no more; it may or may
                not survive.
        """
        if pending.applied:
            return
        statement = pending.statement
        waited = self.gate.wait_committed(statement.lsn, statement.epoch, deadline)
        if pending.applied:
            return
        if waited is not Waited.DONE or not self.lock.acquire(timeout=deadline.left_s):
            raise self._unknown(pending, waited)
        try:
            self._apply_committed()
            if not pending.applied:
                raise self._unknown(pending, Waited.ENDED)
        finally:
            self.lock.release()

    def finish_durable(self, pending: Pending, deadline: Deadline) -> None:
        """Wait until the statement is durable here, whether it is committed or not. Raises as
        `finish`.
        """
        statement = pending.statement
        waited = self.gate.wait_durable(statement.lsn, statement.epoch, deadline)
        if waited is not Waited.DONE and not pending.applied:
            raise self._unknown(pending, waited)

    def _unknown(self, pending: Pending, waited: Waited) -> WriteUnknown:
        statement = pending.statement
        why = (
            "this node's copy of the shard stopped being the primary before it was committed"
            if waited is Waited.ENDED
            else "its time was up before it was committed and visible"
        )
        return WriteUnknown(
            f"The write was logged, but {why}: it may have happened. Retry with the same request "
            "id to learn its outcome.",
            shard=self.number, epoch=statement.epoch, lsn=statement.lsn,
        )  # fmt: skip

    def _apply_committed(self) -> None:
        """Apply the committed part of the tail and publish it. Needs the lock."""
        committed = self.gate.committed_lsn
        if self.tail.oldest_lsn > committed:
            return
        taken = []
        with self._applying():
            for pending in self.tail.take(committed):
                self.before_apply(pending.statement.lsn)
                self._state.apply(pending.statement)
                self.unflushed_bytes += pending.nbytes
                taken.append(pending)
        for pending in taken:  # not before it is published: its writer answers as soon as it is set
            pending.applied = True

    @contextmanager
    def _applying(self) -> Iterator[None]:
        """Publish what was applied in it; end the process where that fails half-way."""
        try:
            yield
        except Exception as error:
            # Half-applied state must not be served, and the log holds the truth.
            self._context.on_fatal(f"shard {self.directory}: applying the log failed: {error!r}")
            raise
        self.publish()

    def publish(self) -> None:
        """Let readers see the state as it is. Needs the lock."""
        self._view = self._state.view()
        self.gate.applied(self._state.applied_lsn)

    # ---- Replication -----------------------------------------------------------------------

    def apply_all(self, statements: Sequence[tuple[Statement, int]]) -> None:
        """Apply committed statements that came by the log, with their bytes in it. Needs the lock;
        the tail is empty.
        """
        with self._applying():
            for statement, nbytes in statements:
                self.before_apply(statement.lsn)
                self._state.apply(statement)
                self.unflushed_bytes += nbytes

    def view_now(self) -> ShardView:
        """What was applied up to now, published or not. Needs the lock."""
        return self._state.view()

    @property
    def lost(self) -> Damage | None:
        """Damage that leaves keys unknown."""
        return self._state.lost

    def new_state(self) -> ShardState:
        """An empty one, to be filled from a snapshot; no view of it can be taken for one of now."""
        state = ShardState(self.number, self._state.key_number, self._settings)
        state.layout = self._state.layout + 1
        return state

    def adopt(self, state: ShardState, store: CheckpointStore, wal: Wal) -> None:
        """Hold this from now on; the log begins after the state. Needs both locks; the tail is
        empty.
        """
        self._state, self.store, self.wal = state, store, wal
        self.unflushed_bytes, self.flushed_lsn = 0, state.applied_lsn
        self.publish()

    def apply_tail(self) -> None:
        """Apply what is committed of it. Needs the lock."""
        self._apply_committed()

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

    def checkpoint(self, *, join: bool = False) -> None:
        """Write the state to files and drop the log behind it. Readers never wait, writers briefly.

        join: make one segment of those that wait for an index; see `joinable`.

        A shard with keys that nobody knows is left as it is: when its file is put back, the log
        behind the last checkpoint still knows what happened to its rows.

        Raises:
            StorageFull: the last checkpoint still stands.
        """
        with self.checkpoint_lock:
            while not self._checkpointed(join):
                pass
        if self.watcher is not None:
            self.watcher.refresh()

    @property
    def joinable(self) -> bool:
        """Whether several segments that wait for an index would be one."""
        closed = tuple(segment for segment in self.read_view().segments if segment.sealed)
        return any(len(group) > 1 for group in self.store.groups(closed, join=True))

    def sealed_files(self) -> list[tuple[SegmentData, str]]:
        """Segments of the last checkpoint with the names of their files."""
        return [(data, entry.file) for data, entry in self.store.segments()]

    def _checkpointed(self, join: bool) -> bool:
        """One try; False where it found damage, which is set aside now. Needs the lock of it."""
        with self.lock:
            if self._state.lost is not None:
                return True
            image = Image.of(self._state, self.meta.shard_uuid, self._extra())
            self._view = self._state.view()
            covered = self.unflushed_bytes
        try:
            flushed = self.store.write(image, join=join)
        except FoundDamage as found:
            self.found(found)
            return False
        with self.lock:
            flushed.into(self._state, self.watcher)
            self._view = self._state.view()
            self.unflushed_bytes -= covered
        self.flushed_lsn = image.manifest.flushed_lsn
        self.wal.trim(self.trims(self.flushed_lsn + 1))
        self.store.remove_orphans()
        return True

    def _extra(self) -> dict[str, Any]:
        """What a replicated copy's manifest says besides. Needs the lock."""
        if not isinstance(self.wal, SharedWal):
            return {}
        applied = self._state.applied_lsn
        epochs = [list(pair) for pair in self.wal.epochs if pair[1] <= applied]
        return {"epochs": epochs, "log": self.log_name}

    # ---- Damage ----------------------------------------------------------------------------

    def scrub(self, paced: Callable[[int], None]) -> list[Damage]:
        """Verify every file of the last checkpoint again; what is bad now is set aside.

        paced: called with the bytes that are about to be read; may wait.
        """
        found = []
        for data, entry in self.store.segments():
            if damage_of(data) is not None:
                continue
            damage = self.store.inspect(entry, paced)
            if damage is None:
                continue
            with self.checkpoint_lock:
                if self._set_aside(data, damage):
                    found.append(damage)
        return found

    def found(self, found: FoundDamage) -> None:
        """Set aside what was found to be damaged. Needs the checkpoints' lock."""
        logger.error("%s", found.damage.error().detail)
        self._set_aside(found.data, found.damage)

    def _set_aside(self, data: SegmentData, damage: Damage) -> bool:
        """Whether the segment was still in use. Needs the checkpoints' lock."""
        with self.lock:
            left = self._state.set_aside(data, damage)
            if left is None:
                return False
            self.store.set_aside(data, left)
            self._view = self._state.view()
            return True

    def check_writable(self, kind: RecordKind) -> None:
        """Refuse rows while the keys of a segment are unknown: they could exist twice.

        Raises:
            Corruption: names the file; nothing was written.
            Unavailable: code `not_primary` or `not_enough_replicas`; likewise.
        """
        self.gate.check()
        lost = self._state.lost
        if lost is not None and kind in (RecordKind.BATCH, RecordKind.DELETE):
            raise lost.error()

    @property
    def schema_version(self) -> int:
        """The schema version that the log has reached."""
        return self._state.schema_version

    def close(self, *, checkpoint_bytes: int | None = None) -> None:
        """Apply what was logged, close the log; first a checkpoint, if so much was logged. A
        replicated copy applies what is committed.
        """
        with self.lock:
            if isinstance(self.gate, DurableGate):
                self.drain(Deadline(None))
            else:
                self._apply_committed()
        if checkpoint_bytes is not None and self.unflushed_bytes > checkpoint_bytes:
            self._checkpoint_if_room()
        with self.checkpoint_lock:
            self.wal.close()

    def _checkpoint_if_room(self) -> None:
        try:
            self.checkpoint()
        except StorageFull as error:
            logger.warning("%s closed without a checkpoint: %s", self.directory, error.detail)

    def check_invariants(self) -> None:
        """Raise AssertionError where state contradicts itself."""
        with self.lock:
            self._state.check_invariants()
            self._view.check_invariants()
            self.tail.check_invariants(self._state.applied_lsn)
            assert self._state.applied_lsn <= self.wal.durable_lsn <= self.wal.last_lsn


def _as_it_is(lsn: int) -> int:
    return lsn


def _nothing(lsn: int) -> None:
    """Nobody wants to know."""
