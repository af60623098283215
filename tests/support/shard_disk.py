"""The disk of a simulated copy: a log of which the end may not be synced, and what was promised.

It stands for `engine.storage`'s log with the same semantics, to be cheap enough for many schedules:
records are durable when a sync that began after them is done; a power loss keeps a prefix of the
rest; a cut and a promise are durable when they return; a snapshot replaces everything at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nearql.cluster.replication.core.epochs import extended, shortened
from nearql.cluster.replication.core.events import LogState
from nearql.cluster.replication.core.messages import Record, Vector


@dataclass
class Disk:
    """Survives its node's processes. records: from first_lsn on."""

    alloc_id: str
    promised_epoch: int = 0
    records: list[Record] = field(default_factory=list)
    vector: Vector = ()
    first_lsn: int = 1
    base_lsn: int = 0  # a checkpoint holds everything up to here
    durable_lsn: int = 0
    cuts: int = 0  # so that a sync knows that the log was cut while it ran

    @property
    def end_lsn(self) -> int:
        return self.first_lsn + len(self.records) - 1

    def at(self, lsn: int) -> Record | None:
        """The record at `lsn`, if it is kept."""
        place = lsn - self.first_lsn
        return self.records[place] if 0 <= place < len(self.records) else None

    def append(self, record: Record) -> None:
        assert record.lsn == self.end_lsn + 1, f"{record} behind {self.end_lsn}"
        self.vector = extended(self.vector, record.epoch, record.lsn)
        self.records.append(record)

    def read(self, first_lsn: int, last_lsn: int, limit: int) -> tuple[Record, ...]:
        place = first_lsn - self.first_lsn
        assert place >= 0, f"LSN {first_lsn} was trimmed"
        return tuple(self.records[place : min(place + limit, last_lsn - self.first_lsn + 1)])

    def cut(self, end_lsn: int) -> None:
        """Durably, as power may be lost at any moment after."""
        assert end_lsn >= self.base_lsn, "cut below the checkpoint"
        del self.records[end_lsn - self.first_lsn + 1 :]
        self.vector = shortened(self.vector, end_lsn)
        self.durable_lsn = min(self.durable_lsn, end_lsn)
        self.cuts += 1

    def checkpoint(self, lsn: int, keep: int) -> None:
        """A checkpoint at `lsn`; the log keeps so many records below it."""
        self.base_lsn = lsn
        first = max(self.first_lsn, lsn - keep + 1)
        del self.records[: first - self.first_lsn]
        self.first_lsn = first

    def lose_unsynced(self, kept: int) -> None:
        """The process is gone; `kept` records beyond the durable ones are found again."""
        end = min(self.end_lsn, self.durable_lsn + kept)
        del self.records[end - self.first_lsn + 1 :]
        self.vector = shortened(self.vector, end)
        self.durable_lsn = end  # recovery rewrites and syncs what it finds
        self.cuts += 1

    def install(self, lsn: int, vector: Vector) -> None:
        """A snapshot at `lsn` in place of everything."""
        self.records.clear()
        self.vector = shortened(vector, lsn)
        self.first_lsn, self.base_lsn, self.durable_lsn = lsn + 1, lsn, lsn
        self.cuts += 1

    def state(self) -> LogState:
        return LogState(self.vector, self.end_lsn, self.first_lsn, self.base_lsn)
