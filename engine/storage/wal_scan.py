"""Reading a WAL file record by record, each one verified against its place in the chain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from crc32c import crc32c

from nearql.engine import errors
from nearql.engine.storage.files import FileSystem
from nearql.engine.storage.wal_format import (
    FILE_HEADER_BYTES,
    FLAG_MORE,
    RECORD_HEADER_BYTES,
    RECORD_MAGIC,
    FileHeader,
    RecordHeader,
    RecordKind,
    WalRecord,
    link_of,
    unknown_record,
    unpack_record_header,
)

WINDOW_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ChainPosition:
    """Where the next record goes, and what it must carry.

    lsn: of the next record. epoch: of the last one; the next has the same or a higher one.
    link: hash of the last record's header. offset: in the file.
    """

    lsn: int
    epoch: int
    link: bytes
    offset: int

    @classmethod
    def start_of(cls, header: FileHeader) -> ChainPosition:
        """The position of a file's first record."""
        return cls(header.base_lsn, header.base_epoch, header.base_link, FILE_HEADER_BYTES)


@dataclass(frozen=True, slots=True)
class BadRecord:
    """Why there is no good record at a position.

    foreign: the header is undamaged, but of another place or another log; no torn write makes that.
    """

    reason: str
    foreign: bool = False


class LogFileReader:
    """Random access to one WAL file through a window: small records cost no system call each.

    version: the format of the file, as its header says.
    """

    def __init__(self, fs: FileSystem, path: Path, version: int) -> None:
        self.path = path
        self.version = version
        self.size = fs.size(path)
        self._fs = fs
        self._handle = fs.open(path)
        self._start = 0
        self._window = memoryview(b"")

    def close(self) -> None:
        """Close the file; views that were given out stay valid."""
        self._fs.close(self._handle)

    def view(self, offset: int, size: int) -> memoryview:
        """Bytes [offset, offset + size) of the file; fewer at its end."""
        start = offset - self._start
        if start < 0 or start + size > len(self._window):
            data = self._fs.pread(self._handle, max(size, WINDOW_BYTES), offset)
            self._window, self._start, start = memoryview(data), offset, 0
        return self._window[start : start + size]

    def peek(self, offset: int, size: int) -> bytes:
        """The same, read by itself: for a look at one place."""
        return self._fs.pread(self._handle, size, offset)

    def where(self, lsn: int, offset: int) -> str:
        """A place, for messages."""
        return f"with LSN {lsn} at offset {offset} of {self.path}"


def read_record(
    reader: LogFileReader, at: ChainPosition, tag: bytes, *, payload: bool = True
) -> tuple[RecordHeader, memoryview, ChainPosition] | BadRecord:
    """The record at a position and the position after it; `payload=False` leaves its bytes unread.

    Raises:
        Unavailable: code `newer_format`; an undamaged record of a kind that this version lacks.
    """
    raw = reader.view(at.offset, RECORD_HEADER_BYTES)
    header = unpack_record_header(raw)
    if header is None:
        return BadRecord("its header is damaged" if any(raw) else "there are only zeros")
    stranger = _not_here(header, at, tag)
    if stranger is not None:
        return BadRecord(stranger, foreign=True)
    if not header.known:
        raise unknown_record(header, reader.where(header.lsn, at.offset))
    link = link_of(raw, reader.version)
    after = ChainPosition(header.lsn + 1, header.epoch, link, at.offset + header.size)
    if not payload:
        return header, memoryview(b""), after
    padded = reader.view(at.offset + RECORD_HEADER_BYTES, header.size - RECORD_HEADER_BYTES)
    body, padding = padded[: header.payload_size], padded[header.payload_size :]
    if len(padded) + RECORD_HEADER_BYTES < header.size:
        return BadRecord("its payload is cut short")
    if crc32c(body) != header.payload_crc:
        return BadRecord("its payload fails its checksum")
    if any(padding):
        return BadRecord("the padding after its payload is not zero")
    return header, body, after


def _not_here(header: RecordHeader, at: ChainPosition, tag: bytes) -> str | None:
    """Why an undamaged header does not belong at a position; None where it does."""
    if header.tag != tag:
        return f"it belongs to another shard or copy (tag {header.tag.hex()}, not {tag.hex()})"
    if header.lsn != at.lsn:
        return f"it carries LSN {header.lsn}"
    if header.link != at.link:
        return "its link does not fit the record before it"
    if header.epoch < at.epoch:
        return f"its epoch {header.epoch} is below {at.epoch}"
    return None


def read_records(
    reader: LogFileReader, at: ChainPosition, tag: bytes, *, from_lsn: int, end_lsn: int
) -> Iterator[WalRecord]:
    """Records [from_lsn, end_lsn) of a file; earlier ones are followed, but not given.

    Raises:
        Corruption: one of them is bad; names file, offset and LSN.
    """
    while at.lsn < end_lsn:
        found = read_record(reader, at, tag, payload=at.lsn >= from_lsn)
        if isinstance(found, BadRecord):
            raise corrupt_record(reader, at, found.reason)
        header, payload, at = found
        if header.lsn >= from_lsn:
            yield as_record(header, payload)


def as_record(header: RecordHeader, payload: memoryview) -> WalRecord:
    """The public form of a verified record."""
    return WalRecord(
        lsn=header.lsn,
        epoch=header.epoch,
        kind=RecordKind(header.kind),
        payload=payload,
        request_id=header.request_id,
        more=bool(header.flags & FLAG_MORE),
        timestamp_ms=header.timestamp_ms,
    )


def later_records(
    reader: LogFileReader, at: ChainPosition, tag: bytes, limit: int
) -> Iterator[RecordHeader]:
    """Headers of undamaged records of this log with a higher LSN, up to `limit` bytes further on.

    Found by their magic at any multiple of 8: a bad record does not say where the next begins.
    """
    offset = at.offset + 8
    end = min(reader.size, at.offset + limit)
    while offset < end:
        chunk = bytes(reader.view(offset, min(WINDOW_BYTES, end - offset)))
        place = chunk.find(RECORD_MAGIC)
        while place >= 0:
            header = _whole_record(reader, offset + place, tag)
            if header is not None and header.lsn > at.lsn:
                yield header
            place = chunk.find(RECORD_MAGIC, place + 1)
        # The last 3 bytes are looked at again: a magic may lie across two chunks.
        offset = end if offset + len(chunk) >= end or len(chunk) < 4 else offset + len(chunk) - 3


def _whole_record(reader: LogFileReader, offset: int, tag: bytes) -> RecordHeader | None:
    """The header at an offset where a whole undamaged record of this log stands there."""
    if offset % 8:
        return None
    header = unpack_record_header(reader.view(offset, RECORD_HEADER_BYTES))
    if header is None or header.tag != tag:
        return None
    at = ChainPosition(header.lsn, header.epoch, header.link, offset)
    return None if isinstance(read_record(reader, at, tag), BadRecord) else header


def corrupt_record(reader: LogFileReader, at: ChainPosition, reason: str) -> errors.Corruption:
    """The error for a bad record that was durable once."""
    return errors.Corruption(
        f"the WAL is corrupt: the record {reader.where(at.lsn, at.offset)} is bad ({reason}); "
        "nothing was cut off; restore this copy from a backup or another node",
        file=str(reader.path),
        offset=at.offset,
        lsn=at.lsn,
    )


def moved(at: ChainPosition, offset: int) -> ChainPosition:
    """The same place in the chain at another offset."""
    return replace(at, offset=offset)
