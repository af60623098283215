"""A cluster of real members, PySyncObj within, over a virtual clock, network and disks.

One seed is one schedule: what is proposed and where, which links are cut (one way or both), stalled
(and release old messages later) or repeat messages, who is killed, loses power in the middle of
a write, freezes, or loses its disk. Everything that happens is checked at once:

- a term has one leader, and it has every entry that was applied anywhere in an earlier term (a
  vote that arrives late may still make a leader of a term that is over: it commits nothing);
- an index is applied with the same command everywhere, in order;
- APPLIED is said only of what is applied where it is said, and what was said so is never lost;
- REFUSED is never executed, nothing is executed twice by one submission;
- a barrier that came back has seen all that was acknowledged before it;
- once everything works again, the cluster does too, and all members are equal.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import msgpack
import pysyncobj.syncobj as syncobj

from nearql.cluster.metadata.raft.journal import RaftJournal
from nearql.cluster.metadata.raft.library import Outcome, Timing
from nearql.cluster.metadata.raft.member import BARRIER, MemberConfig, RaftMember
from support.disks import PowerLoss, SimulatedDisk

LOG = Path("/raft/log")
TICK_S = 0.05
TIMING = Timing(election_min_s=0.5, election_max_s=1.2, heartbeat_s=0.1)


class Broken(AssertionError):
    """An invariant does not hold."""


class Died(BaseException):
    """The member ended its own process."""


class Machine:
    """Remembers what was applied, in order."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.index = 0
        self.done: dict[bytes, int] = {}  # command -> index

    def apply(self, index: int, command: bytes) -> int:
        if index <= self.index:
            raise Broken(f"{self.name} applied {index} after {self.index}")
        self.index = index
        self.world.applied(self.name, index, command)
        self.done[command] = index
        return index

    def dump(self) -> bytes:
        return msgpack.packb([self.index, list(self.done.items())])  # type: ignore[no-any-return]

    def parse(self, dumped: bytes) -> Any:
        return msgpack.unpackb(dumped)

    def adopt(self, index: int, state: Any) -> None:
        self.done = dict(state[1])
        self.index = index


@dataclass
class Site:
    """One machine: its disk, and the member while it runs."""

    name: str
    disk: SimulatedDisk = field(default_factory=SimulatedDisk)
    member: RaftMember | None = None
    machine: Machine | None = None
    life: int = 0  # rises with each start, so that late events of an earlier one are dropped
    frozen_until: float = 0.0
    learner: bool = False


@dataclass
class Faults:
    """What may go wrong in a schedule, each as a chance per second of the whole cluster."""

    kill: float = 0.0
    power: float = 0.0
    power_all: float = 0.0
    freeze: float = 0.0
    wipe: float = 0.0
    cut: float = 0.0
    stall: float = 0.0
    repeat: float = 0.0  # chance per message
    hand_over: float = 0.0


def random_faults(chance: random.Random) -> Faults:
    """A random subset: some bugs need many faults, others need most of them to be absent."""

    def some(most: float) -> float:
        return chance.choice((0.0, most / 4, most))

    return Faults(
        kill=some(0.6), power=some(0.6), power_all=some(0.15), freeze=some(0.4), wipe=some(0.1),
        cut=some(1.2), stall=some(1.0), repeat=some(0.1), hand_over=some(0.5),
    )  # fmt: skip


class World:
    """See the module. `run` is all that most callers need."""

    def __init__(self, seed: int, *, voters: int = 3, compact_entries: int | None = None) -> None:
        self.chance = random.Random(seed)
        self.now = 100.0
        self.names = [f"n{number}" for number in range(1, voters + 1)]
        self.sites = {name: Site(name) for name in self.names}
        self.compact_entries = compact_entries or self.chance.choice((8, 30, 5000))
        self.faults = Faults()
        self.trace = hashlib.sha256()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._cut: set[tuple[str, str]] = set()
        self._down: set[tuple[str, str]] = set()  # links whose sender knows that they are broken
        self._busy_until: dict[tuple[str, str], float] = {}
        self.log: dict[int, bytes] = {}  # index -> command, of everything applied anywhere
        self.applied_in: dict[int, int] = {}  # index -> the term of who applied it first
        self.leaders: dict[int, str] = {}
        self.outcomes: dict[bytes, Outcome] = {}
        self.acknowledged = 0  # highest index that some caller was told of
        self.sent = 0  # messages
        self.faults_done: Counter[str] = Counter()
        self._commands = itertools.count()

    # ---- time -------------------------------------------------------------------------------

    def at(self, delay: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._order), event))

    def until(self, condition: Callable[[], bool], limit_s: float = 60.0) -> None:
        """Let time pass until the condition holds; raises Broken if it never does."""
        end = self.now + limit_s
        while not condition():
            if self.now > end:
                raise Broken(f"not within {limit_s} s: {self.describe()}")
            self.step()

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.step()
        self.now = end

    def step(self) -> None:
        when, _, event = heapq.heappop(self._events)
        self.now = max(self.now, when)
        event()

    # ---- members ----------------------------------------------------------------------------

    def start(self, name: str, *, learning: bool = False) -> None:
        site = self.sites[name]
        site.life += 1
        site.learner = site.learner or learning
        site.machine = Machine(self, name)
        site.frozen_until = 0.0
        try:
            journal = RaftJournal(LOG, site.disk, self._on_fatal, self._file_id)
            config = MemberConfig(
                name,
                tuple(other for other in self.names if other != name),
                TIMING,
                self.compact_entries,
                site.learner,
            )
            site.member = self.make_member(config, journal, site.machine, _Wire(self, name))
        except PowerLoss:
            self._lose_power(site)
            return
        for other in self.names:
            if other != name:
                self._connect(name, other)
                self._connect(other, name)
        self._schedule_tick(site, site.life)

    def make_member(
        self, config: MemberConfig, journal: RaftJournal, machine: Machine, wire: _Wire
    ) -> RaftMember:
        """Overridden by mutants."""
        return RaftMember(
            config, journal, machine, wire, clock=lambda: self.now, on_fatal=self._on_fatal
        )

    def _on_fatal(self, reason: str) -> NoReturn:
        raise Died(reason)

    def _file_id(self) -> bytes:
        return self.chance.randbytes(16)

    def _schedule_tick(self, site: Site, life: int) -> None:
        def tick() -> None:
            if site.life == life and site.member is not None:
                self.tick(site)
                self._schedule_tick(site, life)

        self.at(max(TICK_S, site.frozen_until - self.now), tick)

    def tick(self, site: Site) -> None:
        """Let a member work until it has nothing more to do at once."""
        if self.now < site.frozen_until:
            return
        try:
            for _ in range(4):
                if site.member is None:
                    return
                was_idle, sent = site.member.idle, self.sent
                site.member.tick(0.0)
                self._observe(site)
                if was_idle and self.sent == sent and site.member.idle:
                    return  # the next tick would do nothing, either
        except PowerLoss:
            self._lose_power(site)
        except Died as end:
            raise Broken(f"{site.name} ended itself: {end}") from end

    def _observe(self, site: Site) -> None:
        member = site.member
        assert member is not None
        if site.learner and not member.learning:
            site.learner = False
        if not member.library.leading:
            return
        term = member.library.term
        if self.leaders.setdefault(term, site.name) != site.name:
            raise Broken(f"term {term} has two leaders, {self.leaders[term]} and {site.name}")
        if self.leaders.get(-term) is None:
            self.leaders[-term] = site.name
            self._check_completeness(site)

    def _check_completeness(self, site: Site) -> None:
        """A new leader has all that was applied in earlier terms (Raft's leader completeness)."""
        assert site.member is not None
        entries = site.member.journal.entries
        first, last = entries[0].log_index, entries[-1].log_index
        term = site.member.library.term
        for index, command in self.log.items():
            if self.applied_in[index] >= term:
                continue
            if index > last:
                raise Broken(f"leader {site.name} lacks applied entry {index}")
            if index >= first and entries[index - first].command[1:] != command:
                raise Broken(f"leader {site.name} has another entry {index}")

    # ---- what is wrong ----------------------------------------------------------------------

    def kill(self, name: str) -> None:
        """kill -9: what was written is still in the kernel's cache."""
        site = self.sites[name]
        site.member, site.life = None, site.life + 1
        site.disk.after_kill()
        self._broken_links(name)

    def lose_power(self, name: str) -> None:
        """At once, or in the middle of one of the next disk operations."""
        site = self.sites[name]
        if self.chance.random() < 0.6:
            site.disk.crash_at = site.disk.steps + self.chance.randint(1, 6)
            site.disk.torn = self.chance
        else:
            self._lose_power(site)

    def _lose_power(self, site: Site) -> None:
        site.member, site.life = None, site.life + 1
        site.disk = site.disk.after_power_loss(self.chance)
        self._broken_links(site.name)
        self.at(self.chance.uniform(0.1, 2.0), lambda: self.restart(site.name))

    def restart(self, name: str) -> None:
        if self.sites[name].member is None:
            self.start(name)

    def wipe(self, name: str) -> None:
        """The disk is replaced by an empty one."""
        self.kill(name)
        self.sites[name].disk = SimulatedDisk()
        self.start(name, learning=True)

    def cut(self, source: str, target: str) -> None:
        """Nothing passes from source to target any more; the source notices after a while."""
        self._cut.add((source, target))
        self.at(self.chance.uniform(0.2, 2.0), lambda: self._notice(source, target))

    def heal(self, source: str, target: str) -> None:
        self._cut.discard((source, target))
        self.at(self.chance.uniform(0.01, 0.5), lambda: self._connect(source, target))

    def _notice(self, source: str, target: str) -> None:
        member = self.sites[source].member
        if (source, target) in self._cut and member is not None:
            self._down.add((source, target))
            member.post_link(target, False)

    def _connect(self, source: str, target: str) -> None:
        ends = self.sites[source].member, self.sites[target].member
        if (source, target) in self._cut or None in ends:
            return
        self._down.discard((source, target))
        assert ends[0] is not None
        ends[0].post_link(target, True)

    def _broken_links(self, name: str) -> None:
        for other in self.names:
            member = self.sites[other].member
            if other != name and member is not None:
                self._down.add((other, name))
                member.post_link(name, False)

    # ---- messages ---------------------------------------------------------------------------

    def transmit(self, source: str, target: str, data: bytes) -> bool:
        link, life = (source, target), self.sites[target].life
        self.trace.update(data)
        self.sent += 1
        sender = self.sites[source]
        assert sender.member is not None
        if sender.member.journal.unsynced or not sender.disk.is_durable(LOG):
            raise Broken(f"{source} sent what its disk may forget: {data[:80]!r}")
        if link in self._down or self.sites[target].member is None:
            return False
        if link in self._cut:
            return True  # the sender does not know yet
        delay = self.chance.uniform(0.0005, 0.01)
        if self.chance.random() < self.faults.stall * 0.02:
            delay = self.chance.uniform(0.5, 4.0)  # an old connection that delivers late
        else:
            delay = max(delay, self._busy_until.get(link, 0.0) - self.now)
            self._busy_until[link] = self.now + delay
        self.at(delay, lambda: self._arrive(source, target, data, life))
        if self.chance.random() < self.faults.repeat and b"apply_command" not in data:
            self.at(
                delay + self.chance.uniform(0, 3.0),
                lambda: self._arrive(source, target, data, life),
            )
        return True

    def _arrive(self, source: str, target: str, data: bytes, life: int) -> None:
        site = self.sites[target]
        if site.member is not None and site.life == life:
            site.member.post_message(source, data)
            self.tick(site)

    # ---- what is asked ----------------------------------------------------------------------

    def propose(self, name: str, size: int = 8) -> bytes:
        """Submit a new command at a member that runs; its name."""
        command = b"c%d-" % next(self._commands) + bytes(size)
        site = self.sites[name]
        assert site.member is not None
        machine = site.machine

        def done(outcome: Outcome, result: Any) -> None:
            self.outcomes[command] = outcome
            if outcome is Outcome.APPLIED:
                if machine is None or result is None or machine.done.get(command) != result:
                    raise Broken(f"{name} said APPLIED of what it has not applied: {command!r}")
                self.acknowledged = max(self.acknowledged, result)

        site.member.post_submit(command, done)
        self.tick(site)
        return command

    def barrier(self, name: str) -> None:
        site, before = self.sites[name], self.acknowledged
        assert site.member is not None
        machine = site.machine

        def done(outcome: Outcome, _result: Any) -> None:
            assert machine is not None
            if outcome is Outcome.APPLIED and machine.index < before:
                raise Broken(f"a barrier on {name} at {machine.index} missed {before}")

        site.member.post_submit(BARRIER, done)
        self.tick(site)

    def applied(self, name: str, index: int, command: bytes) -> None:
        known = self.log.setdefault(index, command)
        member = self.sites[name].member
        newest = max(self.leaders, default=0)
        self.applied_in.setdefault(index, newest if member is None else member.library.term)
        if known != command:
            raise Broken(f"{name} applied {command!r} at {index}, others {known!r}")

    # ---- a whole schedule -------------------------------------------------------------------

    def run(self, seconds: float = 8.0) -> None:
        """Faults and commands for so long, then everything is mended and compared."""
        self.faults = random_faults(self.chance)
        for name in self.names:
            self.start(name)
        end = self.now + seconds
        self._each(end, self.chance.uniform(0.005, 0.1), self._ask)
        for kind in ("kill", "power", "power_all", "freeze", "wipe", "cut", "hand_over"):
            rate = getattr(self.faults, kind)
            if rate:
                self._each(end, 1 / rate, getattr(self, f"_do_{kind}"))
        self.pass_time(seconds)
        self.mend()
        self.settle()

    def _each(self, end: float, mean_s: float, action: Callable[[], None]) -> None:
        def again() -> None:
            if self.now < end:
                self.faults_done[action.__name__] += 1
                action()
                self.at(self.chance.expovariate(1 / mean_s), again)

        self.at(self.chance.expovariate(1 / mean_s), again)

    def _running(self) -> list[str]:
        return [name for name in self.names if self.sites[name].member is not None]

    def _ask(self) -> None:
        if running := self._running():
            name = self.chance.choice(running)
            if self.chance.random() < 0.1:
                self.barrier(name)
            else:
                self.propose(name, self.chance.choice((1, 40, 700)))

    def _do_kill(self) -> None:
        if running := self._running():
            name = self.chance.choice(running)
            self.kill(name)
            self.at(self.chance.uniform(0.05, 2.0), lambda: self.restart(name))

    def _do_power(self) -> None:
        if running := self._running():
            self.lose_power(self.chance.choice(running))

    def _do_power_all(self) -> None:
        for name in self._running():
            self._lose_power(self.sites[name])

    def _do_freeze(self) -> None:
        site = self.sites[self.chance.choice(self.names)]
        site.frozen_until = self.now + self.chance.uniform(0.2, 3.0)

    def _do_wipe(self) -> None:
        if not any(site.learner for site in self.sites.values()):
            self.wipe(self.chance.choice(self.names))

    def _do_hand_over(self) -> None:
        for site in self.sites.values():
            if site.member is not None and site.member.library.leading:
                site.member.post_hand_over()

    def _do_cut(self) -> None:
        source, target = self.chance.sample(self.names, 2)
        kind = self.chance.choice(("one way", "both ways", "alone"))
        links = [(source, target)]
        if kind == "both ways":
            links.append((target, source))
        elif kind == "alone":
            others = [name for name in self.names if name != source]
            links = [(source, other) for other in others] + [(other, source) for other in others]
        lasting = self.chance.uniform(0.1, 4.0)
        for link in links:
            self.cut(*link)
            self.at(lasting, lambda link=link: self.heal(*link))  # type: ignore[misc]

    def mend(self) -> None:
        """Everything works again."""
        self.faults = Faults()
        for site in self.sites.values():
            site.disk.crash_at = site.disk.torn = None
            site.frozen_until = 0.0
            self.restart(site.name)
        for source, target in itertools.permutations(self.names, 2):
            self.heal(source, target)

    def settle(self) -> None:
        """A command goes through, and then all members are equal and have what was promised."""
        self.until(lambda: self._goes_through(), 60.0)
        sites = list(self.sites.values())
        self.until(lambda: len({s.member.library.applied for s in sites if s.member}) == 1, 60.0)
        common = sites[0].machine.done if sites[0].machine else {}
        for site in sites:
            if site.machine is None or site.machine.done != common:
                raise Broken(f"{site.name} differs from {sites[0].name}")
        for command, outcome in self.outcomes.items():
            if outcome is Outcome.APPLIED and command not in common:
                raise Broken(f"{command!r} was acknowledged and is lost")
            if outcome is Outcome.REFUSED and command in common:
                raise Broken(f"{command!r} was refused and yet executed")

    def _goes_through(self) -> bool:
        self.pass_time(0.3)
        command = self.propose(self.chance.choice(self.names))
        self.pass_time(0.3)
        return self.outcomes.get(command) is Outcome.APPLIED

    def counts(self) -> Counter[str]:
        """What happened: faults by kind, commands by outcome, terms that had a leader."""
        found = Counter(
            {name[4:]: n for name, n in self.faults_done.items() if name.startswith("_do_")}
        )
        found.update(outcome.value for outcome in self.outcomes.values())
        found["leaders"] = sum(term > 0 for term in self.leaders)
        return found

    def describe(self) -> str:
        """Where everybody stands."""
        lines = []
        for site in self.sites.values():
            member = site.member
            if member is None:
                lines.append(f"{site.name} down")
                continue
            library, entries = member.library, member.journal.entries
            lines.append(
                f"{site.name} term {library.term} {'leads' if library.leading else 'follows'} "
                f"{library.leader} committed {library.committed} applied {library.applied} "
                f"log {entries[0].log_index}..{entries[-1].log_index} "
                f"{'learning ' if member.learning else ''}{dict(member.guard.counts)}"
            )
        return "; ".join(lines)


class _Wire:
    """A member's way out."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self._name = world, name

    def send(self, receiver: str, data: bytes) -> bool:
        return self._world.transmit(self._name, receiver, data)


@contextlib.contextmanager
def virtual(world: World) -> Iterator[World]:
    """The library's clock and chance are the world's while this lasts."""
    before = syncobj.monotonicTime, syncobj.random
    syncobj.monotonicTime, syncobj.random = (lambda: world.now), world.chance
    try:
        yield world
    finally:
        syncobj.monotonicTime, syncobj.random = before


def run_seed(seed: int, seconds: float = 8.0) -> World:
    """One schedule of 3 voters, or of 5 for every eighth seed."""
    with virtual(World(seed, voters=5 if seed % 8 == 7 else 3)) as world:
        world.run(seconds)
    return world
