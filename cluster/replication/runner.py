"""Runs the core of one shard copy: events go in one by one, effects are carried out in order.

    link, metadata, clients, the copy's own threads
         |  feed(event)
         v
    queue -> core.step -> effects -> Send, Ship: link   SetCommit, Append: copy   Answer: a thread
                             |
                             +-> PersistPromise, Truncate, Lead, Follow: wait for the disk or a
                                 writer, hence run in a thread; the queue stands still meanwhile,
                                 those of other copies do not

Everything here runs in the loop unless it says otherwise. What the copy's threads tell (logged,
durable, applied) only sets a flag and wakes the loop, so that many of them become one event: that
is replication's half of group commit.
"""

from __future__ import annotations

import errno
import logging
import math
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from typing import Any, Protocol

from nearql.cluster.metadata.commands import Command
from nearql.cluster.metadata.shards import Promote
from nearql.cluster.replication.ages import Ages
from nearql.cluster.replication.clock import Clock
from nearql.cluster.replication.codec import record
from nearql.cluster.replication.core import effects as ef
from nearql.cluster.replication.core import events as ev
from nearql.cluster.replication.core.core import Core
from nearql.cluster.replication.core.messages import Ack, Append, Message
from nearql.cluster.replication.core.primary import Primary
from nearql.cluster.replication.link.loop import LoopThread
from nearql.cluster.replication.refusals import REFUSALS
from nearql.cluster.replication.waiting import Questions
from nearql.engine.errors import Corruption, NearQLError, NotFound, StorageFull
from nearql.engine.shard.copy import ShardCopy

logger = logging.getLogger(__name__)

TELL_S = 0.01  # between two times that copies are told what is committed, if no record tells them
SOON_S = 0.001  # until they are told where that is longer ago
NEVER_MS = -(1 << 62)
RETRY_S = 1.0  # until an effect is tried again for which there was no room
WAITING_EVENTS = 10_000  # beyond that, messages are lost, as they may be
_LOSABLE = (ev.Received, ev.Tick)


class Surroundings(Protocol):
    """What a runner needs of its node."""

    thread: LoopThread
    clock: Clock

    @property
    def disk(self) -> Executor:
        """Threads for what waits."""

    def send(self, node_id: str, shard_uuid: str, message: Message) -> bool:
        """Give a message to the link; whether it took it."""

    def has_room(self, node_id: str) -> bool:
        """Whether records may be sent to this node just now."""

    def propose(self, command: Command, done: Callable[[str], None]) -> None:
        """Ask metadata; `done` is called in the loop with the code, if metadata answers."""

    def fetch(self, runner: CopyRunner, effect: ef.FetchSnapshot) -> None:
        """Fetch and install a snapshot, then feed the runner what came of it."""

    def give_up(self, reason: str, /) -> object:
        """End the process: its disk can't be trusted."""

    def renew(self, runner: CopyRunner, alloc_id: str | None) -> None:
        """Put the copy's files aside, make an empty copy, and `replace` the runner's by it."""


@dataclass(frozen=True, slots=True)
class Authority:
    """What the copy may do, as other threads read it; published after each step, before effects.

    can_read: as the primary it has committed in its epoch. commit_lsn: at least what was committed
    when this was published, though the copy itself may hear of it a moment later.
    lease_until_ms: by the node's clock.
    """

    epoch: int = 0
    active: bool = False
    can_read: bool = False
    lease_until_ms: float = 0
    commit_lsn: int = 0


class CopyRunner:
    """See the module."""

    def __init__(
        self, shard_uuid: str, table_uuid: str, copy: ShardCopy, core: Core, around: Surroundings
    ) -> None:
        self.shard_uuid, self.table_uuid = shard_uuid, table_uuid
        self.copy, self.core = copy, core
        self.authority = Authority()
        self.awaits: Questions[ef.Answer] = Questions()
        self.reads: Questions[ef.ReadAnswer] = Questions()
        self.hand_offs: Questions[ef.HandOffDone] = Questions()
        self.alarm: str | None = None  # why the operator is needed
        self.published: Callable[[], None] = lambda: None  # after the queue ran dry
        self._around = around
        self._events: deque[ev.Event] = deque()
        self._effects: deque[ef.Effect] = deque()
        self._waiting = False  # an effect runs in a thread, or waits for room on the disk
        self._running = False
        self._ended = False
        self.busy: set[Future[Any]] = set()  # what runs in threads
        self.dropped_messages = 0  # that came while an effect waited for long
        self._generation = 0
        self._kept = (-1, -1)  # where log and checkpoint stood, as last told to the core
        self._woken = False  # a wake-up is on its way
        self._damage: str | None = None  # as last told to the core
        self._last_end = self._last_durable = (0, 0)  # told last: epoch and LSN, LSN and generation
        self._told: deque[tuple[int, int]] = deque()  # own records, not committed: LSN, bytes
        self._told_bytes = 0
        self._slow = False  # the disk takes too long: see `disks`
        self.ages = Ages()  # of the records of this primary
        self._logged_ms: int | None = None  # when the first one was logged that is not noted yet
        self._telling = False  # the others are told soon what is committed,
        self._told_s = 0.0  # and were last by the loop's time
        self._told_commit: dict[str, int] = {}  # what each of them was told last
        copy.listen(self)

    # ---- What the copy's threads tell (any thread, perhaps with locks held) -----------------

    def logged(self, lsn: int) -> None:
        """See `CopyListener`."""
        if self._logged_ms is None:
            self._logged_ms = self._around.clock()
        self._wake()

    def durable(self, lsn: int) -> None:
        """See `CopyListener`."""
        self._wake()

    def applied(self, lsn: int) -> None:
        """See `CopyListener`."""
        self._wake()

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._around.thread.soon(self._look)

    # ---- The queue -------------------------------------------------------------------------

    def feed(self, event: ev.Event) -> None:
        """Something has happened. What the copy did before is told first."""
        if self._ended:
            return
        if len(self._events) >= WAITING_EVENTS and isinstance(event, _LOSABLE):
            self.dropped_messages += 1
            return
        self._events.append(event)
        self._run()

    def _look(self) -> None:
        """See what the copy's threads have done."""
        self._run()

    def _run(self) -> None:
        if self._running or self._ended:
            return
        self._running = True
        try:
            while not self._ended and not self._waiting and self._next():
                pass
        finally:
            self._running = False
        self.published()

    def _next(self) -> bool:
        """One effect, or else one event; False where there is neither."""
        if self._effects:
            self._carry_out(self._effects.popleft())
            return True
        event = self._of_copy() or (self._events.popleft() if self._events else None)
        if event is not None:
            self._step(event)
        return event is not None

    def _of_copy(self) -> ev.Event | None:
        """What the copy did by itself since it was last looked at; each thing is told once, whether
        the core makes something of it or not.
        """
        self._woken = False
        copy, log = self.copy, self.core.copy.log
        epoch, end = copy.leads, copy.end.lsn
        if epoch is not None and end > log.end_lsn and self._last_end != (epoch, end):
            self._last_end = epoch, end
            self._note_age(end)
            return ev.Appended(epoch, end, self._new_bytes(end, log.commit_lsn))
        durable = min(copy.durable_lsn, log.end_lsn), self._generation
        if durable[0] > log.durable_lsn and durable != self._last_durable:
            self._last_durable = durable
            return ev.Durable(*durable)
        applied = min(copy.applied_lsn, log.commit_lsn)
        return ev.Applied(applied) if applied > log.applied_lsn else None

    def _note_age(self, end_lsn: int) -> None:
        since_ms, self._logged_ms = self._logged_ms, None
        role = self.core.role
        if isinstance(role, Primary):  # what all have is of no age
            self.ages.forget(min((p.durable_lsn for p in role.peers.values()), default=end_lsn))
        self.ages.note(end_lsn, self._around.clock() if since_ms is None else since_ms)

    def _new_bytes(self, end_lsn: int, commit_lsn: int) -> int:
        """About how many bytes were logged since they were last told."""
        while self._told and self._told[0][0] <= commit_lsn:
            self._told_bytes -= self._told.popleft()[1]
        new = max(0, self.copy.uncommitted_bytes - self._told_bytes)
        self._told.append((end_lsn, new))
        self._told_bytes += new
        return new

    def _step(self, event: ev.Event) -> None:
        try:
            self._effects.extend(self.core.step(self._around.clock(), event))
        except AssertionError as error:
            self.stop(
                f"an invariant of the protocol is broken: {error!r} at {event!r}"[:2000], error
            )
        else:
            self.authority = self._authority()

    def _authority(self) -> Authority:
        role = self.core.role
        if not isinstance(role, Primary):
            return Authority()
        until: float = math.inf
        counted = self.core.copy.timing.lease_counted_ms
        for node in role.in_sync.others:
            peer = role.peers.get(node)
            until = min(until, peer.promised_ms + counted if peer else -math.inf)
        if role.hand_over is not None and role.hand_over.released:
            until = -math.inf
        commit_lsn = self.core.copy.log.commit_lsn
        can_read = role.active and commit_lsn >= role.start_lsn
        return Authority(role.epoch, role.active, can_read, until, commit_lsn)

    @property
    def ended(self) -> bool:
        """Whether it takes no part any more."""
        return self._ended

    def stop(self, reason: str, error: BaseException | None = None) -> None:
        """Take no further part: what this copy would do can't be trusted."""
        logger.error("shard %s: %s", self.shard_uuid, reason, exc_info=error)
        self.alarm = reason
        self.end()
        self._submit(self.copy.follow)
        self.published()

    def end(self) -> None:
        """The copy belongs to somebody else from now on."""
        self._ended = True
        self.authority = Authority()
        self.copy.listen(None)
        self._events.clear()
        self._effects.clear()
        self.awaits.answer_all(ef.Answer(0, False, False, 0, False))
        self.reads.answer_all(ef.ReadAnswer(0, None, "not_primary"))
        self.hand_offs.answer_all(ef.HandOffDone(False, "the copy was closed"))

    # ---- Effects ---------------------------------------------------------------------------

    def _carry_out(self, effect: ef.Effect) -> None:
        _CARRY_OUT[type(effect)](self, effect)

    def _submit(self, work: Callable[[], Any]) -> Future[Any]:
        """Do it in a thread."""
        future = self._around.disk.submit(work)
        self.busy.add(future)
        future.add_done_callback(self.busy.discard)
        return future

    def _in_thread(
        self, effect: ef.Effect, work: Callable[[], Any], then: Callable[[], None] | None = None
    ) -> None:
        """Carry out an effect that waits; what follows waits for it."""
        self._waiting = True
        self._submit(work).add_done_callback(
            lambda done: self._around.thread.soon(self._finished, effect, done, then)
        )

    def _finished(
        self, effect: ef.Effect, future: Future[Any], then: Callable[[], None] | None
    ) -> None:
        self._waiting = False
        error = None if future.cancelled() else future.exception()
        if self._ended:
            return
        if error is not None:
            self._broken(effect, error)
        elif then is not None:
            then()
        self._run()

    def _broken(self, effect: ef.Effect, error: BaseException) -> None:
        """An effect could not be carried out."""
        if isinstance(error, StorageFull):
            self._try_again_later(effect, error)
        elif isinstance(error, Corruption):
            self._effects.clear()
            self.feed(ev.Corrupted(error.detail, uuid.uuid4().hex))
        else:
            self.stop(f"its log can't be used: {error!r}", error)
            if _is_of_disk(error):  # what the kernel shows of it need not be there
                self._around.give_up(f"the disk of shard {self.shard_uuid} failed: {error!r}")

    def _try_again_later(self, effect: ef.Effect, error: StorageFull) -> None:
        """Without room the copy stands still: it acknowledges nothing, and its primary goes on
        without it.
        """
        if self.alarm is None:
            logger.error("shard %s waits for room: %s", self.shard_uuid, error.detail)
        self.alarm = error.detail
        self._waiting = True
        self._effects.appendleft(effect)
        self._around.thread.loop.call_later(RETRY_S, self._try_again)

    def _try_again(self) -> None:
        self._waiting = False
        self.alarm = None
        self._run()

    def _send(self, effect: ef.Send) -> None:
        if self._slow and isinstance(effect.message, Ack) and self._is_spare:
            return  # its primary shall not wait for this disk
        self._give(effect.node, effect.message)

    def _give(self, node: str, message: Message) -> bool:
        """To the link; whether it took it."""
        taken = self._around.send(node, self.shard_uuid, message)
        if taken and isinstance(message, Append):
            self._told_commit[node] = message.commit_lsn
        return taken

    def _persist(self, effect: ef.PersistPromise) -> None:
        self._in_thread(effect, lambda: self.copy.promise(effect.epoch))

    def _lead(self, effect: ef.Lead) -> None:
        self._generation = effect.generation

        self.ages.clear()

        def lead() -> None:
            lsn = self.copy.lead(effect.epoch)
            assert lsn == effect.lsn, f"EPOCH_START at {lsn}, not {effect.lsn}"

        self._in_thread(effect, lead)

    def _admit(self, effect: ef.Admit) -> None:
        self.copy.refuse_writes(effect.refusal and REFUSALS[effect.refusal])

    def _follow(self, effect: ef.Follow) -> None:
        def closed() -> None:
            self._events.appendleft(ev.WritesClosed(self.copy.end.lsn))

        self._in_thread(effect, self.copy.follow, closed)

    def _append(self, effect: ef.AppendRecords) -> None:
        self._generation = effect.generation
        try:
            done = self.copy.append([item.data for item in effect.records])
        except NearQLError as error:
            self._broken(effect, error)
            return
        if done.mismatch is not None or done.gap:
            where = done.mismatch or effect.records[0].lsn
            reason = f"record {where} of the primary does not join the log's end {done.end}"
            self.feed(ev.Corrupted(reason, uuid.uuid4().hex))

    def _truncate(self, effect: ef.Truncate) -> None:
        self._generation = effect.generation
        self._in_thread(effect, lambda: self.copy.truncate(effect.end_lsn))

    def _commit(self, effect: ef.SetCommit) -> None:
        self.copy.advance(effect.lsn)
        if not self._telling and isinstance(self.core.role, Primary):
            self._telling = True
            loop = self._around.thread.loop
            loop.call_at(max(loop.time() + SOON_S, self._told_s + TELL_S), self._tell_commit)

    def _tell_commit(self) -> None:
        """Bring heartbeats forward for copies that no record has told what is committed: whoever
        reads there waits for it. The core makes and sends them, as it would a little later.
        """
        self._telling, self._told_s = False, self._around.thread.loop.time()
        role = self.core.role
        if self._ended or not isinstance(role, Primary):
            return
        commit_lsn, last = self.core.copy.log.commit_lsn, self.core.copy.log.end_lsn
        late = [
            peer
            for node, peer in role.peers.items()
            if self._told_commit.get(node, 0) < commit_lsn and peer.next_lsn > last
        ]
        for peer in late:
            peer.told_ms = NEVER_MS
        if late:
            self.feed(ev.Tick())

    def _answer(self, effect: ef.Answer) -> None:
        self.awaits.answer(effect.token, effect)

    def _answer_read(self, effect: ef.ReadAnswer) -> None:
        self.reads.answer(effect.token, effect)

    def _propose(self, effect: ef.Propose) -> None:
        request_id = effect.command.request_id
        self._around.propose(
            effect.command, lambda code: self.feed(ev.ProposalDone(request_id, code))
        )

    def _fetch(self, effect: ef.FetchSnapshot) -> None:
        self._around.fetch(self, effect)

    def _start_anew(self, effect: ef.StartAnew) -> None:
        self._around.renew(self, effect.alloc_id)

    def _handed_off(self, effect: ef.HandOffDone) -> None:
        self.hand_offs.answer_all(effect)

    def _raise_alarm(self, effect: ef.Alarm) -> None:
        logger.error("shard %s: %s", self.shard_uuid, effect.reason)
        self.alarm = effect.reason

    # ---- Records to others -----------------------------------------------------------------

    def _ship(self, effect: ef.Ship) -> None:
        """Read records and send them; the core asks again where nothing was sent."""
        if not self._around.has_room(effect.node):
            return
        if self.copy.remembers(effect.append.prev_lsn + 1):
            self._shipped(effect, self._read(effect))
            return
        self._submit(lambda: self._read(effect)).add_done_callback(
            lambda done: self._around.thread.soon(self._was_read, effect, done)
        )

    def _read(self, effect: ef.Ship) -> list[Any]:
        """In a thread, where it may have to read the disk."""
        try:
            return list(self.copy.read(effect.append.prev_lsn + 1, effect.limit_bytes))
        except NotFound:  # trimmed meanwhile: the core learns it, and sends a snapshot
            return []

    def _was_read(self, effect: ef.Ship, future: Future[list[Any]]) -> None:
        role = self.core.role
        still = isinstance(role, Primary) and role.epoch == effect.append.epoch
        if self._ended or future.cancelled() or not still:
            return  # the log may have been cut since
        error = future.exception()
        if isinstance(error, Corruption):
            self.feed(ev.Corrupted(error.detail, uuid.uuid4().hex))
        elif isinstance(error, NearQLError):
            logger.warning("shard %s: %s", self.shard_uuid, error.detail)
        elif error is not None:
            self.stop(f"its log can't be read: {error!r}", error)
        else:
            self._shipped(effect, future.result())

    def _shipped(self, effect: ef.Ship, found: list[Any]) -> None:
        records = tuple(record(raw) for raw in found if raw.lsn <= effect.last_lsn)
        if not records or not self._around.has_room(effect.node):
            return
        append = replace(effect.append, records=records)
        if self._give(effect.node, append):
            nbytes = sum(item.nbytes for item in records)
            self.feed(ev.Shipped(effect.node, records[0].lsn, records[-1].lsn, nbytes))

    # ---- A slow disk -----------------------------------------------------------------------

    @property
    def has_others(self) -> bool:
        """Whether the shard has other copies; for any thread."""
        row = self.core.copy.row
        return row is not None and len(row.replicas) > 1

    def set_slow(self, slow: bool) -> None:
        """Whether the disk takes too long; for any thread, and often."""
        if slow != self._slow:
            self._slow = slow
            logger.warning(
                "the disk of shard %s %s", self.shard_uuid,
                "takes too long: another copy shall do its part" if slow else "keeps up again",
            )  # fmt: skip
        if slow:
            self._around.thread.soon(self._abdicate)

    @property
    def _is_spare(self) -> bool:
        """Whether the in-sync set may go on without this copy."""
        copy = self.core.copy
        return copy.in_sync and copy.row is not None and len(copy.row.isr) > copy.row.min_isr

    def _abdicate(self) -> None:
        """Ask metadata for another primary among those in sync: the one that has most."""
        role, row = self.core.role, self.core.copy.row
        if self._ended or not isinstance(role, Primary) or row is None:
            return
        fit = [node for node in role.peers if node in row.isr]
        if not fit:
            return
        target = max(fit, key=lambda node: (role.peers[node].durable_lsn, node))
        command = Promote(
            request_id=f"{row.uuid}/{row.version}/{target}/slow-disk",
            shard_uuid=row.uuid, expected_version=row.version, node_id=target,
            incarnation=self.core.copy.incarnations.get(target, 0),
        )  # fmt: skip
        self._around.propose(command, lambda code: None)

    # ---- Now and then ----------------------------------------------------------------------

    def look_after_log(self) -> None:
        """Tell the core where the log begins or what is damaged, and the copy what others need."""
        if (damage := self.copy.damage) is not None:
            if damage != self._damage:
                self._damage = damage
                self.feed(ev.Corrupted(damage, uuid.uuid4().hex))
            return
        first, base = self.copy.first_lsn, self.copy.base_lsn
        if (first, base) != self._kept:
            self._kept = first, base
            sizes = self.copy.log_bytes, self.copy.snapshot_bytes
            self.feed(ev.Trimmed(first, base, *sizes))
        self.copy.retain(self._needed_by_others())

    def _needed_by_others(self) -> int | None:
        """The first record that a replica lacks which is there; one that is silent waits in vain,
        and takes a snapshot when it comes back late.
        """
        role = self.core.role
        if not isinstance(role, Primary):
            return None
        heard_ms = self._around.clock() - self.core.copy.timing.behind_ms
        needed = [p.durable_lsn + 1 for p in role.peers.values() if p.heard_ms > heard_ms]
        return min(needed, default=None)

    def replaced(self, copy: ShardCopy) -> None:
        """After `renew`: this copy is in the place of the old one."""
        if self._ended:
            copy.listen(None)
            return
        self.copy.listen(None)
        self.ages.clear()
        self.copy = copy
        copy.listen(self)
        self.alarm = None
        self.feed(ev.CopyReplaced(copy.alloc_id.hex()))

    def log_state(self) -> ev.LogState:
        """The copy's log as the core is told of it."""
        return log_state(self.copy)


def log_state(copy: ShardCopy) -> ev.LogState:
    """A copy's log as it lies on the disk; what is known to be committed counts as its base."""
    base_lsn = max(copy.base_lsn, copy.commit_lsn)
    return ev.LogState(copy.epochs, copy.end.lsn, copy.first_lsn, base_lsn)


def _is_of_disk(error: BaseException) -> bool:
    """Whether a disk that fails is behind it."""
    causes = (error, error.__cause__)
    return any(isinstance(cause, OSError) and cause.errno == errno.EIO for cause in causes)


_CARRY_OUT: dict[type[Any], Callable[[CopyRunner, Any], None]] = {
    ef.Send: CopyRunner._send,
    ef.Ship: CopyRunner._ship,
    ef.PersistPromise: CopyRunner._persist,
    ef.Lead: CopyRunner._lead,
    ef.Admit: CopyRunner._admit,
    ef.Follow: CopyRunner._follow,
    ef.AppendRecords: CopyRunner._append,
    ef.Truncate: CopyRunner._truncate,
    ef.SetCommit: CopyRunner._commit,
    ef.Answer: CopyRunner._answer,
    ef.ReadAnswer: CopyRunner._answer_read,
    ef.Propose: CopyRunner._propose,
    ef.FetchSnapshot: CopyRunner._fetch,
    ef.StartAnew: CopyRunner._start_anew,
    ef.HandOffDone: CopyRunner._handed_off,
    ef.Alarm: CopyRunner._raise_alarm,
}
