"""The identity of one copy of a shard: who it is, whatever names and addresses change.

File `shard.meta`, written when the copy is made: a new disk has a new `alloc_id`, so it can never
pose as the old one. A replicated copy writes it anew when it promises an epoch.
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

import msgpack
from crc32c import crc32c

from nearql.engine.errors import Corruption
from nearql.engine.storage.files import FileSystem, newer_format, write_atomic
from nearql.engine.storage.wal import LogIdentity

META_FILE = "shard.meta"
META_FORMAT = 1
_CRC = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class ShardMeta:
    """cluster_id, shard_uuid, alloc_id: 16 bytes each. shard: its number in the table.

    promised_epoch: see `ShardCopy.promise`; 0 on a node alone, whose file doesn't have it.
    """

    cluster_id: bytes
    shard_uuid: bytes
    alloc_id: bytes
    shard: int
    epoch: int = 1
    promised_epoch: int = 0

    @property
    def identity(self) -> LogIdentity:
        """What the log's files carry."""
        return LogIdentity(self.cluster_id, self.shard_uuid, self.alloc_id)


def new_meta(
    cluster_id: bytes, table_uuid: str, shard: int, alloc_id: bytes | None = None
) -> ShardMeta:
    """The identity of a new copy, which was never called before what `alloc_id` says."""
    name = f"{table_uuid}/{shard}".encode()
    shard_uuid = hashlib.blake2b(name, digest_size=16).digest()
    return ShardMeta(cluster_id, shard_uuid, alloc_id or uuid.uuid4().bytes, shard)


def write_meta(fs: FileSystem, directory: Path, meta: ShardMeta) -> None:
    """Write the identity durably."""
    members = asdict(meta)
    if not meta.promised_epoch:
        del members["promised_epoch"]
    payload = msgpack.packb({"format": META_FORMAT, **members})
    write_atomic(fs, directory / META_FILE, payload + _CRC.pack(crc32c(payload)))


def read_meta(fs: FileSystem, directory: Path) -> ShardMeta | None:
    """The identity, or None if the making of this copy was broken off.

    Raises:
        Corruption: names the file.
        Unavailable: code `newer_format`.
    """
    path = directory / META_FILE
    if not fs.exists(path):
        return None
    image = bytes(fs.map(path))
    payload = image[: -_CRC.size]
    if len(image) < _CRC.size or _CRC.unpack(image[-_CRC.size :])[0] != crc32c(payload):
        raise Corruption(
            f"{path} is corrupt: its checksum does not fit; restore this copy from a backup or "
            "another node.",
            file=str(path),
        )
    members = msgpack.unpackb(payload)
    if (found := members.pop("format")) > META_FORMAT:
        raise newer_format(str(path), found, META_FORMAT)
    return ShardMeta(**members)
