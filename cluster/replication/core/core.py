"""The replication protocol of one shard copy: `Core.step(now_ms, event) -> effects`.

    events                          this copy                                 effects
    metadata's row   -----+    +---------------------------+    +----> Send, Ship
    messages         -----+--> | Core: which role, in      | ---+----> Append*, Truncate, SetCommit
    own log: durable -----+    | which epoch; fencing      |    +----> PersistPromise
    clients, time    -----+    |   Primary   or   Replica  |    +----> Answer, ReadAnswer
                               +---------------------------+    +----> Propose (to metadata)

The core has no clock, no socket, no disk, no thread and no chance: the same events give the same
effects, which is how the simulator replays a seed, and how this code is what runs in production.

Why a write that was acknowledged at majority is never lost (3-replication 2.11 in the design):
  I1  metadata gives an epoch to one node in one life, and a copy that is opened again in that life
      asks for another one, so one log is written in it;
  I2  commits count every member of the recorded *or proposed* in-sync set (`insync`);
  I3  each member holds durably all that is committed: it acknowledged it in this epoch and session
      (`replica`), and joined only when it had all of it;
  I4  the recorded set never falls below min_isr, but for a copy that is proved lost;
  I5  only a member becomes primary, and others cut their logs where they leave its log, hence never
      below the commit LSN: whoever would have to, halts.

What every message goes through first (`_on_message`): of a lower epoch than was promised, it is
answered with Fenced and not looked at; of a higher one, it ends the reign of whoever reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nearql.cluster.metadata.shards import CopyLost, Promote, ShardRow
from nearql.cluster.replication.core import events as ev
from nearql.cluster.replication.core import messages as msg
from nearql.cluster.replication.core.copy import Copy, Writes
from nearql.cluster.replication.core.effects import (
    Alarm,
    Answer,
    Effect,
    HandOffDone,
    PersistPromise,
    Propose,
    StartAnew,
)
from nearql.cluster.replication.core.epochs import is_rolled_back
from nearql.cluster.replication.core.lease import Promise
from nearql.cluster.replication.core.log import Log
from nearql.cluster.replication.core.primary import Primary
from nearql.cluster.replication.core.questions import Questions
from nearql.cluster.replication.core.replica import Replica
from nearql.cluster.replication.core.state import FOLLOWING, State
from nearql.cluster.replication.core.status import Status
from nearql.cluster.replication.core.timing import Timing

_LONG_AGO = -(1 << 62)


class Core:
    """See the module. Not thread-safe.

    incarnation: of this process's node, as metadata numbered its start. log: the copy as it was
    found on disk. promised_epoch: what the last `PersistPromise` of this copy said, else 0.
    number: of this core among those that the process has made for the shard, so that nobody takes
    an answer to an earlier one for an answer to this one.
    """

    def __init__(
        self,
        node_id: str,
        alloc_id: str,
        incarnation: int,
        *,
        log: ev.LogState,
        promised_epoch: int,
        now_ms: int,
        timing: Timing | None = None,
        number: int = 0,
    ) -> None:
        timing = timing or Timing()
        # Heartbeats that were answered are not persisted: the last one may be a moment ago. A copy
        # without an epoch has answered none.
        assumed_ms = now_ms + timing.lease_ms if promised_epoch else now_ms
        promise = Promise(promised_epoch, assumed_ms)
        self.copy = Copy(node_id, alloc_id, Log(log), promise, timing)
        self.copy.incarnation = incarnation
        self.copy.now_ms = now_ms
        self.role: Primary | Replica | None = None
        self.halted: str | None = None  # why, for the operator
        self.fenced_messages = 0  # that came from an older epoch
        self._questions = Questions(self.copy, number)
        self._session_number = number << 32
        self._log_index = -1  # of the newest row
        self._least_epoch = promised_epoch  # metadata with a lower one has lost something
        self._opened_epoch = self._persisted_epoch = promised_epoch
        self._successor: str | None = None  # alloc_id of the copy that replaces this damaged one
        self._replacing = False
        self._claimed_ms = _LONG_AGO
        self._state = State.EMPTY

    def step(self, now_ms: int, event: ev.Event) -> list[Effect]:
        """What is to be done, in this order, now that this has happened."""
        copy = self.copy
        copy.now_ms = max(copy.now_ms, now_ms)
        copy.out = []
        _HANDLERS[type(event)](self, event)
        if isinstance(self.role, Primary):
            self.role.settle()
        state = self.state
        if state is not self._state:
            assert state in FOLLOWING[self._state], f"{self._state} -> {state}"
            self._state = state
        return copy.out

    @property
    def state(self) -> State:
        """See the table of states."""
        if self.halted is not None:
            return State.HALTED
        if self._successor is not None:
            return State.CORRUPT
        if isinstance(self.role, Primary):
            if not self.role.active:
                return State.PRIMARY_WAIT
            return State.PRIMARY_ACTIVE if self.role.lease_valid else State.SUSPENDED
        if self.role is None:
            return State.EMPTY
        if self.copy.fetching:
            return State.SNAPSHOT
        return State.ISR if self.copy.in_sync else State.CATCHUP

    # ---- Asked at any time -----------------------------------------------------------------

    def lease_valid(self, now_ms: int) -> bool:
        """Whether this is the primary, and no other can be one now; to be asked after a read."""
        self.copy.now_ms = max(self.copy.now_ms, now_ms)
        return isinstance(self.role, Primary) and self.role.active and self.role.lease_valid

    def refusal(self, now_ms: int, concern: ev.Concern) -> str | None:
        """Why a write must not be logged now: not_primary, lease_lost, hand_off,
        not_enough_replicas or too_much_uncommitted; None if it may.
        """
        self.copy.now_ms = max(self.copy.now_ms, now_ms)
        return self.role.refusal(concern) if isinstance(self.role, Primary) else "not_primary"

    def status(self, now_ms: int) -> Status:
        """The copy at this moment."""
        copy, role, log = self.copy, self.role, self.copy.log
        copy.now_ms = max(copy.now_ms, now_ms)
        fresh_ms = role.fresh_ms if isinstance(role, Replica) else None
        return Status(
            state=self.state,
            epoch=copy.promise.epoch,
            primary=copy.row.primary if copy.row else None,
            in_sync=copy.row.isr if copy.row else (),
            end_lsn=log.end_lsn,
            durable_lsn=log.durable_lsn,
            commit_lsn=log.commit_lsn,
            applied_lsn=log.applied_lsn,
            vector=log.vector,
            lease_valid=isinstance(role, Primary) and role.active and role.lease_valid,
            fresh_ms=None if fresh_ms is None else copy.now_ms - fresh_ms,
            fenced_messages=self.fenced_messages,
            reason=self.halted,
            copies=role.following() if isinstance(role, Primary) else {},
        )

    def is_rolled_back(self, epoch: int, lsn: int) -> bool:
        """Whether a record that a client was told of, at (epoch, lsn), was lost at a failover."""
        return is_rolled_back(self.copy.log.vector, self.copy.log.end_lsn, epoch, lsn)

    # ---- Metadata --------------------------------------------------------------------------

    def _on_metadata(self, event: ev.MetadataChanged) -> None:
        copy = self.copy
        life = event.incarnations.get(copy.node_id, 0)
        if event.log_index <= self._log_index or life < copy.incarnation or self.halted is not None:
            return  # older than what we know, or from before this process registered
        self._log_index = event.log_index
        if event.shard is not None and (reason := self._went_back(event.shard)):
            self._halt(reason)
            return
        reborn, copy.incarnation = life > copy.incarnation, life
        copy.row, copy.incarnations, copy.fenced = event.shard, event.incarnations, event.fenced
        if event.shard is None or not self._takes_part(event.shard):
            self._end_role()
        elif event.shard.epoch >= copy.promise.epoch:  # else a message told us more already
            self._take_role(event.shard, reborn=reborn)

    def _went_back(self, row: ShardRow) -> str | None:
        """What metadata has lost, if it has: then nobody knows who may do what."""
        known = self.copy.row
        if row.epoch < self._least_epoch:
            return f"metadata went back from epoch {self._least_epoch} to {row.epoch}"
        if known is not None and row.version < known.version:
            return f"metadata went back from version {known.version} to {row.version}"
        self._least_epoch = row.epoch
        return None

    def _takes_part(self, row: ShardRow) -> bool:
        """Whether this copy is one of the shard's, and fit to be; starts what makes it so."""
        listed = row.replicas.get(self.copy.node_id)
        if self._successor is not None:
            if listed == self._successor and not self._replacing:
                self._start_anew(self._successor)
            return False
        if self._replacing or not listed:
            return False
        if listed != self.copy.alloc_id and self.copy.log.end_lsn > 0:
            self._start_anew(None)  # files of another copy: they can't be trusted to be anything
        return listed == self.copy.alloc_id

    def _take_role(self, row: ShardRow, *, reborn: bool) -> None:
        """Play the part that the row gives this copy."""
        copy, role = self.copy, self.role
        self._promise(row.epoch)
        reigns = row.primary == copy.node_id and not self._may_have_reigned(row)
        if isinstance(role, Primary) and role.epoch == row.epoch and reigns:
            role.on_row()
        elif reigns:
            self._end_role()
            self.role = Primary(copy, row.epoch)
            self.role.tick()
        elif isinstance(role, Replica) and (role.epoch, role.primary) == (row.epoch, row.primary):
            if reborn:
                role.resync()
        else:
            self._end_role()
            primary = None if row.primary == copy.node_id else row.primary
            self.role = Replica(copy, row.epoch, primary, self._session_number)
            self.role.tick()

    def _promise(self, epoch: int) -> None:
        """Messages of lower epochs are never answered any more."""
        self.copy.promise.epoch = max(self.copy.promise.epoch, epoch)
        if epoch > self._persisted_epoch:
            self._persisted_epoch = epoch
            self.copy.out.append(PersistPromise(epoch))

    def _may_have_reigned(self, row: ShardRow) -> bool:
        """Whether an earlier core of this very copy may have written records in this epoch that
        others have, and the log that was found has not. Of an only copy nobody else has any.
        """
        if isinstance(self.role, Primary) and self.role.epoch == row.epoch:
            return False  # it was this core
        return row.epoch <= self._opened_epoch and len(row.replicas) > 1

    def _reign_anew(self) -> None:
        """Metadata names this copy, in an epoch in which it can't reign: ask for another one."""
        copy, row = self.copy, self.copy.row
        if row is None or row.primary != copy.node_id or not copy.listed:
            return
        if copy.now_ms - self._claimed_ms < copy.timing.propose_ms:
            return
        self._claimed_ms = copy.now_ms
        promote = Promote(
            request_id=f"{row.uuid}/{row.version}/{copy.node_id}/{copy.now_ms}",
            shard_uuid=row.uuid,
            expected_version=row.version,
            node_id=copy.node_id,
            incarnation=copy.incarnation,
        )
        copy.out.append(Propose(promote))

    def _end_role(self) -> None:
        if isinstance(self.role, Primary):
            self.role.end()
        elif isinstance(self.role, Replica):
            self._session_number = self.role.session.number
        self.role = None

    # ---- Messages --------------------------------------------------------------------------

    def _on_message(self, event: ev.Received) -> None:
        message, promise = event.message, self.copy.promise
        if self.halted is not None:
            return
        if isinstance(message, msg.LeaseRelease):  # of the epoch before, as a rule
            promise.release(message.epoch, message.hb_id)
            self._on_tick()
        elif message.epoch < promise.epoch:
            self.fenced_messages += 1
            if not isinstance(message, msg.Fenced):
                self.copy.send(event.sender, msg.Fenced(promise.epoch))
        elif message.epoch > promise.epoch:
            self._await_row(message.epoch)
        elif self.role is not None:
            self._deliver(event.sender, message)

    def _await_row(self, epoch: int) -> None:
        """A message told of this epoch; who reigns in it, metadata will tell.

        The promise is persisted only then: nobody is answered in the new epoch before.
        """
        took_part = self.role is not None
        self._end_role()
        self.copy.promise.epoch = epoch
        if took_part:
            self.role = Replica(self.copy, epoch, None, self._session_number)

    def _deliver(self, sender: str, message: msg.Message) -> None:
        """A message of the present epoch to the role that it is for."""
        role, reason = self.role, None
        if isinstance(role, Primary):
            if isinstance(message, msg.Ack):
                role.on_ack(sender, message)
            elif isinstance(message, msg.Sync):
                reason = role.on_sync(sender, message)
            elif isinstance(message, msg.ReadIndex):
                role.on_read_index(sender, message)
        elif isinstance(role, Replica) and sender == role.primary:
            if isinstance(message, msg.Append):
                role.on_append(message)
            elif isinstance(message, msg.SyncOk):
                reason = role.on_sync_ok(message)
            elif isinstance(message, msg.SyncFull):
                role.on_sync_full(message)
            elif isinstance(message, msg.Index):
                self._questions.on_index(message)
        if reason is not None:
            self._halt(reason)

    # ---- The log ---------------------------------------------------------------------------

    def _on_appended(self, event: ev.Appended) -> None:
        copy = self.copy
        if copy.writes is Writes.CLOSED or event.epoch != copy.writes_epoch:
            return
        copy.log.grow(event.epoch, event.end_lsn)
        if isinstance(self.role, Primary) and self.role.epoch == event.epoch:
            self.role.on_appended(event)

    def _on_writes_closed(self, event: ev.WritesClosed) -> None:
        copy = self.copy
        if copy.writes is Writes.CLOSING:
            copy.log.grow(copy.writes_epoch, event.end_lsn)
            copy.writes = Writes.CLOSED
            self._on_tick()

    def _on_durable(self, event: ev.Durable) -> None:
        self.copy.log.note_durable(event.lsn, event.generation)
        if isinstance(self.role, Primary):
            self.role.advance()
        elif self.role is not None:
            self.role.on_durable()

    def _on_applied(self, event: ev.Applied) -> None:
        log = self.copy.log
        log.applied_lsn = max(log.applied_lsn, min(event.lsn, log.commit_lsn))

    def _on_trimmed(self, event: ev.Trimmed) -> None:
        log = self.copy.log
        log.first_lsn, log.base_lsn = event.first_lsn, event.base_lsn
        log.log_bytes, log.snapshot_bytes = event.log_bytes, event.snapshot_bytes

    def _on_shipped(self, event: ev.Shipped) -> None:
        if isinstance(self.role, Primary):
            self.role.on_shipped(event)

    def _on_installed(self, event: ev.SnapshotInstalled) -> None:
        if not self.copy.fetching:
            return
        self.copy.fetching = False
        self.copy.log.replace(event.log)
        if isinstance(self.role, Replica):
            self.role.resync()

    def _on_fetch_failed(self, _event: ev.SnapshotFailed) -> None:
        self.copy.fetching = False

    # ---- Damage ----------------------------------------------------------------------------

    def _on_corrupted(self, event: ev.Corrupted) -> None:
        self._end_role()
        self._successor = event.new_alloc_id
        self.copy.fetching = False
        self.copy.out.append(Alarm(f"copy {self.copy.alloc_id} is damaged: {event.reason}"))
        self._claim_loss()

    def _claim_loss(self) -> None:
        """Ask metadata to note that the copy it lists for this node is gone."""
        copy, row = self.copy, self.copy.row
        listed = row.replicas.get(copy.node_id) if row else None
        successor = self._successor or copy.alloc_id
        waited = copy.now_ms - self._claimed_ms
        if not row or not listed or listed == successor or waited < copy.timing.propose_ms:
            return
        self._claimed_ms = copy.now_ms
        change = CopyLost(
            request_id=f"{row.uuid}/{successor}/{row.version}",
            shard_uuid=row.uuid,
            expected_version=row.version,
            node_id=copy.node_id,
            alloc_id=listed,
            new_alloc_id=successor,
        )
        copy.out.append(Propose(change))

    def _start_anew(self, alloc_id: str | None) -> None:
        self._replacing = True
        self.copy.out.append(StartAnew(alloc_id))

    def _on_replaced(self, event: ev.CopyReplaced) -> None:
        copy = self.copy
        copy.alloc_id, self._successor, self._replacing = event.alloc_id, None, False
        self._persisted_epoch = 0  # what was promised lay among the old copy's files
        copy.log.replace(ev.LogState())
        if copy.row is not None and self._takes_part(copy.row):
            self._take_role(copy.row, reborn=False)

    def _halt(self, reason: str) -> None:
        self._end_role()
        self.halted = reason
        self.copy.out.append(Alarm(reason))

    # ---- Time and clients ------------------------------------------------------------------

    def _on_tick(self, _event: ev.Tick | None = None) -> None:
        if self.halted is not None:
            return
        if self.role is not None:
            self.role.tick()
            if isinstance(self.role, Replica):
                self._reign_anew()
        elif not self._replacing:
            self._claim_loss()
        self._questions.tick(self.role)

    def _on_await(self, event: ev.Await) -> None:
        if isinstance(self.role, Primary):
            self.role.on_await(event)
        else:
            self.copy.out.append(Answer(event.token, False, False, 0, False))

    def _on_read(self, event: ev.Read) -> None:
        if isinstance(self.role, Primary):
            self.role.on_read(event)
        else:
            self._questions.ask(event, self.role)

    def _on_proposal_done(self, event: ev.ProposalDone) -> None:
        if isinstance(self.role, Primary) and event.code:
            self.role.in_sync.on_refused(event.request_id)

    def _on_hand_off(self, event: ev.HandOff) -> None:
        if isinstance(self.role, Primary):
            self.role.on_hand_off(event)
        else:
            self.copy.out.append(HandOffDone(False, "this copy is not the primary"))

    def check_invariants(self) -> None:
        """Raise AssertionError where state contradicts itself."""
        self.copy.log.check_invariants()
        if self.role is not None:
            self.role.check_invariants()
        if isinstance(self.role, Primary):
            assert self.role.epoch == self.copy.promise.epoch
            assert self.copy.listed


_HANDLERS: dict[type[Any], Callable[[Core, Any], None]] = {
    ev.Tick: Core._on_tick,
    ev.MetadataChanged: Core._on_metadata,
    ev.Received: Core._on_message,
    ev.Appended: Core._on_appended,
    ev.WritesClosed: Core._on_writes_closed,
    ev.Durable: Core._on_durable,
    ev.Applied: Core._on_applied,
    ev.Shipped: Core._on_shipped,
    ev.Trimmed: Core._on_trimmed,
    ev.Await: Core._on_await,
    ev.Read: Core._on_read,
    ev.ProposalDone: Core._on_proposal_done,
    ev.SnapshotInstalled: Core._on_installed,
    ev.SnapshotFailed: Core._on_fetch_failed,
    ev.Corrupted: Core._on_corrupted,
    ev.CopyReplaced: Core._on_replaced,
    ev.HandOff: Core._on_hand_off,
}
