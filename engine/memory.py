"""The node's memory budget: what keeps a node from being killed for taking too much.

What counts is memory that the kernel cannot take back: anonymous pages, whoever asked for them
(growing segments, batches on their way, caches, indexes, DuckDB, the interpreter). Sealed segments
are mapped files and don't count: under pressure the kernel drops their pages and reads them again.
Counting by the process's own pages rather than by bookkeeping leaves nobody out.

    0 ........ used ........ + reserved ........ limit ... + 1/8 ........ the machine's or cgroup's
               |             |                   |         |
               by the kernel work under way      writes    reads are refused

Whoever is about to take a lot reserves it first. Where that does not fit, relief is asked for
(caches are emptied, unflushed segments become files) and waited for a while; then the work is
refused with 429, before anything of it was done.
"""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from resource import getpagesize

import pyarrow as pa

from nearql.engine.deadline import Deadline
from nearql.engine.errors import Overloaded

logger = logging.getLogger(__name__)

_STATM = Path("/proc/self/statm")
_PATIENCE_S = 5.0  # how long work waits for room, if its own deadline is not earlier
_POLL_S = 0.05
_FRESH_S = 0.02  # a measurement is as good as new for so long
_RELIEF_S = 0.5  # between two reliefs


def anonymous_bytes() -> int:
    """Memory of this process that is not of files; 0 where the system doesn't tell."""
    try:
        fields = _STATM.read_text().split()
    except OSError:
        return 0
    return (int(fields[1]) - int(fields[2])) * getpagesize()


class MemoryBudget:
    """Thread-safe. waits, refusals: since the start."""

    def __init__(
        self, limit_bytes: int, measure: Callable[[], int] = anonymous_bytes,
        *, patience_s: float = _PATIENCE_S,
    ) -> None:  # fmt: skip
        self.limit_bytes = limit_bytes
        self.waits = 0
        self.refusals = 0
        self._measure = measure
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._left = threading.Condition(self._lock)
        self._reserved = 0
        self._reliefs: dict[object, Callable[[], None]] = {}
        self._measured = (0.0, 0)  # when, bytes
        self._relieved_at = 0.0

    @property
    def used_bytes(self) -> int:
        """What the process takes now, measured a moment ago at most."""
        when, found = self._measured
        now = time.monotonic()
        if now - when > _FRESH_S:
            found = self._measure()
            self._measured = now, found
        return found

    @property
    def reserved_bytes(self) -> int:
        """What work under way was promised."""
        return self._reserved

    @contextmanager
    def reserved(self, nbytes: int, what: str, deadline: Deadline) -> Iterator[None]:
        """Take memory for the time of a block; waits for room for a while.

        Raises:
            Overloaded: code `memory_limit_reached`; there was none. Nothing was done.
        """
        if not self._take(nbytes):
            self._wait(lambda: self._take(nbytes), nbytes, what, deadline)
        try:
            yield
        finally:
            self._give(nbytes)

    @contextmanager
    def awaited(self, nbytes: int, check: Callable[[], None]) -> Iterator[None]:
        """As `reserved`, for work that nobody waits for: it waits for room as long as it takes.

        check: called again and again meanwhile; what it raises ends the waiting.
        """
        if not self._take(nbytes):
            self.waits += 1
            self._relieve()
            while not self._take(nbytes):
                check()
                with self._left:
                    self._left.wait(_POLL_S)
        try:
            yield
        finally:
            self._give(nbytes)

    def check(self, nbytes: int, what: str) -> None:
        """Let a read of about so many bytes begin; reads may go beyond the limit by an eighth.

        Raises:
            Overloaded: code `memory_limit_reached`.
        """
        if not self._readable(nbytes):
            self._wait(lambda: self._readable(nbytes), nbytes, what, Deadline(None))

    def on_pressure(self, owner: object, relief: Callable[[], None]) -> None:
        """Have this called when memory is short; it must return soon."""
        with self._lock:
            self._reliefs[owner] = relief

    def forget(self, owner: object) -> None:
        """Take `on_pressure` back."""
        with self._lock:
            self._reliefs.pop(owner, None)

    def _take(self, nbytes: int) -> bool:
        used = self.used_bytes
        with self._lock:
            if used + self._reserved + nbytes > self.limit_bytes:
                return False
            self._reserved += nbytes
            return True

    def _give(self, nbytes: int) -> None:
        with self._left:
            self._reserved -= nbytes
            self._left.notify_all()

    def _readable(self, nbytes: int) -> bool:
        return self.used_bytes + nbytes <= self.limit_bytes + self.limit_bytes // 8

    def _wait(self, fits: Callable[[], bool], nbytes: int, what: str, deadline: Deadline) -> None:
        self.waits += 1
        left = deadline.left_s
        until = time.monotonic() + min(self._patience_s, left if left >= 0 else self._patience_s)
        while True:
            self._relieve()
            if fits():
                return
            if time.monotonic() >= until:
                break
            with self._left:  # others' promises end with a notice, the kernel's count without
                self._left.wait(_POLL_S)
        self.refusals += 1
        raise Overloaded(
            f"{what} needs about {nbytes} bytes of memory; {self.used_bytes} are in use, "
            f"{self._reserved} promised, and the limit is {self.limit_bytes} "
            "(engine.memory_limit). Try again shortly, or send less at once.",
            code="memory_limit_reached",
        )

    def _relieve(self) -> None:
        with self._lock:
            now = time.monotonic()
            if now - self._relieved_at < _RELIEF_S:
                return
            self._relieved_at = now
            reliefs = list(self._reliefs.values())
        for relief in reliefs:
            relief()
        release_unused()
        self._measured = (0.0, 0)


def release_unused() -> None:
    """Give back to the system what allocators keep for later."""
    pa.default_memory_pool().release_unused()
    if _malloc_trim is not None:
        _malloc_trim(0)


def _find_malloc_trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # not the GNU library
        return None
    return found


_malloc_trim = _find_malloc_trim()
