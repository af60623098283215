"""The few file operations that durable data needs, and the two guards of a data directory.

`FileSystem` is all that the WAL, the manifest and the blobs know of a disk, so that a simulator or
a test can stand in for it and lose power, tear a write or fail an fsync. File handles are integers.

Two rules hold everywhere above it:
- a file becomes visible under its final name only when its bytes are durable: write a `.tmp`, fsync
  it, rename it, fsync the directory (`write_atomic`);
- a failed fsync is never retried: the kernel may have dropped the pages and report success the
  second time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import mmap
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from nearql.engine import errors

Buffer = bytes | bytearray | memoryview

FORMAT_FILE = "FORMAT"
LOCK_FILE = "LOCK"
BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")
TEMPORARY_SUFFIX = ".tmp"
DATA_FORMAT = 1  # the newest layout of a data directory that this version reads and writes
IOV_MAX = 1024  # buffers per pwritev that every Linux takes
_GROUP_BYTES = 8 << 20  # of a new file that are handed to the kernel at once


class FileSystem(Protocol):
    """The disk, as the storage layer sees it. Errors are `OSError`, as the kernel gives them."""

    def open(self, path: Path, *, create: bool = False) -> int:
        """Open for reading and writing; `create` makes a new file and fails where one exists."""
        ...

    def close(self, handle: int) -> None:
        """Close without syncing."""
        ...

    def pread(self, handle: int, size: int, offset: int) -> bytes:
        """Up to `size` bytes; fewer only at the end of the file."""
        ...

    def pwritev(self, handle: int, buffers: Sequence[Buffer], offset: int) -> None:
        """Write all buffers one after the other, or raise."""
        ...

    def fdatasync(self, handle: int) -> None:
        """Make the file's bytes and its length durable."""
        ...

    def drop_cache(self, handle: int) -> None:
        """The file's bytes, all synced, will hardly be read: their memory is better used."""
        ...

    def allocate(self, handle: int, size: int) -> None:
        """Grow the file to `size` bytes that read as zeros and have their place on the disk."""
        ...

    def truncate(self, handle: int, size: int) -> None:
        """Cut the file to `size` bytes."""
        ...

    def map(self, path: Path) -> memoryview:
        """The file's bytes, read-only, without copying where the system can; empty files too."""
        ...

    def size(self, path: Path) -> int:
        """Length in bytes."""
        ...

    def exists(self, path: Path) -> bool:
        """Whether a file or directory has this name."""
        ...

    def names(self, directory: Path) -> list[str]:
        """Sorted names in a directory; empty where it does not exist."""
        ...

    def make_directory(self, directory: Path) -> None:
        """Create it and its parents, durably; no error where it exists."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Replace `target`; durable after `sync_directory`."""
        ...

    def unlink(self, path: Path) -> None:
        """Remove a file; no error where it is gone."""
        ...

    def sync_directory(self, directory: Path) -> None:
        """Make creations, renames and removals in it durable."""
        ...

    def free_bytes(self, directory: Path) -> int:
        """Bytes that this process may still write on the directory's device."""
        ...

    def boot_id(self) -> bytes:
        """16 bytes that change when the machine restarts; zeros where it cannot be known."""
        ...


class LocalFileSystem:
    """The machine's own disk."""

    def open(self, path: Path, *, create: bool = False) -> int:
        """See `FileSystem.open`."""
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if create else 0)
        return os.open(path, flags, 0o600)

    def close(self, handle: int) -> None:
        """See `FileSystem.close`."""
        os.close(handle)

    def pread(self, handle: int, size: int, offset: int) -> bytes:
        """See `FileSystem.pread`."""
        data = os.pread(handle, size, offset)
        if len(data) == size or not data:
            return data
        return data + self.pread(handle, size - len(data), offset + len(data))

    def pwritev(self, handle: int, buffers: Sequence[Buffer], offset: int) -> None:
        """See `FileSystem.pwritev`."""
        pending = [view for view in (memoryview(b).cast("B") for b in buffers if len(b)) if view]
        first = 0
        while first < len(pending):
            written = os.pwritev(handle, pending[first : first + IOV_MAX], offset)
            if written == 0:
                raise OSError(errno.EIO, "pwritev wrote nothing")
            offset += written
            while first < len(pending) and written >= len(pending[first]):
                written -= len(pending[first])
                first += 1
            if written:
                pending[first] = pending[first][written:]

    def fdatasync(self, handle: int) -> None:
        """See `FileSystem.fdatasync`."""
        os.fdatasync(handle)

    def drop_cache(self, handle: int) -> None:
        """See `FileSystem.drop_cache`."""
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)

    def allocate(self, handle: int, size: int) -> None:
        """See `FileSystem.allocate`."""
        os.posix_fallocate(handle, 0, size)

    def truncate(self, handle: int, size: int) -> None:
        """See `FileSystem.truncate`."""
        os.ftruncate(handle, size)

    def map(self, path: Path) -> memoryview:
        """See `FileSystem.map`."""
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.fstat(handle).st_size == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(handle, 0, prot=mmap.PROT_READ))
        finally:
            os.close(handle)

    def size(self, path: Path) -> int:
        """See `FileSystem.size`."""
        return path.stat().st_size

    def exists(self, path: Path) -> bool:
        """See `FileSystem.exists`."""
        return path.exists()

    def names(self, directory: Path) -> list[str]:
        """See `FileSystem.names`."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(os.listdir(directory))
        return []

    def make_directory(self, directory: Path) -> None:
        """See `FileSystem.make_directory`."""
        missing = [p for p in (directory, *directory.parents) if not p.exists()]
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            self.sync_directory(path.parent)

    def rename(self, source: Path, target: Path) -> None:
        """See `FileSystem.rename`."""
        source.replace(target)

    def unlink(self, path: Path) -> None:
        """See `FileSystem.unlink`."""
        path.unlink(missing_ok=True)

    def sync_directory(self, directory: Path) -> None:
        """See `FileSystem.sync_directory`."""
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def free_bytes(self, directory: Path) -> int:
        """See `FileSystem.free_bytes`."""
        status = os.statvfs(directory)
        return status.f_bavail * status.f_frsize

    def boot_id(self) -> bytes:
        """See `FileSystem.boot_id`."""
        try:
            return uuid.UUID(BOOT_ID_FILE.read_text().strip()).bytes
        except (OSError, ValueError):
            return bytes(16)


def is_full(error: OSError) -> bool:
    """Whether the disk, or the user's share of it, is used up."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def storage_full(path: Path, need: str) -> errors.StorageFull:
    """The error for a disk without room for `need`."""
    return errors.StorageFull(
        f"no space left on the device of {path} for {need}: nothing was written; "
        "free some space or move the data directory to a larger disk"
    )


def disk_error(path: Path, error: OSError, need: str) -> errors.NearQLError:
    """What an `OSError` from the disk is for the user: full, or unusable for another reason."""
    if is_full(error):
        return storage_full(path, need)
    return errors.Unavailable(f"the disk cannot take {need}: {error} ({path})", code="disk_error")


def write_new(fs: FileSystem, path: Path, buffers: Iterable[Buffer]) -> None:
    """Write a file so that after a crash it is whole or absent; replaces an existing one.

    The buffers are asked for as they are written: they need not all be in memory at once.

    Raises:
        StorageFull: no room; what was there before still is.
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    fs.unlink(temporary)
    try:
        _write_synced(fs, temporary, buffers)
    except Exception as error:
        fs.unlink(temporary)
        if isinstance(error, OSError) and is_full(error):
            raise storage_full(path, "this file") from error
        raise
    fs.rename(temporary, path)
    fs.sync_directory(path.parent)


def _write_synced(fs: FileSystem, path: Path, buffers: Iterable[Buffer]) -> None:
    handle = fs.open(path, create=True)
    try:
        offset = 0
        for group in _groups(buffers):
            fs.pwritev(handle, group, offset)
            offset += sum(len(buffer) for buffer in group)
            # Not only at the end: a log's sync waits for what other files have left to write.
            fs.fdatasync(handle)
    finally:
        fs.close(handle)


def _groups(buffers: Iterable[Buffer]) -> Iterator[list[Buffer]]:
    """The buffers in runs of at most `_GROUP_BYTES`: one write each."""
    group: list[Buffer] = []
    room = _GROUP_BYTES
    for buffer in buffers:
        view = memoryview(buffer)
        while len(view) >= room:
            yield [*group, view[:room]]
            view, group, room = view[room:], [], _GROUP_BYTES
        group.append(view)
        room -= len(view)
    if group:
        yield group


def write_atomic(fs: FileSystem, path: Path, data: bytes) -> None:
    """Replace a small file: after a crash it has either its old or its new contents."""
    write_new(fs, path, [data])


def remove_temporaries(fs: FileSystem, directory: Path) -> None:
    """Drop files that a crash left half-written."""
    for name in fs.names(directory):
        if name.endswith(TEMPORARY_SUFFIX):
            fs.unlink(directory / name)


class DirectoryLock:
    """Keeps other processes out of a data directory while this object holds it.

    The kernel drops the lock with the process, however it dies: a stale LOCK file never blocks.
    """

    def __init__(self, directory: Path) -> None:
        """Take the lock.

        Raises:
            Unavailable: code `data_dir_in_use`; another process, or part of this one, has it.
        """
        self._path = directory / LOCK_FILE
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(self._handle)
            os.close(self._handle)
            self._handle = -1
            if error.errno != errno.EWOULDBLOCK:
                raise
            raise errors.Unavailable(
                f"data directory {directory} is {_in_use(holder)}", code="data_dir_in_use"
            ) from error
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Let the directory go; harmless when repeated."""
        if self._handle >= 0:
            os.ftruncate(self._handle, 0)
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> DirectoryLock:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _in_use(holder: str) -> str:
    if holder == f"pid {os.getpid()}":
        return "open in this process already: use that connection, or close it first"
    return (
        f"in use by another process ({holder}): stop it first, or give this one a directory of "
        "its own"
    )


def _holder(handle: int) -> str:
    """Who wrote the LOCK file, in words."""
    text = os.pread(handle, 32, 0).decode(errors="replace").strip()
    return f"pid {text}" if text.isdecimal() else "pid unknown"


def ensure_format(fs: FileSystem, directory: Path) -> dict[str, Any]:
    """Read the marker that says how a data directory is laid out, or write it into a new one.

    Returns the marker's members, at least `format`.

    Raises:
        Unavailable: code `newer_format`; a later version wrote this directory. Nothing was touched.
        Unavailable: code `not_a_data_directory`; it holds files but no marker.
        Corruption: the marker is not what this or a later version writes.
    """
    path = directory / FORMAT_FILE
    if fs.exists(path):
        return _read_format(fs, path)
    strangers = [n for n in fs.names(directory) if n != "lost+found" and not _expected(n)]
    if strangers:
        raise errors.Unavailable(
            f"{directory} is not a NearQL data directory: it has no {FORMAT_FILE} file, but holds "
            f"{strangers[0]!r}; give an empty directory",
            code="not_a_data_directory",
        )
    marker = {"format": DATA_FORMAT}
    write_atomic(fs, path, json.dumps(marker).encode() + b"\n")
    return marker


def _expected(name: str) -> bool:
    return name in (LOCK_FILE, FORMAT_FILE) or name.endswith(TEMPORARY_SUFFIX)


def _read_format(fs: FileSystem, path: Path) -> dict[str, Any]:
    try:
        marker = json.loads(bytes(fs.map(path)))
        found = int(marker["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise errors.Corruption(
            f'{path} is damaged: it should be JSON with a member "format"; restore it from a '
            f'backup, or write {{"format": {DATA_FORMAT}}} if this version wrote the directory'
        ) from error
    if found > DATA_FORMAT:
        raise newer_format(f"data directory {path.parent}", found, DATA_FORMAT)
    return dict(marker)


def newer_format(what: str, found: int, known: int) -> errors.Unavailable:
    """The error for data that a later version wrote; nothing of it was touched."""
    return errors.Unavailable(
        f"{what} has format {found}, this version reads up to {known}: upgrade NearQL",
        code="newer_format",
    )
