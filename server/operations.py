"""Jobs as operators ask for them: names to ids, what is refused at once, the plan of a rebalance.

Whatever can be seen to come to nothing is refused here, by name, before anything is recorded; what
changes later is the job's own affair (`cluster.migration`).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, cast

from nearql.cluster.balance import Placed, Plan, rebalance
from nearql.cluster.metadata.commands import Command
from nearql.cluster.metadata.jobs import CANCELLED, RUNNING, EndJob, JobRow, Lead, StartJob
from nearql.cluster.metadata.nodes import DrainNode, NodeRow
from nearql.cluster.metadata.shards import ShardRow, UncleanPromote
from nearql.cluster.metadata.state import Metadata, TableRow
from nearql.cluster.placement import placeable
from nearql.engine.errors import Conflict, InvalidRequest, NearQLError, NotFound, Unavailable
from nearql.server.gateway import status
from nearql.server.gateway.gateway import Gateway
from nearql.server.jobs import copies_on

if TYPE_CHECKING:
    from nearql.cluster.cluster import Cluster

_LEVEL_OF_JOBS = 1
_SHARD_CHANGED = "shard_changed"
_TRIES = 5  # of a change of a row that others change, too
_STATUS: Mapping[str, type[NearQLError]] = {
    "undefined_table": NotFound,
    "undefined_node": NotFound,
    "no_such_job": NotFound,
}


class Operations:
    """See the module. Blocks; for threads."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._cluster = cast("Cluster", gateway.cluster)

    @property
    def _state(self) -> Metadata:
        return self._gateway.metadata.state

    @property
    def _alive(self) -> set[str]:
        return {node.node_id for node in self._gateway.cluster.nodes() if node.alive}

    def _agree(self, command: Command) -> Any:
        result = self._cluster.metadata.propose(command)
        if not result.ok:
            raise _STATUS.get(result.code, Conflict)(result.detail, code=result.code)
        return result.value

    # ---- Names ----------------------------------------------------------------------------------

    def table(self, name: str) -> TableRow:
        """The table of this name; raises NotFound."""
        row = self._state.table_named(name)
        if row is None or not row.ready or row.restoring:
            raise NotFound(f"There is no table {name[:80]!r}.", code="undefined_table")
        return row

    def node(self, name: str) -> NodeRow:
        """The node of this name; raises NotFound."""
        for row in self._state.nodes.values():
            if row.name == name:
                return row
        raise NotFound(f"There is no node {name[:80]!r}.", code="undefined_node")

    # ---- Jobs -----------------------------------------------------------------------------------

    def start(self, kind: str, **members: Any) -> str:
        """Record a job; its id.

        Raises:
            Conflict: code `job_under_way`: the table or node is in another one already.
            Unavailable: code `older_nodes`: some node would not understand the entry.
        """
        self._check_level()
        began_ms = time.time_ns() // 1_000_000
        job = JobRow(uuid=str(uuid.uuid4()), kind=kind, began_ms=began_ms, **members)
        return str(self._agree(StartJob(request_id=_new_id(), job=job)))

    def _check_level(self) -> None:
        if self._state.feature_level < _LEVEL_OF_JOBS:
            raise Unavailable(
                "Some node of the cluster runs a version without jobs: upgrade it first. Right "
                "after a start, repeat this.",
                code="older_nodes",
            )

    def check_move(self, row: TableRow, source: NodeRow, target: NodeRow) -> None:
        """Refuse a move that could only fail.

        Raises:
            Conflict: `no_copy`, `wrong_target`.
        """
        name = row.table.name
        if not any(source.node_id in shard.replicas for shard in row.shards):
            raise Conflict(f"Node {source.name} has no copy of table {name!r}.", code="no_copy")
        if any(target.node_id in shard.replicas for shard in row.shards):
            raise Conflict(
                f"Node {target.name} has a copy of table {name!r} already.", code="wrong_target"
            )
        if target.node_id not in placeable(self._state, self._alive):
            raise Conflict(
                f"Node {target.name} can't take copies now: it does not answer, or is being "
                "drained.",
                code="wrong_target",
            )

    def drain(self, node: NodeRow) -> str:
        """Begin to empty a node, or go on with the job that does so."""
        for job in self._state.jobs.values():
            if job.kind == "drain" and job.node_id == node.node_id and job.state == RUNNING:
                return job.uuid
        total = copies_on(self._state, node.node_id)
        return self.start("drain", node_id=node.node_id, total=total)

    def undrain(self, node: NodeRow) -> str:
        """Let a node have copies again; the id of its last drain.

        Raises:
            Conflict: code `not_draining`.
        """
        jobs = [j for j in self._state.jobs.values() if j.node_id == node.node_id]
        drains = sorted((j for j in jobs if j.kind == "drain"), key=lambda j: j.number)
        if not node.draining:
            raise Conflict(f"Node {node.name} is not being drained.", code="not_draining")
        if not drains:  # forgotten, so long ago it was
            name = self.drain(node)
            cancel_job(self._gateway, name)
            return name
        last = drains[-1]
        if last.state == RUNNING:
            cancel_job(self._gateway, last.uuid)
        else:
            command = DrainNode(request_id=_new_id(), node_id=node.node_id, draining=False)
            self._agree(command)
        return last.uuid

    def set_replicas(self, row: TableRow, replicas: int) -> str:
        """Have as many copies of a table; what is to be said of it.

        Raises:
            Unavailable: code `not_enough_replicas`: too few nodes can take one.
        """
        name, have = row.table.name, {len(shard.replicas) for shard in row.shards}
        if have == {replicas} and row.table.replicas == replicas:
            return f"Table {name!r} has {replicas} copies; nothing was done."
        there = set(placeable(self._state, self._alive))
        there |= {node for shard in row.shards for node in shard.replicas}
        if replicas > len(there):
            raise Unavailable(
                f"{replicas} copies of table {name!r} are wanted, and {len(there)} nodes can have "
                "one: start more, or ask for fewer.",
                code="not_enough_replicas",
            )
        total = abs(replicas - max(have)) * len(row.shards)
        job = self.start("replicas", table_uuid=row.table.uuid, replicas=replicas, total=total)
        return f"Job {job} makes it so; GET /v1/jobs/{job} tells how far it is."

    def planned(self) -> Plan:
        """How copies and primaries should be spread over the nodes that can have some."""
        state = self._state
        sizes: Mapping[str, int] = self._gateway.steps.sizes() if self._gateway.steps else {}
        busy = {u for job in state.jobs.values() if job.state == RUNNING for u in job.tables}
        tables = [
            placed
            for row in state.tables.values()
            if row.ready and (placed := _placed(row, sizes)) is not None
        ]
        plan = rebalance(tables, placeable(state, self._alive))
        moves = tuple(move for move in plan.moves if move.table_uuid not in busy)
        leads = tuple(lead for lead in plan.leads if lead.table_uuid not in busy)
        return Plan(moves, leads)

    def plan(self) -> list[dict[str, Any]]:
        """The same for people."""
        state, found = self._state, self.planned()
        names = {node.node_id: node.name for node in state.nodes.values()}
        table = {uuid: row.table.name for uuid, row in state.tables.items()}
        moves = [
            {"what": "copy", "table": table[move.table_uuid], "from": names[move.source],
             "to": names[move.target]}
            for move in found.moves
        ]  # fmt: skip
        leads = [
            {"what": "primary", "table": table[lead.table_uuid], "from": None,
             "to": names[lead.node_id]}
            for lead in found.leads
        ]  # fmt: skip
        return moves + leads

    # ---- Failover -------------------------------------------------------------------------------

    def successor(self, row: TableRow, name: str | None) -> str:
        """The node id that shall order a table's writes: the named one, or the best other one.

        Raises:
            Unavailable: code `not_in_sync`: it, or every other, lacks something.
        """
        common = set.intersection(*(set(shard.isr) for shard in row.shards))
        if name is not None:
            node = self.node(name)
            if node.node_id not in common:
                raise Unavailable(
                    f"Node {name} does not have all of table {row.table.name!r} in sync: rows "
                    "could be lost. Wait, name another, or promote it uncleanly.",
                    code="not_in_sync",
                )
            return node.node_id
        primaries = {shard.primary for shard in row.shards}
        fit = [n for n in placeable(self._state, self._alive) if n in common and n not in primaries]
        if not fit:
            raise Unavailable(
                f"No other node has all of table {row.table.name!r} in sync.", code="not_in_sync"
            )
        return min(fit, key=lambda node_id: self._state.nodes[node_id].name)

    def promote_uncleanly(self, row: TableRow, node: NodeRow) -> str:
        """Make a node's copies the table's only ones in sync, whatever they lack.

        Raises:
            Conflict: code `clean_possible`: a copy in sync lives, so that nothing need be lost.
            `no_copy`, `wrong_target`, `job_under_way`; nothing was changed then. Another error may
            come when some shards were promoted: it says so, and repeating goes on from there.
        """
        lost = self._lost(row)
        if not lost:
            raise Conflict(
                f"Every shard of table {row.table.name!r} has a living copy in sync: fail over to "
                "that one, without losing anything.",
                code="clean_possible",
            )
        self._check_unclean(row, node, lost)
        promoted: list[int] = []
        try:
            for shard in lost:
                self._take(row.table.uuid, shard.uuid, node.node_id)
                promoted.append(row.shards.index(shard))
            lead = Lead(row.table.uuid, node.node_id)
            return self.start(
                "failover", leads=(lead,), total=1, detail="unclean: rows may be lost"
            )
        except NearQLError as error:
            if promoted:
                error.extra["promoted_shards"] = promoted
                error.detail += (
                    f" Shards {promoted} of table {row.table.name!r} were promoted to {node.name} "
                    "before that. Repeat this for the others; with none left, fail over without "
                    "`unclean`."
                )
            raise

    def _lost(self, row: TableRow) -> list[ShardRow]:
        is_lost = self._who_lost()
        return [shard for shard in row.shards if is_lost(shard, shard.isr)]

    def _who_lost(self) -> Callable[[ShardRow, Collection[str]], bool]:
        """Asked of a shard and nodes: whether none of them can serve it, being dead or because its
        files there are damaged or gone, as a living node says itself.
        """
        alive, reports = self._alive, status.all_reports(self._gateway)

        def is_lost(shard: ShardRow, nodes: Collection[str]) -> bool:
            copies = [reports.get(node, {}).get(shard.uuid, {}) for node in alive & set(nodes)]
            return all(copy.get("state") in status.LOST for copy in copies)

        return is_lost

    def _check_unclean(self, row: TableRow, node: NodeRow, lost: list[ShardRow]) -> None:
        """Everything that can be known before the first shard loses rows."""
        name = row.table.name
        if any(node.node_id not in shard.replicas for shard in lost):
            raise Conflict(f"Node {node.name} has no copy of table {name!r}.", code="no_copy")
        is_lost = self._who_lost()
        if any(is_lost(shard, [node.node_id]) for shard in lost):
            raise Conflict(
                f"Node {node.name} does not answer, or its copy of table {name!r} is damaged: it "
                "could not be read.",
                code="wrong_target",
            )
        for job in self._state.jobs.values():
            if job.state == RUNNING and row.table.uuid in job.tables:
                raise Conflict(
                    f"Table {name!r} is in job {job.uuid} ({job.kind}): cancel that first.",
                    code="job_under_way",
                )
        self._check_level()

    def _take(self, table_uuid: str, shard_uuid: str, node_id: str) -> None:
        """Promote one shard, by its row as it is now: others change rows, too."""
        for tries_left in reversed(range(_TRIES)):
            row = self._state.tables.get(table_uuid)
            shard = next((s for s in (row.shards if row else ()) if s.uuid == shard_uuid), None)
            if shard is None:
                raise NotFound("The table was dropped meanwhile.", code="undefined_table")
            if not self._who_lost()(shard, shard.isr):
                return  # one in sync came back
            command = UncleanPromote(
                request_id=_new_id(), shard_uuid=shard.uuid, expected_version=shard.version,
                node_id=node_id,
            )  # fmt: skip
            result = self._cluster.metadata.propose(command)
            if result.ok:
                return
            if not tries_left or result.code != _SHARD_CHANGED:
                raise Conflict(result.detail, code=result.code)


def set_replicas(gateway: Gateway | None, row: TableRow, replicas: int) -> str:
    """See `Operations.set_replicas`; raises Conflict (`not_a_cluster`) on a node alone."""
    if gateway is None:
        raise Conflict("This node is alone: each table has one copy.", code="not_a_cluster")
    return Operations(gateway).set_replicas(row, replicas)


def cancel_job(gateway: Gateway | None, name: str) -> None:
    """End a job that metadata holds.

    Raises:
        InvalidRequest: code `not_cancellable`: another part of the node has it. NotFound.
    """
    if gateway is None or name not in gateway.metadata.state.jobs:
        raise InvalidRequest(f"Job {name} can't be cancelled.", code="not_cancellable")
    end = EndJob(
        request_id=_new_id(), job_uuid=name, state=CANCELLED, detail="by the operator",
        ended_ms=time.time_ns() // 1_000_000,
    )  # fmt: skip
    result = cast("Cluster", gateway.cluster).metadata.propose(end)
    if not result.ok:
        raise _STATUS.get(result.code, Conflict)(result.detail, code=result.code)


def _placed(row: TableRow, sizes: Mapping[str, int]) -> Placed | None:
    """A table as the planner sees it; one whose copies are being moved is left alone."""
    if any(shard.adding for shard in row.shards):
        return None
    nodes = frozenset.intersection(*(frozenset(shard.replicas) for shard in row.shards))
    primaries = {shard.primary for shard in row.shards}
    weight = 1 + sizes.get(row.table.uuid, 0)
    primary = primaries.pop() if len(primaries) == 1 else None
    return Placed(row.table.uuid, nodes, weight, primary)


def _new_id() -> str:
    return uuid.uuid4().hex
