"""How long a statement may still take."""

from __future__ import annotations

import time

from nearql.engine.errors import StatementTimeout


class Deadline:
    """A point in time by the monotonic clock, or never."""

    def __init__(self, timeout_ms: int | None) -> None:
        self._at = None if timeout_ms is None else time.monotonic() + timeout_ms / 1000

    @property
    def left_s(self) -> float:
        """Seconds left, at least 0; -1 = no limit, as locks take it."""
        return -1 if self._at is None else max(0.0, self._at - time.monotonic())

    def check(self, what: str) -> None:
        """Raise StatementTimeout if the time is up; only before anything was written."""
        if self.left_s == 0:
            raise StatementTimeout(
                f"The statement's time was up after {what}; nothing was written."
            )

    @property
    def left_ms(self) -> int | None:
        """Milliseconds left; None = no limit."""
        return None if self._at is None else int(self.left_s * 1000)
