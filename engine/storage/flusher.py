"""The threads that make logs durable: a few per process, shared by all tables.

A log asks to be flushed when it has something pending. What is appended while a group is being
synced makes up the next group. There are several threads so that a table's large group does not
hold up the others' small ones; a log itself lets one of them in at a time.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol

logger = logging.getLogger(__name__)

THREADS = 4
HINT_SECONDS = 1.0


class Flushable(Protocol):
    """A log, as its flusher sees it."""

    def flush_group(self) -> bool:
        """Make one group durable; whether more is pending."""
        ...

    def write_hint(self) -> None:
        """Note how far the log is durable."""
        ...

    def fail(self, reason: str) -> None:
        """Never acknowledge anything again."""
        ...


class Flusher:
    """Runs `flush_group` of the logs that ask for it, and `write_hint` within a second of that."""

    def __init__(self, threads: int = THREADS, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = threads
        self._clock = clock
        self._queue: queue.SimpleQueue[Flushable | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._busy = 0
        self._hints_due: dict[Flushable, float] = {}

    def schedule(self, log: Flushable) -> None:
        """Flush this log soon, until `flush_group` returns False."""
        with self._lock:
            self._busy += 1
            if self._busy > len(self._threads) < self._limit:
                self._start_thread()
        self._queue.put(log)

    def forget(self, log: Flushable) -> None:
        """No more hints for this log."""
        with self._lock:
            self._hints_due.pop(log, None)

    def stop(self) -> None:
        """End the threads after what is queued; for tests."""
        with self._lock:
            threads, self._threads = self._threads, []
        for _ in threads:
            self._queue.put(None)
        for thread in threads:
            thread.join()

    def _start_thread(self) -> None:
        name = f"nearql-flusher-{len(self._threads)}"
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self) -> None:
        while True:
            try:
                log = self._queue.get(timeout=self._patience())
            except queue.Empty:
                self._write_due_hints()
                continue
            if log is None:
                return
            self._flush(log)
            self._write_due_hints()

    def _flush(self, log: Flushable) -> None:
        try:
            more = log.flush_group()
        except Exception as error:  # a bug of ours: nobody may wait for this log for ever
            logger.exception("flushing a log failed")
            log.fail(f"internal error: {error!r}")
            more = False
        with self._lock:
            self._hints_due.setdefault(log, self._clock() + HINT_SECONDS)
            self._busy -= 0 if more else 1
        if more:
            self._queue.put(log)

    def _patience(self) -> float | None:
        """Seconds until the next hint is due; None where none is."""
        with self._lock:
            due = min(self._hints_due.values(), default=None)
        return None if due is None else max(due - self._clock(), 0.0)

    def _write_due_hints(self) -> None:
        now = self._clock()
        with self._lock:
            due = [log for log, when in self._hints_due.items() if when <= now]
            for log in due:
                del self._hints_due[log]
        for log in due:
            log.write_hint()


_shared: tuple[int, Flusher] | None = None
_shared_lock = threading.Lock()


def shared_flusher() -> Flusher:
    """The process's own flusher; a forked child, which inherits no threads, gets a new one."""
    global _shared
    with _shared_lock:
        if _shared is None or _shared[0] != os.getpid():
            _shared = (os.getpid(), Flusher())
        return _shared[1]
