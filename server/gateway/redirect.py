"""307: where a write that reached a follower belongs."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from nearql.engine.errors import NearQLError, Unavailable
from nearql.server.cluster_ports import LeaderPort
from nearql.server.problem import problem_response


class Redirected(NearQLError):
    """This node doesn't take writes; the leader does. Answered as 307, with nothing done."""

    code = "not_leader"
    sqlstate = "57P03"
    http_status = 307
    title = "Temporary redirect"
    retryable = True

    def __init__(self, leader: LeaderPort) -> None:
        super().__init__(
            f"This node is a follower: writes go to the leader, {leader.name} at {leader.url}.",
            leader=leader.name,
        )
        self.leader = leader


def redirection(request: Request, moved: Redirected, more: Mapping[str, str]) -> Response:
    """The answer of a follower: the same route at the leader's advertised URL; more: headers.

    Only that URL and the request's own path are in `Location`: never its Host header.
    """
    query = request.scope["query_string"].decode("latin-1")
    path = request.scope["raw_path"].decode("latin-1").partition("?")[0]
    location = moved.leader.url.rstrip("/") + path + (f"?{query}" if query else "")
    headers = {
        "Location": location, "NearQL-Leader": moved.leader.name, "NearQL-Role": "follower", **more
    }  # fmt: skip
    return problem_response(moved, request.scope["request_id"], headers)


def no_leader() -> Unavailable:
    """The 503 of a write while nobody leads."""
    return Unavailable(
        "No leader is known at the moment, so no write is taken; nothing was done. Reads go on. "
        "Retry shortly.",
        code="no_leader",
    )
