"""`/v1/keys`: who has access, by which key. Texts of keys are in an answer once, when made."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from nearql.cluster.metadata.access import KeyRow, UserRow
from nearql.engine.errors import Conflict, Forbidden, InvalidRequest
from nearql.server.access.layer import AccessLayer
from nearql.server.access.principal import acting_as
from nearql.server.edge import Edge, principal_of
from nearql.server.replies import json_reply
from nearql.server.routes.members import MOST_SECONDS, bounded, read_members
from nearql.server.routes.tables import find_table

T = TypeVar("T")
_NEW_KEY: dict[str, type] = {
    "user": str, "role": str, "tables": list, "expires_in_s": int, "rate": int, "concurrency": int,
}  # fmt: skip
_ROTATION: dict[str, type] = {"grace_s": int, "expires_in_s": int}
_REVOCATION: dict[str, type] = {"jti": str, "subject": str}
_MOST_RATE = 1_000_000


def layer_of(edge: Edge) -> AccessLayer:
    """What administers access; Conflict where auth.mode is none."""
    if edge.access is None:
        raise Conflict(
            "auth.mode is none: nobody is asked for a key. Set it to required first.",
            code="auth_not_required",
            sqlstate="55000",
        )
    return edge.access


async def in_thread(request: Request, work: Callable[[], T]) -> T:
    """`work()` beside the event loop, for the one who asks; not among the statements' threads, so
    that keys can be revoked while those are all taken.
    """
    with acting_as(principal_of(request)):
        return await asyncio.to_thread(work)


async def list_keys(request: Request, edge: Edge) -> Response:
    """Every user and every key, without their texts."""
    layer = layer_of(edge)
    state, names = layer.store.state, _table_names(layer)
    keys = [key for key in state.keys.values() if key.parent is None]
    return json_reply(
        {
            "users": [_user(user, names) for user in state.users.values()],
            "keys": [described(key) for key in sorted(keys, key=lambda k: k.created_ms)],
        }
    )


async def create_key(request: Request, edge: Edge) -> Response:
    """A new key, of a user that is there or that this makes."""
    layer = layer_of(edge)
    members = await read_members(request, _NEW_KEY)
    name = members.get("user")
    if name is None:
        raise InvalidRequest('"user" is missing: whose key it is to be.', code="missing_member")
    new_user = _new_user(edge, layer, members)
    limits = {
        "expires_in_s": bounded(members, "expires_in_s", 1, MOST_SECONDS),
        "rate": bounded(members, "rate", 1, _MOST_RATE),
        "concurrency": bounded(members, "concurrency", 1, _MOST_RATE),
    }

    def make() -> Any:
        with layer.audit.act("create_key", name, role=members.get("role")):
            layer.store.check_room_for_key()  # before the user is made for it
            if new_user is not None:
                layer.store.create_user(name, *new_user)
            return layer.store.create_key(name, **limits)

    made = await in_thread(request, make)
    return json_reply({**described(made.row), "key": made.text})


def _new_user(
    edge: Edge, layer: AccessLayer, members: dict[str, Any]
) -> tuple[str, list[str] | None] | None:
    """Role and tables of the user to be made; None where the user is there."""
    role, tables = members.get("role"), members.get("tables")
    if layer.store.user(members["user"]) is None:
        uuids = None if tables is None else [find_table(edge.node, t).uuid for t in tables]
        return role or "none", uuids
    if role is not None or tables is not None:
        raise Conflict(
            f"The user {members['user']!r} is there already and has a role; leave `role` and "
            "`tables` out, and change rights with GRANT and REVOKE.",
            code="duplicate_user",
        )
    return None


async def rotate_key(request: Request, edge: Edge) -> Response:
    """A new text for a key: for administrators, and for the key itself."""
    layer, key_id = layer_of(edge), request.path_params["key"]
    principal = principal_of(request)
    if not principal.rights.admin and (principal.key_id, principal.kind) != (key_id, "key"):
        raise Forbidden(f"{principal.name} may rotate no key but the one of the request.")
    members = await read_members(request, _ROTATION)
    grace = bounded(members, "grace_s", 0, MOST_SECONDS)
    expires = bounded(members, "expires_in_s", 1, MOST_SECONDS)
    grace_s = layer.section.rotation_grace_s if grace is None else grace

    def rotate() -> Any:
        with layer.audit.act("rotate_key", key_id):
            return layer.store.rotate_key(key_id, grace_s, expires)

    made = await in_thread(request, rotate)
    return json_reply(
        {**described(made.row), "key": made.text, "old_key_until": _time(made.row.old_until_ms)}
    )


async def revoke_key(request: Request, edge: Edge) -> Response:
    """The key and its sessions are void from the answer on, here and on every node that applied."""
    layer, key_id = layer_of(edge), request.path_params["key"]

    def revoke() -> None:
        with layer.audit.act("revoke_key", key_id):
            layer.store.revoke_key(key_id)

    await in_thread(request, revoke)
    return json_reply({"revoked": key_id})


async def revoke_token(request: Request, edge: Edge) -> Response:
    """Void a signed token by its `jti`, or all tokens of a subject issued until now."""
    layer = layer_of(edge)
    members = await read_members(request, _REVOCATION, nulls=False)
    if len(members) != 1 or not all(members.values()):
        raise InvalidRequest('Give either "jti" or "subject".', code="missing_member")
    section = layer.section
    lifetime_s = section.jwt_lifetime_s + 2 * section.jwt_leeway_s
    target = next(iter(members.values()))

    def revoke() -> None:
        with layer.audit.act("revoke_token", target, by=next(iter(members))):
            layer.store.revoke_token(
                lifetime_s, token_id=members.get("jti"), subject=members.get("subject")
            )

    await in_thread(request, revoke)
    return json_reply({"revoked": target})


def described(key: KeyRow) -> dict[str, Any]:
    """A key as everybody may see it who may see keys at all."""
    return {
        "id": key.key_id,
        "user": key.user,
        "created_at": _time(key.created_ms),
        "expires_at": _time(key.expires_ms),
        "rotated_at": _time(key.rotated_ms),
        "rate": key.rate,
        "concurrency": key.concurrency,
    }


def _user(user: UserRow, names: dict[str, str]) -> dict[str, Any]:
    scope = None if user.tables is None else sorted(names[t] for t in user.tables if t in names)
    grants = [
        {"table": names[uuid], "actions": list(actions)}
        for uuid, actions in user.grants.items()
        if uuid in names
    ]
    return {"name": user.name, "role": user.role, "tables": scope, "grants": grants}


def _table_names(layer: AccessLayer) -> dict[str, str]:
    return {uuid: row.table.name for uuid, row in layer.store.metadata.tables.items()}


def _time(at_ms: int | None) -> str | None:
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
