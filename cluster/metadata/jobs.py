"""Work of operators that takes a while: moving copies, draining a node, rebalancing.

A job is a wish, recorded before anything is done about it; who leads carries it out step by step,
and each step is a change of some shard's row. So whoever is killed at whatever point, the next
leader finds what is left to do. How far a job has come is read off the rows, not stored here.

    move        moves: copies of tables that go from one node to another
    rebalance   moves, and leads: who shall order the writes of tables
    drain       node: gives away everything; what goes where is decided when it is its turn
    failover    leads: a table's primaries go to another copy in sync
    replicas    table, replicas: so many copies from now on

Rules: a table is in one move, rebalance, failover or replicas job at a time; a node is drained by
one job. Of the jobs that ended, the last `MOST_ENDED` are remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nearql.cluster.metadata.commands import Command, Result

if TYPE_CHECKING:
    from nearql.cluster.metadata.state import Metadata

MOST_ENDED = 100
MOST_RUNNING = 50
RUNNING, DONE, FAILED, CANCELLED = "running", "done", "failed", "cancelled"
KINDS = ("move", "rebalance", "drain", "failover", "replicas")


@dataclass(frozen=True, slots=True)
class Move:
    """The copies of a table's shards go from one node to another; node ids."""

    table_uuid: str
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Lead:
    """A node shall order the writes of a table."""

    table_uuid: str
    node_id: str


@dataclass(frozen=True, slots=True)
class JobRow:
    """One job. number: counts jobs up. detail: what it waits for, or why it ended as it did.

    began_ms, ended_ms: ms since 1970, by the clock of who told. total: copies to move, at first.
    """

    uuid: str
    kind: str
    began_ms: int
    moves: tuple[Move, ...] = ()
    leads: tuple[Lead, ...] = ()
    node_id: str = ""
    table_uuid: str = ""
    replicas: int = 0
    total: int = 0
    number: int = 0
    state: str = RUNNING
    detail: str = ""
    ended_ms: int = 0

    @property
    def tables(self) -> set[str]:
        """Tables that it changes by name, by uuid; a drain has none."""
        named = {move.table_uuid for move in self.moves} | {lead.table_uuid for lead in self.leads}
        return named | ({self.table_uuid} if self.table_uuid else set())


@dataclass(frozen=True, kw_only=True)
class StartJob(Command):
    """Record a job; of a drain, also that its node gets no copies any more. Answers its uuid."""

    job: JobRow


@dataclass(frozen=True, kw_only=True)
class NoteJob(Command):
    """Say what a job waits for."""

    job_uuid: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class EndJob(Command):
    """A job is over. A drain that is cancelled lets its node have copies again."""

    job_uuid: str
    state: str
    detail: str
    ended_ms: int


@dataclass(frozen=True, kw_only=True)
class DropCopy(Command):
    """Give up one copy of a shard that others can spare; `MoveCommit` without a new copy."""

    shard_uuid: str
    expected_version: int
    node_id: str


@dataclass(frozen=True, kw_only=True)
class SetReplicas(Command):
    """So many copies a table has now, and its minimum in sync is that of so many."""

    table_uuid: str
    replicas: int


def _start(state: Metadata, command: StartJob) -> tuple[Metadata, Result]:
    job = command.job
    refused = _refused(state, job)
    if refused is not None:
        return state, refused
    row = replace(job, number=1 + max((j.number for j in state.jobs.values()), default=0))
    if job.kind == "drain":
        node = replace(state.nodes[job.node_id], draining=True)
        state = replace(state, nodes={**state.nodes, job.node_id: node})
    return replace(state, jobs=_kept({**state.jobs, row.uuid: row})), Result(value=row.uuid)


def _refused(state: Metadata, job: JobRow) -> Result | None:
    running = [other for other in state.jobs.values() if other.state == RUNNING]
    if job.kind not in KINDS or job.uuid in state.jobs or job.state != RUNNING:
        return Result("invalid_command", f"This is no new job: {job.kind!r} {job.uuid}.")
    if len(running) >= MOST_RUNNING:
        return Result("too_many_jobs", f"{MOST_RUNNING} jobs are under way; wait for some of them.")
    for table_uuid in sorted(job.tables):
        if table_uuid not in state.tables:
            return Result("undefined_table", f"There is no table {table_uuid}.")
    nodes = [m.source for m in job.moves] + [m.target for m in job.moves]
    for node_id in [*nodes, *(lead.node_id for lead in job.leads), job.node_id]:
        if node_id and node_id not in state.nodes:
            return Result("undefined_node", f"There is no node {node_id}.")
    return _in_the_way(state, job, running)


def _in_the_way(state: Metadata, job: JobRow, running: list[JobRow]) -> Result | None:
    for other in running:
        if job.kind == other.kind == "drain" and job.node_id == other.node_id:
            return Result("job_under_way", f"The node is being drained by job {other.uuid}.")
        for table_uuid in sorted(job.tables & other.tables):
            name = state.tables[table_uuid].table.name
            detail = f"Table {name!r} is in job {other.uuid} ({other.kind}) already."
            return Result("job_under_way", detail)
    return None


def _kept(jobs: dict[str, JobRow]) -> Mapping[str, JobRow]:
    ended = sorted((j for j in jobs.values() if j.state != RUNNING), key=lambda j: j.number)
    for job in ended[: max(0, len(ended) - MOST_ENDED)]:
        del jobs[job.uuid]
    return jobs


def _note(state: Metadata, command: NoteJob) -> tuple[Metadata, Result]:
    job = state.jobs.get(command.job_uuid)
    if job is None or job.state != RUNNING:
        return state, Result("no_such_job", f"No job {command.job_uuid} is under way.")
    return _with_job(state, replace(job, detail=command.detail)), Result()


def _end(state: Metadata, command: EndJob) -> tuple[Metadata, Result]:
    job = state.jobs.get(command.job_uuid)
    if job is None or job.state != RUNNING:
        return state, Result("no_such_job", f"No job {command.job_uuid} is under way.")
    if command.state not in (DONE, FAILED, CANCELLED):
        return state, Result("invalid_command", f"A job does not end as {command.state!r}.")
    node = state.nodes.get(job.node_id)
    if job.kind == "drain" and command.state != DONE and node is not None:
        nodes = {**state.nodes, job.node_id: replace(node, draining=False)}
        state = replace(state, nodes=nodes)
    ended = replace(
        job, state=command.state, detail=command.detail, ended_ms=command.ended_ms
    )  # fmt: skip
    return _with_job(state, ended), Result()


def _with_job(state: Metadata, job: JobRow) -> Metadata:
    return replace(state, jobs=_kept({**state.jobs, job.uuid: job}))


def _drop_copy(state: Metadata, command: DropCopy) -> tuple[Metadata, Result]:
    for table_uuid, row in state.tables.items():
        for at, shard in enumerate(row.shards):
            if shard.uuid != command.shard_uuid:
                continue
            isr = tuple(member for member in shard.isr if member != command.node_id)
            if shard.version != command.expected_version:
                return state, Result("shard_changed", "The shard was changed meanwhile.")
            if command.node_id not in shard.replicas:
                return state, Result("no_copy", f"Node {command.node_id} has no copy of it.")
            if shard.adding is not None:
                return state, Result("move_under_way", "The shard is being moved.")
            if shard.primary == command.node_id:
                return state, Result("still_primary", "Hand the primary's part over first.")
            if len(isr) < max(1, shard.min_isr):
                return state, Result("not_enough_replicas", "Without it too few are in sync.")
            copies = {n: a for n, a in shard.replicas.items() if n != command.node_id}
            changed = replace(shard, isr=isr, replicas=copies, version=shard.version + 1)
            shards = (*row.shards[:at], changed, *row.shards[at + 1 :])
            tables = {**state.tables, table_uuid: replace(row, shards=shards)}
            return replace(state, tables=tables), Result()
    return state, Result("undefined_shard", f"There is no shard {command.shard_uuid}.")


def _set_replicas(state: Metadata, command: SetReplicas) -> tuple[Metadata, Result]:
    row, copies = state.tables.get(command.table_uuid), command.replicas
    if row is None:
        return state, Result("undefined_table", f"There is no table {command.table_uuid}.")
    least = copies // 2 + 1
    if copies < 1 or any(len(shard.isr) < least for shard in row.shards):
        return state, Result("not_enough_replicas", f"Fewer than {least} copies are in sync.")
    shards = tuple(replace(shard, min_isr=least, version=shard.version + 1) for shard in row.shards)
    changed = replace(row, table=replace(row.table, replicas=copies), shards=shards)
    tables = {**state.tables, command.table_uuid: changed}
    return replace(state, tables=tables, version=state.version + 1), Result()


HANDLERS: dict[type[Command], Callable[[Metadata, Any], tuple[Metadata, Result]]] = {
    StartJob: _start,
    NoteJob: _note,
    EndJob: _end,
    DropCopy: _drop_copy,
    SetReplicas: _set_replicas,
}
