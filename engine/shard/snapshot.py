"""What a snapshot of a shard consists of: immutable files, and where in the log they stand."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field

import msgpack

from nearql.engine.errors import Corruption
from nearql.engine.storage.wal_raw import LogEnd

PIECE_BYTES = 1 << 20  # what one checksum of a file is for, and the least that is sent of it


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """One immutable file. sha256: 32 bytes. crcs: crc32c of each MiB, the last piece shorter."""

    name: str
    size: int
    sha256: bytes
    crcs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SnapshotManifest:
    """A shard's state at LSN `end.lsn`, as files.

    epochs: of the log up to there, as `ShardCopy.epochs`. state: the checkpoint's manifest in
    bytes, for the copy that takes it: segments, schema version, which file has the dedup table.
    """

    snapshot_id: str
    shard_uuid: bytes
    end: LogEnd
    epochs: tuple[tuple[int, int], ...]
    files: tuple[SnapshotFile, ...]
    state: bytes = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def pack(self) -> bytes:
        """As a message carries it (msgpack)."""
        return bytes(msgpack.packb(astuple(self)))

    @classmethod
    def unpack(cls, data: bytes | memoryview) -> SnapshotManifest:
        """What `pack` made.

        Raises:
            Corruption: other bytes.
        """
        try:
            name, shard_uuid, end, epochs, files, state = msgpack.unpackb(data, use_list=False)
            listed = tuple(SnapshotFile(*file) for file in files)
            return cls(name, shard_uuid, LogEnd(*end), epochs, listed, state)
        except (ValueError, TypeError) as error:
            raise Corruption(f"The manifest of a snapshot is damaged: {error}.") from error
