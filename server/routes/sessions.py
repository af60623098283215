"""`/v1/login` and `/v1/whoami`: a session for a browser, and who the node takes one for.

A session is a token of its own, as long-lived as `auth.session_s` and never longer than its key.
The cookie that carries it can't be read by scripts and goes with no request that another site
causes; a request that changes something must also carry the browser's `Origin`.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from nearql.engine.errors import Forbidden, InvalidRequest
from nearql.server.access.authenticate import COOKIE
from nearql.server.access.layer import AccessLayer
from nearql.server.access.principal import Principal, acting_as
from nearql.server.access.store import NewKey
from nearql.server.edge import Edge, principal_of
from nearql.server.replies import json_reply
from nearql.server.routes.keys import _time, in_thread, layer_of
from nearql.server.routes.members import read_members


async def login(request: Request, edge: Edge) -> Response:
    """Open a session with a key, given in the body or as Authorization."""
    layer = layer_of(edge)
    members = await read_members(request, {"key": str}, nulls=False)
    principal = _with_key(request, layer, members.get("key"))
    request.scope["principal"] = principal

    def open_session() -> NewKey:
        with layer.audit.act("login", principal.name):
            return _opened(layer, principal)

    made = await in_thread(request, open_session)
    answer = json_reply(
        {"token": made.text, "expires_at": _time(made.row.expires_ms), "user": principal.name}
    )
    answer.set_cookie(
        COOKIE,
        made.text,
        max_age=layer.section.session_s,
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return answer


def _with_key(request: Request, layer: AccessLayer, key: str | None) -> Principal:
    found = request.scope.get("principal")
    if key is not None:
        found = layer.authenticate.principal(key.encode())
    if found is None:
        raise InvalidRequest('Send {"key": "nq_..."}.', code="missing_member")
    if found.kind not in ("key", "bootstrap"):
        raise Forbidden("A session is opened with a key, not with another session or token.")
    return found  # type: ignore[no-any-return]


def _opened(layer: AccessLayer, principal: Principal) -> NewKey:
    lifetime_s = layer.section.session_s
    if principal.kind == "bootstrap":
        parent = layer.authenticate.root_parent()
        return layer.store.open_session(principal.name, parent, lifetime_s)
    row = layer.store.state.keys[principal.key_id]
    return layer.store.open_session(row.user, row.key_id, lifetime_s, row.expires_ms)


async def logout(request: Request, edge: Edge) -> Response:
    """End the session of the request."""
    layer, principal = layer_of(edge), principal_of(request)
    if principal.kind != "session":
        raise Forbidden("Only a session can be ended; a key is revoked with DELETE /v1/keys/{id}.")
    session = layer.authenticate.session_of(request.scope)

    def end() -> None:
        with layer.audit.act("logout", principal.name):
            layer.store.revoke_key(session)

    await in_thread(request, end)
    answer = json_reply({"ended": principal.name})
    answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return answer


async def whoami(request: Request, edge: Edge) -> Response:
    """The user, how it was proved, and what it may do."""
    principal = principal_of(request)
    with acting_as(principal):
        tables = edge.node_of(request).catalog().tables
    rights = principal.rights
    shown: dict[str, Any] = {
        "user": principal.name,
        "via": principal.kind,
        "key": principal.key_id or None,
        "admin": rights.admin,
        "all_tables": sorted(rights.everywhere),
        "tables": {t.name: sorted(rights.on(t.uuid)) for t in tables.values()},
    }
    return json_reply(shown)
