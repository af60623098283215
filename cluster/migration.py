"""What is to be done next so that copies lie where they should, and primaries too: pure.

`decide` looks at metadata and at who lives, and answers actions. It remembers nothing: every step
is a change of a shard's row, so the next look, also by another leader, finds what is left.

    a copy of T goes from a to d        MoveStart (d is listed, "" until its disk has told a name)
                                        ... d fetches, follows, joins the in-sync set ...
                                        Verify: d holds at one LSN what the primary holds
                                        HandOver to d, where a is the primary
                                        MoveCommit: a is no longer listed, its files go to the trash

Who asks for it
- a job of the operator: move, rebalance, drain, replicas, failover;
- a node that was declared dead longer ago than `grace_s`: its copies are made anew elsewhere;
- the rules that a table has as many copies as its definition says, that all its shards lie on the
  same nodes, and that one node has their primaries.

What nobody asks for any more is aborted, unless its new copy is in sync already. At most
`Limits.moves` tables are moved at a time, and a node takes part in one move.

Safety lies elsewhere: each command names the version of the row it saw, only an in-sync copy can
be made primary, and no row may fall below its minimum in sync.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nearql.cluster.metadata import jobs as j
from nearql.cluster.metadata.commands import Command
from nearql.cluster.metadata.jobs import JobRow, Lead, Move
from nearql.cluster.metadata.shards import MoveAbort, MoveCommit, MoveStart, Promote, ShardRow
from nearql.cluster.metadata.state import Metadata, TableRow
from nearql.cluster.placement import loads, placeable

HAND_OVERS = 3  # that may fail before a living primary is replaced without its consent
LEAD_LIMIT_MS = 120_000  # a failover job that has not come about by then has failed


@dataclass(frozen=True, slots=True)
class Limits:
    """moves: tables moved at a time. grace_s: a dead node's copies are not replaced before."""

    moves: int = 2
    grace_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Look:
    """What the one who leads knows beside metadata.

    alive: node ids heard a moment ago. gone_s: seconds since each was declared dead, at least.
    sizes: bytes of one copy of a table, by uuid. proved, refuted: (shard uuid, alloc id) of copies
    that hold what the primary held, or do not. failed: hand-overs that came to nothing, by shard
    uuid, since the shard last changed. now_ms: since 1970.
    """

    now_ms: int
    alive: frozenset[str]
    gone_s: Mapping[str, float] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    proved: frozenset[tuple[str, str]] = frozenset()
    refuted: frozenset[tuple[str, str]] = frozenset()
    failed: Mapping[str, int] = field(default_factory=dict)
    refused: frozenset[tuple[str, str]] = frozenset()  # (shard uuid, node id) of refuted copies


@dataclass(frozen=True, slots=True)
class Propose:
    """Agree on this."""

    command: Command


@dataclass(frozen=True, slots=True)
class HandOver:
    """Let the living primary of a shard give its part away, losing nothing."""

    shard_uuid: str
    primary: str
    target: str


@dataclass(frozen=True, slots=True)
class Verify:
    """Compare two copies of a shard at one LSN. alloc_id: of the target's.

    primary: which, where that is the target itself, another copy in sync; the target if none lives.
    """

    table_uuid: str
    number: int
    primary: str
    target: str
    shard_uuid: str
    alloc_id: str


Action = Propose | HandOver | Verify


def decide(look: Look, state: Metadata, limits: Limits) -> list[Action]:
    """Actions that are due now; the same ones again as long as nothing has changed."""
    return list(_Decision(look, state, limits).actions())


def is_done(row: TableRow, move: Move) -> bool:
    """Whether the copies of a table have gone where they should."""
    return all(
        move.source not in shard.replicas and move.target in shard.replicas and not shard.adding
        for shard in row.shards
    )


class _Decision:
    """One look."""

    def __init__(self, look: Look, state: Metadata, limits: Limits) -> None:
        self.look, self.state, self.limits = look, state, limits
        self.tables = [row for row in state.tables.values() if row.ready]
        running = (job for job in state.jobs.values() if job.state == j.RUNNING)
        self.jobs = sorted(running, key=lambda job: job.number)
        self.notes: dict[str, str] = {}  # what a job waits for
        self.led: set[str] = set()  # tables whose primaries were looked after
        self.busy = {  # nodes that take part in the move of a table
            row.table.uuid: {n for s in row.shards if s.adding for n in (s.adding, s.removing) if n}
            for row in self.tables
            if _is_moving(row)
        }

    def actions(self) -> Iterator[Action]:
        """Everything, the oldest wishes first."""
        for row in self.tables:
            if _is_moving(row):
                yield from self._go_on(row)
        for job in self.jobs:
            yield from _SERVE[job.kind](self, job)
        yield from self._replace_gone()
        yield from self._level()
        yield from self._trim()
        yield from self._unite()
        for job in self.jobs:
            yield from self._settle(job)

    def _is_gone(self, node_id: str) -> bool:
        if node_id not in self.state.nodes:
            return True
        return self.look.gone_s.get(node_id, 0.0) >= self.limits.grace_s

    def _name(self, node_id: str) -> str:
        node = self.state.nodes.get(node_id)
        return node.name if node else node_id

    def _note(self, job: JobRow | None, detail: str) -> None:
        if job is not None:
            self.notes.setdefault(job.uuid, detail)

    # ---- moves under way ------------------------------------------------------------------------

    def _go_on(self, row: TableRow) -> Iterator[Action]:
        """The next step of a table whose copies are being moved."""
        moving = [shard for shard in row.shards if shard.adding]
        reasons = {why for shard in moving if (why := self._why_abort(row, shard)) is not None}
        if reasons:  # shards go together, or not at all
            if any(shard.primary == shard.adding for shard in moving):
                yield from self._lead(row, self._successor(row, moving[0].adding), None)
                return
            for shard in moving:
                request_id = _id("abort", shard, *sorted(reasons))
                yield Propose(MoveAbort(request_id=request_id, **_on(shard)))
            return
        source, target = moving[0].removing, str(moving[0].adding)
        for shard in row.shards:  # a leader may have died before it began with all of them
            begun = shard.adding or target in shard.replicas
            if not begun and (source is None or source in shard.replicas):
                yield _begin(shard, source, target)
        for number, shard in enumerate(row.shards):
            if shard.adding in shard.isr and not self._is_proved(shard):
                yield from self._verify(row, number, shard)
        if not all(map(self._is_proved, moving)):
            return
        if any(shard.primary == shard.removing for shard in moving):
            yield from self._lead(row, target, None)
            return
        for shard in moving:
            yield Propose(MoveCommit(request_id=_id("commit", shard), **_on(shard)))

    def _verify(self, row: TableRow, number: int, shard: ShardRow) -> Iterator[Action]:
        primary, target = shard.primary, str(shard.adding)
        if primary == target:  # a failover came first: any other that is in sync will do
            others = [node for node in (shard.removing, *shard.isr) if node not in (None, target)]
            fit = [node for node in others if node in shard.isr and node in self.look.alive]
            primary = next(iter(fit), primary)
        if primary is not None and {primary, target} <= self.look.alive:
            alloc_id = shard.replicas[target]
            yield Verify(row.table.uuid, number, primary, target, shard.uuid, alloc_id)

    def _is_proved(self, shard: ShardRow) -> bool:
        target = str(shard.adding)
        return target in shard.isr and (shard.uuid, shard.replicas[target]) in self.look.proved

    def _why_abort(self, row: TableRow, shard: ShardRow) -> str | None:
        target = str(shard.adding)
        if (shard.uuid, shard.replicas[target]) in self.look.refuted:
            return "refuted"
        if self._is_gone(target):
            return "gone"
        return None if target in shard.isr or self._is_wished(row, shard) else "unwanted"

    def _is_wished(self, row: TableRow, shard: ShardRow) -> bool:
        """Whether anybody asks for the move of a shard that is under way."""
        source = shard.removing
        if any(row.table.uuid in job.tables for job in self.jobs):
            return True
        if source is None:
            return False
        node = self.state.nodes.get(source)
        if node is None or node.fenced or node.draining:
            return True
        others = (other for other in row.shards if other.uuid != shard.uuid)
        return any(source not in s.replicas and shard.adding in s.replicas for s in others)

    # ---- moves that are wished for --------------------------------------------------------------

    def _serve_moves(self, job: JobRow) -> Iterator[Action]:
        for move in job.moves:
            row = self.state.tables.get(move.table_uuid)
            if row is not None and row.ready and not is_done(row, move):
                shards = [s for s in row.shards if move.source in s.replicas]
                shards = [s for s in shards if move.target not in s.replicas]
                yield from self._start((row, shards), move.source, move.target, job)
        for lead in job.leads:
            row = self.state.tables.get(lead.table_uuid)
            if row is not None and row.ready and not _is_moving(row):
                yield from self._lead(row, lead.node_id, job)

    def _serve_drain(self, job: JobRow) -> Iterator[Action]:
        for row in self.tables:
            if any(shard.primary == job.node_id for shard in row.shards):
                yield from self._lead(row, self._successor(row, job.node_id), job)
        yield from self._give_away(job.node_id, job)

    def _serve_replicas(self, job: JobRow) -> Iterator[Action]:
        row = self.state.tables.get(job.table_uuid)
        if row is None or not row.ready or _is_moving(row):
            return
        lacking = [shard for shard in row.shards if len(shard.replicas) < job.replicas]
        if lacking:
            yield from self._start((row, lacking), None, self._target(row, lacking), job)
        elif not _has_minimum(row, job.replicas):
            yield from self._set_replicas(row, job)
        else:
            yield from self._drop_excess(row, job.replicas)

    def _set_replicas(self, row: TableRow, job: JobRow) -> Iterator[Action]:
        least = job.replicas // 2 + 1
        if any(len(shard.isr) < least for shard in row.shards):
            self._note(job, f"fewer than {least} copies of a shard are in sync")
            return
        versions = "-".join(str(shard.version) for shard in row.shards)
        yield Propose(
            j.SetReplicas(
                request_id=f"replicas/{row.table.uuid}/{versions}/{job.replicas}",
                table_uuid=row.table.uuid,
                replicas=job.replicas,
            )
        )

    def _drop_excess(self, row: TableRow, wanted: int) -> Iterator[Action]:
        """Give up one copy that is too many: on the same node for all shards, and rather one that
        is not in sync: the minimum may need all that are.
        """
        shards = [shard for shard in row.shards if len(shard.replicas) > wanted]
        primaries = {shard.primary for shard in row.shards}
        spare = {n for shard in shards for n in shard.replicas} - primaries
        load = loads(self.state, self.look.sizes)

        def rank(node_id: str) -> tuple[bool, bool, bool, int, str]:
            everywhere = all(node_id in shard.replicas for shard in row.shards)
            in_sync = any(node_id in shard.isr for shard in shards)
            return everywhere, node_id in self.look.alive, in_sync, -load[node_id], node_id

        for victim in sorted(spare, key=rank)[:1]:
            for shard in shards:
                if victim in shard.replicas:
                    request_id = _id("drop", shard, victim)
                    yield Propose(j.DropCopy(request_id=request_id, node_id=victim, **_on(shard)))

    def _replace_gone(self) -> Iterator[Action]:
        """Make anew what lies on nodes that have been dead for too long."""
        for node_id in sorted(self.state.nodes):
            if self._is_gone(node_id):
                yield from self._give_away(node_id, None)

    def _give_away(self, node_id: str, job: JobRow | None) -> Iterator[Action]:
        """Move a node's copies, those of small tables first."""
        sizes = self.look.sizes
        for row in sorted(self.tables, key=lambda r: (sizes.get(r.table.uuid, 0), r.table.uuid)):
            shards = [shard for shard in row.shards if node_id in shard.replicas]
            if shards and not _is_moving(row):
                yield from self._start((row, shards), node_id, self._target(row, shards), job)

    def _level(self) -> Iterator[Action]:
        """Shards of a table lie on the same nodes; a move that broke off may have parted them."""
        for row in self.tables:
            first = row.shards[0].replicas.keys()
            for shard in row.shards[1:]:
                extra, lacking = shard.replicas.keys() - first, first - shard.replicas.keys()
                if extra and lacking and row.table.uuid not in self.busy:
                    yield from self._start((row, [shard]), min(extra), min(lacking), None)

    def _trim(self) -> Iterator[Action]:
        """Drop copies that a table has beyond its number: a job that made them was cancelled."""
        wanted = {uuid for job in self.jobs for uuid in job.tables}
        for row in self.tables:
            copies = max(len(shard.replicas) for shard in row.shards)
            if copies > row.table.replicas and row.table.uuid not in wanted | self.busy.keys():
                yield from self._drop_excess(row, row.table.replicas)

    def _start(
        self, what: tuple[TableRow, list[ShardRow]], source: str | None, target: str | None,
        job: JobRow | None,
    ) -> Iterator[Action]:  # fmt: skip
        """Begin to move copies of some shards of a table, if that may begin."""
        row, shards = what
        if row.table.uuid in self.busy or not shards:
            return
        ends = {node for node in (source, target) if node}
        reason = self._why_wait(row, target, ends)
        if reason is not None or target is None:
            self._note(job, reason or "")
            return
        self.busy[row.table.uuid] = ends
        for shard in shards:
            yield _begin(shard, source, target)

    def _why_wait(self, row: TableRow, target: str | None, ends: set[str]) -> str | None:
        if target is None:
            return (
                f"no node can take another copy of table {row.table.name!r}: add a node, or lower "
                "its number of replicas"
            )
        if target not in placeable(self.state, self.look.alive):
            return f"node {self._name(target)} does not answer, or is being drained"
        if any((shard.uuid, target) in self.look.refused for shard in row.shards):
            return f"a copy on {self._name(target)} did not hold what the others hold"
        if len(self.busy) >= self.limits.moves:
            return "other moves go first"
        if any(ends & nodes for nodes in self.busy.values()):
            return "its nodes take part in another move"
        return None

    def _target(self, row: TableRow, shards: list[ShardRow]) -> str | None:
        """Who gets copies of these shards of a table: whoever has its others, else the emptiest."""
        load = loads(self.state, self.look.sizes)
        beside = {node for shard in row.shards for node in shard.replicas}
        free = [
            node
            for node in placeable(self.state, self.look.alive)
            if all(node not in shard.replicas for shard in shards)
            and not any((s.uuid, node) in self.look.refused for s in shards)
        ]
        return min(free, key=lambda n: (n not in beside, load[n], self._name(n)), default=None)

    # ---- primaries ------------------------------------------------------------------------------

    def _lead(self, row: TableRow, target: str | None, job: JobRow | None) -> Iterator[Action]:
        """Make one node the primary of all shards of a table."""
        if row.table.uuid in self.led:
            return
        self.led.add(row.table.uuid)
        parted = [shard for shard in row.shards if shard.primary != target]
        ready = target in self.look.alive and all(target in shard.isr for shard in parted)
        if target is None or not ready:
            where = "no other node" if target is None else f"node {self._name(target)}"
            self._note(job, f"{where} has all of table {row.table.name!r} in sync")
            return
        for shard in parted:
            if shard.primary not in self.look.alive:
                self._note(job, "a primary is gone: its failover goes first")
            elif self.look.failed.get(shard.uuid, 0) < HAND_OVERS:
                yield HandOver(shard.uuid, shard.primary, target)
            else:
                incarnation = self.state.nodes[target].incarnation
                request_id = _id("lead", shard, target, str(incarnation))
                yield Propose(
                    Promote(
                        request_id=request_id, node_id=target, incarnation=incarnation, **_on(shard)
                    )
                )

    def _successor(self, row: TableRow, away: str | None) -> str | None:
        """Who can order the writes of a whole table, beside `away`; the best."""
        common = set.intersection(*(set(shard.isr) for shard in row.shards)) - {away}
        fit = [node for node in placeable(self.state, self.look.alive) if node in common]
        leading = [s.primary for other in self.tables for s in other.shards]
        here = [shard.primary for shard in row.shards]
        return min(
            fit, key=lambda n: (-here.count(n), leading.count(n), self._name(n)), default=None
        )

    def _unite(self) -> Iterator[Action]:
        """The primaries of a table belong on one node; a failover may have parted them."""
        for row in self.tables:
            primaries = {shard.primary for shard in row.shards}
            apart = len(primaries) > 1 and primaries <= self.look.alive
            if apart and not _is_moving(row):
                yield from self._lead(row, self._successor(row, None), None)

    # ---- the end of jobs ------------------------------------------------------------------------

    def _settle(self, job: JobRow) -> Iterator[Action]:
        """End a job that is done or can't be, or say what it waits for."""
        ended = _OUTCOME[job.kind](self, job)
        if ended is not None:
            state, detail = ended
            yield Propose(
                j.EndJob(
                    request_id=f"end/{job.uuid}", job_uuid=job.uuid, state=state, detail=detail,
                    ended_ms=self.look.now_ms,
                )
            )  # fmt: skip
        elif (note := self.notes.get(job.uuid, "")) != job.detail:
            request_id = f"note/{job.uuid}/{self.state.applied_index}"
            yield Propose(j.NoteJob(request_id=request_id, job_uuid=job.uuid, detail=note))

    def _moves_outcome(self, job: JobRow) -> tuple[str, str] | None:
        hopeless = [why for move in job.moves if (why := self._why_hopeless(move)) is not None]
        rows = [(move, self.state.tables.get(move.table_uuid)) for move in job.moves]
        open_moves = [m for m, row in rows if row is not None and not is_done(row, m)]
        if len(open_moves) > len(hopeless):
            return None
        if hopeless:
            return j.FAILED, "; ".join(hopeless)
        if all(map(self._leads, job.leads)):
            return j.DONE, ""
        if self.look.now_ms - job.began_ms > LEAD_LIMIT_MS and not job.moves:
            return j.FAILED, self.notes.get(job.uuid) or "the primary did not give its part away"
        return None

    def _why_hopeless(self, move: Move) -> str | None:
        row = self.state.tables.get(move.table_uuid)
        if row is None or is_done(row, move):
            return None
        name, target = row.table.name, self._name(move.target)
        if self._is_gone(move.target):
            return f"node {target} is gone: table {name!r} was not moved"
        begun = any(move.target in shard.replicas for shard in row.shards)
        if self.state.nodes[move.target].draining and not begun:
            return f"node {target} is being drained: table {name!r} was not moved"
        if any((shard.uuid, move.target) in self.look.refused for shard in row.shards):
            return f"the new copy of table {name!r} on {target} did not hold what the others hold"
        waiting = any(move.source in s.replicas and move.target not in s.replicas or s.adding
                      for s in row.shards)  # fmt: skip
        return None if waiting else f"table {name!r} was not where it was to be moved from"

    def _leads(self, lead: Lead) -> bool:
        row = self.state.tables.get(lead.table_uuid)
        return row is None or all(shard.primary == lead.node_id for shard in row.shards)

    def _drain_outcome(self, job: JobRow) -> tuple[str, str] | None:
        rows = self.state.tables.values()
        held = any(job.node_id in shard.replicas for row in rows for shard in row.shards)
        return None if held else (j.DONE, "")

    def _replicas_outcome(self, job: JobRow) -> tuple[str, str] | None:
        row = self.state.tables.get(job.table_uuid)
        if row is None:
            return j.FAILED, "the table was dropped"
        copies = {len(shard.replicas) for shard in row.shards}
        done = copies == {job.replicas} and _has_minimum(row, job.replicas) and not _is_moving(row)
        return (j.DONE, "") if done else None


def _is_moving(row: TableRow) -> bool:
    return any(shard.adding for shard in row.shards)


def _has_minimum(row: TableRow, replicas: int) -> bool:
    least = replicas // 2 + 1
    return row.table.replicas == replicas and all(s.min_isr == least for s in row.shards)


def _begin(shard: ShardRow, source: str | None, target: str) -> Propose:
    request_id = _id("move", shard, target, source or "")
    return Propose(
        MoveStart(
            request_id=request_id, adding=target, alloc_id="", removing=source, **_on(shard)
        )
    )  # fmt: skip


def _id(what: str, shard: ShardRow, *more: str) -> str:
    """The same for the same step, so that two leaders that propose it do it once."""
    return "/".join((what, shard.uuid, str(shard.version), *more))


def _on(shard: ShardRow) -> dict[str, Any]:
    return {"shard_uuid": shard.uuid, "expected_version": shard.version}


_SERVE: dict[str, Callable[[_Decision, JobRow], Iterable[Action]]] = {
    "move": _Decision._serve_moves,
    "rebalance": _Decision._serve_moves,
    "failover": _Decision._serve_moves,
    "drain": _Decision._serve_drain,
    "replicas": _Decision._serve_replicas,
}
_OUTCOME: dict[str, Callable[[_Decision, JobRow], tuple[str, str] | None]] = {
    "move": _Decision._moves_outcome,
    "rebalance": _Decision._moves_outcome,
    "failover": _Decision._moves_outcome,
    "drain": _Decision._drain_outcome,
    "replicas": _Decision._replicas_outcome,
}
