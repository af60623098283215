"""Reads sealed files again from time to time: disks lose bits that nobody asks for.

Every file is verified when its table is opened, so the first round begins one interval after the
start. A round reads at a bounded rate and waits between blocks, so that it takes little from
searches; what it finds bad is set aside at once (`Table.scrub`) and reported.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from nearql.engine.errors import NearQLError
from nearql.engine.segment.damage import Damage
from nearql.engine.table import Table

logger = logging.getLogger(__name__)


class _Stopping(Exception):
    """The node is closing: a round ends where it is."""


class Scrubber:
    """One thread for all tables of a node. `start` begins, `close` ends it.

    read_bytes, rounds: since the start.
    """

    def __init__(
        self,
        tables: Callable[[], Sequence[Table]],
        report: Callable[[Table, Damage], None],
        *,
        rate_bytes: int,
        interval_s: float,
    ) -> None:
        """rate_bytes: per second, 0 = never scrub. interval_s: between two rounds, 0 = never."""
        self._tables = tables
        self._report = report
        self._rate_bytes = rate_bytes
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.read_bytes = 0
        self.rounds = 0

    def start(self) -> None:
        """Begin, if the settings want it."""
        if self._rate_bytes and self._interval_s:
            self._thread = threading.Thread(target=self._run, name="nearql-scrub", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End within a block's time."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def round(self) -> int:
        """Verify every file of every table once; how many segments were set aside."""
        found = 0
        for table in self._tables():
            try:
                damages = table.scrub(self._paced)
            except (NearQLError, OSError) as error:  # closed meanwhile, or the disk is unwell
                logger.warning("scrub of table %s broken off: %s", table.definition.name, error)
                continue
            for damage in damages:
                self._report(table, damage)
            found += len(damages)
        self.rounds += 1
        return found

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                self.round()
            except _Stopping:
                return

    def _paced(self, size: int) -> None:
        self.read_bytes += size
        if self._stop.wait(size / self._rate_bytes):
            raise _Stopping
