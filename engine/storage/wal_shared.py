"""The log of a copy that is replicated: the same log, of which other copies hold the same records.

What it adds to `Wal`:

    links are the same on every copy (file format 2), known as soon as a record has its place
    the last records stay in memory, so that they are shipped while they are being synced
    records of other copies are taken as they are, verified against the chain        `append_raw`
    the end may be cut off: what was never committed                                 `truncate`
    the epochs in it: (epoch, first LSN) each                                        `epochs`

    LSN      1 ....... 900 | 901 ....... 1500 | 1501 .. 1520
             file, trimmed | file             | pending: not durable
             or kept       |           [ recent, in memory ]

Invariants: `_recent` holds consecutive records that end with the last one, and every record that is
not durable yet; `_end` is the place after the last one; epochs ascend, so do their LSNs.

A cut: the hint goes down to it first, durably, or the records cut off would be taken for lost ones;
then files beyond it go, the last one first; then the rest of its own file. So a crash leaves a log
that ends at the cut or later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from nearql.engine import errors
from nearql.engine.settings import MIB
from nearql.engine.storage.files import disk_error
from nearql.engine.storage.wal import Wal
from nearql.engine.storage.wal_file import ActiveFile, WalFile, publish_file
from nearql.engine.storage.wal_format import (
    FILE_HEADER_BYTES,
    FLAG_MORE,
    SHARED_CHAIN,
    ZERO_LINK,
    RecordKind,
    link_of,
)
from nearql.engine.storage.wal_group import Pending
from nearql.engine.storage.wal_raw import NO_TAG, LogEnd, RawRecord
from nearql.engine.storage.wal_recovery import FoundLog
from nearql.engine.storage.wal_scan import (
    BadRecord,
    ChainPosition,
    LogFileReader,
    corrupt_record,
    moved,
    read_record,
)

RECENT_BYTES = 16 * MIB  # of records kept in memory: what replicas may have unacknowledged
_PLACES = 16  # ends of reads that are remembered, so that the next one need not look for its start

Epochs = tuple[tuple[int, int], ...]


class SharedWal(Wal):
    """See the module. Thread-safe, but for `append`, `append_raw` and `truncate` among each other:
    who writes a copy's log is settled above.
    """

    FORMAT: ClassVar[int] = SHARED_CHAIN

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Guarded by _lock:
        self._end = LogEnd(0, 0, ZERO_LINK)
        self._recent: dict[int, RawRecord] = {}
        self._recent_bytes = 0
        self._epochs: list[tuple[int, int]] = []
        self._places: dict[int, tuple[WalFile, ChainPosition]] = {}
        self._cuts = 0
        self.on_logged: Callable[[int], None] = _nobody
        self.on_durable: Callable[[int], None] = _nobody

    # ---- Opening -----------------------------------------------------------------------

    def _recover(self, found: FoundLog) -> None:
        super()._recover(found)
        if self._active.file.header.format != SHARED_CHAIN:
            self._share()

    def _start_at(self, at: ChainPosition) -> None:
        super()._start_at(at)
        self._end = LogEnd(at.lsn - 1, at.epoch, at.link)

    def _share(self) -> None:
        """Go on in a file of the shared format: this log was a node's own, or was cut back to that.

        Needs `_flushing`, or to be alone; nothing is pending.
        """
        old = self._active
        old.release()
        empty = self._written.lsn == old.file.base_lsn
        previous = old.file.header.previous_base if empty else old.file.base_lsn
        new = self._make_file(self._written, previous)
        publish_file(self._fs, new.file)
        if empty:
            self._files.pop()
        else:
            self._sizes[old.file.base_lsn] = old.end_offset
        self._files.append(new.file)
        self._active = new
        self._written = moved(self._written, FILE_HEADER_BYTES)

    def learn_epochs(self, known: Epochs, up_to_lsn: int) -> None:
        """Find the log's epochs. known: those of the records up to `up_to_lsn`, as a checkpoint has
        them; the rest is read off the records behind it.
        """
        found = list(known)
        for lsn, epoch in self._epoch_changes(up_to_lsn):
            if not found or epoch > found[-1][0]:
                found.append((epoch, lsn))
        with self._lock:
            self._epochs = found

    def _epoch_changes(self, after_lsn: int) -> Iterator[tuple[int, int]]:
        """(LSN, epoch) of records after `after_lsn` that may begin an epoch."""
        ends = [f.header.base_epoch for f in self._files[1:]] + [self._end.epoch]
        nexts = [f.base_lsn for f in self._files[1:]] + [self._end.lsn + 1]
        for file, end_epoch, next_lsn in zip(self._files, ends, nexts, strict=True):
            if next_lsn > after_lsn + 1 and file.header.base_epoch != end_epoch:
                for at, _ in self._walk(file, ChainPosition.start_of(file.header), next_lsn):
                    if at.lsn - 1 > after_lsn:
                        yield at.lsn - 1, at.epoch

    # ---- The end -----------------------------------------------------------------------

    @property
    def end(self) -> LogEnd:
        """The place after the last record, durable or not."""
        return self._end

    @property
    def epochs(self) -> Epochs:
        """(epoch, LSN of its first record), ascending."""
        with self._lock:
            return tuple(self._epochs)

    def epoch_at(self, lsn: int) -> int:
        """The epoch of the record with this LSN; 0 for none."""
        return max((epoch for epoch, start in self.epochs if start <= lsn), default=0)

    @property
    def first_shared_lsn(self) -> int:
        """The first record that `read_raw` gives, or the next one where none is."""
        with self._lock:
            return next(f.base_lsn for f in self._files if f.header.format == SHARED_CHAIN)

    def end_at(self, lsn: int) -> LogEnd | None:
        """The place after this record; None where the log does not know it (any more)."""
        with self._lock:
            if lsn == self._end.lsn:
                return self._end
            if (record := self._recent.get(lsn)) is not None:
                return LogEnd(lsn, record.epoch, record.link)
        if lsn == 0:
            return LogEnd(0, 0, ZERO_LINK)
        if not self.first_shared_lsn - 1 <= lsn < self._end.lsn:
            return None
        following = self.read_raw(lsn + 1, 0)
        return LogEnd(lsn, self.epoch_at(lsn), following[0].previous_link) if following else None

    # ---- Appending ---------------------------------------------------------------------

    def append(
        self,
        kind: RecordKind,
        parts: Sequence[Any],
        **fields: Any,
    ) -> int:
        """As `Wal.append`; the parts are copied, as the record outlives its being durable here."""
        lsn = super().append(kind, [b"".join(parts)], **fields)
        self.on_logged(lsn)
        return lsn

    def append_raw(self, record: RawRecord) -> None:
        """Log the record that follows the end, as it is. Raises as `append`."""
        end, header = self._end, record.header
        assert (record.lsn, record.previous_link) == (end.lsn + 1, end.link), "not the next record"
        payload = memoryview(record.payload)
        mine = Pending(
            RecordKind(header.kind), [payload] if len(payload) else [], header.payload_size,
            header.payload_crc, header.epoch, header.request_id, header.timestamp_ms,
            bool(header.flags & FLAG_MORE), header.schema,
        )  # fmt: skip
        self._log(mine)
        assert self._end.link == record.link, "the record's bytes are not the same here"

    def _queued(self, record: Pending) -> None:
        if not self._epochs or record.epoch > self._epochs[-1][0]:
            self._epochs.append((record.epoch, record.lsn))
        header = record.header(self._end.link, NO_TAG, record.lsn)  # as every copy has it
        link = link_of(header.pack(), SHARED_CHAIN)
        raw = RawRecord(header, record.payload[0] if record.payload else b"", link)
        self._recent[record.lsn] = raw
        self._recent_bytes += raw.nbytes
        self._end = LogEnd(record.lsn, record.epoch, raw.link)
        self._forget_old(self.durable_lsn)

    def _forget_old(self, durable_lsn: int) -> None:
        while self._recent_bytes > RECENT_BYTES:
            first = next(iter(self._recent))
            if first > durable_lsn:
                return
            self._recent_bytes -= self._recent.pop(first).nbytes

    def forget_durable(self) -> None:
        """Let go of the records in memory that the disk has, as memory is short."""
        with self._lock:
            durable_lsn = self.durable_lsn
            for lsn in [lsn for lsn in self._recent if lsn <= durable_lsn]:
                self._recent_bytes -= self._recent.pop(lsn).nbytes

    def _synced_to(self, lsn: int) -> None:
        with self._lock:
            self._forget_old(lsn)
        self.on_durable(lsn)

    # ---- Reading -----------------------------------------------------------------------

    def read_raw(self, from_lsn: int, max_bytes: int) -> list[RawRecord]:
        """Records from there on: as many as fit, but one at least; none beyond the end.

        Raises:
            NotFound: code `log_trimmed`.
            Corruption: names file, offset and LSN.
        """
        while True:
            cuts = self._cuts
            with self._lock:
                found = self._from_memory(from_lsn, max_bytes)
            if found is not None:
                return found
            try:
                found = self._from_files(from_lsn, max_bytes, cuts)
            except errors.NearQLError:
                if cuts == self._cuts:
                    raise
            if cuts == self._cuts and found is not None:
                return found  # otherwise the log was cut meanwhile: look again

    def remembers(self, lsn: int) -> bool:
        """Whether `read_raw` from there needs no file."""
        with self._lock:
            return lsn in self._recent or lsn > self._end.lsn

    def _from_memory(self, from_lsn: int, max_bytes: int) -> list[RawRecord] | None:
        """None where the first one is in a file only."""
        if from_lsn > self._end.lsn:
            return []
        if from_lsn not in self._recent:
            return None
        found: list[RawRecord] = []
        for lsn in range(from_lsn, self._end.lsn + 1):
            record = self._recent[lsn]
            max_bytes -= record.nbytes
            if found and max_bytes < 0:
                break
            found.append(record)
        return found

    def _from_files(self, from_lsn: int, max_bytes: int, cuts: int) -> list[RawRecord]:
        file, at, end_lsn = self._place(from_lsn)
        found: list[RawRecord] = []
        try:
            for after, record in self._walk(file, at, end_lsn, from_lsn):
                if record is None:
                    continue
                max_bytes -= record.nbytes
                if found and max_bytes < 0:
                    break
                found.append(record)
                at = after
        except FileNotFoundError as error:
            raise self._trimmed(from_lsn) from error
        self._remember(file, at, cuts)
        return found

    def _place(self, lsn: int) -> tuple[WalFile, ChainPosition, int]:
        """The file with this record, a place at or before it, the LSN at which the file ends."""
        with self._lock:
            shared = [f for f in self._files if f.header.format == SHARED_CHAIN]
            inside = [place for place, file in enumerate(shared) if file.base_lsn <= lsn]
            if not inside:
                raise self._trimmed(lsn)
            file = shared[inside[-1]]
            following = shared[inside[-1] + 1 :]
            end_lsn = following[0].base_lsn if following else self.durable_lsn + 1
            known = self._places.get(lsn)
        at = ChainPosition.start_of(file.header)
        return file, known[1] if known is not None and known[0] is file else at, end_lsn

    def _remember(self, file: WalFile, at: ChainPosition, cuts: int) -> None:
        with self._lock:
            if cuts == self._cuts:
                self._places[at.lsn] = file, at
            while len(self._places) > _PLACES:
                del self._places[next(iter(self._places))]

    def _walk(
        self, file: WalFile, at: ChainPosition, end_lsn: int, from_lsn: int | None = None
    ) -> Iterator[tuple[ChainPosition, RawRecord | None]]:
        """Each record below `end_lsn` with the place after it; itself from `from_lsn` on.

        Raises:
            Corruption: one of them is bad.
        """
        reader = LogFileReader(self._fs, file.path, file.header.format)
        try:
            while at.lsn < end_lsn:
                wanted = from_lsn is not None and at.lsn >= from_lsn
                found = read_record(reader, at, self._tag, payload=wanted)
                if isinstance(found, BadRecord):
                    raise corrupt_record(reader, at, found.reason)
                header, payload, at = found
                yield at, RawRecord.of(header, payload) if wanted else None
        finally:
            reader.close()

    def lsn_keeping(self, nbytes: int) -> int:
        """From this LSN on the log takes about so many bytes of disk, or a file more."""
        with self._lock:
            left = nbytes - self._active.allocated
            for file in reversed(self._files[:-1]):
                if left <= 0:
                    return self._files[self._files.index(file) + 1].base_lsn
                left -= self._sizes[file.base_lsn]
            return self._files[0].base_lsn

    def trim(self, below_lsn: int) -> None:
        """As `Wal.trim`, but not while the log is cut."""
        with self._flushing:
            super().trim(below_lsn)

    # ---- Cutting -----------------------------------------------------------------------

    def truncate(self, after_lsn: int) -> None:
        """Cut off every record after that one, durably.

        Raises:
            Unavailable: the log is closed or failed, or the disk fails now: that ends the process.
        """
        with self._flushing:
            with self._lock:
                self._check_open(self._epoch)
            if after_lsn < self.last_lsn:
                try:
                    self._cut(after_lsn)
                except OSError as error:  # how much of it is done is not known
                    self.fail(f"cutting the log in {self._directory} failed: {error}")
                    raise disk_error(self._directory, error, "a cut of its end") from error

    def _cut(self, after_lsn: int) -> None:
        if after_lsn >= self._written.lsn - 1:  # nothing beyond it was written
            with self._lock:
                self._forget_after(after_lsn)
            return
        file, at = self._find(after_lsn)
        place = self._files.index(file)
        doomed = self._files[place + 1 :]
        self._active.release()
        size, limit = self._fs.size(file.path), self._settings.wal_file_bytes
        active = ActiveFile(self._fs, file, limit=limit, allocated=size, end_offset=at.offset)
        with self._lock:
            self._forget_after(after_lsn)
            self._files, self._active, self._written = self._files[: place + 1], active, at
            self._end = LogEnd(after_lsn, at.epoch, at.link)
            self.durable_lsn, self._epoch = after_lsn, at.epoch
            for one in (file, *doomed):
                self._sizes.pop(one.base_lsn, None)
        self._write_hint(clean=False, sync=True)
        self._marked_open = True
        for one in reversed(doomed):
            self._fs.unlink(one.path)
            self._fs.sync_directory(self._directory)
        active.cut()
        if file.header.format != SHARED_CHAIN:
            self._share()

    def _find(self, lsn: int) -> tuple[WalFile, ChainPosition]:
        """Where this record ends; where the log's first one begins, if it is the one before."""
        file = [f for f in self._files if f.base_lsn <= max(lsn, self._files[0].base_lsn)][-1]
        at = ChainPosition.start_of(file.header)
        for place, _ in self._walk(file, at, lsn + 1):
            at = place
        assert at.lsn == lsn + 1, "the record after which to cut is not in the log"
        return file, at

    def _forget_after(self, lsn: int) -> None:
        """Memory as it is without the records after that one; under both locks."""
        self._cuts += 1
        self._places.clear()
        while self._pending and self._pending[-1].lsn > lsn:
            self._active.give_back(self._pending.pop().size)
        for gone in range(self.last_lsn, lsn, -1):
            if (record := self._recent.pop(gone, None)) is not None:
                self._recent_bytes -= record.nbytes
        self._epochs = [(epoch, start) for epoch, start in self._epochs if start <= lsn]
        self.last_lsn = lsn
        at = self._written
        if (kept := self._recent.get(lsn)) is not None:
            self._end = LogEnd(lsn, kept.epoch, kept.link)
        elif at.lsn == lsn + 1:
            self._end = LogEnd(lsn, at.epoch, at.link)
        self._epoch = self._end.epoch


def _nobody(lsn: int) -> None:
    """Nobody listens."""
