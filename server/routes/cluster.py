"""Who leads, which nodes there are, where each shard's copies stand."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from nearql.server.edge import Edge
from nearql.server.gateway.gateway import Gateway
from nearql.server.gateway.status import moves
from nearql.server.ports import NodePort
from nearql.server.replies import json_reply

_NODE = ("name", "role", "url", "alive", "last_seen_ms")
_SHARD = ("table", "shard", "epoch", "primary", "in_sync")
_COPY = ("node", "lsn", "lag_records", "lag_ms")
TERM_ALONE = 0  # terms count Raft elections; a node alone holds none


async def cluster(request: Request, edge: Edge) -> Response:
    """Leader, term, nodes and shards."""
    node, gateway = edge.node_of(request), edge.gateway
    return json_reply(await edge.run(lambda: describe_cluster(node, gateway)))


async def nodes(request: Request, edge: Edge) -> Response:
    """The nodes alone."""
    node = edge.node_of(request)
    return json_reply({"nodes": await edge.run(lambda: node_list(node))})


async def shards(request: Request, edge: Edge) -> Response:
    """The shards alone."""
    node = edge.node_of(request)
    return json_reply({"shards": await edge.run(lambda: shard_list(node))})


def describe_cluster(node: NodePort, gateway: Gateway | None = None) -> dict[str, Any]:
    """The answer of /v1/cluster."""
    found = node_list(node)
    leader = next((n["name"] for n in found if n["role"] == "leader"), None)
    described = {"leader": leader, "term": TERM_ALONE, "nodes": found, "shards": shard_list(node)}
    if gateway is None:
        return described
    visible = {table.name for table in node.catalog().tables.values()}
    under_way = [move for move in moves(gateway) if move["table"] in visible]
    return {**described, "term": gateway.cluster.term, "moves": under_way}


def node_list(node: NodePort) -> list[dict[str, Any]]:
    """Every node of the metadata."""
    found = node.system_table("nodes")
    listed = found.to_pylist() if found is not None else []
    return [{name: row[name] for name in _NODE} for row in listed]


def shard_list(node: NodePort) -> list[dict[str, Any]]:
    """Every shard once, with its copies."""
    found = node.system_table("shards")
    shards: dict[tuple[str, int], dict[str, Any]] = {}
    for row in found.to_pylist() if found is not None else []:
        shard = shards.setdefault(
            (row["table"], row["shard"]), {**{name: row[name] for name in _SHARD}, "copies": []}
        )
        if row["node"] is not None:
            shard["copies"].append({name: row[name] for name in _COPY})
    return list(shards.values())
