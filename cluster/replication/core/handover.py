"""A primary gives its part away and loses nothing.

    admit no statement -> all is committed, and durable on the target -> release the lease and
    propose the target -> the row names it: done

Writers that still wait get their answers on the way; one that is late is told "unknown". After the
release nothing is answered and no heartbeat is sent, since the target would promise anew what it
has just been freed from. Where the time is up first, the primary goes on: with heartbeats, and
hence promises, later than the release.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nearql.cluster.metadata.shards import Promote
from nearql.cluster.replication.core.effects import HandOffDone, Propose
from nearql.cluster.replication.core.events import HandOff
from nearql.cluster.replication.core.messages import LeaseRelease

if TYPE_CHECKING:
    from nearql.cluster.replication.core.primary import Primary

_LONG_AGO = -(1 << 62)


class HandOver:
    """One attempt. released: the lease is given up."""

    def __init__(self, primary: Primary, event: HandOff) -> None:
        self._primary = primary
        self._copy = primary.copy
        self._target = event.target
        self._deadline_ms = event.deadline_ms
        self._name = f"{self._target}/{self._copy.now_ms}"  # an attempt refused is not the next one
        self._proposed_ms = _LONG_AGO
        self._promote: Promote | None = None
        self.released = False

    def tick(self) -> bool:
        """Go on; whether the attempt is over and came to nothing."""
        copy = self._copy
        if copy.row is None or self._target not in copy.row.isr or self._target == copy.node_id:
            return self._fail(f"node {self._target} is not another copy in sync")
        if copy.now_ms >= self._deadline_ms:
            return self._fail("the time was up first")
        if self.released or self._is_complete():
            self._propose()
        return False

    def _is_complete(self) -> bool:
        """Whether the target has everything, and everything is committed."""
        log, peer = self._copy.log, self._primary.peers.get(self._target)
        complete = peer is not None and peer.durable_lsn == log.end_lsn == log.commit_lsn
        return complete and self._primary.in_sync.proposal is None

    def _propose(self) -> None:
        copy = self._copy
        assert copy.row is not None
        if copy.now_ms - self._proposed_ms < copy.timing.retry_ms:
            return
        self._proposed_ms = copy.now_ms
        if not self.released:
            self.released = True
            self._primary.release_lease()
        if self._promote is None or self._promote.expected_version != copy.row.version:
            self._promote = Promote(
                request_id=f"{copy.row.uuid}/{copy.row.epoch}/{copy.row.version}/{self._name}",
                shard_uuid=copy.row.uuid,
                expected_version=copy.row.version,
                node_id=self._target,
                incarnation=copy.incarnations.get(self._target, 0),
            )
        released_ms = self._primary.released_ms
        copy.send(self._target, LeaseRelease(self._primary.epoch, released_ms))
        copy.out.append(Propose(self._promote))

    def _fail(self, reason: str) -> bool:
        self._copy.out.append(HandOffDone(False, reason))
        return True

    def end(self) -> None:
        """The reign is over: for the target, if all went well."""
        row = self._copy.row
        done = row is not None and row.primary == self._target and row.epoch > self._primary.epoch
        reason = "" if done else "another copy became primary, or this one stopped"
        self._copy.out.append(HandOffDone(done, reason))
