"""The promise behind the lease: who answers a heartbeat does not become primary for a while.

A primary may answer linearizable reads while every other member of its in-sync set is bound by such
a promise: a new primary comes from that set and waits its own promise out, so that the two can't
answer at one time. Each side measures on its own clock from a moment of its own: the copy from when
it answers, the primary from when it had asked, which is earlier. Only the *rates* of the clocks
must agree, within 100 - `lease_percent`.

A promise is not persisted: a process that starts assumes that it gave one just before it died,
unless its copy has never followed an epoch.
"""

from __future__ import annotations

_EVERY_HEARTBEAT = 1 << 63


class Promise:
    """What this copy has promised to primaries.

    epoch: messages of lower ones are never answered; durable. until_ms: see the module; given to
    `heartbeat` of the primary of `given_epoch`, or to unknown ones of it by a former life.
    """

    def __init__(self, epoch: int, until_ms: int) -> None:
        self.epoch = epoch
        self.until_ms = until_ms
        self._given = (epoch, _EVERY_HEARTBEAT)
        self._released = (0, 0)

    def give(self, epoch: int, heartbeat: int, until_ms: int) -> None:
        """Answer a heartbeat. One that its sender has released before it came binds nobody."""
        if (epoch, heartbeat) <= self._released:
            return
        self.until_ms = max(self.until_ms, until_ms)
        self._given = max(self._given, (epoch, heartbeat))

    def release(self, epoch: int, heartbeat: int) -> None:
        """That primary relies on nothing it was promised up to that heartbeat.

        Earlier primaries are covered: each of them needed a promise of every other member of its
        in-sync set, so none is valid once a later primary was active.
        """
        self._released = max(self._released, (epoch, heartbeat))
        if self._given <= self._released:
            self.until_ms = 0

    def binds(self, now_ms: int) -> bool:
        """Whether this copy must not become primary yet."""
        return now_ms < self.until_ms
