"""The write-ahead log of one shard's copy: the only truth; everything else is derived from it.

    append (any thread)          flusher thread                       wait_durable (any thread)
    crc of the parts        ->   take what is pending, at most        ->  woken, answers
    LSN and room in the file     wal_group_bytes; link the headers;
    into `_pending`              pwritev; fdatasync; durable_lsn = ...

Invariants:
- LSNs are dense; records lie back to back in files; a record never straddles two files.
- durable_lsn <= last_lsn, and it moves only after fdatasync of every byte up to it succeeded.
- All pending records belong in the active file: `_roll` drains before it makes a new one. So a file
  that has a successor is durable as a whole.
- A failed write or fsync is final (`fail`): nothing is acknowledged any more, and `on_fatal` ends
  the process. The kernel may have dropped the pages, so that a second fsync would lie.
- Locks are taken in the order `_flushing`, then `_lock`. Under `_lock` there is no waiting for the
  disk, but for pre-allocation.

The bytes are in `wal_format`, recovery in `wal_recovery`, the threads in `flusher`.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from nearql.engine import errors
from nearql.engine.settings import EngineSettings
from nearql.engine.storage.files import (
    FileSystem,
    LocalFileSystem,
    disk_error,
    remove_temporaries,
    storage_full,
    write_atomic,
)
from nearql.engine.storage.flusher import Flusher, shared_flusher
from nearql.engine.storage.wal_file import ActiveFile, WalFile, make_file, publish_file
from nearql.engine.storage.wal_format import (
    FILE_HEADER_BYTES,
    OWN_CHAIN,
    ZERO_LINK,
    ZERO_REQUEST,
    FileHeader,
    LogIdentity,
    RecordKind,
    WalRecord,
)
from nearql.engine.storage.wal_group import Pending, link_group, measure
from nearql.engine.storage.wal_hint import HINT_FILE, WalHint
from nearql.engine.storage.wal_recovery import FoundLog, inspect_log, take_over
from nearql.engine.storage.wal_scan import ChainPosition, LogFileReader, moved, read_records

__all__ = ["LogIdentity", "RecordKind", "RecoveryReport", "Wal", "WalRecord"]

logger = logging.getLogger(__name__)

EXIT_FSYNC = 70
# Records by which a user makes room again may go on into half of the reserve; so may those that
# follow from what metadata has decided: `check_room` was asked before it did.
FREEING_KINDS = frozenset(
    {RecordKind.DELETE, RecordKind.TRUNCATE, RecordKind.EPOCH_START, RecordKind.SCHEMA}
)


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What `Wal.open` found and did.

    files: in the log. records: scanned, those of the active file; none after a clean close.
    torn_bytes: cut off the end; they were never acknowledged.
    copied_bytes: rewritten into a new file because it was not known that the disk has them.
    clean: the log is new or was closed properly.
    """

    files: int = 1
    records: int = 0
    torn_bytes: int = 0
    copied_bytes: int = 0
    clean: bool = True


def exit_process(reason: str) -> None:
    """Stop at once, flushing nothing: what the disk holds is no longer known."""
    logger.critical("stopping with code %d: %s", EXIT_FSYNC, reason)
    logging.shutdown()
    os._exit(EXIT_FSYNC)


class Wal:
    """See the module. Thread-safe; made by `Wal.open`.

    last_lsn: highest appended, maybe not durable yet. durable_lsn: highest synced.
    recovery: what `open` found and did.
    """

    FORMAT: ClassVar[int] = OWN_CHAIN  # of new files

    def __init__(
        self,
        directory: Path,
        identity: LogIdentity,
        settings: EngineSettings,
        *,
        fs: FileSystem,
        flusher: Flusher,
        on_fatal: Callable[[str], Any],
    ) -> None:
        self._directory = directory
        self._identity = identity
        self._tag = identity.tag
        self._settings = settings
        self._fs = fs
        self._flusher = flusher
        self._on_fatal = on_fatal
        self._flushing = threading.Lock()
        # Guarded by _flushing:
        self._written: ChainPosition  # after the last durable record
        self._marked_open = False  # wal.hint says durably that the log is in use
        # Guarded by _lock:
        self._lock = threading.Lock()
        self._synced = threading.Condition(self._lock)
        self._pending: deque[Pending] = deque()
        self._active: ActiveFile
        self._files: list[WalFile] = []
        self._sizes: dict[int, int] = {}  # base LSN of a sealed file -> bytes
        self._epoch = 0  # of the last record appended
        self._scheduled = False
        self._rolling = False
        self._closed = False
        self._failure: str | None = None
        self.last_lsn = 0
        self.durable_lsn = 0
        self.recovery = RecoveryReport()

    # ---- Opening and closing -----------------------------------------------------------

    @classmethod
    def open(
        cls,
        directory: Path,
        identity: LogIdentity,
        settings: EngineSettings,
        *,
        fs: FileSystem | None = None,
        start_lsn: int = 1,
        base: tuple[int, bytes] = (0, ZERO_LINK),
        flusher: Flusher | None = None,
        on_fatal: Callable[[str], Any] = exit_process,
    ) -> Self:
        """Create the log, or recover it.

        start_lsn: of a new one. base: epoch and link of the record before that.

        Raises:
            Corruption: a record that was durable once is bad; names file, offset and LSN. Nothing
                was touched.
            Unavailable: code `newer_format`, and nothing was touched; or `disk_error`, where the
                disk did not fail: that ends the process.
            StorageFull: no room to create or recover it.
        """
        wal = cls(
            directory,
            identity,
            settings,
            fs=fs or LocalFileSystem(),
            flusher=flusher or shared_flusher(),
            on_fatal=on_fatal,
        )
        try:
            found = inspect_log(wal._fs, directory, identity)
            if found is None:
                wal._create(ChainPosition(start_lsn, *base, FILE_HEADER_BYTES))
            else:
                wal._recover(found)
        except OSError as error:
            if error.errno == errno.EIO:
                wal.fail(f"the disk of {directory} failed while the log was opened: {error}")
            raise disk_error(directory, error, "the log") from error
        return wal

    def _create(self, start: ChainPosition) -> None:
        self._fs.make_directory(self._directory)
        remove_temporaries(self._fs, self._directory)
        self._active = self._make_file(start, 0)
        publish_file(self._fs, self._active.file)
        self._files = [self._active.file]
        self._start_at(start)
        write_atomic(self._fs, self._directory / HINT_FILE, self._hint(clean=True).pack())

    def _recover(self, found: FoundLog) -> None:
        remove_temporaries(self._fs, self._directory)
        limit = self._settings.wal_file_bytes
        log = take_over(self._fs, self._directory, self._identity, found, limit=limit)
        self._files, self._active = log.files, log.active
        self._sizes = {file.base_lsn: self._fs.size(file.path) for file in log.files[:-1]}
        self._start_at(log.written)
        if not found.clean:
            self._renew_hint()
        self.recovery = RecoveryReport(
            len(log.files), found.records, found.torn_bytes, log.copied_bytes, found.clean
        )

    def _renew_hint(self) -> None:
        path = self._directory / HINT_FILE
        if self._fs.exists(path):
            self._write_hint(clean=False, sync=True)  # in place: it takes no room
        else:
            write_atomic(self._fs, path, self._hint(clean=False).pack())
        self._marked_open = True

    def _start_at(self, at: ChainPosition) -> None:
        """Go on after what is on disk."""
        self._written = at
        self._epoch = at.epoch
        self.last_lsn = self.durable_lsn = at.lsn - 1

    def close(self) -> None:
        """Make everything durable, note where the log ends. Harmless when repeated."""
        self._flusher.forget(self)
        with self._flushing:
            while not self._finish():
                self._flush_once()

    def _finish(self) -> bool:
        """Close if nothing is pending; under `_flushing`."""
        with self._lock:
            if self._pending:
                return False
            note = self._marked_open and not self._closed and self._failure is None
            self._closed = True
            self._active.release()
        if note:
            self._note(clean=True)
        return True

    # ---- Appending ---------------------------------------------------------------------

    def append(
        self,
        kind: RecordKind,
        parts: Sequence[Any],
        *,
        epoch: int,
        timestamp_ms: int,
        request_id: bytes = ZERO_REQUEST,
        more: bool = False,
    ) -> int:
        """Put a record at the end of the log; its LSN. Durable only when `wait_durable` says so.

        parts: C-contiguous buffers whose bytes, one after the other, are the payload. They are not
        copied, and must not change until the record is durable.

        Raises:
            StorageFull: too little room. Nothing was logged, as with all of these.
            TooLarge: the payload is above `wal_record_bytes`.
            Unavailable: the log is closed, has failed, or the disk cannot be used.
        """
        assert len(request_id) == 16, "a request id has 16 bytes"
        payload, size, crc = measure(parts)
        self._check_size(size)
        record = Pending(kind, payload, size, crc, epoch, request_id, timestamp_ms, more)
        self._log(record)
        return record.lsn

    def _log(self, record: Pending) -> None:
        """Put it at the end of the log; raises as `append`."""
        try:
            self._check_room(record.payload_size, freeing=record.kind in FREEING_KINDS)
            self._mark_open()
            while not self._enqueue(record):
                self._roll(record.size)
        except OSError as error:
            if error.errno == errno.EIO:
                self.fail(f"the disk of {self._directory} failed: {error}")
            raise disk_error(self._directory, error, "a log record") from error

    def _check_size(self, size: int) -> None:
        limit = self._settings.wal_record_bytes
        if size > limit:
            raise errors.TooLarge(
                f"a log record of {size} bytes is above the limit of {limit} (wal_record_bytes): "
                "send smaller batches"
            )

    def check_room(self) -> None:
        """Refuse what would be logged later, before something is done that can't be undone.

        Raises:
            StorageFull: too little room.
        """
        self._check_room(0, freeing=False)

    def _check_room(self, size: int, *, freeing: bool) -> None:
        reserve = self._settings.disk_reserve_bytes // (2 if freeing else 1)
        free = self._fs.free_bytes(self._directory)
        if free < reserve:
            need = (
                f"a record of {size} bytes: {free} bytes are free, and engine.disk_reserve "
                f"keeps {reserve} of them"
            )
            raise storage_full(self._directory, need)

    def _mark_open(self) -> None:
        """Before the first record: a hint that says "closed cleanly" must not outlive it."""
        if not self._marked_open:
            with self._flushing:
                if not self._closed:
                    self._write_hint(clean=False, sync=True)
                    self._marked_open = True

    def _enqueue(self, record: Pending) -> bool:
        """Give the record its LSN and its room; False where the active file is full."""
        with self._lock:
            self._check_open(record.epoch)
            if self._rolling or not self._active.reserve(record.size):
                return False
            self.last_lsn += 1
            record.lsn = self.last_lsn
            self._epoch = record.epoch
            self._pending.append(record)
            self._queued(record)
            wake = not self._scheduled
            self._scheduled = True
        if wake:
            self._flusher.schedule(self)
        return True

    def _queued(self, record: Pending) -> None:
        """A record has its place. For a subclass; under `_lock`."""

    def _check_open(self, epoch: int) -> None:
        if self._failure is not None:
            raise errors.Unavailable(f"the log in {self._directory} has failed: {self._failure}")
        if self._closed:
            raise errors.Unavailable(f"the log in {self._directory} is closed")
        assert epoch >= self._epoch, f"epoch {epoch} after {self._epoch}"

    def wait_durable(self, lsn: int, timeout_ms: int | None = None) -> bool:
        """Wait until every record up to `lsn` is durable; False when the time is up first.

        Raises:
            WriteUnknown: the log failed before that.
        """
        timeout_s = None if timeout_ms is None else timeout_ms / 1000
        with self._synced:
            self._synced.wait_for(lambda: self.durable_lsn >= lsn or self._failure, timeout_s)
            if self.durable_lsn >= lsn:
                return True
            if self._failure is None:
                return False
            raise errors.WriteUnknown(
                f"it is not known whether LSN {lsn} is durable: {self._failure}"
            )

    # ---- Flushing ----------------------------------------------------------------------

    def flush_group(self) -> bool:
        """Make one group durable; whether more is pending. For the flusher."""
        with self._flushing:
            self._flush_once()
            with self._lock:
                self._scheduled = bool(self._pending)
                return self._scheduled

    def _flush_once(self) -> None:
        with self._lock:
            group = self._take_group()
        if not group:
            return
        version = self._active.file.header.format
        buffers, after = link_group(group, self._written, self._tag, version)
        try:
            self._active.write(buffers, self._written.offset)
        except OSError as error:
            self.fail(f"writing {self._active.file.path} failed: {error}")
            return
        self._written = after
        with self._synced:
            self.durable_lsn = after.lsn - 1
            self._synced.notify_all()
        self._synced_to(after.lsn - 1)

    def _synced_to(self, lsn: int) -> None:
        """Everything up to there is durable. For a subclass; under `_flushing`."""

    def _take_group(self) -> list[Pending]:
        """At least one record, and as many more as `wal_group_bytes` allows."""
        group: list[Pending] = []
        room = self._settings.wal_group_bytes
        while self._pending and (not group or self._pending[0].size <= room):
            group.append(self._pending.popleft())
            room -= group[-1].size
        return group

    def fail(self, reason: str) -> None:
        """Never acknowledge anything again, and end the process."""
        with self._synced:
            first = self._failure is None
            self._failure = self._failure or reason
            self._pending.clear()
            self._synced.notify_all()
        if first:
            self._on_fatal(reason)

    def _roll(self, size: int) -> None:
        """Begin a new file for a record of this size, unless another thread just did.

        Everything before it becomes durable first: only the last file can ever be torn.
        """
        with self._flushing:
            with self._lock:
                if self._closed or self._failure is not None or self._active.fits(size):
                    return
                self._rolling = True
            try:
                while self._pending:
                    self._flush_once()
                if self._failure is None:
                    self._begin_file()
            finally:
                with self._lock:
                    self._rolling = False

    def _begin_file(self) -> None:
        old = self._active
        new = self._make_file(self._written, old.file.base_lsn)
        try:
            publish_file(self._fs, new.file)
        except OSError as error:  # which of the two files counts is not known any more
            self.fail(f"creating {new.file.path} failed: {error}")
            return
        with self._lock:
            self._sizes[old.file.base_lsn] = old.end_offset
            self._files.append(new.file)
            self._active = new
        self._written = moved(self._written, FILE_HEADER_BYTES)
        old.seal()

    def _make_file(self, start: ChainPosition, previous_base: int) -> ActiveFile:
        header = FileHeader(start.lsn, start.epoch, start.link, previous_base, self.FORMAT)
        limit = self._settings.wal_file_bytes
        return make_file(self._fs, self._directory, header, self._identity, limit=limit)

    def forget_durable(self) -> None:
        """Memory is short: keep nothing in it that the disk has. For a subclass."""

    # ---- The hint ----------------------------------------------------------------------

    def write_hint(self) -> None:
        """Note how far the log is durable, and let an idle file go. For the flusher."""
        with self._flushing:
            if self._closed or self._failure is not None or not self._marked_open:
                return
            self._note(clean=False)
            with self._lock:
                if not self._pending:
                    self._active.release()

    def _note(self, *, clean: bool) -> None:
        """Write the hint where that is possible: without it a restart only takes longer."""
        try:
            self._write_hint(clean=clean, sync=clean)
        except OSError as error:
            if error.errno == errno.EIO:
                self.fail(f"writing {self._directory / HINT_FILE} failed: {error}")
            else:
                logger.warning("cannot write %s: %s", self._directory / HINT_FILE, error)

    def _write_hint(self, *, clean: bool, sync: bool) -> None:
        handle = self._fs.open(self._directory / HINT_FILE)
        try:
            self._fs.pwritev(handle, [self._hint(clean=clean).pack()], 0)
            if sync:
                self._fs.fdatasync(handle)
        finally:
            self._fs.close(handle)

    def _hint(self, *, clean: bool) -> WalHint:
        at, base_lsn = self._written, self._files[-1].base_lsn
        boot_id = self._fs.boot_id()
        return WalHint(clean, at.lsn - 1, base_lsn, at.offset, at.epoch, at.link, boot_id)

    # ---- Reading and trimming ----------------------------------------------------------

    @property
    def first_lsn(self) -> int:
        """LSN of the first record that is kept, or of the next one where none is."""
        return self._files[0].base_lsn

    @property
    def size_bytes(self) -> int:
        """Bytes of the log's files on disk, pre-allocated ones included."""
        with self._lock:
            return self._active.allocated + sum(self._sizes.values())

    def read(self, from_lsn: int) -> Iterator[WalRecord]:
        """Records that are durable now, from `from_lsn` on, in order, each verified.

        Payloads keep memory of their own alive, up to 1 MiB for a small one.

        Raises:
            NotFound: code `log_trimmed`; `from_lsn` is no longer kept.
            Corruption: names file, offset and LSN.
        """
        with self._lock:
            files = list(self._files)
            end_lsn = self.durable_lsn + 1
        if from_lsn < files[0].base_lsn:
            raise self._trimmed(from_lsn)
        ends = [*(file.base_lsn for file in files[1:]), end_lsn]
        return self._read([(f, end) for f, end in zip(files, ends, strict=True)], from_lsn)

    def _read(self, files: list[tuple[WalFile, int]], from_lsn: int) -> Iterator[WalRecord]:
        for file, end_lsn in files:
            if end_lsn <= from_lsn:
                continue
            try:
                reader = LogFileReader(self._fs, file.path, file.header.format)
            except FileNotFoundError as error:
                raise self._trimmed(file.base_lsn) from error
            try:
                start = ChainPosition.start_of(file.header)
                yield from read_records(
                    reader, start, self._tag, from_lsn=from_lsn, end_lsn=end_lsn
                )
            finally:
                reader.close()

    def _trimmed(self, lsn: int) -> errors.NotFound:
        return errors.NotFound(
            f"the log in {self._directory} begins with LSN {self.first_lsn}; LSN {lsn} was trimmed",
            code="log_trimmed",
        )

    def trim(self, below_lsn: int) -> None:
        """Remove whole files that hold only records below `below_lsn`; never the active one."""
        with self._lock:
            keep = 0
            while keep + 1 < len(self._files) and self._files[keep + 1].base_lsn <= below_lsn:
                self._sizes.pop(self._files[keep].base_lsn, None)
                keep += 1
            doomed, self._files = self._files[:keep], self._files[keep:]
        for file in doomed:
            self._fs.unlink(file.path)
        if doomed:
            self._fs.sync_directory(self._directory)
