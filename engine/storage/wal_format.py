"""Bytes of a WAL file: one 128-byte file header, then records back to back.

    file header                           record: 80-byte header, payload, padding to 8 bytes
    off size field                        off size field
      0   8 magic "NQWALOG\\0"               0   4 magic "NQW1"
      8   2 format version                  4   4 payload size (at most 16 MiB by default)
     10   2 checksum (1 = crc32c)           8   4 crc32c of the payload
     12   4 reserved                       12   4 kind (u8), flags (u8), payload schema (u16)
     16  48 cluster, shard, copy           16  16 epoch, LSN
     64  16 base LSN, base epoch           32   8 link: blake2b-8 of the previous record's header
     80   8 base link                      40  16 request id
     88   8 base LSN of the file before    56   8 time of the primary, ms (for dedup expiry only)
     96  28 reserved                       64   8 tag of the shard's copy
    124   4 crc32c of the above            72   4 how many records back its group began
                                           76   4 crc32c of the header's first 76 bytes

All integers are little-endian. The base fields say what the chain looked like where the file
begins, so that its first record is verified like any other. The last field but one is our use of a
reserved one: the records of a group are written together and synced once, so a record proves that
everything before its group was durable when it was written (`wal_recovery` needs that).

Tag and group are a copy's own affair. In format 1, a link is the hash of the whole header, so that
no two copies have the same; in format 2, of what comes before the tag: copies that hold the same
records have the same links. Replicated copies write format 2 (`SHARED_CHAIN`).
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from crc32c import crc32c

from nearql.engine import errors
from nearql.engine.storage.files import newer_format

OWN_CHAIN, SHARED_CHAIN = 1, 2  # formats of a file; see above
WAL_FORMAT = SHARED_CHAIN  # the newest that this version reads
PAYLOAD_SCHEMA = 1
CHECKSUM_CRC32C = 1
FILE_MAGIC = b"NQWALOG\0"
RECORD_MAGIC = b"NQW1"
FILE_HEADER = struct.Struct("<8sHH4x16s16s16sQQ8sQ28x")
RECORD_HEADER = struct.Struct("<4sIIBBHQQ8s16sQ8sI")
CRC = struct.Struct("<I")
FILE_HEADER_BYTES = FILE_HEADER.size + CRC.size
RECORD_HEADER_BYTES = RECORD_HEADER.size + CRC.size
assert FILE_HEADER_BYTES == 128
assert RECORD_HEADER_BYTES == 80

_TAG_OFFSET = 64

FLAG_MORE = 1
ZERO_LINK = bytes(8)
ZERO_REQUEST = bytes(16)


class RecordKind(IntEnum):
    """What a record's payload is; numbers are on disk and never change meaning."""

    EPOCH_START = 1
    BATCH = 2
    DELETE = 3
    SCHEMA = 4
    TRUNCATE = 5


KINDS = frozenset(int(kind) for kind in RecordKind)


@dataclass(frozen=True, slots=True)
class LogIdentity:
    """Whose log it is: 16 bytes each. `alloc_id` names this one physical copy of the shard."""

    cluster_id: bytes
    shard_uuid: bytes
    alloc_id: bytes

    def __post_init__(self) -> None:
        assert all(len(part) == 16 for part in (self.cluster_id, self.shard_uuid, self.alloc_id))

    @property
    def tag(self) -> bytes:
        """8 bytes in each record, so that a record written into another shard's file is noticed."""
        whole = self.cluster_id + self.shard_uuid + self.alloc_id
        return hashlib.blake2b(whole, digest_size=8).digest()


@dataclass(frozen=True, slots=True)
class WalRecord:
    """One verified record. `more`: the statement goes on in the next record."""

    lsn: int
    epoch: int
    kind: RecordKind
    payload: memoryview
    request_id: bytes
    more: bool
    timestamp_ms: int


class FileHeader(NamedTuple):
    """The header of a WAL file, without what every file has in common.

    base_lsn: LSN of the first record. base_epoch, base_link: of the record before it.
    previous_base: base LSN of the file before, 0 where there is none.
    format: of the file, which says what its records' links are.
    """

    base_lsn: int
    base_epoch: int
    base_link: bytes
    previous_base: int
    format: int = OWN_CHAIN

    def pack(self, identity: LogIdentity) -> bytes:
        """128 bytes."""
        *base, version = self
        body = FILE_HEADER.pack(
            FILE_MAGIC,
            version,
            CHECKSUM_CRC32C,
            identity.cluster_id,
            identity.shard_uuid,
            identity.alloc_id,
            *base,
        )
        return body + CRC.pack(crc32c(body))


class RecordHeader(NamedTuple):
    """The header of a record, without magic and checksum, in the order of the bytes."""

    payload_size: int
    payload_crc: int
    kind: int
    flags: int
    schema: int
    epoch: int
    lsn: int
    link: bytes
    request_id: bytes
    timestamp_ms: int
    tag: bytes
    group_back: int

    def pack(self) -> bytes:
        """80 bytes."""
        body = RECORD_HEADER.pack(RECORD_MAGIC, *self)
        return body + CRC.pack(crc32c(body))

    @property
    def size(self) -> int:
        """Bytes of the whole record in the file."""
        return record_bytes(self.payload_size)

    @property
    def known(self) -> bool:
        """Whether this version understands it. To skip one that it does not would lose a write."""
        unknown_flags = self.flags & ~FLAG_MORE
        return self.kind in KINDS and not unknown_flags and self.schema <= PAYLOAD_SCHEMA


def record_bytes(payload_size: int) -> int:
    """Bytes that a record takes in its file."""
    return RECORD_HEADER_BYTES + payload_size + -payload_size % 8


def link_of(header: bytes | memoryview, version: int) -> bytes:
    """What the next record carries as its link, given this record's 80 header bytes and the format
    of its file.
    """
    hashed = header if version == OWN_CHAIN else header[:_TAG_OFFSET]
    return hashlib.blake2b(hashed, digest_size=8).digest()


def unpack_record_header(data: bytes | memoryview) -> RecordHeader | None:
    """Read 80 bytes; None where they are not an undamaged record header."""
    if len(data) < RECORD_HEADER_BYTES or bytes(data[:4]) != RECORD_MAGIC:
        return None
    if CRC.unpack_from(data, RECORD_HEADER.size)[0] != crc32c(data[: RECORD_HEADER.size]):
        return None
    return RecordHeader(*RECORD_HEADER.unpack_from(data)[1:])


def unknown_record(header: RecordHeader, where: str) -> errors.Unavailable:
    """The error for a record that is not `known`."""
    if header.kind not in KINDS:
        return newer_format(f"the record {where} (kind {header.kind})", header.kind, max(KINDS))
    if header.flags & ~FLAG_MORE:
        return newer_format(f"the record {where} (flags)", header.flags, FLAG_MORE)
    return newer_format(f"the payload of the record {where}", header.schema, PAYLOAD_SCHEMA)


def unpack_file_header(data: bytes, identity: LogIdentity, name: str) -> FileHeader | str:
    """Read 128 bytes; what is wrong with them as text where they are not this log's header.

    Raises:
        Unavailable: code `newer_format`.
    """
    if len(data) < FILE_HEADER_BYTES or data[: len(FILE_MAGIC)] != FILE_MAGIC:
        return "its header is not that of a WAL file"
    if CRC.unpack_from(data, FILE_HEADER.size)[0] != crc32c(data[: FILE_HEADER.size]):
        return "its header fails its checksum"
    _, version, checksum, cluster, shard, alloc, lsn, epoch, link, previous = (
        FILE_HEADER.unpack_from(data)
    )
    if version > WAL_FORMAT:
        raise newer_format(f"WAL file {name}", version, WAL_FORMAT)
    if checksum != CHECKSUM_CRC32C:
        raise newer_format(f"the checksum of WAL file {name}", checksum, CHECKSUM_CRC32C)
    if (cluster, shard, alloc) != (identity.cluster_id, identity.shard_uuid, identity.alloc_id):
        return (
            f"it belongs to shard {shard.hex()} copy {alloc.hex()} of cluster {cluster.hex()}, "
            f"not to shard {identity.shard_uuid.hex()} copy {identity.alloc_id.hex()} "
            f"of cluster {identity.cluster_id.hex()}"
        )
    return FileHeader(lsn, epoch, link, previous, version)
