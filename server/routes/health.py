"""Health for balancers and schedulers, and the metrics."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from nearql.engine.errors import Unavailable
from nearql.server.edge import Edge
from nearql.server.gateway.health import check_leader, check_ready
from nearql.server.metrics import CONTENT_TYPE
from nearql.server.replies import json_reply


async def livez(request: Request, edge: Edge) -> Response:
    """The event loop turns."""
    return json_reply({"status": "live"})


async def readyz(request: Request, edge: Edge) -> Response:
    """Reads are welcome. A damaged table answers its own error; the others are served."""
    if edge.draining:
        raise Unavailable("The server is shutting down.", code="shutting_down")
    if edge.gateway is not None:
        check_ready(edge.gateway)
    return json_reply({"status": "ready", "failed_tables": len(edge.node.failed_tables())})


async def leaderz(request: Request, edge: Edge) -> Response:
    """200 on the leader alone, for balancers. A node alone is its own leader."""
    if edge.draining:
        raise Unavailable("The server is shutting down.", code="shutting_down")
    if edge.gateway is not None:
        check_leader(edge.gateway)
    return json_reply({"status": "leader"})


async def metrics(request: Request, edge: Edge) -> Response:
    """Prometheus' text format; beside the statements' threads, to be there when those are full."""
    return Response(await asyncio.to_thread(edge.metrics.exposition), media_type=CONTENT_TYPE)
