"""One shard's copies, the production core on each, over virtual clocks, network and disks.

One seed is one schedule: who writes and reads where, which messages are late, lost, repeated or
overtaken, which links are cut (one way or both), who is killed, loses power between two effects,
freezes, loses its disk or finds it damaged, is fenced by mistake, hands its part over. Metadata is
the real state machine (`cluster.metadata.state`), applied in one place and heard of late. What must
hold is in `shard_checks`, what goes wrong in `shard_faults`.

Virtual time is in ms. The timing is a fifth of the product's, so that little of it suffices.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from nearql.cluster.metadata import commands as c
from nearql.cluster.metadata import state as s
from nearql.cluster.metadata.nodes import FenceNode
from nearql.cluster.metadata.shards import (
    IsrChange,
    MoveCommit,
    MoveStart,
    Promote,
    ShardRow,
)
from nearql.cluster.replication.core import effects as ef
from nearql.cluster.replication.core import events as ev
from nearql.cluster.replication.core.core import Core
from nearql.cluster.replication.core.messages import Append, Message, Record
from nearql.cluster.replication.core.timing import Timing
from nearql.engine.schema import Column, ColumnType, TableDef, TableSchema
from support.disks import PowerLoss
from support.shard_checks import Broken, Checks
from support.shard_disk import Disk, LogDisk
from support.shard_faults import Faults, Nemesis
from support.shard_node import Node

TIMING = Timing(
    tick_ms=50, heartbeat_ms=40, lease_ms=400, lease_percent=95, silent_ms=250, behind_ms=1_200,
    flapping_ms=3_000, stable_ms=500, retry_ms=60, propose_ms=150, resend_ms=150,
)  # fmt: skip
FENCE_MS = 500
CONCERNS = (ev.MAJORITY, ev.MAJORITY, ev.MAJORITY, ev.ONE, ev.ALL, ev.Concern(True, 2))
TABLE = TableDef("t", "docs", TableSchema((Column(1, "id", ColumnType("BIGINT"), True),), 1))


@dataclass
class Writer:
    """A client that waits for its answer."""

    record: Record
    concern: ev.Concern


@dataclass
class Reader:
    """A client that wants a linearizable read. least: what was known when it asked."""

    node: str
    life: int
    least: int
    lsn: int | None = None


class World:
    """See the module."""

    def __init__(self, seed: int, *, real_log: bool = True, strict: bool = False) -> None:
        """real_log: the product's own, else a model of it alone; that is half as much work."""
        self.chance = chance = random.Random(seed)
        self.seed, self.real_log, self.strict = seed, real_log, strict
        self.now = 1000.0
        self.steps = 0
        self.trace = hashlib.blake2b(digest_size=8)
        self.counts: Counter[str] = Counter()
        self.timing = replace(
            TIMING,
            credit_bytes=chance.choice((600, 8 << 20)),
            unacked_bytes=chance.choice((1000, 16 << 20)),
        )
        self.snapshot_bytes = chance.choice((0, 2_000, 10_000))
        self.delay = chance.choice((5, 20, 60))
        self.sync_ms = chance.choice((2, 8, 40))
        self.apply_ms = chance.choice((0, 0, 5))
        self.faults = Faults.random(chance)
        self.checks = Checks(self)
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()
        self._numbers = itertools.count(1)
        self.cuts: Counter[tuple[str, str]] = Counter()
        copies = chance.choice((3, 3, 3, 3, 2, 5))
        spare = chance.random() < 0.3  # a node without a copy, to move one to
        self.names = [f"n{number}" for number in range(1, copies + 1 + spare)]
        self.holders = tuple(self.names[:copies])
        self.nodes = {name: Node(self, name, f"{name}-1") for name in self.names}
        self.metadata = s.Metadata()
        self.heard: dict[str, float] = {}  # when metadata's controller last heard a node
        self.promoted_at = -1e9
        self.writers: dict[int, Writer] = {}
        self.readers: dict[int, Reader] = {}
        self.answered_lsn = 0  # the highest that some client was told of
        self.acknowledged: dict[int, Record] = {}  # by majority or more
        self.nemesis = Nemesis(self)
        self.quiet = False  # faults and clients have ended

    # ---- Time ------------------------------------------------------------------------------

    def at(self, delay: float, do: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._order), do, arguments))

    def pass_time(self, ms: float) -> None:
        end, events, pop = self.now + ms, self._events, heapq.heappop
        while events and events[0][0] <= end:
            try:
                while events and events[0][0] <= end:
                    self.now, _, do, arguments = pop(events)
                    do(*arguments)
            except PowerLoss:
                self._power_lost()
        self.now = end

    def guarded(self, do: Callable[..., None], *arguments: Any) -> None:
        """Do something to one node, whose power may fail meanwhile."""
        try:
            do(*arguments)
        except PowerLoss:
            self._power_lost()

    def _power_lost(self) -> None:
        for node in self.nodes.values():
            if node.disk.has_failed:
                node.stop(power=False)
                self.counts["syncs failed"] += 1
                self.at(self.chance.choice((50, 400, 1200)), self.restart, node)
            elif node.disk.has_lost_power:
                self.lose_power(node)

    def number(self) -> int:
        return next(self._numbers)

    def sync_delay(self, node: Node) -> float:
        slow_ms = 400.0 if self.now < node.slow_until else 0.5
        return slow_ms + self.chance.random() * self.sync_ms

    def apply_delay(self) -> float:
        return self.chance.random() * self.apply_ms if self.apply_ms else 0.0

    # ---- The schedule ----------------------------------------------------------------------

    def run(self, ms: float = 4000.0) -> None:
        """Begin, let things go wrong, mend them, and see that all is well again."""
        self.begin()
        self.nemesis.start()
        self.at(30, self.client)
        self.pass_time(ms)
        self.quiet = True
        self.mend()
        self.settle()

    def begin(self) -> None:
        """Nodes register, the table is made on all of them, everybody starts."""
        for name in self.names:
            register = c.RegisterNode(request_id=f"first-{name}", node_id=name, name=name, url=name)
            self.apply(register)
        create = c.CreateTable(
            request_id="t", table=replace(TABLE, replicas=len(self.holders)), shard_uuids=("s",),
            nodes=self.holders,
        )  # fmt: skip
        self.apply(create)
        alloc = {name: node.disk.alloc_id for name, node in self.nodes.items()}
        self.apply(c.TableReady(request_id="r", table_uuid="t", alloc_ids=alloc))
        for node in self.nodes.values():
            node.start()
        self.at(30, self.control)

    def mend(self) -> None:
        """Nothing goes wrong any more."""
        self.cuts.clear()
        self.faults = Faults()
        self.delay = min(self.delay, 20)
        for node in self.nodes.values():
            node.paused_until = node.slow_until = 0.0
            node.disk.disarm()
            if not node.up:
                node.start()

    def settle(self, limit_ms: float = 8000.0) -> None:
        """Everybody catches up, and a write at majority is done."""
        end = self.now + limit_ms
        while not self.is_settled():
            if self.now >= end:
                raise Broken(f"not settled within {limit_ms} ms: {self.describe()}")
            self.pass_time(100)
            for name in self.names:
                self.write(name, ev.MAJORITY)
        for lsn, record in self.acknowledged.items():
            if self.checks.committed.get(lsn) != record:
                raise Broken(f"{record} was acknowledged, and is lost")

    def is_settled(self) -> bool:
        cores = [self.nodes[name].core for name in self.shard.replicas]
        commits = {core.copy.log.commit_lsn if core else -1 for core in cores}
        complete = set(self.shard.isr) == set(self.shard.replicas) and not self.shard.adding
        enough = min(commits) >= max([0, *self.acknowledged]) and min(commits) > 0
        return complete and enough and max(commits) - min(commits) < 20

    def describe(self) -> str:
        """For a schedule that does not settle."""
        lines = [f"{self.shard}"]
        for node in self.nodes.values():
            core = node.core
            state = core.state.value if core else "down"
            log = core.copy.log if core else None
            where = (log.commit_lsn, log.durable_lsn, log.end_lsn) if log else ()
            promised = core.copy.promise.epoch if core else 0
            lines.append(f"{node.name} {state} promised {promised} log {where} {node.disk.vector}")
        return "\n  ".join(lines)

    # ---- Metadata --------------------------------------------------------------------------

    @property
    def shard(self) -> ShardRow:
        return self.metadata.tables["t"].shards[0]

    def apply(self, command: c.Command) -> c.Result:
        """What Raft does: one order, one state."""
        row = self.metadata.tables.get("t")
        before = set(row.shards[0].isr) if row else set()
        self.metadata, result = s.apply(self.metadata, command)
        if row is not None and isinstance(command, IsrChange):
            self.checks.membership(set(self.shard.isr) - before)
        return result

    def change(self, command: c.Command) -> c.Result:
        """Apply a command and tell everybody, each in his time."""
        before = self.metadata
        result = self.apply(command)
        if before.tables != self.metadata.tables or before.nodes != self.metadata.nodes:
            for name in self.names:
                self._tell(name)
        return result

    def _tell(self, name: str) -> None:
        if self.quiet or self.chance.random() > 0.1:
            self.carry("meta", name, self._learn, name, self.metadata)

    def _learn(self, name: str, state: s.Metadata) -> None:
        node = self.nodes[name]
        if node.up:
            node.learn(state)

    def ask_metadata(self, name: str, what: str, argument: Any) -> None:
        """A node speaks to metadata."""
        self.carry(name, "meta", self._on_asked, name, what, argument)

    def _on_asked(self, name: str, what: str, argument: Any) -> None:
        node = self.nodes[name]
        if what == "register":
            result = self.change(
                c.RegisterNode(request_id=argument, node_id=name, name=name, url=name)
            )
            if node.up:
                self.carry("meta", name, node.on_registered, argument, result.value)
        elif what == "alive":
            if argument == self.metadata.nodes[name].incarnation:
                self.heard[name] = self.now
            known = node.known
            if known is None or known.applied_index < self.metadata.applied_index:
                self.carry("meta", name, self._learn, name, self.metadata)
        else:
            result = self.change(argument)
            self.carry("meta", name, self._done, name, argument.request_id, result.code)

    def _done(self, name: str, request_id: str, code: str) -> None:
        node = self.nodes[name]
        if node.core is not None:
            node.step(ev.ProposalDone(request_id, code))

    def control(self) -> None:
        """The controller: fence the silent, promote somebody who is in sync and alive."""
        state, shard = self.metadata, self.shard
        alive = [
            name
            for name in self.names
            if self.now - self.heard.get(name, -1e9) < FENCE_MS and not state.nodes[name].fenced
        ]
        for name in self.names:
            row = state.nodes[name]
            if name not in alive and not row.fenced and name in self.heard:
                self.change(
                    FenceNode(
                        request_id=f"fence-{self.number()}", node_id=name,
                        incarnation=row.incarnation,
                    )
                )  # fmt: skip
        if shard.primary not in alive:
            self.promote([name for name in alive if name in shard.isr])
        elif shard.adding in shard.isr:
            self._end_move(shard)
        self.at(30, self.control)

    def _end_move(self, shard: ShardRow) -> None:
        """The new copy is in sync: the old one is given up, as a primary by another first."""
        if shard.primary == shard.removing:
            self.promote([name for name in shard.isr if name == shard.adding])
            return
        commit = MoveCommit(
            request_id=f"move-{self.number()}", shard_uuid="s", expected_version=shard.version
        )
        self.counts["moved"] += self.change(commit).ok

    def move(self, name: str, removing: str) -> None:
        """Begin to build a copy on this node, where there is none."""
        node = self.nodes[name]
        if node.up:
            node.stop(power=False)
        node.disk = self.new_disk(self.new_alloc(name))
        node.damaged = False
        node.start()
        start = MoveStart(
            request_id=f"move-{self.number()}", shard_uuid="s",
            expected_version=self.shard.version, adding=name, alloc_id=node.disk.alloc_id,
            removing=removing,
        )  # fmt: skip
        self.change(start)

    def promote(self, candidates: list[str]) -> None:
        """One of these becomes primary."""
        wait = 100 if self.quiet else 0
        if candidates and self.now - self.promoted_at > wait:
            self.promoted_at = self.now
            name = self.chance.choice(candidates)
            promote = Promote(
                request_id=f"promote-{self.number()}", shard_uuid="s",
                expected_version=self.shard.version, node_id=name,
                incarnation=self.metadata.nodes[name].incarnation,
            )  # fmt: skip
            self.counts["promoted"] += self.change(promote).ok

    # ---- Network ---------------------------------------------------------------------------

    def reaches(self, source: str, target: str) -> bool:
        return not self.cuts[source, target]

    def transmit(self, source: str, target: str, message: Message) -> None:
        if self.strict:
            self.trace.update(repr((source, target, _without_bytes(message))).encode())
        repeats = self.faults.repeat and self.chance.random() < self.faults.repeat
        for _ in range(2 if repeats else 1):
            self.carry(source, target, self._receive, source, target, message)

    def carry(self, source: str, target: str, do: Callable[..., None], *arguments: Any) -> None:
        """Bring something from one place to another, late or never."""
        chance, faults = self.chance, self.faults
        if self.cuts[source, target] or (faults.loss and chance.random() < faults.loss):
            return
        delay = 0.3 + chance.random() * self.delay
        if faults.stall and chance.random() < faults.stall:
            delay *= 20
        what = (target, do, arguments)
        heapq.heappush(self._events, (self.now + delay, next(self._order), self._arrive, what))

    def _arrive(self, target: str, do: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        node = self.nodes.get(target)
        if node is not None and self.now < node.paused_until:
            delay = node.paused_until - self.now + self.chance.random()
            self.at(delay, self._arrive, target, do, arguments)
        else:
            do(*arguments)

    def _receive(self, source: str, target: str, message: Message) -> None:
        node = self.nodes[target]
        if node.core is not None:
            node.step(ev.Received(source, message))

    # ---- Faults ----------------------------------------------------------------------------

    def make_core(self, node: Node) -> Core:
        """Of a process's cores for the shard each has a number of its own."""
        node.cores += 1
        return Core(
            node.name, node.disk.alloc_id, node.incarnation, log=node.disk.state(),
            promised_epoch=node.disk.promised_epoch, now_ms=node.now_ms, timing=self.timing,
            number=node.cores,
        )  # fmt: skip

    def new_disk(self, alloc_id: str) -> Disk:
        return LogDisk(alloc_id) if self.real_log else Disk(alloc_id)

    def new_alloc(self, name: str) -> str:
        return f"{name}-{self.number()}"

    def lose_power(self, node: Node) -> None:
        """What was not synced is there in part, or not at all."""
        node.stop(power=True)
        self.counts["power lost"] += 1
        self.at(self.chance.choice((50, 400, 1200)), self.restart, node)

    def restart(self, node: Node) -> None:
        if not node.up:
            node.start()

    # ---- Clients ---------------------------------------------------------------------------

    def client(self) -> None:
        chance = self.chance
        if self.quiet:
            return
        for _ in range(chance.randrange(1, 4)):
            name = chance.choice(self.names)
            if self.shard.primary and chance.random() < 0.5:
                name = self.shard.primary
            if chance.random() < 0.7:
                self.carry("client", name, self.write, name, chance.choice(CONCERNS))
            else:
                self.carry("client", name, self.read, name, self.answered_lsn)
        self.at(chance.randrange(5, 40), self.client)

    def write(self, name: str, concern: ev.Concern) -> None:
        node = self.nodes[name]
        if node.core is None or not node.leads or node.refusal is not None:
            return
        if node.core.refusal(node.now_ms, concern) is not None:
            self.counts["refused"] += 1
            return
        record = node.log_own(self.number())
        token = self.number()
        self.writers[token] = Writer(record, concern)
        node.step(ev.Appended(record.epoch, record.lsn, record.nbytes))
        if node.core is not None:
            deadline = node.now_ms + self.chance.choice((100, 1500))
            node.step(ev.Await(token, record.epoch, record.lsn, concern, deadline))

    def answered(self, node: Node, answer: ef.Answer) -> None:
        writer = self.writers.pop(answer.token, None)
        if writer is None:
            raise Broken(f"{node.name} answered {answer} twice")
        if not answer.met:
            self.counts["unknown"] += 1
            return
        record, strong = writer.record, writer.concern.committed
        self.checks.answered(node, record, answer, strong=strong)
        self.counts["acknowledged"] += 1
        if strong:
            self.acknowledged[record.lsn] = record
            self.carry(node.name, "client", self._told, record.lsn)

    def _told(self, lsn: int) -> None:
        self.answered_lsn = max(self.answered_lsn, lsn)

    def read(self, name: str, least: int) -> None:
        node = self.nodes[name]
        if node.core is not None:
            token = self.number()
            self.readers[token] = Reader(name, node.life, least)
            node.step(ev.Read(token, node.now_ms + 400))

    def read_answered(self, node: Node, answer: ef.ReadAnswer) -> None:
        reader = self.readers[answer.token]
        if answer.lsn is None:
            del self.readers[answer.token]
            return
        self.checks.leased(node, "let somebody read")
        self.checks.read(node, answer.lsn, reader.least)
        reader.lsn = answer.lsn
        self.readers_go_on(node)

    def readers_go_on(self, node: Node) -> None:
        """Those whose LSN is applied have their answer."""
        assert node.core is not None
        applied = node.core.copy.log.applied_lsn
        for token, reader in list(self.readers.items()):
            if reader.node != node.name or reader.lsn is None:
                continue
            if reader.life != node.life:
                del self.readers[token]
            elif reader.lsn <= applied:
                del self.readers[token]
                self.counts["read"] += 1
                self.carry(node.name, "client", self._told, applied)


def _without_bytes(message: Message) -> Message:
    """A message of which the text tells no addresses of memory."""
    if not isinstance(message, Append):
        return message
    records = tuple(replace(record, data=None) for record in message.records)
    return replace(message, records=records)


def run_seed(seed: int, *, real_log: bool = True) -> World:
    """One schedule; raises Broken, or another AssertionError, where something does not hold."""
    world = World(seed, real_log=real_log)
    world.run()
    return world


__all__ = ["Broken", "World", "run_seed"]
