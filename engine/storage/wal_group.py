"""The records between `append` and the disk: what one group commit writes together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from crc32c import crc32c

from nearql.engine.storage.files import Buffer
from nearql.engine.storage.wal_format import (
    FLAG_MORE,
    PAYLOAD_SCHEMA,
    RecordHeader,
    RecordKind,
    link_of,
    record_bytes,
)
from nearql.engine.storage.wal_scan import ChainPosition


@dataclass(slots=True)
class Pending:
    """A record that is not written yet; it has its LSN and its room once it is in the queue."""

    kind: RecordKind
    payload: list[memoryview]
    payload_size: int
    payload_crc: int
    epoch: int
    request_id: bytes
    timestamp_ms: int
    more: bool
    schema: int = PAYLOAD_SCHEMA
    lsn: int = 0

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return record_bytes(self.payload_size)

    def header(self, link: bytes, tag: bytes, group_lsn: int) -> RecordHeader:
        """What stands before the payload."""
        return RecordHeader(
            payload_size=self.payload_size,
            payload_crc=self.payload_crc,
            kind=self.kind,
            flags=FLAG_MORE if self.more else 0,
            schema=self.schema,
            epoch=self.epoch,
            lsn=self.lsn,
            link=link,
            request_id=self.request_id,
            timestamp_ms=self.timestamp_ms,
            tag=tag,
            group_back=self.lsn - group_lsn,
        )


def measure(parts: Sequence[Any]) -> tuple[list[memoryview], int, int]:
    """The parts as byte views, their size together, and their crc32c."""
    views = [memoryview(part) for part in parts]
    payload = [view.cast("B") for view in views if view.nbytes]
    crc = 0
    for view in payload:
        crc = crc32c(view, crc)
    return payload, sum(len(view) for view in payload), crc


def link_group(
    group: Sequence[Pending], at: ChainPosition, tag: bytes, version: int
) -> tuple[list[Buffer], ChainPosition]:
    """The group's bytes, chained to what is written already, and the position after them.

    version: the format of the file that they go into.
    """
    buffers: list[Buffer] = []
    for record in group:
        header = record.header(at.link, tag, group[0].lsn).pack()
        buffers += [header, *record.payload, bytes(-record.payload_size % 8)]
        offset = at.offset + record.size
        at = ChainPosition(record.lsn + 1, record.epoch, link_of(header, version), offset)
    return buffers, at
