"""Who may do what, as the metadata state machine keeps it.

Pure, like `state`: no clock and no chance, a refusal is an answer. Users hold a role, grants by
table, and keys; a key is only its digest. What has expired is forgotten when a later command of
the same kind brings a later time, so that no list grows for ever.

Invariants: every key belongs to a user, and a session has a parent: a key, or BOOTSTRAP.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nearql.cluster.metadata import access_commands as c
from nearql.cluster.metadata.commands import Command

ROLES = ("none", "reader", "writer", "admin")
ACTIONS = ("SELECT", "INSERT", "UPDATE", "DELETE", "ADMIN")
SESSIONS_PER_KEY = 32  # the oldest ends when one more is opened
BOOTSTRAP = "bootstrap"  # the key in a file: no row here, and yet a parent of sessions


@dataclass(frozen=True, slots=True)
class UserRow:
    """A user. tables: uuids for which the role counts, None = all; grants: table uuid -> actions,
    in the order of ACTIONS.
    """

    name: str
    role: str
    tables: tuple[str, ...] | None = None
    grants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key, or a session if it has a parent. Digests are hexadecimal SHA-256, times ms."""

    key_id: str
    user: str
    digest: str
    created_ms: int
    expires_ms: int | None = None
    rate: int | None = None
    concurrency: int | None = None
    parent: str | None = None
    rotated_ms: int | None = None
    old_digest: str | None = None  # before the last rotation; valid until old_until_ms
    old_until_ms: int = 0


@dataclass(frozen=True)
class Access:
    """Users by name, keys by id, void tokens. version: rises with every change."""

    version: int = 0
    users: Mapping[str, UserRow] = field(default_factory=dict)
    keys: Mapping[str, KeyRow] = field(default_factory=dict)
    revoked_tokens: Mapping[str, int] = field(default_factory=dict)  # jti -> until when, ms
    revoked_subjects: Mapping[str, tuple[int, int]] = field(
        default_factory=dict
    )  # subject -> (issued before this is void, until when this is kept), ms


@dataclass(frozen=True, slots=True)
class Applied:
    """What a command did: `code` is empty on success, else an error word."""

    access: Access
    code: str = ""
    detail: str = ""
    value: Any = None


def apply_access(access: Access, command: Command, tables: Collection[str]) -> Applied:
    """The state after an access command. tables: uuids that exist; grants of others are let go."""
    applied = _HANDLERS[type(command)](access, command)
    if applied.code:
        return applied
    changed = replace(_without_dead_grants(applied.access, tables), version=access.version + 1)
    return replace(applied, access=changed)


def _without_dead_grants(access: Access, tables: Collection[str]) -> Access:
    stale = [
        user for user in access.users.values() if any(uuid not in tables for uuid in user.grants)
    ]
    kept = {
        user.name: replace(user, grants={u: a for u, a in user.grants.items() if u in tables})
        for user in stale
    }
    return replace(access, users={**access.users, **kept}) if kept else access


def _create_user(access: Access, command: c.CreateUser) -> Applied:
    if command.name in access.users:
        return Applied(access, "duplicate_user", f"A user named {command.name!r} exists already.")
    if command.role not in ROLES:
        roles = ", ".join(ROLES)
        return Applied(access, "invalid_role", f"There is no role {command.role!r}, but {roles}.")
    user = UserRow(command.name, command.role, command.tables)
    return Applied(replace(access, users={**access.users, user.name: user}), value=user.name)


def _drop_user(access: Access, command: c.DropUser) -> Applied:
    if command.name not in access.users:
        return _no_user(access, command.name)
    users = {name: user for name, user in access.users.items() if name != command.name}
    keys = {key_id: key for key_id, key in access.keys.items() if key.user != command.name}
    return Applied(replace(access, users=users, keys=keys))


def _change_grants(access: Access, command: c.ChangeGrants) -> Applied:
    user = access.users.get(command.user)
    if user is None:
        return _no_user(access, command.user)
    held = {*user.grants.get(command.table_uuid, ()), *command.granted} - {*command.revoked}
    grants = {uuid: actions for uuid, actions in user.grants.items() if uuid != command.table_uuid}
    if held:
        grants[command.table_uuid] = tuple(action for action in ACTIONS if action in held)
    changed = replace(user, grants=grants)
    return Applied(replace(access, users={**access.users, user.name: changed}))


def _create_key(access: Access, command: c.CreateKey) -> Applied:
    if command.user not in access.users and command.parent is None:
        return _no_user(access, command.user)
    if command.parent is not None and not _may_open(access, command.parent):
        return _no_key(access, command.parent)
    if command.key_id in access.keys:
        return Applied(access, "duplicate_key_id", f"There is a key {command.key_id!r} already.")
    key = KeyRow(
        key_id=command.key_id,
        user=command.user,
        digest=command.digest,
        created_ms=command.created_ms,
        expires_ms=command.expires_ms,
        rate=command.rate,
        concurrency=command.concurrency,
        parent=command.parent,
    )
    kept = _without_ended_sessions(access.keys, command)
    return Applied(replace(access, keys={**kept, key.key_id: key}), value=key.key_id)


def _may_open(access: Access, parent: str) -> bool:
    return parent in access.keys or parent.startswith(BOOTSTRAP)


def _without_ended_sessions(keys: Mapping[str, KeyRow], new: c.CreateKey) -> dict[str, KeyRow]:
    """Sessions that have expired go, and the oldest of a key that would have too many."""
    ended = {
        key.key_id
        for key in keys.values()
        if key.parent is not None and (key.expires_ms or 0) <= new.created_ms
    }
    if new.parent is not None:
        own = [k for k in keys.values() if k.parent == new.parent and k.key_id not in ended]
        own.sort(key=lambda key: (key.created_ms, key.key_id))
        ended.update(key.key_id for key in own[: max(0, len(own) - SESSIONS_PER_KEY + 1)])
    return {key_id: key for key_id, key in keys.items() if key_id not in ended}


def _rotate_key(access: Access, command: c.RotateKey) -> Applied:
    key = access.keys.get(command.key_id)
    if key is None or key.parent is not None:
        return _no_key(access, command.key_id)
    changed = replace(
        key,
        digest=command.digest,
        expires_ms=command.expires_ms,
        rotated_ms=command.rotated_ms,
        old_digest=key.digest,
        old_until_ms=command.grace_until_ms,
    )
    return Applied(replace(access, keys={**access.keys, key.key_id: changed}))


def _revoke_key(access: Access, command: c.RevokeKey) -> Applied:
    if command.key_id not in access.keys:
        return _no_key(access, command.key_id)
    kept = {
        key_id: key
        for key_id, key in access.keys.items()
        if command.key_id not in (key_id, key.parent)
    }
    return Applied(replace(access, keys=kept))


def _revoke_token(access: Access, command: c.RevokeToken) -> Applied:
    now = command.revoked_ms
    tokens = {jti: until for jti, until in access.revoked_tokens.items() if until > now}
    subjects = {name: row for name, row in access.revoked_subjects.items() if row[1] > now}
    if command.jti is not None:
        tokens[command.jti] = command.until_ms
    if command.subject is not None:
        subjects[command.subject] = (now, command.until_ms)
    return Applied(replace(access, revoked_tokens=tokens, revoked_subjects=subjects))


def _no_user(access: Access, name: str) -> Applied:
    return Applied(access, "undefined_user", f"There is no user {name!r}.")


def _no_key(access: Access, key_id: str) -> Applied:
    return Applied(access, "undefined_key", f"There is no key {key_id!r}.")


_HANDLERS: dict[type[Command], Callable[[Access, Any], Applied]] = {
    c.CreateUser: _create_user,
    c.DropUser: _drop_user,
    c.ChangeGrants: _change_grants,
    c.CreateKey: _create_key,
    c.RotateKey: _rotate_key,
    c.RevokeKey: _revoke_key,
    c.RevokeToken: _revoke_token,
}
