"""Whether the disks under this node's copies keep up: a sync that takes too long costs a copy its
part, before everybody waits for it (3-replication 2.3 in the design).

    owed for slow_ms     a replica acknowledges nothing while others can do without it, so that it
                         leaves the in-sync set; a primary asks metadata for another one
    owed for stuck_ms    the process ends: whoever waits for this disk shall ask another node.
                         Only where the shard has other copies

Time counts only as far as this thread lived through it: a process that was paused, or starved, has
not been waiting for its disk. The thread is not replication's own, which may be waiting itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from nearql.engine.shard.copy import ShardCopy

logger = logging.getLogger(__name__)

LOOK_S = 0.25


class Watched(Protocol):
    """A copy that takes part in replication."""

    @property
    def shard_uuid(self) -> str:
        """Of which it is a copy."""

    @property
    def copy(self) -> ShardCopy:
        """The one whose log is looked at."""

    @property
    def has_others(self) -> bool:
        """Whether the shard has other copies."""

    def set_slow(self, slow: bool) -> None:
        """Its disk takes too long, or no longer does."""


@dataclass(slots=True)
class _Debt:
    """A copy that waits for its disk: what is durable, and for how long it has been so."""

    durable_lsn: int
    ms: float = 0.0


class DiskWatch:
    """A thread that looks at all copies every LOOK_S; `look` is one look."""

    def __init__(
        self,
        watched: Callable[[], Iterable[Watched]],
        slow_ms: int,
        stuck_ms: int,
        on_stuck: Callable[[str], object],
    ) -> None:
        self._watched, self._slow_ms, self._stuck_ms = watched, slow_ms, stuck_ms
        self._on_stuck = on_stuck
        self._debts: dict[str, _Debt] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replication-disks", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End; harmless where it never began."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        before = time.monotonic()
        while not self._closed.wait(LOOK_S):
            now = time.monotonic()
            self.look(min(now - before, 2 * LOOK_S) * 1000)
            before = now

    def look(self, passed_ms: float) -> None:
        """See which copies still wait; so much time has passed since the last look."""
        debts = {}
        for copy in self._watched():
            durable_lsn, end_lsn = copy.copy.durable_lsn, copy.copy.end.lsn
            if durable_lsn >= end_lsn:
                copy.set_slow(False)
                continue
            debt = self._debts.get(copy.shard_uuid)
            if debt is None or debt.durable_lsn != durable_lsn:
                debt = _Debt(durable_lsn)
            else:
                debt.ms += passed_ms
            debts[copy.shard_uuid] = debt
            self._judge(copy, debt)
        self._debts = debts

    def _judge(self, copy: Watched, debt: _Debt) -> None:
        copy.set_slow(debt.ms >= self._slow_ms)
        if debt.ms >= self._stuck_ms and copy.has_others:
            self._on_stuck(
                f"the disk has not synced the log of shard {copy.shard_uuid} behind LSN "
                f"{debt.durable_lsn} for {debt.ms / 1000:.0f} s (replication.disk_stuck_ms); "
                "other nodes have its other copies"
            )
