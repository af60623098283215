"""Immutable files of named parts: each part aligned for zero-copy use, every byte under a checksum.

    offset 0      magic "NQBLOB\\0\\0", format version (u32), zeros up to 64
    64-aligned    the parts, one after the other, each starting at a multiple of 64
    64-aligned    table of contents: msgpack {parts: [[name, offset, size], ...],
                  block_crcs: u32 LE array}
    last 32 B     TOC offset (u64), TOC size (u32), crc32c of the TOC (u32),
                  crc32c of all before the TOC (u32), crc32c of these 20 B (u32), magic "NQBLOBED"

Invariants: the file is never written again after its rename into place; block i covers bytes
[i MiB, (i + 1) MiB) before the TOC; no part overlaps another. The first 64 B and the padding
belong to blocks too, so that a flipped bit anywhere is found and its place named.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgpack
from crc32c import crc32c

from nearql.engine import errors
from nearql.engine.storage.files import (
    Buffer,
    FileSystem,
    LocalFileSystem,
    newer_format,
    write_new,
)

ALIGNMENT = 64  # of each part: what Arrow recommends, and a cache line
BLOCK_BYTES = 1 << 20
BLOB_FORMAT = 1
HEAD = struct.Struct("<8sI52x")
TRAILER = struct.Struct("<QIIII8s")
HEAD_MAGIC = b"NQBLOB\0\0"
TRAILER_MAGIC = b"NQBLOBED"


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """What a manifest or a snapshot needs to know of a blob.

    size: bytes of the whole file. crc: crc32c of all before the table of contents.
    block_crcs: crc32c of each MiB of the same bytes.
    """

    size: int
    crc: int
    block_crcs: tuple[int, ...]


class Blob(Mapping[str, memoryview]):
    """An open blob: part name -> its bytes, read-only and zero-copy; keeps the file mapped.

    The bytes stay valid after the file is unlinked and after `close`, as long as something refers
    to them.
    """

    def __init__(
        self, path: Path, info: BlobInfo, image: memoryview, places: Mapping[str, tuple[int, int]]
    ) -> None:
        self.path = path
        self.info = info
        self._image = image
        self._places = MappingProxyType(dict(places))

    def __getitem__(self, name: str) -> memoryview:
        offset, size = self._places[name]
        return self._image[offset : offset + size]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def verify(self) -> None:
        """Check every byte against its checksum.

        Raises:
            Corruption: names the file, the block and its byte range.
        """
        crc = 0
        for block, expected in enumerate(self.info.block_crcs):
            start = block * BLOCK_BYTES
            data = self._image[start : min(start + BLOCK_BYTES, len(self._image))]
            if crc32c(data) != expected:
                raise _bad_block(self.path, block, start, start + len(data))
            crc = crc32c(data, crc)
        if crc != self.info.crc:
            raise _corrupt(self.path, "the checksum of the whole file does not fit its blocks")

    def close(self) -> None:
        """Drop this object's hold on the mapping; it goes when the last part in use does."""
        self._image = memoryview(b"")
        self._places = MappingProxyType({})


def write_blob(fs: FileSystem, path: Path, parts: Mapping[str, Any]) -> BlobInfo:
    """Write the parts (anything with the buffer protocol, C-contiguous) to a new durable file.

    Nothing is joined or copied: the parts' own memory goes to the kernel.

    Raises:
        StorageFull: no room; no file is left behind.
    """
    pieces, places = _lay_out(parts)
    crc, block_crcs = _checksums(pieces)
    toc_offset = sum(len(piece) for piece in pieces)
    toc = msgpack.packb(
        {"parts": places, "block_crcs": struct.pack(f"<{len(block_crcs)}I", *block_crcs)}
    )
    trailer = struct.pack("<QIII", toc_offset, len(toc), crc32c(toc), crc)
    trailer += struct.pack("<I8s", crc32c(trailer), TRAILER_MAGIC)
    write_new(fs, path, [*pieces, toc, trailer])
    return BlobInfo(toc_offset + len(toc) + TRAILER.size, crc, tuple(block_crcs))


def _lay_out(parts: Mapping[str, Any]) -> tuple[list[Buffer], list[tuple[str, int, int]]]:
    """The file's bytes before the table of contents, and where each part is in them."""
    pieces: list[Buffer] = [HEAD.pack(HEAD_MAGIC, BLOB_FORMAT)]
    places: list[tuple[str, int, int]] = []
    offset = HEAD.size
    for name, part in parts.items():
        view = memoryview(part)
        view = view.cast("B") if view.nbytes else memoryview(b"")
        places.append((name, offset, len(view)))
        padding = -len(view) % ALIGNMENT
        pieces += [view, bytes(padding)]
        offset += len(view) + padding
    return pieces, places


def _checksums(pieces: list[Buffer]) -> tuple[int, list[int]]:
    """crc32c of all pieces together, and of each block of them."""
    whole, block_crcs, block, filled = 0, [], 0, 0
    for piece in pieces:
        view = memoryview(piece)
        while view:
            chunk = view[: BLOCK_BYTES - filled]
            whole, block = crc32c(chunk, whole), crc32c(chunk, block)
            filled += len(chunk)
            view = view[len(chunk) :]
            if filled == BLOCK_BYTES:
                block_crcs.append(block)
                block, filled = 0, 0
    return whole, [*block_crcs, block] if filled else block_crcs


def open_blob(path: Path, *, fs: FileSystem | None = None, verify: bool = True) -> Blob:
    """Map a blob; `verify=False` checks its table of contents and leaves the rest to `Blob.verify`.

    Raises:
        Corruption: a checksum does not fit, or the file is cut short; names the place.
        Unavailable: code `newer_format`.
        FileNotFoundError: no such file.
    """
    image = (fs or LocalFileSystem()).map(path)
    info, toc_offset, toc = _read_trailer(path, image)
    blob = Blob(path, info, image[:toc_offset], _places(toc))
    if verify:
        blob.verify()
    return blob


def _read_trailer(path: Path, image: memoryview) -> tuple[BlobInfo, int, dict[str, Any]]:
    """Check head, trailer and table of contents."""
    _check_head(path, image)
    trailer = bytes(image[-TRAILER.size :])
    toc_offset, toc_size, toc_crc, crc, trailer_crc, magic = TRAILER.unpack(trailer)
    if magic != TRAILER_MAGIC or crc32c(trailer[:20]) != trailer_crc:
        raise _corrupt(path, f"its last {TRAILER.size} bytes are damaged or cut off")
    toc_bytes = image[toc_offset : toc_offset + toc_size]
    if toc_offset + toc_size + TRAILER.size != len(image) or crc32c(toc_bytes) != toc_crc:
        end = toc_offset + toc_size
        raise _corrupt(path, f"bytes {toc_offset} to {end}, the table of contents, are damaged")
    toc = msgpack.unpackb(toc_bytes)
    crcs = toc["block_crcs"]
    return BlobInfo(len(image), crc, struct.unpack(f"<{len(crcs) // 4}I", crcs)), toc_offset, toc


def _check_head(path: Path, image: memoryview) -> None:
    if len(image) < HEAD.size + TRAILER.size:
        raise _corrupt(path, f"it is cut short to {len(image)} bytes")
    magic, version = HEAD.unpack(image[: HEAD.size])
    if magic != HEAD_MAGIC:
        raise _bad_block(path, 0, 0, HEAD.size)
    if version > BLOB_FORMAT:
        raise newer_format(str(path), version, BLOB_FORMAT)


def _places(toc: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {name: (offset, size) for name, offset, size in toc["parts"]}


def _bad_block(path: Path, block: int, start: int, end: int) -> errors.Corruption:
    return _corrupt(path, f"block {block}, bytes {start} to {end}, fails its checksum")


def _corrupt(path: Path, what: str) -> errors.Corruption:
    return errors.Corruption(
        f"{path} is corrupt: {what}; restore this copy from a backup or another node",
        file=str(path),
    )
