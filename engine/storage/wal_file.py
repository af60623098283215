"""The WAL file that takes new records: its room on the disk grows ahead of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from nearql.engine.settings import MIB
from nearql.engine.storage.files import TEMPORARY_SUFFIX, Buffer, FileSystem, is_full
from nearql.engine.storage.wal_format import FILE_HEADER_BYTES, FileHeader, LogIdentity

FIRST_ALLOCATION = MIB  # doubled as the file grows, so that a small table takes little disk
WAL_SUFFIX = ".wal"


def file_name(base_lsn: int) -> str:
    """The name of the WAL file that begins with this LSN; names sort like LSNs."""
    return f"{base_lsn:020d}{WAL_SUFFIX}"


@dataclass(frozen=True, slots=True)
class WalFile:
    """A file of the log and its header."""

    path: Path
    header: FileHeader

    @property
    def base_lsn(self) -> int:
        """LSN of its first record."""
        return self.header.base_lsn


class ActiveFile:
    """Room for records, and how they get to the disk. Not thread-safe; errors are `OSError`.

    Invariants: FILE_HEADER_BYTES <= end_offset <= allocated; bytes from end_offset on are zeros;
    the file is open while given-out room is not yet synced.
    """

    def __init__(
        self, fs: FileSystem, file: WalFile, *, limit: int, allocated: int, end_offset: int
    ) -> None:
        """`limit`: bytes that the file may have, unless its only record needs more."""
        self.file = file
        self.allocated = allocated
        self.end_offset = end_offset
        self._fs = fs
        self._limit = limit
        self._handle: int | None = None

    def fits(self, size: int) -> bool:
        """Whether a record of `size` bytes may go here; an empty file takes one of any size."""
        empty = self.end_offset == FILE_HEADER_BYTES
        return empty or self.end_offset + size <= self._limit

    def reserve(self, size: int) -> bool:
        """Give the next `size` bytes away; False where they must go into a new file."""
        if not self.fits(size):
            return False
        self._open()
        if self.end_offset + size > self.allocated:
            self._grow(self.end_offset + size)
        self.end_offset += size
        return True

    def give_back(self, size: int) -> None:
        """The last `size` bytes that were given away will not be written."""
        self.end_offset -= size

    def _grow(self, needed: int) -> None:
        """Double the file; where the disk has no room for that take just what is needed."""
        wanted = min(max(2 * self.allocated, FIRST_ALLOCATION), self._limit)
        if wanted > needed:
            try:
                self._allocate(wanted)
                return
            except OSError as error:
                if not is_full(error):
                    raise
        self._allocate(needed)

    def _allocate(self, size: int) -> None:
        self._fs.allocate(self._open(), size)
        self.allocated = size

    def _open(self) -> int:
        if self._handle is None:
            self._handle = self._fs.open(self.file.path)
        return self._handle

    def write(self, buffers: Sequence[Buffer], offset: int) -> None:
        """Write into room that was given out before, and sync it."""
        self._fs.pwritev(self._open(), buffers, offset)
        self._fs.fdatasync(self._open())

    def cut(self) -> None:
        """Drop what stands after the last record, durably: it must never follow a later one."""
        self._fs.truncate(self._open(), self.end_offset)
        self._fs.fdatasync(self._open())
        self.allocated = self.end_offset

    def seal(self) -> None:
        """No more records come: give unused room back, on disk and in memory. Need not be durable.

        Sealed files are read by recovery and catch-up only, and a load would fill memory with them.
        """
        self._fs.truncate(self._open(), self.end_offset)
        self._fs.drop_cache(self._open())
        self.allocated = self.end_offset
        self.release()

    def release(self) -> None:
        """Close the file until the next `reserve`, so that an idle log holds no handle."""
        if self._handle is not None:
            self._fs.close(self._handle)
            self._handle = None


def make_file(
    fs: FileSystem,
    directory: Path,
    header: FileHeader,
    identity: LogIdentity,
    *,
    limit: int,
    allocation: int = FIRST_ALLOCATION,
    records: Iterable[Buffer] = (),
) -> ActiveFile:
    """Write the file that begins with `header.base_lsn`, synced, but not under its name yet.

    allocation: bytes to pre-allocate. records: bytes of records that it starts with.
    """
    path = directory / file_name(header.base_lsn)
    temporary = _temporary(path)
    fs.unlink(temporary)
    try:
        chunks = chain([header.pack(identity)], records)
        end_offset, allocated = _fill(fs, temporary, chunks, min(allocation, limit))
    except OSError:
        fs.unlink(temporary)
        raise
    file = WalFile(path, header)
    return ActiveFile(fs, file, limit=limit, allocated=allocated, end_offset=end_offset)


def publish_file(fs: FileSystem, file: WalFile) -> None:
    """Make a file part of the log, durably, in place of one of the same name."""
    fs.rename(_temporary(file.path), file.path)
    fs.sync_directory(file.path.parent)


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + TEMPORARY_SUFFIX)


def _fill(fs: FileSystem, path: Path, chunks: Iterable[Buffer], size: int) -> tuple[int, int]:
    """Write a new file of at least `size` bytes and sync it; where the chunks end, and its size."""
    handle = fs.open(path, create=True)
    try:
        offset = 0
        for chunk in chunks:
            fs.pwritev(handle, [chunk], offset)
            offset += len(chunk)
        allocated = max(size, offset)
        fs.allocate(handle, allocated)
        fs.fdatasync(handle)
        return offset, allocated
    finally:
        fs.close(handle)
