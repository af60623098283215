"""At most so many bytes a second, for all snapshots that this node sends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Pace:
    """A token bucket that holds one second's worth. Thread-safe."""

    def __init__(self, bytes_per_s: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = bytes_per_s, clock
        self._lock = threading.Lock()
        self._free_at = clock()  # when all that was taken is paid for

    def take(self, nbytes: int, given_up: threading.Event) -> bool:
        """Wait until so many bytes may be sent; False where that was given up meanwhile."""
        with self._lock:
            now = self._clock()
            self._free_at = max(self._free_at, now - 1) + nbytes / self._rate
            wait_s = self._free_at - now
        return not (given_up.wait(wait_s) if wait_s > 0 else given_up.is_set())
