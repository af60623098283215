"""Which searches the event loop runs itself.

A search of a millisecond costs as much again in a worker thread: the loop wakes the thread, the
thread the loop, each on a core that has gone cold, and many threads that all want the interpreter
take it from each other. So what was short in all of its last runs is run where it was read. Only a
search for plain columns can be: the rows of one table bound its work, no parameter changes how many
rows it asks for, its filter is one that is kept, and it waits for nothing. The loop's own turn
stays short:

    one search      at most `http.inline_ms`, by its last runs; one that takes much longer than
                    that goes back to the threads until it is short again
    many at once    at most BURST, without the loop looking after anything else; if more come, then
                    for CROWDED_S all go to the threads, where searches share calls

Times of runs in threads are the thread's own time on a core: beside others each takes longer than
it would alone, and that must not keep it there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from nearql.engine.strategy import SHARED_QUERIES
from nearql.query.plan_cache import Prepared

BURST = SHARED_QUERIES - 1  # as many as are not cheaper in one call
CROWDED_S = 0.1
_MUCH = 4  # times the limit

T = TypeVar("T")


class Inline:
    """Decides for one event loop. limit_ms: `http.inline_ms`; 0 = nothing is run there."""

    def __init__(self, limit_ms: int, has_room: Callable[[], bool]) -> None:
        """has_room: whether a search would begin at once, as far as memory goes."""
        self._limit_s = limit_ms / 1000
        self._has_room = has_room
        self._burst = 0
        self._crowded_until = 0.0
        self.runs = 0

    def takes(self, prepared: Prepared, settings: Mapping[str, Any]) -> bool:
        """Whether to run this now, in the loop."""
        if prepared.pace.longest(settings) > self._limit_s:
            return False
        now = time.monotonic()
        if self._burst >= BURST:
            self._crowded_until = now + CROWDED_S
        return now >= self._crowded_until and self._has_room()

    def run(self, prepared: Prepared, work: Callable[[], T]) -> T:
        """What `work()` gives; in the loop's thread."""
        loop = asyncio.get_running_loop()
        if not self._burst:
            loop.call_soon(self._rested)
        self._burst += 1
        self.runs += 1
        before = time.monotonic()
        try:
            return work()
        finally:
            if time.monotonic() - before > _MUCH * self._limit_s:
                prepared.pace.forget()

    def _rested(self) -> None:
        self._burst = 0
