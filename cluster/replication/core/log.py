"""What the core knows of its own log.

    first          base        applied    commit      durable      end
      |--- kept ----|------------|----------|------------|-----------|
                    snapshot     shown      safe for     on this     appended
                    below                   ever         disk

Invariants: base <= applied <= commit <= durable <= end. The log is cut only behind `commit`.
`generation` rises with each cut, so that a flush that began before it proves nothing after it.
"""

from __future__ import annotations

from nearql.cluster.replication.core.epochs import (
    check_vector,
    epoch_at,
    extended,
    last_epoch,
    shortened,
)
from nearql.cluster.replication.core.events import LogState
from nearql.cluster.replication.core.messages import Record, Vector


class Log:
    """See the module."""

    def __init__(self, found: LogState) -> None:
        self.generation = 0
        self.vector: Vector = ()
        self.first_lsn = self.end_lsn = self.base_lsn = 0
        self.durable_lsn = self.commit_lsn = self.applied_lsn = 0
        self.log_bytes = self.snapshot_bytes = 0
        self.replace(found)

    def replace(self, found: LogState) -> None:
        """Another log lies on the disk now, all of it durable."""
        self.generation += 1
        self.vector = found.vector
        self.first_lsn, self.end_lsn, self.base_lsn = found.first_lsn, found.end_lsn, found.base_lsn
        self.durable_lsn = found.end_lsn
        self.commit_lsn = self.applied_lsn = found.base_lsn
        self.check_invariants()

    @property
    def last_epoch(self) -> int:
        """Epoch of the last record; 0 for an empty log."""
        return last_epoch(self.vector)

    def epoch_at(self, lsn: int) -> int:
        """Epoch of the record at `lsn`; 0 for LSN 0."""
        return epoch_at(self.vector, lsn)

    def grow(self, epoch: int, end_lsn: int) -> None:
        """Records of this epoch follow, up to `end_lsn`."""
        if end_lsn > self.end_lsn:
            self.vector = extended(self.vector, epoch, self.end_lsn + 1)
            self.end_lsn = end_lsn

    def append(self, records: tuple[Record, ...]) -> None:
        """Records of another copy follow."""
        for record in records:
            assert record.lsn == self.end_lsn + 1, f"{record.lsn} behind {self.end_lsn}"
            self.grow(record.epoch, record.lsn)

    def truncate(self, end_lsn: int) -> None:
        """Nothing stands behind `end_lsn` any more."""
        assert self.commit_lsn <= end_lsn <= self.end_lsn, (self.commit_lsn, end_lsn, self.end_lsn)
        self.generation += 1
        self.vector = shortened(self.vector, end_lsn)
        self.end_lsn = end_lsn
        self.durable_lsn = min(self.durable_lsn, end_lsn)

    def note_durable(self, lsn: int, generation: int) -> None:
        """A flush that began in this generation is done."""
        if generation == self.generation:
            self.durable_lsn = max(self.durable_lsn, min(lsn, self.end_lsn))

    def commit(self, lsn: int) -> bool:
        """Whether more is committed than before; never more than is durable here."""
        lsn = min(lsn, self.durable_lsn)
        if lsn <= self.commit_lsn:
            return False
        self.commit_lsn = lsn
        return True

    def bytes_behind(self, lsn: int) -> int:
        """About how many bytes of log follow `lsn`."""
        kept = self.end_lsn - self.first_lsn + 1
        return self.log_bytes * (self.end_lsn - lsn) // kept if kept > 0 else 0

    def check_invariants(self) -> None:
        """Raise AssertionError where state contradicts itself."""
        check_vector(self.vector, self.end_lsn)
        order = self.base_lsn, self.applied_lsn, self.commit_lsn, self.durable_lsn, self.end_lsn
        assert list(order) == sorted(order), f"base, applied, commit, durable, end = {order}"
        assert self.first_lsn <= self.end_lsn + 1
        assert self.first_lsn <= self.base_lsn + 1 or self.base_lsn == 0
