"""Letting a disk into a cluster, and forgetting a node: `nearql cluster join` and `leave`."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from starlette.requests import Request
from starlette.responses import Response

from nearql.engine.errors import Conflict
from nearql.server.access.audit import audited
from nearql.server.edge import Edge
from nearql.server.replies import json_reply
from nearql.server.routes.keys import in_thread
from nearql.server.routes.members import bounded, read_members

if TYPE_CHECKING:
    from nearql.cluster.cluster import Cluster

TOKEN_S, MOST_TOKEN_S = 3600, 7 * 24 * 3600


async def create_token(request: Request, edge: Edge) -> Response:
    """A one-time token that lets an unknown disk in, or gives it the place of a lost one."""
    cluster = _cluster_of(edge)
    members = await read_members(request, {"expires_in_s": int})
    seconds = bounded(members, "expires_in_s", 1, MOST_TOKEN_S) or TOKEN_S
    expires_ms = time.time_ns() // 1_000_000 + seconds * 1000

    def create() -> str:
        with audited(edge.access, "create_join_token", "cluster"):
            return cluster.create_join_token(expires_ms)

    token = await in_thread(request, create)
    expires = datetime.fromtimestamp(expires_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return json_reply({"token": token, "expires_at": expires})


async def remove_node(request: Request, edge: Edge) -> Response:
    """Forget a node that holds no copies any more."""
    cluster, name = _cluster_of(edge), request.path_params["node"]

    def remove() -> None:
        with audited(edge.access, "remove_node", name):
            cluster.remove(name)

    await in_thread(request, remove)
    return json_reply({"removed": name})


def _cluster_of(edge: Edge) -> Cluster:
    if edge.gateway is None:
        raise Conflict("This node is alone: cluster.enabled is not set.", code="not_a_cluster")
    return cast("Cluster", edge.gateway.cluster)
