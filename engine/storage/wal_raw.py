"""Log records as copies of a shard exchange them.

    80-byte header, payload, next header, ...

The header is that of the log (`wal_format`), with zeros for tag and group, which are a copy's own
affair, so that a record has the same bytes whichever copy sends it. A record carries the link to
the one before it; two copies that hold a record with the same epoch, LSN and link hold the same log
up to there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from crc32c import crc32c

from nearql.engine import errors
from nearql.engine.storage.files import Buffer
from nearql.engine.storage.wal_format import (
    RECORD_HEADER_BYTES,
    SHARED_CHAIN,
    RecordHeader,
    link_of,
    unknown_record,
    unpack_record_header,
)

NO_TAG = bytes(8)  # a copy's own tag is not sent


@dataclass(frozen=True, slots=True)
class LogEnd:
    """A place in a log: after the record `lsn`. link: hash of that record's header, 8 bytes.

    The empty log ends at (0, 0, 8 zero bytes). Equal places mean equal logs up to there.
    """

    lsn: int
    epoch: int
    link: bytes


@dataclass(frozen=True, slots=True)
class RawRecord:
    """One record, its bytes as they are in every copy's log.

    header: with zeros for tag and group. link: the hash of it that the next record carries.
    """

    header: RecordHeader
    payload: bytes | memoryview
    link: bytes

    @classmethod
    def of(cls, header: RecordHeader, payload: bytes | memoryview) -> RawRecord:
        """The record with this header in some copy's log."""
        header = header._replace(tag=NO_TAG, group_back=0)
        return cls(header, payload, link_of(header.pack(), SHARED_CHAIN))

    @property
    def lsn(self) -> int:
        """Its place in the log."""
        return self.header.lsn

    @property
    def epoch(self) -> int:
        """That of the primary that made it."""
        return self.header.epoch

    @property
    def previous_link(self) -> bytes:
        """The link of the record before it, 8 bytes; zeros for the first one."""
        return self.header.link

    @property
    def nbytes(self) -> int:
        """Bytes when packed."""
        return RECORD_HEADER_BYTES + len(self.payload)


def pack_records(records: Iterable[RawRecord]) -> list[Buffer]:
    """The records' bytes, one buffer after the other; payloads aren't copied."""
    return [part for record in records for part in (record.header.pack(), record.payload)]


def unpack_records(data: bytes | memoryview) -> list[RawRecord]:
    """What `pack_records` made; payloads are views of `data`. Chaining them is the log's work.

    Raises:
        Corruption: bytes that are no undamaged record, with their offset.
        Unavailable: code `newer_format`; a record of a kind that this version lacks.
    """
    view = memoryview(data)
    records: list[RawRecord] = []
    offset = 0
    while offset < len(view):
        record = _unpack(view, offset)
        records.append(record)
        offset += record.nbytes
    return records


def _unpack(view: memoryview, offset: int) -> RawRecord:
    start = offset + RECORD_HEADER_BYTES
    header = unpack_record_header(view[offset:start])
    if header is None:
        raise _damaged(offset, "it does not begin with the header of a log record")
    if not header.known:
        raise unknown_record(header, f"with LSN {header.lsn} that another node sent")
    payload = view[start : start + header.payload_size]
    if len(payload) < header.payload_size:
        raise _damaged(offset, f"the record with LSN {header.lsn} is cut short")
    if crc32c(payload) != header.payload_crc:
        raise _damaged(offset, f"the payload of the record with LSN {header.lsn} is damaged")
    return RawRecord.of(header, payload)


def _damaged(offset: int, what: str) -> errors.Corruption:
    return errors.Corruption(
        f"Log records from another node are damaged at offset {offset}: {what}. They were not "
        "taken; the other node will send them again.",
        offset=offset,
    )
