"""The copy that orders writes in its epoch.

    PRIMARY_WAIT    own promises to earlier primaries still bind: acknowledges and serves nothing
         |          EPOCH_START is appended
         v
    PRIMARY_ACTIVE  takes statements and SYNC, sends records and heartbeats, commits, answers
         |    ^
         v    |
    SUSPENDED       a member of the in-sync set has not answered for the lease's length: nothing is
                    admitted or answered, though records and acknowledgements flow on

Who acknowledges what:
    commit LSN = the least durable LSN of the maximal in-sync set, this copy included; it stands
    still while metadata has fewer than min_isr members. The lease is not needed for that: a stale
    primary lacks the acknowledgement of the member that was promoted. The lease is needed for
    everything that is answered: write concern `one`, and linearizable reads.
"""

from __future__ import annotations

from collections import deque

from nearql.cluster.replication.core.copy import Copy, Writes
from nearql.cluster.replication.core.effects import (
    Admit,
    Answer,
    HandOffDone,
    Lead,
    ReadAnswer,
    Ship,
)
from nearql.cluster.replication.core.epochs import common_end, last_epoch
from nearql.cluster.replication.core.events import (
    ALL_COPIES,
    Appended,
    Await,
    Concern,
    HandOff,
    Read,
    Shipped,
)
from nearql.cluster.replication.core.handover import HandOver
from nearql.cluster.replication.core.insync import InSyncSet
from nearql.cluster.replication.core.messages import (
    Ack,
    Append,
    Index,
    ReadIndex,
    Sync,
    SyncFull,
    SyncOk,
)
from nearql.cluster.replication.core.peers import Peer
from nearql.cluster.replication.core.status import Following
from nearql.cluster.replication.core.waits import Waits, copies_needed

_LONG_AGO = -(1 << 62)


class Primary:
    """The reign of one copy in one epoch."""

    def __init__(self, copy: Copy, epoch: int) -> None:
        self.copy = copy
        self.epoch = epoch
        self.active = False
        self.start_lsn = 0  # of EPOCH_START
        self.hand_over: HandOver | None = None
        self.released_ms = _LONG_AGO  # heartbeats up to here bind nobody any more
        self.peers: dict[str, Peer] = {}
        self.in_sync = InSyncSet(copy)
        self.waits = Waits()
        self._refusal: str | None = None  # of statements, as last said
        self._reads: list[Read] = []
        self._uncommitted: deque[tuple[int, int]] = deque()  # (LSN, bytes) of own statements

    # ---- The reign -------------------------------------------------------------------------

    def tick(self) -> None:
        """What time alone brings about."""
        self._refuse_overdue_reads()
        if not self.active:
            self._activate()
        if not self.active:
            return
        self.in_sync.maintain(self.peers, max(self.copy.log.commit_lsn, self.start_lsn))
        for node in sorted(self.peers):
            if self.hand_over is None or not self.hand_over.released:
                self._send_on(node, self.peers[node])
        for wait in self.waits.overdue(self.copy.now_ms):
            self._answer(wait, known=True, met=False)
        if self.hand_over is not None and self.hand_over.tick():
            self.hand_over = None

    def _activate(self) -> None:
        copy, log = self.copy, self.copy.log
        if copy.promise.binds(copy.now_ms) or not copy.settled:
            return
        self.active = True
        self.start_lsn = log.end_lsn + 1
        log.grow(self.epoch, self.start_lsn)
        self.in_sync = InSyncSet(copy)
        copy.writes, copy.writes_epoch = Writes.OPEN, self.epoch
        copy.out.append(Lead(self.epoch, self.start_lsn, log.generation))

    def on_row(self) -> None:
        """The row was read anew, in the same epoch."""
        assert self.copy.row is not None
        for node in [n for n in self.peers if n not in self.copy.row.replicas]:
            del self.peers[node]
        self.in_sync.on_row()
        self.advance()

    def settle(self) -> None:
        """After each event: answer what can be answered now."""
        if not self.active:
            return
        leased = self.lease_valid
        refusal = "hand_off" if self.hand_over else None if leased else "lease_lost"
        if refusal != self._refusal:
            self._refusal = refusal
            self.copy.out.append(Admit(refusal))
        if leased:
            self._answer_all()

    def _answer_all(self) -> None:
        log = self.copy.log
        for wait in self.waits.met(log.commit_lsn, log.durable_lsn, self._has_copies):
            self._answer(wait, known=True, met=True)
        if self._reads and self.can_read:
            for read in self._reads:
                self.copy.out.append(ReadAnswer(read.token, log.commit_lsn))
            self._reads.clear()

    def on_hand_off(self, event: HandOff) -> None:
        """Make another copy the primary."""
        if self.hand_over is not None or not self.active:
            self.copy.out.append(HandOffDone(False, "another hand-off is under way"))
            return
        self.hand_over = HandOver(self, event)
        if self.hand_over.tick():
            self.hand_over = None

    def end(self) -> None:
        """The reign is over: what becomes of unanswered writes is for others to know."""
        self.copy.close_writes()
        for wait in self.waits.everybody():
            self._answer(wait, known=False, met=False)
        for read in self._reads:
            self.copy.out.append(ReadAnswer(read.token, None, "not_primary"))
        self._reads.clear()
        if self.hand_over is not None:
            self.hand_over.end()

    # ---- Commit ----------------------------------------------------------------------------

    def advance(self) -> None:
        """Move the commit LSN to what the whole maximal in-sync set has on disk."""
        row = self.copy.row
        if not self.active or row is None or len(row.isr) < row.min_isr:
            return
        lsn = self.copy.log.durable_lsn
        for node in self.in_sync.others:
            peer = self.peers.get(node)
            lsn = min(lsn, peer.durable_lsn if peer else 0)
        self.copy.commit(lsn)
        while self._uncommitted and self._uncommitted[0][0] <= self.copy.log.commit_lsn:
            self._uncommitted.popleft()

    def on_appended(self, event: Appended) -> None:
        """Own statements were logged."""
        self._uncommitted.append((event.end_lsn, event.nbytes))
        self.ship_all()

    # ---- The lease -------------------------------------------------------------------------

    @property
    def lease_valid(self) -> bool:
        """Whether nobody else can be an active primary now; see `lease`."""
        if self.hand_over is not None and self.hand_over.released:
            return False
        oldest = self.copy.now_ms - self.copy.timing.lease_counted_ms
        for node in self.in_sync.others:
            peer = self.peers.get(node)
            if peer is None or peer.promised_ms <= oldest:
                return False
        return True

    def release_lease(self) -> None:
        """Rely on no promise that was given so far."""
        self.released_ms = self.copy.now_ms
        for peer in self.peers.values():
            peer.promised_ms = _LONG_AGO

    @property
    def can_read(self) -> bool:
        """Whether the commit LSN here is at least every one that was ever answered."""
        return self.active and self.copy.log.commit_lsn >= self.start_lsn and self.lease_valid

    # ---- Other copies ----------------------------------------------------------------------

    def on_sync(self, sender: str, sync: Sync) -> str | None:
        """A copy begins a session; why this copy must halt, if so."""
        copy, log = self.copy, self.copy.log
        if sync.commit_lsn > log.end_lsn and not self._lost_knowingly(sync):
            return f"node {sender} has committed up to LSN {sync.commit_lsn}, beyond our log's end"
        if not self.active or not self._is_current(sender, sync):
            return None
        peer = self.peers.get(sender)
        if peer is not None and peer.asks_again(sync):  # our answer was lost
            peer.go_back(copy.now_ms)
            copy.send(sender, SyncOk(self.epoch, sync.session, peer.cut_lsn))
            return None
        cut = common_end(log.vector, log.end_lsn, sync.vector, sync.end_lsn)
        if self._needs_snapshot(sender, cut):
            self.peers.pop(sender, None)
            copy.send(sender, SyncFull(self.epoch, sync.session))
            return None
        fresh = Peer(sync, cut, copy.timing.credit_bytes, copy.now_ms)
        if peer is not None:
            fresh.promised_ms = peer.promised_ms  # the promise outlives the session,
            fresh.caught_up_ms = peer.caught_up_ms  # and a new session is no excuse for being late
        self.peers[sender] = fresh
        copy.send(sender, SyncOk(self.epoch, sync.session, cut))
        return None

    def _lost_knowingly(self, sync: Sync) -> bool:
        """Whether an operator accepted a loss after what that copy has."""
        assert self.copy.row is not None
        return any(epoch > last_epoch(sync.vector) for epoch in self.copy.row.unclean_epochs)

    def _is_current(self, sender: str, sync: Sync) -> bool:
        """A SYNC of the copy that metadata lists, in its present life, and none but the newest."""
        copy, peer = self.copy, self.peers.get(sender)
        assert copy.row is not None
        listed = copy.row.replicas.get(sender) == sync.alloc_id
        present = copy.incarnations.get(sender) == sync.session.incarnation
        return listed and present and (peer is None or sync.session >= peer.session)

    def _needs_snapshot(self, sender: str, cut: int) -> bool:
        """Whether records are gone that the copy lacks, or a snapshot saves sending too many.

        It saves those up to our checkpoint; so whoever has just taken one gets the rest as records.
        A member of the in-sync set lacks nothing that is committed, and must keep what it has.
        """
        log = self.copy.log
        if sender in self.in_sync.maximal:
            return False
        if cut + 1 < log.first_lsn:
            return True
        limit = log.snapshot_bytes * self.copy.timing.full_percent // 100
        return 0 < limit < log.bytes_behind(cut) - log.bytes_behind(log.base_lsn)

    def on_ack(self, sender: str, ack: Ack) -> None:
        """A copy has answered: counts only in its present session."""
        peer = self.peers.get(sender)
        if not self.active or ack.epoch != self.epoch or not peer or ack.session != peer.session:
            return
        peer.on_ack(ack, self.copy.log.end_lsn, self.copy.now_ms)
        if ack.hb_id > self.released_ms:
            peer.promised_ms = max(peer.promised_ms, ack.hb_id)
        self.advance()
        self._ship(sender, peer)

    def ship_all(self) -> None:
        """Send what is new to whoever has room for it."""
        for node in sorted(self.peers):
            self._ship(node, self.peers[node])

    def _send_on(self, node: str, peer: Peer) -> None:
        """Records, again where they were lost; a heartbeat where it is time for one."""
        now, timing = self.copy.now_ms, self.copy.timing
        if peer.under_way and now - peer.progress_ms >= timing.resend_ms:
            peer.go_back(now)
        peer.shipping = False
        self._ship(node, peer)
        if node not in self.peers:
            return
        if now - peer.told_ms >= timing.heartbeat_ms:
            self.copy.send(node, self._append(peer))
            peer.told_ms = now

    def _ship(self, node: str, peer: Peer) -> None:
        timing, log = self.copy.timing, self.copy.log
        room = min(timing.unacked_bytes, peer.credit_bytes) - peer.under_way_bytes
        if peer.shipping or peer.next_lsn > log.end_lsn or room <= 0:
            return
        if peer.next_lsn < log.first_lsn:  # trimmed since: silence makes it SYNC again
            del self.peers[node]
            return
        peer.shipping = True
        limit = min(room, timing.ship_bytes)
        self.copy.out.append(Ship(node, self._append(peer), log.end_lsn, limit))

    def _append(self, peer: Peer) -> Append:
        """A message without records yet, from where this copy stands."""
        log, prev = self.copy.log, peer.next_lsn - 1
        return Append(
            self.epoch, peer.session, prev, log.epoch_at(prev), (), log.commit_lsn,
            self.copy.now_ms, self.lease_valid,
        )  # fmt: skip

    def on_shipped(self, event: Shipped) -> None:
        """Records were handed to the link; there may be more."""
        peer = self.peers.get(event.node)
        if peer is not None:
            peer.on_shipped(event.first_lsn, event.lsn, event.nbytes, self.copy.now_ms)
            if event.lsn >= event.first_lsn:
                self._ship(event.node, peer)

    # ---- Clients ---------------------------------------------------------------------------

    def refusal(self, concern: Concern) -> str | None:
        """Why a write of this concern must not even be logged now."""
        row = self.copy.row
        assert row is not None
        if not self.active:
            return "not_primary"
        if self.hand_over is not None:
            return "hand_off"
        if not self.lease_valid:
            return "lease_lost"
        complete = set(row.replicas) == set(row.isr)
        if (concern.committed and len(row.isr) < row.min_isr) or (
            concern.copies == ALL_COPIES and not complete
        ):
            return "not_enough_replicas"
        under_way = sum(nbytes for _, nbytes in self._uncommitted)
        return "too_much_uncommitted" if under_way >= self.copy.timing.uncommitted_bytes else None

    def on_await(self, wait: Await) -> None:
        """Somebody waits for a write."""
        if wait.epoch != self.epoch or wait.lsn > self.copy.log.end_lsn:
            self._answer(wait, known=False, met=False)
        else:
            self.waits.add(wait)

    def copies(self, lsn: int) -> int:
        """On how many copies the log is durable up to `lsn`, as far as is known."""
        own = self.copy.log.durable_lsn >= lsn
        return own + sum(peer.durable_lsn >= lsn for peer in self.peers.values())

    def following(self) -> dict[str, Following]:
        """How far the others have come."""
        now, end = self.copy.now_ms, self.copy.log.end_lsn
        return {
            node: Following(
                peer.received_lsn, peer.durable_lsn, peer.applied_lsn,
                0 if peer.durable_lsn >= end else now - peer.caught_up_ms,
            )
            for node, peer in sorted(self.peers.items())
        }  # fmt: skip

    def _has_copies(self, wait: Await) -> bool:
        assert self.copy.row is not None
        needed = copies_needed(wait, len(self.copy.row.replicas))
        return needed <= 1 or self.copies(wait.lsn) >= needed

    def _answer(self, wait: Await, *, known: bool, met: bool) -> None:
        copies = self.copies(wait.lsn) if known else 0
        committed = known and wait.lsn <= self.copy.log.commit_lsn
        self.copy.out.append(Answer(wait.token, known, met, copies, committed))

    def on_read(self, read: Read) -> None:
        """Somebody wants a linearizable read; `settle` answers."""
        self._reads.append(read)

    def _refuse_overdue_reads(self) -> None:
        overdue = [read for read in self._reads if read.deadline_ms <= self.copy.now_ms]
        for read in overdue:
            self._reads.remove(read)
            self.copy.out.append(ReadAnswer(read.token, None, "lease_lost"))

    def on_read_index(self, sender: str, question: ReadIndex) -> None:
        """Another copy asks on behalf of its reader."""
        lsn = self.copy.log.commit_lsn if self.can_read else None
        self.copy.send(sender, Index(self.epoch, question.token, lsn))

    def check_invariants(self) -> None:
        """Raise AssertionError where state contradicts itself."""
        self.in_sync.check_invariants()
        for peer in self.peers.values():
            peer.check_invariants(self.copy.log.end_lsn)
        assert not self.active or self.copy.log.last_epoch == self.epoch
        assert self.copy.writes is not Writes.OPEN or self.active
