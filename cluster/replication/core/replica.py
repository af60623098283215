"""A copy that follows the primary of its epoch.

    SYNC(session n) until answered ----> SYNC_OK(cut): cut the log there; now synced
             ^                                |
             |   a gap: n + 1                 v
             +--------------------------- APPEND: append, flush, acknowledge
             |
             +--- installed <--- SYNC_FULL: fetch a snapshot

Invariant: while synced, the whole log up to its end is the primary's. It is cut nowhere but at
SYNC_OK, so an acknowledgement of the present session never has to be taken back.

An in-sync copy never gives its log away for a snapshot: others count on what it holds.
"""

from __future__ import annotations

from collections import deque

from nearql.cluster.replication.core.copy import Copy
from nearql.cluster.replication.core.effects import AppendRecords, FetchSnapshot, Truncate
from nearql.cluster.replication.core.messages import (
    Ack,
    Append,
    Record,
    Session,
    Sync,
    SyncFull,
    SyncOk,
)

_LONG_AGO = -(1 << 62)


class Replica:
    """Follows the primary of `epoch`; `primary` None: metadata has named none."""

    def __init__(self, copy: Copy, epoch: int, primary: str | None, number: int) -> None:
        """`number`: of the last session of this life."""
        self.copy = copy
        self.epoch = epoch
        self.primary = primary
        self.session = Session(copy.incarnation, number + 1)
        self.synced = False
        self.fresh_ms: int | None = None  # a primary with a valid lease was heard
        self._asked_ms = _LONG_AGO
        self._heard_ms = _LONG_AGO  # anything of this session
        self._heard_commit = 0
        self._heartbeat = 0  # to be given back with the next acknowledgement
        self._unsynced: deque[tuple[int, int]] = deque()  # (LSN, bytes) appended, not durable

    # ---- Synchronise -----------------------------------------------------------------------

    def tick(self) -> None:
        """Ask again where no answer came, or the primary seems to have forgotten this session."""
        now, timing = self.copy.now_ms, self.copy.timing
        if self.synced and now - self._heard_ms > timing.silent_ms:
            self.resync()
        elif not self.synced and now - self._asked_ms >= timing.retry_ms:
            self._ask()

    def _ask(self) -> None:
        copy, log = self.copy, self.copy.log
        if self.primary is None or not copy.settled:
            return
        self._asked_ms = copy.now_ms
        copy.send(
            self.primary,
            Sync(
                self.epoch, self.session, copy.alloc_id, log.vector,
                log.end_lsn, log.base_lsn, log.commit_lsn,
            ),
        )  # fmt: skip

    def resync(self) -> None:
        """Begin a new session: whatever is under way belongs to none any more."""
        self.session = Session(self.copy.incarnation, self.session.number + 1)
        self.synced = False
        self._heard_commit = 0
        self._unsynced.clear()
        self._ask()

    def on_sync_ok(self, answer: SyncOk) -> str | None:
        """Cut the log where it leaves the primary's; why the copy must halt, if so."""
        log = self.copy.log
        if not self._is_answer(answer.epoch, answer.session):
            return None
        if answer.cut_lsn < log.commit_lsn:
            return (
                f"the primary of epoch {self.epoch} has this log up to LSN {answer.cut_lsn} only, "
                f"but LSN {log.commit_lsn} was committed"
            )
        if answer.cut_lsn < log.end_lsn:
            log.truncate(answer.cut_lsn)
            self.copy.out.append(Truncate(log.end_lsn, log.generation))
        self.synced = True
        self._heard_ms = self.copy.now_ms
        self._acknowledge()
        return None

    def on_sync_full(self, answer: SyncFull) -> None:
        """Fetch a snapshot, unless others count on the log that is here."""
        if not self._is_answer(answer.epoch, answer.session) or self.copy.in_sync:
            return
        assert self.primary is not None
        self.copy.fetching = True
        at_least = self.copy.log.commit_lsn
        self.copy.out.append(FetchSnapshot(self.primary, self.epoch, at_least))

    def _is_answer(self, epoch: int, session: Session) -> bool:
        """An answer to an older SYNC speaks of a log that may have moved since."""
        waiting = not self.synced and self.copy.settled
        return waiting and epoch == self.epoch and session == self.session

    # ---- Follow ----------------------------------------------------------------------------

    def on_append(self, message: Append) -> None:
        """Records, or a heartbeat."""
        if message.epoch != self.epoch or message.session != self.session or not self.synced:
            return
        if message.records and not self._joins(message):
            self.resync()
            return
        self._heard_ms = self.copy.now_ms
        self._heartbeat = max(self._heartbeat, message.hb_id)
        self._heard_commit = max(self._heard_commit, message.commit_lsn)
        if message.lease_valid:
            self.fresh_ms = self.copy.now_ms
        self._append(tuple(r for r in message.records if r.lsn > self.copy.log.end_lsn))
        self.copy.commit(min(self._heard_commit, self.copy.log.end_lsn))

    def _joins(self, message: Append) -> bool:
        """Whether the records follow or overlap what is here; a matching one is never cut."""
        log, prev = self.copy.log, message.prev_lsn
        return prev <= log.end_lsn and log.epoch_at(prev) == message.prev_epoch

    def _append(self, records: tuple[Record, ...]) -> None:
        if not records:
            self._acknowledge()
            return
        log = self.copy.log
        log.append(records)
        self._unsynced.extend((record.lsn, record.nbytes) for record in records)
        self.copy.out.append(AppendRecords(records, log.generation))

    def on_durable(self) -> None:
        """More of the log is on disk: acknowledge it, if it is known to be the primary's."""
        while self._unsynced and self._unsynced[0][0] <= self.copy.log.durable_lsn:
            self._unsynced.popleft()
        if self.synced:
            self.copy.commit(min(self._heard_commit, self.copy.log.end_lsn))
            self._acknowledge()

    def _acknowledge(self) -> None:
        copy, log = self.copy, self.copy.log
        assert self.synced, "nothing is known to be the primary's"
        assert self.primary is not None
        copy.promise.give(self.epoch, self._heartbeat, copy.now_ms + copy.timing.lease_ms)
        under_way = sum(nbytes for _, nbytes in self._unsynced)
        credit = max(0, copy.timing.credit_bytes - under_way)
        copy.send(
            self.primary,
            Ack(
                self.epoch, self.session, log.end_lsn, log.durable_lsn, log.applied_lsn,
                credit, self._heartbeat,
            ),
        )  # fmt: skip

    def check_invariants(self) -> None:
        """Raise AssertionError where state contradicts itself."""
        assert not self.synced or self.copy.settled
        assert not self.synced or self.epoch == self.copy.promise.epoch
        assert self.copy.log.last_epoch <= self.copy.promise.epoch
