"""How far one other copy has followed this primary, and what is under way to it.

    cut <= durable <= received < next <= end + 1      (durable counts from the first answer on)

`next_lsn` runs ahead: records are sent before earlier ones are acknowledged, as many bytes as the
copy gives credit for.
"""

from __future__ import annotations

from collections import deque

from nearql.cluster.replication.core.messages import Ack, Session, Sync

_LONG_AGO = -(1 << 62)


class Peer:
    """A copy in one session. Made anew with each SYNC that is newer."""

    def __init__(self, sync: Sync, cut_lsn: int, credit_bytes: int, now_ms: int) -> None:
        self.session: Session = sync.session
        self.alloc_id = sync.alloc_id
        self._told = (sync.alloc_id, sync.vector, sync.end_lsn)
        self.cut_lsn = cut_lsn
        self.next_lsn = cut_lsn + 1
        self.received_lsn = cut_lsn
        self.durable_lsn = 0
        self.applied_lsn = 0
        self.credit_bytes = credit_bytes
        self.under_way: deque[tuple[int, int]] = deque()  # (last LSN, bytes) sent, not received
        self.shipping = False  # a Ship effect is not answered yet
        self.since_ms = now_ms
        self.heard_ms = now_ms
        self.caught_up_ms = now_ms  # it holds all that existed then
        self._mark = (now_ms, cut_lsn)  # a moment, and where the log ended then
        self.progress_ms = now_ms  # more was received, or nothing is under way
        self.promised_ms = _LONG_AGO  # when the last heartbeat was sent that it answered
        self.told_ms = _LONG_AGO  # when anything was last sent
        self.told_commit = 0

    def asks_again(self, sync: Sync) -> bool:
        """Whether this is the SYNC that began the session, once more."""
        told = sync.alloc_id, sync.vector, sync.end_lsn
        return sync.session == self.session and told == self._told

    @property
    def under_way_bytes(self) -> int:
        """Bytes that were sent and are not received."""
        return sum(nbytes for _, nbytes in self.under_way)

    def on_ack(self, ack: Ack, end_lsn: int, now_ms: int) -> None:
        """It has answered, in this session. end_lsn: of the primary's log."""
        if ack.received_lsn > self.received_lsn:
            self.received_lsn = ack.received_lsn
            self.progress_ms = now_ms
        while self.under_way and self.under_way[0][0] <= self.received_lsn:
            self.under_way.popleft()
        self.next_lsn = max(self.next_lsn, self.received_lsn + 1)
        self.durable_lsn = max(self.durable_lsn, ack.durable_lsn)
        self.applied_lsn = max(self.applied_lsn, ack.applied_lsn)
        self.credit_bytes = ack.credit_bytes
        self.heard_ms = now_ms
        if self.durable_lsn >= self._mark[1]:
            self.caught_up_ms = self._mark[0]
            self._mark = (now_ms, end_lsn)

    def on_shipped(self, first_lsn: int, lsn: int, nbytes: int, now_ms: int) -> None:
        """Records were handed to the link."""
        self.shipping = False
        if first_lsn != self.next_lsn or lsn < first_lsn:
            return
        if not self.under_way:
            self.progress_ms = now_ms
        self.under_way.append((lsn, nbytes))
        self.next_lsn = lsn + 1

    def go_back(self, now_ms: int) -> None:
        """What was under way is lost: send from what was received."""
        self.under_way.clear()
        self.next_lsn = self.received_lsn + 1
        self.progress_ms = now_ms
        self.shipping = False

    def check_invariants(self, end_lsn: int) -> None:
        """Raise AssertionError where state contradicts itself."""
        assert self.cut_lsn <= self.received_lsn < self.next_lsn <= end_lsn + 1
        assert self.durable_lsn <= self.received_lsn
