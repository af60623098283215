"""One node of the simulated cluster: it runs the production core over a disk that may forget.

It does what `cluster.replication.node` does with effects, over virtual time: `World` is its clock,
its network and its metadata.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nearql.cluster.metadata.state import Metadata
from nearql.cluster.replication.core import effects as ef
from nearql.cluster.replication.core import events as ev
from nearql.cluster.replication.core.core import Core
from nearql.cluster.replication.core.messages import Append, Record
from support.shard_disk import Disk

if TYPE_CHECKING:
    from support.shard_world import World

BATCH = 40  # records that one message takes at most
BEAT_MS = 60.0  # how often metadata hears of a node


class Node:
    """A machine with one copy of the shard, and the process on it while it runs."""

    def __init__(self, world: World, name: str, alloc_id: str) -> None:
        self.world = world
        self.name = name
        self.disk = world.new_disk(alloc_id)
        self.core: Core | None = None
        self.life = 0  # rises with each start and end of a process
        self.rate = 1.0 + world.chance.uniform(-0.01, 0.01)
        self.paused_until = 0.0
        self.slow_until = 0.0  # its disk takes long
        self.incarnation = 0  # of this process, once metadata has numbered it
        self.registering = ""  # request id under way
        self.beat_at = 0.0  # when metadata is told again that it is alive
        self.known: Metadata | None = None  # metadata as it has arrived here
        self.damaged = False  # the copy must not be opened as it is
        # Of the process:
        self.leads = 0  # epoch in which writers append here
        self.refusal: str | None = None
        self.syncing = False
        self.generation = 0
        self.fetch_number = 0
        self.cores = 0  # that this node has made
        self.committed_lsn = 0  # as the checks saw it
        self.events: deque[ev.Event] = deque()  # the first is being worked on

    @property
    def now_ms(self) -> int:
        """Its own clock."""
        return int(self.world.now * self.rate)

    @property
    def up(self) -> bool:
        return self.life % 2 == 1

    # ---- The process -----------------------------------------------------------------------

    def start(self) -> None:
        assert not self.up
        self.life += 1
        self.core, self.known = None, None
        self.leads, self.refusal, self.syncing, self.generation = 0, None, False, 0
        self.incarnation = 0
        self.register()
        self.tick(self.life)

    def stop(self, *, power: bool) -> None:
        """The process ends, killed or with the machine's power."""
        assert self.up
        self.life += 1
        self.core = None
        self.registering = ""
        self.events.clear()
        if power:
            self.disk.lose_power(self.world.chance)
        else:
            self.disk.kill()

    def reopen(self) -> None:
        """The copy is closed and opened again by the same process, in the same incarnation."""
        if self.core is None:
            return
        incarnation, known = self.incarnation, self.known
        self.stop(power=False)
        self.life += 1
        self.syncing, self.leads, self.refusal = False, 0, None
        self.incarnation, self.known = incarnation, known
        self.open()
        self.tick(self.life)

    def register(self) -> None:
        self.registering = f"register-{self.name}-{self.world.number()}"

    def on_registered(self, request_id: str, incarnation: int) -> None:
        """Metadata has numbered this life."""
        if request_id != self.registering:
            return
        self.registering = ""
        self.incarnation = incarnation
        if self.core is None:
            self.open()

    def open(self) -> None:
        """Recovery, as the shell does it at start."""
        if self.damaged:
            self.disk = self.world.new_disk(self.world.new_alloc(self.name))
            self.damaged = False
        self.core = self.world.make_core(self)
        self.committed_lsn = self.disk.base_lsn
        if self.known is not None:
            self.learn(self.known)

    def tick(self, life: int) -> None:
        world = self.world
        if self.life != life:
            return
        if world.now < self.paused_until:
            world.at(self.paused_until - world.now + 0.5, self.tick, life)
            return
        row = self.known.nodes.get(self.name) if self.known else None
        if row and row.fenced and row.incarnation == self.incarnation and not self.registering:
            self.register()  # declared dead by mistake: the same process begins a new life
        if self.registering:
            world.ask_metadata(self.name, "register", self.registering)
        if world.now >= self.beat_at:
            self.beat_at = world.now + BEAT_MS
            world.ask_metadata(self.name, "alive", self.incarnation)
        if self.core is not None:
            self.step(ev.Tick())
        world.at(world.timing.tick_ms * (0.25 + 0.75 * world.chance.random()), self.tick, life)

    def learn(self, state: Metadata) -> None:
        """Metadata has changed."""
        if self.known is not None and state.applied_index < self.known.applied_index:
            return
        self.known = state
        row = state.nodes.get(self.name)
        if row is None or row.incarnation < self.incarnation:
            return
        if self.core is None:
            return
        # A registration of a former life may be done after ours: the newest number is ours.
        self.incarnation = row.incarnation
        shard = state.tables["t"].shards[0]
        lives = {name: node.incarnation for name, node in state.nodes.items()}
        fenced = frozenset(name for name, node in state.nodes.items() if node.fenced)
        self.step(ev.MetadataChanged(state.applied_index, shard, lives, fenced))

    def step(self, event: ev.Event) -> None:
        """Feed the core, and carry out all that it wants before the next event."""
        events, life = self.events, self.life
        events.append(event)
        if len(events) > 1:
            return  # it came of an effect, and waits until that step is done
        while events:
            self._step(events[0])
            if self.life != life:
                return
            events.popleft()

    def _step(self, event: ev.Event) -> None:
        world, life, core = self.world, self.life, self.core
        assert core is not None
        world.steps += 1
        breaks, check = world.faults.between, world.checks.effect
        for effect in core.step(int(world.now * self.rate), event):
            if breaks and world.chance.random() < breaks:  # between two effects
                world.lose_power(self)
                return
            check(self, effect)
            _EFFECTS[type(effect)](self, effect)
            if self.life != life:
                return
        if world.strict:
            core.check_invariants()

    # ---- Effects ---------------------------------------------------------------------------

    def _send(self, effect: ef.Send) -> None:
        self.world.transmit(self.name, effect.node, effect.message)

    def _ship(self, effect: ef.Ship) -> None:
        first = effect.append.prev_lsn + 1
        records = self.disk.read(first, effect.last_lsn, BATCH)
        a = effect.append
        message = Append(
            a.epoch, a.session, a.prev_lsn, a.prev_epoch, records, a.commit_lsn, a.hb_id,
            a.lease_valid,
        )  # fmt: skip
        self.world.transmit(self.name, effect.node, message)
        last = first + len(records) - 1
        self.step(ev.Shipped(effect.node, first, last, sum(r.nbytes for r in records)))

    def _promise(self, effect: ef.PersistPromise) -> None:
        self.disk.promised_epoch = max(self.disk.promised_epoch, effect.epoch)

    def _lead(self, effect: ef.Lead) -> None:
        self.generation = effect.generation
        self.leads, self.refusal = effect.epoch, None
        assert self.disk.end_lsn + 1 == effect.lsn, "the core mistakes the log's end"
        self.disk.log(effect.epoch, None)
        self._sync()

    def _admit(self, effect: ef.Admit) -> None:
        self.refusal = effect.refusal

    def _follow(self, _effect: ef.Follow) -> None:
        if self.world.chance.random() < 0.2:  # a writer that had passed already
            self.log_own(self.world.number())
        self.leads = 0
        self.step(ev.WritesClosed(self.disk.end_lsn))

    def log_own(self, value: int) -> Record:
        """A statement of a client's is logged; the core is not told here."""
        record = self.disk.log(self.leads, value)
        self._sync()
        return record

    def _append(self, effect: ef.AppendRecords) -> None:
        self.generation = effect.generation
        for record in effect.records:
            self.disk.append(record)
        self._sync()

    def _sync(self) -> None:
        """One sync at a time; what comes meanwhile is synced by the next."""
        if not self.syncing:
            self.syncing = True
            disk = self.disk
            taken = (self.life, disk, disk.cuts, disk.end_lsn, self.generation)
            self.world.at(self.world.sync_delay(self), self._synced, *taken)

    def _synced(self, life: int, disk: Disk, cuts: int, lsn: int, generation: int) -> None:
        world = self.world
        if self.life != life:
            return
        if world.now < self.paused_until:
            world.at(self.paused_until - world.now, self._synced, life, disk, cuts, lsn, generation)
            return
        self.syncing = False
        if disk is self.disk:
            disk.sync(lsn, cuts)
        if self.disk.durable_lsn < self.disk.end_lsn:
            self._sync()
        if self.core is not None:
            self.step(ev.Durable(lsn, generation))

    def _truncate(self, effect: ef.Truncate) -> None:
        self.generation = effect.generation
        self.disk.cut(effect.end_lsn)

    def _commit(self, effect: ef.SetCommit) -> None:
        delay = self.world.apply_delay()
        if delay:
            self.world.at(delay, self._applied, self.life, self.disk, effect.lsn)
        else:
            self._applied(self.life, self.disk, effect.lsn)

    def _applied(self, life: int, disk: Disk, lsn: int) -> None:
        if self.life != life or disk is not self.disk or self.core is None:
            return
        if lsn <= self.core.copy.log.commit_lsn:  # else a snapshot took its place meanwhile
            self.step(ev.Applied(lsn))
            self.world.readers_go_on(self)

    def _answer(self, effect: ef.Answer) -> None:
        self.world.answered(self, effect)

    def _read_answer(self, effect: ef.ReadAnswer) -> None:
        self.world.read_answered(self, effect)

    def _propose(self, effect: ef.Propose) -> None:
        self.world.ask_metadata(self.name, "propose", effect.command)

    def _fetch(self, effect: ef.FetchSnapshot) -> None:
        self.fetch_number += 1
        delay = self.world.chance.uniform(10, 120)
        self.world.at(delay, self._fetched, self.life, self.fetch_number, effect)

    def _fetched(self, life: int, number: int, effect: ef.FetchSnapshot) -> None:
        if self.life != life or number != self.fetch_number or self.core is None:
            return
        if not self.core.copy.fetching:
            return
        source = self.world.nodes[effect.source]
        reach = self.world.reaches(effect.source, self.name)
        if source.core is not None and source.disk.base_lsn < effect.at_least_lsn:
            self.world.guarded(source.checkpoint, 20)
        if not reach or source.core is None or source.disk.base_lsn < effect.at_least_lsn:
            self.step(ev.SnapshotFailed())
            return
        self.disk.install(source.disk)
        self.world.checks.installed(self)
        self.world.counts["snapshots"] += 1
        self.step(ev.SnapshotInstalled(self.disk.state()))

    def _start_anew(self, effect: ef.StartAnew) -> None:
        self.disk = self.world.new_disk(effect.alloc_id or self.world.new_alloc(self.name))
        self.damaged, self.committed_lsn = False, 0
        self.step(ev.CopyReplaced(self.disk.alloc_id))

    def _handed(self, effect: ef.HandOffDone) -> None:
        self.world.counts["handed off" if effect.ok else "hand-offs failed"] += 1

    def _alarm(self, effect: ef.Alarm) -> None:
        self.world.checks.alarm(self, effect)

    # ---- Upkeep ----------------------------------------------------------------------------

    def checkpoint(self, keep: int) -> None:
        """What is applied is written to files, and the log behind it trimmed."""
        if self.core is None or self.core.copy.log.applied_lsn <= self.disk.base_lsn:
            return
        self.disk.checkpoint(self.core.copy.log.applied_lsn, keep)
        kept = sum(record.nbytes for record in self.disk.records)
        self.step(
            ev.Trimmed(self.disk.first_lsn, self.disk.base_lsn, kept, self.world.snapshot_bytes)
        )


_EFFECTS: dict[type[Any], Callable[[Node, Any], None]] = {
    ef.Send: Node._send,
    ef.Ship: Node._ship,
    ef.PersistPromise: Node._promise,
    ef.Lead: Node._lead,
    ef.Admit: Node._admit,
    ef.Follow: Node._follow,
    ef.AppendRecords: Node._append,
    ef.Truncate: Node._truncate,
    ef.SetCommit: Node._commit,
    ef.Answer: Node._answer,
    ef.ReadAnswer: Node._read_answer,
    ef.Propose: Node._propose,
    ef.FetchSnapshot: Node._fetch,
    ef.StartAnew: Node._start_anew,
    ef.HandOffDone: Node._handed,
    ef.Alarm: Node._alarm,
}
