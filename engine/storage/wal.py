"""The write-ahead log of one shard's copy: the only truth; everything else is derived from it.

    append (any thread)          flusher thread                       wait_durable (any thread)
    crc of the parts        ->   take what is pending, at most        ->  woken, answers
    LSN and place in the file    wal_group_bytes; link the headers;
    into `_pending`              pwritev; fdatasync; durable_lsn = ...

Invariants:
- LSNs are dense; records lie back to back in files; a record never straddles two files.
- durable_lsn <= last_lsn, and it moves only after fdatasync of every byte up to it succeeded.
- All pending records belong in the active file: `_roll` drains before it makes a new one. So a file
  that has a successor is durable as a whole.
- A failed write or fsync is final (`_fail`): nothing is acknowledged any more, and `on_fatal` ends the
  process. The kernel may have dropped the pages, so that a second fsync would lie.
- Locks are taken in the order `_flushing`, then `_lock`; no I/O of the flusher happens under `_lock`.

The bytes are in `wal_format`, recovery in `wal_recovery`, the threads in `flusher`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from crc32c import crc32c

from nearql.engine import errors
from nearql.engine.settings import MIB, EngineSettings
from nearql.engine.storage.files import (
    TEMPORARY_SUFFIX,
    Buffer,
    FileSystem,
    LocalFileSystem,
    is_full,
    remove_temporaries,
    storage_full,
    write_atomic,
)
from nearql.engine.storage.flusher import Flusher, shared_flusher
from nearql.engine.storage.wal_format import (
    FILE_HEADER_BYTES,
    FLAG_MORE,
    PAYLOAD_SCHEMA,
    ZERO_LINK,
    ZERO_REQUEST,
    FileHeader,
    LogIdentity,
    RecordHeader,
    RecordKind,
    WalRecord,
    link_of,
    record_bytes,
)
from nearql.engine.storage.wal_hint import HINT_FILE, WalHint
from nearql.engine.storage.wal_recovery import FoundLog, WalFile, file_name, inspect_log
from nearql.engine.storage.wal_scan import ChainPosition, LogFileReader, moved, read_records

__all__ = ["LogIdentity", "RecordKind", "RecoveryReport", "Wal", "WalRecord"]

logger = logging.getLogger(__name__)

FIRST_ALLOCATION = MIB  # of a file; doubled as it grows, so that a small table takes little disk
COPY_BYTES = MIB
# Records by which a user makes room again may go on into half of the reserve.
FREEING_KINDS = frozenset({RecordKind.DELETE, RecordKind.TRUNCATE, RecordKind.EPOCH_START})


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What `Wal.open` found and did.

    files, records: in the log; records counts those of the active file that were scanned.
    torn_bytes: cut off the end; they were never acknowledged.
    copied_bytes: rewritten into a new file because it was not known that the disk has them.
    clean: the log was closed properly.
    """

    files: int = 0
    records: int = 0
    torn_bytes: int = 0
    copied_bytes: int = 0
    clean: bool = True


class Pending(NamedTuple):
    """A record that has its LSN and its place, but is not written yet."""

    lsn: int
    kind: RecordKind
    flags: int
    payload: list[memoryview]
    payload_size: int
    payload_crc: int
    epoch: int
    request_id: bytes
    timestamp_ms: int

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return record_bytes(self.payload_size)


def exit_process(reason: str) -> None:
    """Stop at once, without flushing anything: what the disk holds is no longer known."""
    logger.critical("stopping: %s", reason)
    logging.shutdown()
    os._exit(70)


class Wal:
    """See the module. Thread-safe; made by `Wal.open`."""

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
        self._lock = threading.Lock()
        self._synced = threading.Condition(self._lock)
        self._pending: deque[Pending] = deque()
        self._files: list[WalFile] = []
        self._handle: int | None = None  # of the active file, while it is being written
        self._allocated = 0  # size of the active file
        self._end_offset = 0  # where the next record goes, pending ones counted in
        self._written = ChainPosition(1, 0, ZERO_LINK, FILE_HEADER_BYTES)  # after the durable ones
        self._epoch = 0
        self._scheduled = False
        self._marked_open = False  # wal.hint says durably that the log is in use
        self._closed = False
        self._failure: str | None = None
        self.last_lsn = 0  # highest appended, maybe not yet durable
        self.durable_lsn = 0  # highest synced
        self.recovery = RecoveryReport()

    @classmethod
    def open(
        cls,
        directory: Path,
        identity: LogIdentity,
        settings: EngineSettings,
        *,
        fs: FileSystem | None = None,
        start_lsn: int = 1,
        flusher: Flusher | None = None,
        on_fatal: Callable[[str], Any] = exit_process,
    ) -> Wal:
        """Create the log, or recover it; `start_lsn` counts for a new one only.

        Raises:
            Corruption: a record that was durable once is bad; names file, offset and LSN. Nothing
                was touched.
            Unavailable: code `newer_format`. Nothing was touched.
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
        found = inspect_log(wal._fs, directory, identity)
        if found is None:
            wal._create(start_lsn)
        else:
            wal._recover(found)
        return wal

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

        parts: buffers whose bytes, one after the other, are the payload. They are not copied and must
        not change until the record is durable.

        Raises:
            StorageFull: too little room; nothing was logged.
            TooLarge: the payload is above `wal_record_bytes`.
            Unavailable: the log is closed or has failed.
        """
        assert len(request_id) == 16, "a request id has 16 bytes"
        payload, size, crc = _measure(parts)
        self._check_size(size)
        self._check_room(kind, record_bytes(size))
        while True:
            with self._lock:
                self._check_open(epoch)
                if self._reserve(record_bytes(size)):
                    lsn = self.last_lsn = self.last_lsn + 1
                    self._epoch = epoch
                    flags = FLAG_MORE if more else 0
                    self._pending.append(
                        Pending(
                            lsn, kind, flags, payload, size, crc, epoch, request_id, timestamp_ms
                        )
                    )
                    wake = not self._scheduled
                    self._scheduled = True
                    break
            self._roll(record_bytes(size))
        if wake:
            self._flusher.schedule(self)
        return lsn

    def wait_durable(self, lsn: int, timeout_ms: int | None = None) -> bool:
        """Wait until every record up to `lsn` is durable; False when the time is up first.

        Raises:
            WriteUnknown: the log failed before that.
        """
        timeout_s = None if timeout_ms is None else timeout_ms / 1000
        with self._synced:
            self._synced.wait_for(
                lambda: self.durable_lsn >= lsn or self._failure is not None, timeout_s
            )
            if self.durable_lsn >= lsn:
                return True
            if self._failure is not None:
                raise errors.WriteUnknown(
                    f"whether LSN {lsn} is durable is unknown: {self._failure}"
                )
            return False

    def _check_size(self, size: int) -> None:
        limit = self._settings.wal_record_bytes
        if size > limit:
            raise errors.TooLarge(
                f"a log record of {size} bytes is above the limit of {limit} (wal_record_bytes): "
                "send smaller batches"
            )

    def _check_room(self, kind: RecordKind, size: int) -> None:
        reserve = self._settings.disk_reserve_bytes
        if kind in FREEING_KINDS:
            reserve //= 2
        if self._fs.free_bytes(self._directory) < reserve:
            raise storage_full(
                self._directory,
                f"a record of {size} bytes (fewer than {reserve} bytes are free, disk_reserve_bytes)",
            )

    def _check_open(self, epoch: int) -> None:
        if self._failure is not None:
            raise errors.Unavailable(f"the log in {self._directory} has failed: {self._failure}")
        if self._closed:
            raise errors.Unavailable(f"the log in {self._directory} is closed")
        assert epoch >= self._epoch, f"epoch {epoch} after {self._epoch}"

    # ---- Room in files, under `_lock` --------------------------------------------------

    def _file_limit(self, size: int) -> int:
        """Bytes a file may have if a record of `size` goes into it."""
        return max(self._settings.wal_file_bytes, FILE_HEADER_BYTES + size)

    def _reserve(self, size: int) -> bool:
        """Give the next `size` bytes of the active file away; False where they need a new file."""
        end = self._end_offset + size
        empty = self._end_offset == FILE_HEADER_BYTES
        if end > self._file_limit(size if empty else 0):
            return False
        if end > self._allocated:
            self._grow(end)
        self._end_offset = end
        return True

    def _grow(self, needed: int) -> None:
        """Pre-allocate: double the file, or where that does not fit take just what is needed."""
        handle = self._open_active()
        limit = self._file_limit(needed - FILE_HEADER_BYTES)
        wanted = min(max(2 * self._allocated, FIRST_ALLOCATION, needed), limit)
        try:
            self._fs.allocate(handle, wanted)
        except OSError as error:
            if not is_full(error) or wanted == needed:
                raise self._not_allocated(error) from error
            wanted = needed
            try:
                self._fs.allocate(handle, wanted)
            except OSError as smaller:
                raise self._not_allocated(smaller) from smaller
        self._allocated = wanted

    def _not_allocated(self, error: OSError) -> Exception:
        return storage_full(self._directory, "the log") if is_full(error) else error

    def _open_active(self) -> int:
        if self._handle is None:
            self._handle = self._fs.open(self._files[-1].path)
        return self._handle

    def _close_active(self) -> None:
        if self._handle is not None:
            self._fs.close(self._handle)
            self._handle = None

    # ---- Flushing ----------------------------------------------------------------------

    def flush_group(self) -> bool:
        """Make one group durable and wake its waiters; whether more is pending. For the flusher."""
        with self._flushing:
            return self._flush_group()

    def _flush_group(self) -> bool:
        with self._lock:
            group = self._take_group()
            handle = self._open_active() if group else -1
        if group and self._failure is None:
            after = self._write_group(handle, group)
            if after is None:
                return False
            with self._synced:
                self._written = after
                self.durable_lsn = after.lsn - 1
                self._synced.notify_all()
        with self._lock:
            self._scheduled = bool(self._pending) and self._failure is None
            return self._scheduled

    def _take_group(self) -> list[Pending]:
        group: list[Pending] = []
        size = 0
        while self._pending and (not group or size < self._settings.wal_group_bytes):
            group.append(self._pending.popleft())
            size += group[-1].size
        return group

    def _write_group(self, handle: int, group: list[Pending]) -> ChainPosition | None:
        """Write and sync; the position after the group, or None after a failure."""
        buffers, after = self._link(group)
        try:
            if not self._marked_open:
                self._write_hint(clean=False, sync=True)
                self._marked_open = True
            self._fs.pwritev(handle, buffers, self._written.offset)
            self._fs.fdatasync(handle)
        except OSError as error:
            self._fail(f"writing {self._files[-1].path} failed: {error}")
            return None
        return after

    def _link(self, group: list[Pending]) -> tuple[list[Buffer], ChainPosition]:
        """Headers chained to what is written already, and the buffers of the whole group."""
        buffers: list[Buffer] = []
        at = self._written
        for record in group:
            header = RecordHeader(
                payload_size=record.payload_size,
                payload_crc=record.payload_crc,
                kind=record.kind,
                flags=record.flags,
                schema=PAYLOAD_SCHEMA,
                epoch=record.epoch,
                lsn=record.lsn,
                link=at.link,
                request_id=record.request_id,
                timestamp_ms=record.timestamp_ms,
                tag=self._tag,
                group_back=record.lsn - group[0].lsn,
            ).pack()
            buffers += [header, *record.payload, bytes(-record.payload_size % 8)]
            offset = at.offset + record.size
            at = ChainPosition(record.lsn + 1, record.epoch, link_of(header), offset)
        return buffers, at

    def _fail(self, reason: str) -> None:
        with self._synced:
            self._failure = reason
            self._pending.clear()
            self._synced.notify_all()
        self._on_fatal(reason)

    def _roll(self, size: int) -> None:
        """Begin a new file, unless another thread did; what is in the old one becomes durable."""
        with self._flushing:
            while self._flush_group():
                pass
            with self._lock:
                fits = self._end_offset + size <= self._file_limit(0)
                if self._failure is None and not self._closed and not self._pending and not fits:
                    self._begin_file()

    def _begin_file(self) -> None:
        """Make the file for the records after `_written`, durably, and write there from now on."""
        previous = self._files[-1].base_lsn if self._files else 0
        at = self._written
        header = FileHeader(at.lsn, at.epoch, at.link, previous)
        path = self._directory / file_name(at.lsn)
        try:
            allocated = self._make_file(path, header, None)
        except OSError as error:
            raise self._not_allocated(error) from error
        self._close_active()
        self._files.append(WalFile(path, header))
        self._allocated = allocated
        self._written = moved(at, FILE_HEADER_BYTES)
        self._end_offset = FILE_HEADER_BYTES

    def _make_file(self, path: Path, header: FileHeader, tail: LogFileReader | None) -> int:
        """A new file under a temporary name, synced, renamed, directory synced; its size.

        tail: the reader of a file whose bytes from `_written` to `_end_offset` go into it.
        """
        temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
        self._fs.unlink(temporary)
        handle = self._fs.open(temporary, create=True)
        try:
            size = FILE_HEADER_BYTES + (self._end_offset - self._written.offset if tail else 0)
            allocated = max(min(FIRST_ALLOCATION, self._settings.wal_file_bytes), size)
            self._fs.allocate(handle, allocated)
            self._fs.pwritev(handle, [header.pack(self._identity)], 0)
            for offset in range(FILE_HEADER_BYTES, size, COPY_BYTES) if tail else ():
                source = self._written.offset + offset - FILE_HEADER_BYTES
                chunk = tail.view(source, min(COPY_BYTES, size - offset)) if tail else b""
                self._fs.pwritev(handle, [chunk], offset)
            self._fs.fdatasync(handle)
        except OSError:
            self._fs.unlink(temporary)
            raise
        finally:
            self._fs.close(handle)
        self._fs.rename(temporary, path)
        self._fs.sync_directory(self._directory)
        return allocated

    # ---- The hint ----------------------------------------------------------------------

    def write_hint(self) -> None:
        """Note how far the log is durable, and let an idle file go. For the flusher."""
        with self._flushing:
            if self._closed or self._failure is not None:
                return
            try:
                self._write_hint(clean=False, sync=False)
            except OSError as error:
                self._fail(f"writing {self._directory / HINT_FILE} failed: {error}")
                return
            with self._lock:
                if not self._pending:
                    self._close_active()

    def _hint(self, clean: bool) -> WalHint:
        at, base = self._written, self._files[-1].base_lsn
        boot_id = self._fs.boot_id()
        return WalHint(clean, at.lsn - 1, base, at.offset, at.epoch, at.link, boot_id)

    def _write_hint(self, *, clean: bool, sync: bool) -> None:
        handle = self._fs.open(self._directory / HINT_FILE)
        try:
            self._fs.pwritev(handle, [self._hint(clean).pack()], 0)
            if sync:
                self._fs.fdatasync(handle)
        finally:
            self._fs.close(handle)

    # ---- Opening and closing -----------------------------------------------------------

    def _create(self, start_lsn: int) -> None:
        self._fs.make_directory(self._directory)
        remove_temporaries(self._fs, self._directory)
        self._start_at(ChainPosition(start_lsn, 0, ZERO_LINK, FILE_HEADER_BYTES))
        self._begin_file()
        write_atomic(self._fs, self._directory / HINT_FILE, self._hint(clean=True).pack())

    def _start_at(self, at: ChainPosition) -> None:
        """Go on after what is on disk."""
        self._written = at
        self._epoch = at.epoch
        self._end_offset = at.offset
        self.last_lsn = self.durable_lsn = at.lsn - 1

    def _recover(self, found: FoundLog) -> None:
        """Take the log over: cut a torn end off, and make sure that the disk has the rest."""
        remove_temporaries(self._fs, self._directory)
        self._files = list(found.files)
        self._allocated = self._fs.size(self._files[-1].path)
        copied = 0
        if not found.clean:
            copied = found.end.offset - found.proven.offset
            self._rescue(found) if copied else self._cut(found)
        else:
            self._start_at(found.end)
        if not found.clean:
            write_atomic(self._fs, self._directory / HINT_FILE, self._hint(clean=False).pack())
            self._marked_open = True
        self.recovery = RecoveryReport(
            len(self._files), found.records, found.torn_bytes, copied, found.clean
        )

    def _cut(self, found: FoundLog) -> None:
        """Cut a torn end off durably, so that no byte of it can follow later records."""
        self._start_at(found.end)
        if found.torn_bytes:
            handle = self._open_active()
            self._fs.truncate(handle, found.end.offset)
            self._fs.fdatasync(handle)
            self._allocated = found.end.offset

    def _rescue(self, found: FoundLog) -> None:
        """Copy records that are not proven durable into a new file: the page cache may show data
        that the disk has lost, and a second fsync of the same pages would not tell.
        """
        self._written, self._end_offset = found.proven, found.end.offset
        active = self._files.pop()
        replaces = found.proven.lsn == active.base_lsn
        previous = active.header.previous_base if replaces else active.base_lsn
        at = found.proven
        header = FileHeader(at.lsn, at.epoch, at.link, previous)
        path = self._directory / file_name(at.lsn)
        reader = LogFileReader(self._fs, active.path)
        try:
            self._allocated = self._make_file(path, header, reader)
        finally:
            reader.close()
        self._files += [WalFile(path, header)] if replaces else [active, WalFile(path, header)]
        offset = FILE_HEADER_BYTES + found.end.offset - found.proven.offset
        self._start_at(moved(found.end, offset))

    def close(self) -> None:
        """Make everything durable, note where the log ends, let the files go. Harmless when repeated."""
        self._flusher.forget(self)
        with self._flushing:
            while not self._closed and self._flush_group():
                pass
            with self._lock:
                was_open = not self._closed and self._failure is None
                self._closed = True
                self._close_active()
            if was_open and self._marked_open:
                with suppress(FileNotFoundError):  # the table's directory was dropped
                    self._write_hint(clean=True, sync=True)

    # ---- Reading and trimming ----------------------------------------------------------

    @property
    def first_lsn(self) -> int:
        """LSN of the first record that is kept."""
        return self._files[0].base_lsn

    @property
    def size_bytes(self) -> int:
        """Bytes of the log's files on disk, pre-allocated ones included."""
        with self._lock:
            sealed = [file.path for file in self._files[:-1]]
            active = self._allocated
        return active + sum(self._fs.size(path) for path in sealed)

    def read(self, from_lsn: int) -> Iterator[WalRecord]:
        """Durable records from `from_lsn` on, in order, each verified.

        A payload refers to memory of its own, not to the file.

        Raises:
            NotFound: code `log_trimmed`; `from_lsn` is below `first_lsn`.
            Corruption: names file, offset and LSN.
        """
        with self._lock:
            files = list(self._files)
            end_lsn = self.durable_lsn + 1
        if from_lsn < files[0].base_lsn:
            raise errors.NotFound(
                f"the log in {self._directory} begins with LSN {files[0].base_lsn}, "
                f"LSN {from_lsn} was trimmed",
                code="log_trimmed",
            )
        ends = [file.base_lsn for file in files[1:]] + [end_lsn]
        wanted = [(f, end) for f, end in zip(files, ends, strict=True) if end > from_lsn]
        readers = [LogFileReader(self._fs, file.path) for file, _ in wanted]
        return self._read(wanted, readers, from_lsn)

    def _read(
        self, wanted: list[tuple[WalFile, int]], readers: list[LogFileReader], from_lsn: int
    ) -> Iterator[WalRecord]:
        try:
            for (file, end_lsn), reader in zip(wanted, readers, strict=True):
                at = ChainPosition.start_of(file.header)
                for record, _ in read_records(
                    reader, at, self._tag, from_lsn=from_lsn, end_lsn=end_lsn
                ):
                    yield record
        finally:
            for reader in readers:
                reader.close()

    def trim(self, below_lsn: int) -> None:
        """Remove whole files that hold only records below `below_lsn`; never the active one."""
        with self._lock:
            keep = 0
            while keep + 1 < len(self._files) and self._files[keep + 1].base_lsn <= below_lsn:
                keep += 1
            doomed, self._files = self._files[:keep], self._files[keep:]
        for file in doomed:
            self._fs.unlink(file.path)
        if doomed:
            self._fs.sync_directory(self._directory)


def _measure(parts: Sequence[Any]) -> tuple[list[memoryview], int, int]:
    """The parts as byte views, their size together, and their crc32c."""
    views = [memoryview(part) for part in parts]
    payload = [view.cast("B") for view in views if view.nbytes]
    crc = 0
    for view in payload:
        crc = crc32c(view, crc)
    return payload, sum(len(view) for view in payload), crc
