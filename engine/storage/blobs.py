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

import errno
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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


@dataclass(frozen=True, slots=True)
class BadBlock:
    """Bytes `start` to `end - 1` of a blob that are not what was written; number -1 = all of it."""

    number: int
    start: int
    end: int

    @property
    def place(self) -> str:
        """Where it is, in words."""
        if self.number < 0:
            return "the checksum of the whole file does not fit its blocks"
        return f"block {self.number}, bytes {self.start} to {self.end}, fails its checksum"

    def error(self, path: Path) -> errors.Corruption:
        """What is raised where nothing of the file can be used."""
        return _corrupt(path, self.place)


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

    def place_of(self, name: str) -> tuple[int, int]:
        """A part's first byte in the file, and its size."""
        return self._places[name]

    def verify(self, fs: FileSystem | None = None) -> None:
        """Check every byte against its checksum.

        Raises:
            Corruption: names the file, the block and its byte range.
        """
        for block in self.bad_blocks(fs):
            raise block.error(self.path)

    def bad_blocks(
        self, fs: FileSystem | None = None, *, paced: Callable[[int], None] | None = None
    ) -> list[BadBlock]:
        """The blocks whose bytes do not fit their checksums, or that cannot be read.

        The file is read beside the mapping, block by block: verifying makes none of it resident,
        and a disk's read error is an answer, where touching the mapping would end the process.

        paced: called with the bytes of each block before they are read; may wait.
        """
        found, crc = [], 0
        with _reading(fs or LocalFileSystem(), self.path) as read:
            for number, expected in enumerate(self.info.block_crcs):
                start = number * BLOCK_BYTES
                end = min(start + BLOCK_BYTES, len(self._image))
                if paced is not None:
                    paced(end - start)
                data = read(end - start, start)
                if data is None or len(data) != end - start or crc32c(data) != expected:
                    found.append(BadBlock(number, start, end))
                else:
                    crc = crc32c(data, crc)
        if not found and crc != self.info.crc:
            return [BadBlock(-1, 0, len(self._image))]
        return found

    def close(self) -> None:
        """Drop this object's hold on the mapping; it goes when the last part in use does."""
        self._image = memoryview(b"")
        self._places = MappingProxyType({})


def write_blob(fs: FileSystem, path: Path, parts: Mapping[str, Any]) -> BlobInfo:
    """Write the parts to a new durable file.

    A part is anything with the buffer protocol, C-contiguous, whose own memory goes to the kernel;
    or an iterator of such buffers, which need not all be in memory at once.

    Raises:
        StorageFull: no room; no file is left behind.
    """
    writing = _Writing()
    write_new(fs, path, writing.file(parts))
    return BlobInfo(writing.size, writing.crc, tuple(writing.block_crcs))


class _Writing:
    """The bytes of a blob in their order, with the checksums of those that have gone by."""

    def __init__(self) -> None:
        self.crc = 0  # of all so far
        self.block_crcs: list[int] = []
        self.size = 0
        self._block = 0  # checksum of the block under way
        self._places: list[tuple[str, int, int]] = []

    def file(self, parts: Mapping[str, Any]) -> Iterator[Buffer]:
        """The whole file."""
        yield self._passed(HEAD.pack(HEAD_MAGIC, BLOB_FORMAT))
        for name, part in parts.items():
            start = self.size
            for buffer in part if isinstance(part, Iterator) else (part,):
                view = memoryview(buffer)
                yield self._passed(view.cast("B") if view.nbytes else memoryview(b""))
            self._places.append((name, start, self.size - start))
            yield self._passed(bytes(-self.size % ALIGNMENT))
        yield from self._end()

    def _passed(self, data: Buffer) -> Buffer:
        self.crc = crc32c(data, self.crc)
        view = memoryview(data)
        while view:
            filled = self.size % BLOCK_BYTES
            chunk = view[: BLOCK_BYTES - filled]
            self._block = crc32c(chunk, self._block)
            self.size += len(chunk)
            view = view[len(chunk) :]
            if self.size % BLOCK_BYTES == 0:
                self.block_crcs.append(self._block)
                self._block = 0
        return data

    def _end(self) -> Iterator[Buffer]:
        if self.size % BLOCK_BYTES:
            self.block_crcs.append(self._block)
        crcs = struct.pack(f"<{len(self.block_crcs)}I", *self.block_crcs)
        toc = msgpack.packb({"parts": self._places, "block_crcs": crcs})
        trailer = struct.pack("<QIII", self.size, len(toc), crc32c(toc), self.crc)
        trailer += struct.pack("<I8s", crc32c(trailer), TRAILER_MAGIC)
        self.size += len(toc) + len(trailer)
        yield toc
        yield trailer


@contextmanager
def _reading(fs: FileSystem, path: Path) -> Iterator[Callable[[int, int], bytes | None]]:
    """A function of size and offset that reads the file; None where the disk cannot."""
    handle = fs.open(path)

    def read(size: int, offset: int) -> bytes | None:
        try:
            return fs.pread(handle, size, offset)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return None

    try:
        yield read
    finally:
        fs.close(handle)


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
        blob.verify(fs)
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
        raise BadBlock(0, 0, HEAD.size).error(path)
    if version > BLOB_FORMAT:
        raise newer_format(str(path), version, BLOB_FORMAT)


def _places(toc: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {name: (offset, size) for name, offset, size in toc["parts"]}


def _corrupt(path: Path, what: str) -> errors.Corruption:
    return errors.Corruption(
        f"{path} is corrupt: {what}; restore this copy from a backup or another node",
        file=str(path), place=what,
    )  # fmt: skip
