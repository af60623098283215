"""Tunes a table's indexes on the queries that were asked lately, when nobody searches.

A thread of its own (`EngineContext.index_tuner`) waits for a time in which no search of the node
begins, then measures one table after the other. It reads vectors and computes as a search does, so
under steady load it doesn't run at all: indexes keep what was measured before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nearql.engine.context import EngineContext


class Tuning:
    """One table's turn; implements `builder.Buildable`."""

    def __init__(self, tune: Callable[[], int], context: EngineContext) -> None:
        self._tune = tune
        self._batcher = context.batcher
        self.quiet_ms = context.settings.tune_quiet_ms
        self._stopped = threading.Event()

    def build_next(self) -> bool:
        """Wait for quiet, then tune; see `Buildable`."""
        before = self._batcher.asked
        while not self._stopped.wait(self.quiet_ms / 1000):
            now = self._batcher.asked
            if now == before:
                self._tune()
                break
            before = now
        return False

    def stop(self) -> None:
        """Wait no longer; the table is closing."""
        self._stopped.set()
