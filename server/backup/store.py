"""Where a repository lies: named objects that appear whole or not at all.

Names are made by us, never taken from outside: lower-case words, digits and hashes with slashes
between. A store knows nothing of what is in it.
"""

from __future__ import annotations

import errno
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nearql.engine.errors import InvalidRequest, NearQLError, NotFound, StorageFull, Unavailable
from nearql.engine.storage.files import is_full

CHUNK_BYTES = 1 << 20
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*")
_WORKING = ".writing"  # folder of files that are not complete yet


@dataclass(frozen=True, slots=True)
class Stored:
    """An object: its name, bytes, and when it was written, in seconds since 1970."""

    name: str
    size: int
    written_at: float


class Store(Protocol):
    """Thread-safe."""

    @property
    def location(self) -> str:
        """As people write it; without secrets."""
        ...

    def put(self, name: str, parts: Iterable[bytes | memoryview]) -> int:
        """Write an object, durable and whole when this returns its size; replaces one that is
        there. When it fails, or the process is killed, nothing of that name has changed.

        Raises:
            StorageFull, Unavailable: what the store answered.
        """
        ...

    def get(self, name: str) -> Iterator[bytes]:
        """Its bytes, in pieces.

        Raises:
            NotFound: code `no_such_object`. Unavailable: what the store answered.
        """
        ...

    def size(self, name: str) -> int | None:
        """Bytes of an object, None where there is none."""
        ...

    def list(self, prefix: str) -> list[Stored]:
        """Objects whose names begin with this folder, by name."""
        ...

    def remove(self, name: str) -> None:
        """Harmless where it is gone."""
        ...


def checked(name: str) -> str:
    """The name, if it is one of ours; AssertionError else: names are never input."""
    assert _NAME.fullmatch(name), name
    return name


def missing(name: str, location: str) -> NotFound:
    """The error for an object that is not there."""
    return NotFound(
        f"{location} has no object {name}: it was removed, or never written.",
        code="no_such_object", sqlstate="58P01",
    )  # fmt: skip


class DirectoryStore:
    """Files below a directory, which exists."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def location(self) -> str:
        """See `Store.location`."""
        return str(self._directory)

    def put(self, name: str, parts: Iterable[bytes | memoryview]) -> int:
        """See `Store.put`."""
        path = self._path(name)
        working = self._directory / _WORKING / uuid.uuid4().hex
        try:
            self._make(working.parent)
            self._make(path.parent)
            try:
                size = _write(working, parts)
                working.replace(path)
            finally:
                with suppress(FileNotFoundError):
                    working.unlink()
            _sync(path.parent)
        except OSError as error:
            raise self._failed(error, f"writing {name}") from error
        return size

    def get(self, name: str) -> Iterator[bytes]:
        """See `Store.get`."""
        try:
            handle = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise missing(name, self.location) from None
        except OSError as error:
            raise self._failed(error, f"reading {name}") from error
        with os.fdopen(handle, "rb") as file:
            while True:
                try:
                    piece = file.read(CHUNK_BYTES)
                except OSError as error:
                    raise self._failed(error, f"reading {name}") from error
                if not piece:
                    return
                yield piece

    def size(self, name: str) -> int | None:
        """See `Store.size`."""
        try:
            return self._path(name).stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed(error, f"looking for {name}") from error

    def list(self, prefix: str) -> list[Stored]:
        """See `Store.list`."""
        root = self._path(prefix)
        try:
            return sorted(self._listed(root), key=lambda stored: stored.name)
        except OSError as error:
            raise self._failed(error, f"listing {prefix}") from error

    def _listed(self, root: Path) -> Iterator[Stored]:
        for folder, _, names in os.walk(root):
            for name in names:
                path = Path(folder, name)
                with suppress(FileNotFoundError):  # removed meanwhile
                    status = path.stat(follow_symlinks=False)
                    relative = path.relative_to(self._directory).as_posix()
                    yield Stored(relative, status.st_size, status.st_mtime)

    def remove(self, name: str) -> None:
        """See `Store.remove`."""
        try:
            self._path(name).unlink(missing_ok=True)
        except OSError as error:
            raise self._failed(error, f"removing {name}") from error

    def remove_unfinished(self, older_than_s: float) -> int:
        """Remove files that a kill left half-written; how many there were."""
        folder, found = self._directory / _WORKING, 0
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > older_than_s:
                    path.unlink()
                    found += 1
        return found

    def _path(self, name: str) -> Path:
        return self._directory / checked(name)

    def _make(self, directory: Path) -> None:
        if directory.is_dir():
            return
        if directory == self._directory:  # it was taken away: what is made in its place is lost
            raise FileNotFoundError(errno.ENOENT, "the directory is gone")
        self._make(directory.parent)
        directory.mkdir(exist_ok=True)
        _sync(directory.parent)

    def _failed(self, error: OSError, what: str) -> NearQLError:
        if is_full(error):
            return StorageFull(f"No room in the repository {self.location}: {what} failed.")
        advice = ""
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            advice = " The node's user must be able to read and write there."
        return Unavailable(
            f"The repository {self.location} can't be used: {what}: {error.strerror}.{advice}",
            code="repository_unavailable",
        )


def _write(path: Path, parts: Iterable[bytes | memoryview]) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    size = 0
    with os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0) as file:
        for part in parts:
            view = memoryview(part)
            while view:
                written = file.write(view) or 0
                size += written
                view = view[written:]
        os.fsync(file.fileno())
    return size


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_all(store: Store, name: str, limit: int) -> bytes:
    """A small object's bytes.

    Raises:
        InvalidRequest: it is larger than anything of ours of this kind.
    """
    found = bytearray()
    for piece in store.get(name):
        found += piece
        if len(found) > limit:
            raise InvalidRequest(f"{store.location}: {name} is too large to be what it should be.")
    return bytes(found)
