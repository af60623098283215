"""Files with secrets, read again when they change: key sets, keys, certificates.

A file that can't be read or doesn't hold what it should is refused at start; later, what was read
last stays in force and the log says so: a typing mistake must not lock everybody out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from nearql.engine.errors import NearQLError

log = structlog.get_logger("nearql.files")

T = TypeVar("T")
CHECK_EVERY_S = 0.5

Stamp = tuple[int, int, int]  # inode, size, modification time in nanoseconds


class WatchedFile(Generic[T]):
    """The parsed content of a file. Thread-safe; reading it costs a look at the clock.

    Args:
        parse: makes the content of bytes, or raises a NearQLError that names what is wrong.
    """

    def __init__(
        self, path: Path, parse: Callable[[bytes], T], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.path = path
        self._parse = parse
        self._clock = clock
        self._lock = threading.Lock()
        self._stamp = _stamp(path)
        self._checked = clock()
        self.version = 1
        self._content = parse(path.read_bytes())

    def get(self) -> T:
        """What the file holds, at most CHECK_EVERY_S ago."""
        now = self._clock()
        if now - self._checked >= CHECK_EVERY_S:
            with self._lock:
                if now - self._checked >= CHECK_EVERY_S:
                    self._checked = now
                    self._refresh()
        return self._content

    def _refresh(self) -> None:
        try:
            stamp = _stamp(self.path)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            self._content = self._parse(self.path.read_bytes())
        except (OSError, NearQLError) as error:
            reason = error.detail if isinstance(error, NearQLError) else error.strerror
            log.error("file_not_reloaded", path=str(self.path), reason=reason)
            return
        self.version += 1
        log.info("file_reloaded", path=str(self.path))


def _stamp(path: Path) -> Stamp:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
