"""Jobs: what is under way, how far, and what has ended."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from nearql.server.access.audit import audited
from nearql.server.edge import Edge
from nearql.server.operations import cancel_job
from nearql.server.replies import json_reply
from nearql.server.routes.keys import in_thread


async def list_jobs(request: Request, edge: Edge) -> Response:
    """Every job, the newest first."""
    return json_reply({"jobs": await in_thread(request, edge.jobs.all)})


async def job(request: Request, edge: Edge) -> Response:
    """One job."""
    name = request.path_params["job"]
    return json_reply(await in_thread(request, lambda: edge.jobs.one(name)))


async def cancel(request: Request, edge: Edge) -> Response:
    """End a job before it is done; what it has moved stays moved."""
    name = request.path_params["job"]

    def work() -> dict[str, str]:
        with audited(edge.access, "cancel_job", name):
            edge.jobs.one(name)
            if edge.backups is None or not edge.backups.cancel(name):
                cancel_job(edge.gateway, name)
        return {"cancelled": name}

    return json_reply(await in_thread(request, work))
