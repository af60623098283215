"""Files of COPY: below one directory that the node's operator names, and nowhere else.

A path is walked a name at a time from that directory, each step by `openat` with O_NOFOLLOW, so
that no symbolic link, `..` or absolute path leads out, whatever is renamed meanwhile. A file that
is written takes its name when it is complete and on disk, in one step; until then it has a name of
its own, which goes with an error.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from nearql.engine.errors import InvalidRequest, NotFound, StorageFull, Unsupported

LONGEST_NAME = 200  # bytes: a temporary name is a little longer than its file's
_STEPS = 16  # folders below the directory


@contextmanager
def reading(root: str | None, path: str) -> Iterator[BinaryIO]:
    """An existing file below the directory.

    Raises:
        Unsupported: code `copy_disabled`; no directory is configured.
        InvalidRequest: code `invalid_path`. NotFound: code `undefined_file`.
    """
    with _folder(root, path) as (folder, name):
        try:
            handle = os.open(
                name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder
            )
        except OSError as error:
            raise _told(error, path) from error
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise _invalid(path, "is no file")
        with os.fdopen(handle, "rb") as file:
            yield file


@contextmanager
def writing(root: str | None, path: str) -> Iterator[BinaryIO]:
    """A file below the directory, in the place of one that is there; all of it or nothing."""
    with _folder(root, path) as (folder, name):
        temporary = f".{name}.{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            _check_replaced(folder, name, path)
            handle = os.open(temporary, flags, 0o640, dir_fd=folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    yield file
                    file.flush()
                    os.fsync(handle)
                os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                os.unlink(temporary, dir_fd=folder)
                raise
            os.fsync(folder)
        except OSError as error:
            raise _told(error, path) from error


def _check_replaced(folder: int, name: str, path: str) -> None:
    """Only a file is replaced, never a link, a folder or a device."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise _invalid(path, "is there and no file")


@contextmanager
def _folder(root: str | None, path: str) -> Iterator[tuple[int, str]]:
    """(open folder, the file's name in it)."""
    if not root:
        raise Unsupported(
            "COPY is off: the node's setting node.copy_dir names no directory. Send rows to POST "
            "/v1/tables/{table}/rows or run `nearql load`; to export, SELECT as an Arrow stream.",
            code="copy_disabled",
        )
    *folders, name = _names(path)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        folder = os.open(root, flags)
    except OSError as error:
        raise NotFound(
            "The directory of node.copy_dir can't be opened.", code="undefined_file"
        ) from error
    try:
        for one in folders:
            try:
                inner = os.open(one, flags | os.O_NOFOLLOW, dir_fd=folder)
            except OSError as error:
                raise _told(error, path) from error
            os.close(folder)
            folder = inner
        yield folder, name
    finally:
        os.close(folder)


def _names(path: str) -> list[str]:
    if path.startswith("/"):
        raise _invalid(path, "must be relative: it is looked for below node.copy_dir")
    names = path.split("/")
    if any(name in ("", ".", "..") or name.startswith(".") for name in names):
        raise _invalid(path, "must not have empty names, nor names that begin with a dot")
    if any(character < " " for character in path):
        raise _invalid(path, "must not have control characters")
    if any(len(name.encode()) > LONGEST_NAME for name in names):
        raise _invalid(path, f"must have names of at most {LONGEST_NAME} bytes")
    if len(names) > _STEPS:
        raise _invalid(path, f"must lead through at most {_STEPS - 1} folders")
    return names


def _invalid(path: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"The path {path[:80]!r} {what}.", code="invalid_path", sqlstate="22023")


def _told(error: OSError, path: str) -> Exception:
    if error.errno in (errno.ENOENT, errno.ENXIO):
        return NotFound(f"There is no file {path!r} below node.copy_dir.", code="undefined_file")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"The disk of node.copy_dir is full; {path!r} was not written.")
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR):
        return _invalid(path, "leads through something that is no folder, or a link")
    return _invalid(path, f"can't be opened: {os.strerror(error.errno or 0)}")
