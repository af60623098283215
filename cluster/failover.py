"""Who is declared dead, and who orders writes next: the controller's policy, pure.

The node whose sidecar leads Raft is the *controller*. Every node tells it twice a second that it
lives, whom it hears itself, and how far its copies are. `decide` looks at that and at the metadata
and answers commands to propose. It is safe whatever it answers: each command names the version it
saw, only an in-sync copy can be promoted, and a stale primary is refused by the epoch
(3-replication 2.6 to 2.8 in the design). So this is about being right soon, not about being safe.

Rules
- Silence: a node that was not heard for `silence_s` is fenced. What counts as heard is a heartbeat
  that echoes a recent answer of ours: a node that can speak and not hear is silent, too.
- A controller that is new knows nothing: it waits `warm_up_s`, and takes from the others when they
  last heard a node. If nobody has, as after a restart of all, it waits `restart_s`.
- The others' word ends nobody and saves nobody: whom the controller does not hear is fenced.
- Promotion: a shard whose primary is dead or gone, or reaches too few of its in-sync set while
  another member reaches enough (one that lives and is drained hands over itself: `migration`). One
  that reaches enough is preferred, then the longest log, then the name. Shards of one table go to
  one node where they can.
- A shard is promoted again only after `gap_s`, and where its primary lives that is doubled each
  time up to `gap_limit_s`.
- A table that was not made ready within `unready_s` is made ready if enough copies are prepared,
  else dropped: whoever made it has died.

Example: n1 (primary of s) is killed at 0.0 s. At 3.0 s: [FenceNode(n1, 4)]; with that applied, at
once: [Promote(s, n2)].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from nearql.cluster.metadata.commands import Command, DropTable, TableReady
from nearql.cluster.metadata.nodes import FenceNode, NodeRow
from nearql.cluster.metadata.shards import Promote, ShardRow
from nearql.cluster.metadata.state import Metadata, TableRow

NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds of everything that the policy waits for."""

    silence_s: float = 3.0
    warm_up_s: float = 1.5
    restart_s: float = 30.0
    gap_s: float = 5.0
    gap_limit_s: float = 60.0
    unready_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Heard:
    """A node's last heartbeat. at: when it came; live_at: when one last echoed a recent answer.

    hears: seconds, at `at`, since it heard each other node. ends: (epoch, LSN) by shard uuid.
    """

    incarnation: int
    at: float
    live_at: float
    hears: Mapping[str, float] = field(default_factory=dict)
    ends: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Observations:
    """What the controller saw since it began. hears: its own, in seconds before now."""

    me: str
    since: float
    nodes: Mapping[str, Heard] = field(default_factory=dict)
    hears: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Memory:
    """What the policy remembers between two looks.

    incarnations: when each (node, incarnation) was first seen; those there at the beginning, NEVER.
    promotions: (when, how many in a row) by shard uuid. unready: when each table was first seen.
    """

    incarnations: Mapping[tuple[str, int], float] = field(default_factory=dict)
    promotions: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    unready: Mapping[str, float] = field(default_factory=dict)
    begun: bool = False


def decide(
    now: float, seen: Observations, state: Metadata, memory: Memory, patience: Patience
) -> tuple[list[Command], Memory]:
    """Commands to propose now, and what to remember.

    now: seconds of the clock of `seen`, which must go on while the machine sleeps.
    """
    memory = _remember(now, state, memory)
    if now - seen.since < patience.warm_up_s:
        return [], memory
    look = _Look(now, seen, state, memory, patience)
    promoted = [command for row in state.tables.values() for command in look.promotions(row)]
    commands: list[Command] = [*look.fences(), *promoted, *look.unready()]
    return commands, look.remember_promotions(promoted)


def _remember(now: float, state: Metadata, memory: Memory) -> Memory:
    """Note when nodes' incarnations and unready tables were first seen; forget what is gone."""
    first = now if memory.begun else NEVER
    incarnations = {
        (node.node_id, node.incarnation): memory.incarnations.get(
            (node.node_id, node.incarnation), first
        )
        for node in state.nodes.values()
    }
    unready = {
        uuid: memory.unready.get(uuid, now) for uuid, row in state.tables.items() if not row.ready
    }
    shards = {shard.uuid for row in state.tables.values() for shard in row.shards}
    promotions = {uuid: told for uuid, told in memory.promotions.items() if uuid in shards}
    return Memory(incarnations, promotions, unready, begun=True)


@dataclass(frozen=True, slots=True)
class _Look:
    """One look at everything."""

    now: float
    seen: Observations
    state: Metadata
    memory: Memory
    patience: Patience

    # ---- who lives ------------------------------------------------------------------------------

    def fences(self) -> Iterator[FenceNode]:
        """Incarnations that have been silent for too long."""
        for node in self.state.nodes.values():
            if not node.fenced and self._silent_s(node) >= self.patience.silence_s:
                yield FenceNode(
                    request_id=f"fence/{node.node_id}/{node.incarnation}",
                    node_id=node.node_id,
                    incarnation=node.incarnation,
                )

    def _silent_s(self, node: NodeRow) -> float:
        if node.node_id == self.seen.me:
            return 0.0
        heard = self.seen.nodes.get(node.node_id)
        if heard is not None and heard.incarnation == node.incarnation:
            return self.now - heard.live_at
        registered = self.memory.incarnations[node.node_id, node.incarnation]
        if registered > self.seen.since:
            return self.now - registered
        told = self._told_of(node.node_id)
        if told == NEVER:  # perhaps all were restarted, and this one takes longer
            told = self.seen.since + self.patience.restart_s - self.patience.silence_s
        return self.now - told

    def _told_of(self, node_id: str) -> float:
        """When anybody last heard a node, as far as known, before this controller began."""
        own = self.seen.hears.get(node_id)
        times = [] if own is None else [self.now - own]
        times += [h.at - h.hears[node_id] for h in self.seen.nodes.values() if node_id in h.hears]
        return min(max(times), self.seen.since) if times else NEVER

    def _lives(self, node_id: str) -> bool:
        node = self.state.nodes.get(node_id)
        if node is None or node.fenced:
            return False
        if node_id == self.seen.me:
            return True
        heard = self.seen.nodes.get(node_id)
        return (
            heard is not None
            and heard.incarnation == node.incarnation
            and self.now - heard.live_at < self.patience.silence_s
        )

    def _reach(self, node_id: str, shard: ShardRow) -> int:
        """How many of the in-sync set a living node reaches, itself included."""
        if node_id == self.seen.me:
            hears: Mapping[str, float] = self.seen.hears
        else:
            hears = self.seen.nodes[node_id].hears  # as told: its silence is another matter
        reached = [n for n in shard.isr if n != node_id and self._lives(n)]
        limit = self.patience.silence_s
        return (node_id in shard.isr) + sum(hears.get(n, limit) < limit for n in reached)

    # ---- who orders writes ----------------------------------------------------------------------

    def promotions(self, row: TableRow) -> Iterator[Promote]:
        """Shards of a table that need another primary now, and whom."""
        if not row.ready:
            return
        found = {shard.uuid: self._candidates(shard) for shard in row.shards}
        wanting = [s for s in row.shards if found[s.uuid] and self._wants_another(s)]
        favourites = self._favourites(row, [found[s.uuid] for s in wanting])
        for shard in wanting:
            if not self._may_promote(shard):
                continue
            candidates = found[shard.uuid]
            node_id = next((f for f in favourites if f in candidates), candidates[0])
            incarnation = self.state.nodes[node_id].incarnation
            yield Promote(
                request_id=f"promote/{shard.uuid}/{shard.version}/{node_id}/{incarnation}",
                shard_uuid=shard.uuid,
                expected_version=shard.version,
                node_id=node_id,
                incarnation=incarnation,
            )

    def _candidates(self, shard: ShardRow) -> list[str]:
        """Living members of the in-sync set beside the primary, the best first."""
        living = [n for n in shard.isr if n != shard.primary and self._lives(n)]
        staying = [n for n in living if not self.state.nodes[n].draining]
        return sorted(staying or living, key=lambda n: self._preference(n, shard), reverse=True)

    def _preference(self, node_id: str, shard: ShardRow) -> tuple[bool, tuple[int, int], str]:
        heard = self.seen.nodes.get(node_id)
        end = heard.ends.get(shard.uuid, (0, 0)) if heard else (0, 0)
        return self._reach(node_id, shard) >= shard.min_isr, end, self.state.nodes[node_id].name

    def _wants_another(self, shard: ShardRow) -> bool:
        primary = self.state.nodes.get(shard.primary or "")
        if primary is None or primary.fenced:
            return True
        if not self._lives(primary.node_id) or self._is_young(primary):
            return False  # it will be fenced first, if it is dead
        if self._reach(primary.node_id, shard) >= shard.min_isr:
            return False
        others = [n for n in shard.isr if n != shard.primary and self._lives(n)]
        return any(self._reach(n, shard) >= shard.min_isr for n in others)

    def _is_young(self, node: NodeRow) -> bool:
        """Whether it may not have had the time to connect to the others."""
        began = self.memory.incarnations[node.node_id, node.incarnation]
        return self.now - max(began, self.seen.since) < self.patience.silence_s

    def _favourites(self, row: TableRow, candidates: list[list[str]]) -> list[str]:
        """Nodes that would have all primaries of the table, the best first."""
        if not candidates:
            return []
        common = [n for n in candidates[0] if all(n in others for others in candidates)]
        holding = {s.primary for s in row.shards if s.primary and self._lives(s.primary)}
        return sorted(common, key=lambda n: n not in holding)

    def _may_promote(self, shard: ShardRow) -> bool:
        """Where the primary lives, another one may be no better: then less and less often."""
        last, count = self.memory.promotions.get(shard.uuid, (NEVER, 0))
        primary = self.state.nodes.get(shard.primary or "")
        dead = primary is None or primary.fenced
        return self.now - last >= (self.patience.gap_s if dead else self._gap(count))

    def _gap(self, count: int) -> float:
        doubled = self.patience.gap_s * 2.0 ** min(max(count - 1, 0), 10)
        return min(doubled, self.patience.gap_limit_s)

    def remember_promotions(self, promoted: list[Promote]) -> Memory:
        """The memory with these; a shard that was quiet for long begins anew."""
        promotions = dict(self.memory.promotions)
        for command in promoted:
            last, count = promotions.get(command.shard_uuid, (NEVER, 0))
            quiet = self.now - last > 2 * self._gap(count)  # no flapping: one failure after another
            promotions[command.shard_uuid] = (self.now, 1 if quiet else count + 1)
        return replace(self.memory, promotions=promotions)

    # ---- tables that nobody finished ------------------------------------------------------------

    def unready(self) -> Iterator[Command]:
        """The end of creations whose maker has died."""
        for uuid, row in self.state.tables.items():
            if row.ready or self.now - self.memory.unready[uuid] < self.patience.unready_s:
                continue
            if all(_prepared(shard) >= shard.min_isr for shard in row.shards):
                versions = "-".join(str(shard.version) for shard in row.shards)
                yield TableReady(
                    request_id=f"ready/{uuid}/{versions}", table_uuid=uuid, alloc_ids={}
                )
            else:
                yield DropTable(request_id=f"unmade/{uuid}", table_uuid=uuid)


def _prepared(shard: ShardRow) -> int:
    return sum(1 for alloc_id in shard.replicas.values() if alloc_id)
