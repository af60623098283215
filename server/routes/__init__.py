"""Routes as data: method, path, declared kind, handler. `routes.all` lists them in one tuple.

The kind says what a route does to data, so that authorisation (`open` needs no token) and, in a
cluster, redirects to the leader (`write`, and `sql` by its parsed statement) follow a declaration
and never the path's text.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from nearql.engine.errors import Unauthenticated
from nearql.server.edge import Edge

Handler = Callable[[Request, Edge], Awaitable[Response]]


class Kind(StrEnum):
    """What a route does."""

    OPEN = "open"  # no token needed, nothing secret in it
    READ = "read"
    WRITE = "write"
    SQL = "sql"  # a read or a write: the parsed statement says which


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One route. `path` as Starlette and OpenAPI write it: `/v1/tables/{table}`."""

    method: str
    path: str
    kind: Kind
    handler: Handler


def bound(endpoint: Endpoint, edge: Edge) -> Route:
    """The Starlette route that runs an endpoint for those who may use it."""

    async def run(request: Request) -> Response:
        request.scope["nearql.route"] = endpoint.path
        if endpoint.kind is not Kind.OPEN and request.scope.get("principal") is None:
            raise Unauthenticated("This route needs a token.")
        return await endpoint.handler(request, edge)

    return Route(endpoint.path, run, methods=[endpoint.method])
