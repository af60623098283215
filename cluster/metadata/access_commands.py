"""Commands about who may do what: users, their grants, their keys, and tokens that are void.

Times are milliseconds since 1970 by the proposer's clock, so that applying a command reads none.
Secrets never travel: a key is known by its SHA-256 digest alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from nearql.cluster.metadata.commands import Command


@dataclass(frozen=True, kw_only=True)
class CreateUser(Command):
    """Add somebody who may be granted rights and hold keys.

    role: none, reader, writer or admin. tables: uuids of the only tables for which the role
    counts; None = all.
    """

    name: str
    role: str
    tables: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class DropUser(Command):
    """Forget a user, with every grant and key."""

    name: str


@dataclass(frozen=True, kw_only=True)
class ChangeGrants(Command):
    """Give a user actions on a table, or take them back; both lists hold words of `Action`."""

    user: str
    table_uuid: str
    granted: tuple[str, ...] = ()
    revoked: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CreateKey(Command):
    """Add a key of a user, or a session that was opened with a key (`parent`).

    digest: SHA-256 of the key's text, in hexadecimal. rate, concurrency: this key's own limits,
    None = the node's.
    """

    key_id: str
    user: str
    digest: str
    created_ms: int
    expires_ms: int | None = None
    rate: int | None = None
    concurrency: int | None = None
    parent: str | None = None


@dataclass(frozen=True, kw_only=True)
class RotateKey(Command):
    """Replace a key's text; the one before stays valid until `grace_until_ms`."""

    key_id: str
    digest: str
    rotated_ms: int
    grace_until_ms: int
    expires_ms: int | None = None


@dataclass(frozen=True, kw_only=True)
class RevokeKey(Command):
    """Forget a key and the sessions that were opened with it."""

    key_id: str


@dataclass(frozen=True, kw_only=True)
class RevokeToken(Command):
    """Void one signed token by its `jti` until it would have expired, or, with a subject instead,
    all of its tokens that were issued before `revoked_ms`.
    """

    revoked_ms: int
    until_ms: int
    jti: str | None = None
    subject: str | None = None


ACCESS_COMMANDS: tuple[type[Command], ...] = (
    CreateUser, DropUser, ChangeGrants, CreateKey, RotateKey, RevokeKey, RevokeToken,
)  # fmt: skip
