"""What is committed, and who may write: the gate between logging a statement and applying it.

On a node alone a statement is committed once it is durable, and anybody may write (`DurableGate`).
In a copy that is replicated, replication says both (`CommitGate`):

    follow    nobody writes; what is committed is applied from the log
    lead(e)   writers log in epoch e, once the copy has applied its own EPOCH_START, so that they
              see all that the epochs before left behind, and wait for the commit LSN
    end       those that wait in epoch e are told so: what they wrote may survive or not
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import Enum, auto
from typing import Protocol

from nearql.engine.deadline import Deadline
from nearql.engine.errors import Unavailable
from nearql.engine.storage.wal import Wal


class Waited(Enum):
    """How a wait ended: what was waited for is so, the time was up, or the epoch is over."""

    DONE = auto()
    LATE = auto()
    ENDED = auto()


class Gate(Protocol):
    """As the writer of a shard sees it."""

    @property
    def committed_lsn(self) -> int:
        """Statements up to here may be applied."""
        ...

    @property
    def epoch(self) -> int | None:
        """In which writers log; None = that of the log."""
        ...

    def check(self) -> None:
        """Refuse a writer before anything is logged.

        Raises:
            Unavailable: code `not_primary` or `not_enough_replicas`.
        """
        ...

    def wait_admitted(self, deadline: Deadline) -> None:
        """The same, but wait while the copy gets ready for writers. Without locks.

        Raises:
            Unavailable: as `check`, also when the time is up.
        """
        ...

    def wait_committed(self, lsn: int, epoch: int, deadline: Deadline) -> Waited:
        """Wait until that LSN, logged here in that epoch, is committed."""
        ...

    def wait_durable(self, lsn: int, epoch: int, deadline: Deadline) -> Waited:
        """Wait until it is durable here."""
        ...

    def applied(self, lsn: int) -> None:
        """Read views show everything up to there now."""
        ...


class DurableGate:
    """Of a node alone."""

    epoch = None

    def __init__(self, wal: Wal) -> None:
        self._wal = wal

    @property
    def committed_lsn(self) -> int:
        """See `Gate.committed_lsn`."""
        return self._wal.durable_lsn

    def check(self) -> None:
        """Everybody may write."""

    def wait_admitted(self, deadline: Deadline) -> None:
        """Everybody may write."""

    def wait_committed(self, lsn: int, epoch: int, deadline: Deadline) -> Waited:
        """See `Gate.wait_committed`."""
        return Waited.DONE if self._wal.wait_durable(lsn, deadline.left_ms) else Waited.LATE

    wait_durable = wait_committed

    def applied(self, lsn: int) -> None:
        """Nobody waits for it: writers apply what they wait for."""


class CommitGate:
    """Of a replicated copy. Thread-safe; takes no other lock while it holds its own.

    commit_lsn: as replication said. applied_lsn: as read views show. epoch: None while following.
    start_lsn: of the EPOCH_START of that epoch.
    """

    def __init__(self, durable: Callable[[], int], applied_lsn: int) -> None:
        """`durable`: what the log holds durably now."""
        self._durable = durable
        self._changed = threading.Condition()
        self._refusal: str | None = None
        self.epoch: int | None = None
        self.start_lsn = 0
        self.commit_lsn = self.applied_lsn = applied_lsn
        self.on_applied: Callable[[int], None] = _nobody

    @property
    def committed_lsn(self) -> int:
        """See `Gate.committed_lsn`: never more than is durable here."""
        return min(self.commit_lsn, self._durable())

    def check(self) -> None:
        """See `Gate.check`."""
        if self.epoch is None or self.applied_lsn < self.start_lsn:
            raise Unavailable(
                "This node's copy of the shard is not the primary: nothing was written. Send the "
                "statement again; the cluster finds the primary.",
                code="not_primary",
            )
        if self._refusal is not None:
            raise Unavailable(
                f"The shard's primary takes no writes now: {self._refusal}. Nothing was written.",
                code="not_enough_replicas",
            )

    # ---- Writers -----------------------------------------------------------------------

    def wait_committed(self, lsn: int, epoch: int, deadline: Deadline) -> Waited:
        """See `Gate.wait_committed`."""
        return self._wait_in(epoch, lambda: self.committed_lsn >= lsn, deadline)

    def wait_durable(self, lsn: int, epoch: int, deadline: Deadline) -> Waited:
        """See `Gate.wait_durable`."""
        return self._wait_in(epoch, lambda: self._durable() >= lsn, deadline)

    def wait_admitted(self, deadline: Deadline) -> None:
        """See `Gate.wait_admitted`: until a new primary has applied what it took over."""
        epoch = self.epoch
        if epoch is not None and self.applied_lsn < self.start_lsn:
            self._wait_in(epoch, lambda: self.applied_lsn >= self.start_lsn, deadline)
        self.check()

    def _wait_in(self, epoch: int, reached: Callable[[], bool], deadline: Deadline) -> Waited:
        with self._changed:
            self._changed.wait_for(lambda: epoch != self.epoch or reached(), _timeout(deadline))
            if epoch != self.epoch:
                return Waited.ENDED
            return Waited.DONE if reached() else Waited.LATE

    def wait_applied(self, lsn: int, deadline: Deadline) -> bool:
        """Wait until read views show that LSN; False when the time is up first."""
        with self._changed:
            return self._changed.wait_for(lambda: self.applied_lsn >= lsn, _timeout(deadline))

    # ---- Replication -------------------------------------------------------------------

    def lead(self, epoch: int, start_lsn: int) -> None:
        """Admit writers from now on, as soon as `start_lsn` is applied."""
        with self._changed:
            self.epoch, self.start_lsn, self._refusal = epoch, start_lsn, None
            self._changed.notify_all()

    def end(self) -> None:
        """Admit none; whoever waits for an outcome is told that the epoch is over."""
        with self._changed:
            self.epoch, self._refusal = None, None
            self._changed.notify_all()

    def refuse(self, reason: str | None) -> None:
        """Admit none for now; None = admit them again."""
        self._refusal = reason

    def advance(self, commit_lsn: int) -> bool:
        """Whether this is news."""
        with self._changed:
            if commit_lsn <= self.commit_lsn:
                return False
            self.commit_lsn = commit_lsn
            self._changed.notify_all()
            return True

    def applied(self, lsn: int) -> None:
        """See `Gate.applied`."""
        with self._changed:
            self.applied_lsn = lsn
            self._changed.notify_all()
        self.on_applied(lsn)

    def synced(self) -> None:
        """More of the log is durable."""
        with self._changed:
            self._changed.notify_all()


def _timeout(deadline: Deadline) -> float | None:
    left = deadline.left_s
    return None if left < 0 else left


def _nobody(lsn: int) -> None:
    """Nobody wants to know."""
