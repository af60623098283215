"""What operators ask of a cluster: move, drain, rebalance, failover; each answers with a job.

Every node takes these: a job is an entry of metadata, and the node that leads carries it out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from nearql.cluster.metadata.jobs import Lead, Move
from nearql.engine.errors import Conflict, InvalidRequest
from nearql.server.access.audit import audited
from nearql.server.edge import Edge
from nearql.server.operations import Operations
from nearql.server.replies import json_reply
from nearql.server.routes.keys import in_thread
from nearql.server.routes.members import read_members


async def move(request: Request, edge: Edge) -> Response:
    """Copies of a table go from one node to another."""
    given = await read_members(request, {"table": str, "from": str, "to": str})
    table, source, target = _needed(given, "table", "from", "to")
    operations = _operations(edge)

    def ask() -> str:
        row, nodes = operations.table(table), (operations.node(source), operations.node(target))
        operations.check_move(row, *nodes)
        moves = (Move(row.table.uuid, nodes[0].node_id, nodes[1].node_id),)
        return operations.start("move", moves=moves, total=1)

    return await _job(request, edge, ("move", f"{table}: {source} to {target}"), ask)


async def drain(request: Request, edge: Edge) -> Response:
    """A node gives its primaries and copies away, or (cancel) may have copies again."""
    given = await read_members(request, {"node": str, "cancel": bool})
    (name,) = _needed(given, "node")
    operations = _operations(edge)

    def ask() -> str:
        node = operations.node(name)
        if given.get("cancel"):
            return operations.undrain(node)
        return operations.drain(node)

    act = "undrain" if given.get("cancel") else "drain"
    return await _job(request, edge, (act, name), ask)


async def rebalance(request: Request, edge: Edge) -> Response:
    """Copies and primaries are spread over the nodes; with dry_run only the plan is told."""
    given = await read_members(request, {"dry_run": bool})
    operations = _operations(edge)
    if given.get("dry_run"):
        return json_reply({"job": None, "plan": await in_thread(request, operations.plan)})

    def ask() -> str:
        plan = operations.planned()
        total = len(plan.moves) + len(plan.leads)
        return operations.start("rebalance", moves=plan.moves, leads=plan.leads, total=total)

    return await _job(request, edge, ("rebalance", "cluster"), ask)


async def failover(request: Request, edge: Edge) -> Response:
    """Another copy in sync orders a table's writes; unclean: one that may have lost some."""
    given = await read_members(request, {"table": str, "to": str, "unclean": bool})
    (table,) = _needed(given, "table")
    target, operations = given.get("to"), _operations(edge)
    if given.get("unclean") and target is None:
        raise InvalidRequest('"unclean" needs "to": the node whose copy is taken as it is.')

    def ask() -> str:
        row = operations.table(table)
        if given.get("unclean"):
            return operations.promote_uncleanly(row, operations.node(str(target)))
        node_id = operations.successor(row, target)
        return operations.start("failover", leads=(Lead(row.table.uuid, node_id),), total=1)

    act = "unclean_failover" if given.get("unclean") else "failover"
    return await _job(request, edge, (act, f"{table} to {target or 'any'}"), ask)


async def _job(
    request: Request, edge: Edge, act: tuple[str, str], ask: Callable[[], str]
) -> Response:
    """Do it, write it to the audit log, answer with the job as it is now."""

    def done() -> dict[str, Any]:
        with audited(edge.access, *act):
            name = ask()
        return {"job": name, **_shown(edge, name)}

    return json_reply(await in_thread(request, done))


def _shown(edge: Edge, name: str) -> dict[str, Any]:
    return {key: value for key, value in edge.jobs.one(name).items() if key != "job"}


def _needed(given: dict[str, Any], *names: str) -> tuple[str, ...]:
    for name in names:
        if name not in given:
            raise InvalidRequest(f'The body needs the member "{name}".')
    return tuple(str(given[name]) for name in names)


def _operations(edge: Edge) -> Operations:
    if edge.gateway is None:
        raise Conflict("This node is alone: cluster.enabled is not set.", code="not_a_cluster")
    return Operations(edge.gateway)
