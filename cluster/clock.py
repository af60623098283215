"""Whether somebody has set the wall clock: nothing here depends on it, but keys and tokens do."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

log = structlog.get_logger("nearql.cluster")

JUMP_S = 1.0  # a clock that is only steered moves by less between two looks


class ClockWatch:
    """Compares the wall clock with the time since boot, look by look. One thread looks."""

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        boot: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self.jumps = 0
        self._wall, self._boot = wall, boot
        self._offset = wall() - boot()

    def look(self) -> None:
        """Count and log a jump since the last look."""
        offset = self._wall() - self._boot()
        jumped, self._offset = offset - self._offset, offset
        if abs(jumped) < JUMP_S:
            return
        self.jumps += 1
        log.warning(
            "clock_jumped",
            seconds=round(jumped, 1),
            text="Failover and leases use the time since boot. Keys, tokens and sessions end by "
            "the wall clock: set it by NTP.",
        )
