"""The clock of leases and silences: it goes on while the machine sleeps, and nobody sets it."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], int]


def boottime_ms() -> int:
    """Milliseconds since the machine was started."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
