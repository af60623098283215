"""Routes as data: method, path, declared kind, rule, handler. `routes.all` lists them in one tuple.

The kind says what a route does to data, so that in a cluster redirects to the leader (`write`, and
`sql` by its parsed statement) follow a declaration and never the path's text. The rule says who
may use it; without one only administrators may, and a test fails. Who may not use a route is
refused before he is told where the leader is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, compile_path
from starlette.types import Scope

from nearql.engine.errors import Forbidden, Unauthenticated
from nearql.server.access.principal import Principal
from nearql.server.edge import Edge
from nearql.server.gateway.gateway import NODES_HEADER
from nearql.server.gateway.redirect import Redirected, redirection

Handler = Callable[[Request, Edge], Awaitable[Response]]


class Kind(StrEnum):
    """What a route does."""

    OPEN = "open"  # touches no data
    READ = "read"
    WRITE = "write"
    SQL = "sql"  # a read or a write: the parsed statement says which
    SESSION = "session"  # a login, a member: metadata that every node may propose


class Rule(StrEnum):
    """Who may use a route, where tokens are required."""

    OPEN = "open"  # everybody; nothing secret in it
    ANYBODY = "anybody"  # whoever proves to be somebody
    BY_TABLE = "by_table"  # whoever that is, too: the answer holds what his rights show him
    ALL_TABLES = "all_tables"  # a role that holds for all tables
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One route. `path` as Starlette and OpenAPI write it: `/v1/tables/{table}`."""

    method: str
    path: str
    kind: Kind
    handler: Handler
    rule: Rule = Rule.ADMIN


def bound(endpoint: Endpoint, edge: Edge) -> Route:
    """The Starlette route that runs an endpoint for those who may use it."""

    async def run(request: Request) -> Response:
        request.scope["nearql.route"] = endpoint.path
        principal = request.scope.get("principal")
        if endpoint.rule is not Rule.OPEN:
            check_rule(endpoint.rule, principal)
        try:
            if edge.gateway is not None and endpoint.kind is Kind.WRITE:
                edge.gateway.lead()
            if principal is None or not edge.quotas.limit(principal):
                return await endpoint.handler(request, edge)
            with edge.quotas.request(principal):
                return await endpoint.handler(request, edge)
        except Redirected as moved:
            assert edge.gateway is not None
            return redirection(request, moved, {NODES_HEADER: edge.gateway.node_urls()})

    return Route(endpoint.path, run, methods=[endpoint.method])


def check_rule(rule: Rule, principal: Principal | None) -> None:
    """Raises Unauthenticated or Forbidden where a principal may not use a route of this rule."""
    if principal is None:
        raise Unauthenticated("This node needs a key or a token: Authorization: Bearer <key>.")
    rights = principal.rights
    if rights.admin or rule in (Rule.ANYBODY, Rule.BY_TABLE):
        return
    if rule is Rule.ALL_TABLES and rights.sees_all:
        return
    raise Forbidden(
        f"{principal.name} may not use this route: it takes "
        + ("the role admin." if rule is Rule.ADMIN else "a role that holds for all tables.")
    )


def open_paths(endpoints: tuple[Endpoint, ...]) -> Callable[[Scope], bool]:
    """Tells whether a request is for a route of rule `open`, before it is routed."""
    rules = [(e.method, compile_path(e.path)[0]) for e in endpoints if e.rule is Rule.OPEN]

    def is_open(scope: Scope) -> bool:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        path = scope["path"]
        return any(m == method and pattern.fullmatch(path) for m, pattern in rules)

    return is_open


def allowed_methods(endpoints: tuple[Endpoint, ...], path: str) -> str:
    """What a path takes, as `Allow` lists it; several routes may share a path."""
    methods = {e.method for e in endpoints if compile_path(e.path)[0].fullmatch(path)}
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
