"""Threads that run statements beside the event loop, with a bounded queue in front of them.

The loop must stay free: it accepts connections, answers health checks and, later, keeps leases.
So a statement runs in one of `threads` threads; up to `queue` more wait; the next one is refused
at once with 429 instead of waiting for its client's patience to end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from nearql.engine.errors import Overloaded, Unavailable

T = TypeVar("T")


class Workers:
    """A bounded thread pool of one event loop. Invariant: 0 <= pending <= threads + queue.

    setting: what names the bound, for the one who is refused.
    """

    def __init__(self, threads: int, queue: int, setting: str = "threads and queue") -> None:
        self._limit = threads + queue
        self._setting = setting
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="nearql-http")
        self._pending = 0
        self._closed = False

    @property
    def pending(self) -> int:
        """Statements running or waiting."""
        return self._pending

    @property
    def waiting(self) -> int:
        """Statements that no thread has taken yet."""
        return max(0, self._pending - self._threads)

    def check_room(self) -> None:
        """Raise what `run` would raise now; before a large body is read for nothing."""
        if self._closed:
            raise Unavailable("The server is shutting down.", code="shutting_down")
        if self._pending >= self._limit:
            raise Overloaded(
                f"{self._limit} requests are running or waiting on this node "
                f"({self._setting}); retry later.",
                code="queue_full",
            )

    async def run(self, work: Callable[[], T]) -> T:
        """What `work()` returns or raises, run in one of the threads.

        Raises:
            Overloaded: the queue is full; nothing was started.
            Unavailable: the server is shutting down.
        """
        self.check_room()
        self._pending += 1
        # With the request's context: its id is in what the thread logs.
        context = copy_context()
        future = asyncio.get_running_loop().run_in_executor(self._pool, context.run, work)
        future.add_done_callback(self._done)
        # A shield: a request that goes away must not free its place while its thread still works.
        return await asyncio.shield(future)

    def _done(self, future: asyncio.Future[T]) -> None:
        self._pending -= 1
        if not future.cancelled():
            future.exception()  # seen, though the request that asked may be gone

    def close(self) -> None:
        """Refuse new work; what runs ends on its own, what waits is dropped."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)
