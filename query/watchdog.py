"""One thread that calls back when time is up, whatever the number of statements.

A call is repeated until its watch ends: an interrupt that comes between two of a statement's
queries would otherwise be lost.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable

REPEAT_S = 0.05
_KEPT = 1_024  # watches, ended ones among them, before these are looked for


class Watch:
    """A deadline being watched. Use it in a `with` block."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call
        self.lock = threading.Lock()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exception: object) -> None:
        with self.lock:  # after this, `call` is never running, and what it refers to is let go
            self.call = None


class Watchdog:
    """Calls back at deadlines; its thread starts with the first and is a daemon."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._watches: list[tuple[float, int, Watch]] = []
        self._most = _KEPT
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    def watch(self, deadline: float, call: Callable[[], None]) -> Watch:
        """Have `call` called at `deadline` (time.monotonic) and then again and again, until the
        watch ends.
        """
        watch = Watch(call)
        self._add(deadline, watch)
        return watch

    def _add(self, at: float, watch: Watch) -> None:
        with self._changed:
            first = self._watches[0][0] if self._watches else None
            heapq.heappush(self._watches, (at, next(self._numbers), watch))
            if len(self._watches) > self._most:
                self._forget_ended()
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._run, name="nearql-watchdog", daemon=True
                )
                self._thread.start()
            elif first is None or at < first:
                self._changed.notify()

    def _forget_ended(self) -> None:
        """Deadlines may be a year away, and statements end in a millisecond."""
        self._watches = [one for one in self._watches if one[2].call is not None]
        heapq.heapify(self._watches)
        self._most = max(_KEPT, 2 * len(self._watches))

    def _run(self) -> None:
        while True:
            watch = self._next()
            with watch.lock:
                if watch.call is None:
                    continue
                watch.call()
            self._add(time.monotonic() + REPEAT_S, watch)

    def _next(self) -> Watch:
        """Wait for the first deadline to pass."""
        with self._changed:
            while True:
                while self._watches and self._watches[0][2].call is None:
                    heapq.heappop(self._watches)
                wait_s = self._watches[0][0] - time.monotonic() if self._watches else None
                if wait_s is not None and wait_s <= 0:
                    return heapq.heappop(self._watches)[2]
                self._changed.wait(wait_s)


WATCHDOG = Watchdog()


class Stop:
    """Lets another thread end a request before its time: when the client that asked is gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = False
        self._call: Callable[[], None] | None = None
        self._watch: Watch | None = None

    @property
    def asked(self) -> bool:
        """Whether `stop` was called."""
        return self._asked

    def stop(self) -> None:
        """End what the request runs now, and whatever it would run next."""
        with self._lock:
            if not self._asked:
                self._asked = True
                self._begin()

    def watching(self, call: Callable[[], None]) -> _Watching:
        """Have `call` called again and again once `stop` was, until the block ends."""
        return _Watching(self, call)

    def _watch_for(self, call: Callable[[], None]) -> None:
        with self._lock:
            self._call = call
            if self._asked:
                self._begin()

    def _unwatch(self) -> None:
        with self._lock:
            self._call, watch, self._watch = None, self._watch, None
        if watch is not None:
            watch.__exit__()

    def _begin(self) -> None:
        if self._call is not None:
            self._watch = WATCHDOG.watch(0.0, self._call)


class _Watching:
    """The block of `Stop.watching`; every statement has two of them."""

    __slots__ = ("_call", "_stop")

    def __init__(self, stop: Stop, call: Callable[[], None]) -> None:
        self._stop, self._call = stop, call

    def __enter__(self) -> None:
        self._stop._watch_for(self._call)

    def __exit__(self, *exception: object) -> None:
        self._stop._unwatch()
