"""The manifest of a shard: which files are live, and up to which LSN they hold the log.

One small file, replaced as a whole (`write_atomic`): a crash leaves the old or the new one. The
order of a checkpoint is: write the new immutable files, write the manifest that names them, then
remove what it no longer names. A file that no manifest names is an orphan of a crash and may go.

    magic "NQMANIF\\0", version (u32), payload size (u32), msgpack payload, crc32c of all before
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgpack
from crc32c import crc32c

from nearql.engine import errors
from nearql.engine.storage.files import FileSystem, newer_format, write_atomic

MANIFEST_FILE = "MANIFEST"
MANIFEST_FORMAT = 1
MAGIC = b"NQMANIF\0"
HEAD = struct.Struct("<8sII")
CRC = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class SegmentEntry:
    """One live segment.

    file: its blob. tombstones: blob of its deleted rows, None where none are.
    first_row, rows: it covers row numbers [first_row, first_row + rows).
    size, crc: of the blob, so that a swapped or stale file is noticed.
    """

    file: str
    first_row: int
    rows: int
    size: int
    crc: int
    tombstones: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """State of a shard's files.

    flushed_lsn: the segments hold every record up to this LSN; replay starts after it.
    next_row: row number that the next row version gets when replay starts.
    segments: in the order of their rows, which do not overlap.
    dedup: file with the remembered request ids, None before the first.
    extra: members that the shard adds (msgpack types).
    """

    shard_uuid: bytes
    flushed_lsn: int = 0
    epoch: int = 0
    next_row: int = 0
    schema_version: int = 0
    dedup: str | None = None
    segments: tuple[SegmentEntry, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    def files(self) -> Iterator[str]:
        """Names of every file that this manifest keeps alive."""
        for segment in self.segments:
            yield segment.file
            if segment.tombstones is not None:
                yield segment.tombstones
        if self.dedup is not None:
            yield self.dedup

    def check_invariants(self) -> None:
        """Raise AssertionError where the manifest contradicts itself."""
        names = list(self.files())
        assert len(names) == len(set(names)), "a file is named twice"
        assert all(Path(name).name == name for name in names), "a file is outside the directory"
        end = 0
        for segment in self.segments:
            assert segment.rows > 0
            assert segment.first_row >= end, "segments overlap or are out of order"
            end = segment.first_row + segment.rows
        assert end <= self.next_row, "a segment has rows that were never numbered"


def write_manifest(fs: FileSystem, directory: Path, manifest: Manifest) -> None:
    """Replace the manifest durably; the files it names must be durable already.

    Raises:
        StorageFull: the old manifest still stands.
    """
    manifest.check_invariants()
    payload = msgpack.packb(asdict(manifest))
    body = HEAD.pack(MAGIC, MANIFEST_FORMAT, len(payload)) + payload
    write_atomic(fs, directory / MANIFEST_FILE, body + CRC.pack(crc32c(body)))


def read_manifest(fs: FileSystem, directory: Path) -> Manifest | None:
    """The shard's manifest; None where none was ever written.

    Raises:
        Corruption: names the file.
        Unavailable: code `newer_format`; nothing was touched.
    """
    path = directory / MANIFEST_FILE
    if not fs.exists(path):
        return None
    image = bytes(fs.map(path))
    if len(image) < HEAD.size + CRC.size or image[: len(MAGIC)] != MAGIC:
        raise _corrupt(path, f"it is not a manifest ({len(image)} bytes)")
    if CRC.unpack(image[-CRC.size :])[0] != crc32c(image[: -CRC.size]):
        raise _corrupt(path, "its checksum does not fit")
    _, version, size = HEAD.unpack(image[: HEAD.size])
    if version > MANIFEST_FORMAT:
        raise newer_format(str(path), version, MANIFEST_FORMAT)
    if HEAD.size + size + CRC.size != len(image):
        raise _corrupt(path, "its length does not fit")
    return unpack_manifest(msgpack.unpackb(image[HEAD.size : -CRC.size], strict_map_key=False))


def unpack_manifest(members: dict[str, Any]) -> Manifest:
    """From what `asdict` made of it."""
    segments = tuple(SegmentEntry(**segment) for segment in members.pop("segments"))
    return Manifest(segments=segments, **members)


def _corrupt(path: Path, what: str) -> errors.Corruption:
    return errors.Corruption(
        f"{path} is corrupt: {what}; restore this copy from a backup or another node",
        file=str(path),
    )
