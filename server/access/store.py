"""Users, grants and keys: every change is a command of metadata, durable when a call returns.

`AccessStore` implements `query.ports.AccessControl` and is what the routes and the checks use.
What must be refused for its form is refused here; what depends on what there is, by the state
machine.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from nearql.cluster.metadata import access_commands as c
from nearql.cluster.metadata.access import ROLES, Access, KeyRow, UserRow
from nearql.cluster.metadata.commands import Command
from nearql.cluster.metadata.state import Metadata, Result
from nearql.engine.errors import Conflict, InternalError, InvalidValue, NearQLError, NotFound
from nearql.engine.schema import TableDef
from nearql.server.access import keys

USER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.@-]{0,126}")
RESERVED_NAMES = frozenset({"local", "bootstrap"})
_STATUS_OF: dict[str, type[NearQLError]] = {
    "undefined_user": NotFound,
    "undefined_key": NotFound,
    "duplicate_user": Conflict,
    "invalid_role": InvalidValue,
}


class MetadataPort(Protocol):
    """The part of `cluster.metadata.log.MetadataLog` that access needs."""

    @property
    def state(self) -> Metadata:
        """The newest applied state."""

    def propose(self, command: Command) -> Result:
        """Commit and apply."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made; `text` is nowhere else."""

    row: KeyRow
    text: str


class AccessStore:
    """Thread-safe.

    Args:
        most: users and keys, each, beyond which no more are made (auth.max_keys).
        now: seconds since 1970.
    """

    def __init__(
        self, metadata: MetadataPort, most: int, now: Callable[[], float] = time.time
    ) -> None:
        self._metadata = metadata
        self._most = most
        self._now = now

    @property
    def state(self) -> Access:
        """Users, keys and void tokens now."""
        return self._metadata.state.access

    @property
    def metadata(self) -> Metadata:
        """The whole catalog that they belong to."""
        return self._metadata.state

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return int(self._now() * 1000)

    # ---- users ----------------------------------------------------------------------------------

    def create_user(self, name: str, role: str, tables: Sequence[str] | None = None) -> None:
        """Durably add a user. tables: uuids of the only tables that the role holds for.

        Raises:
            InvalidValue: a name or a role that can't be. Conflict: the name is taken, or there
            are too many.
        """
        if not USER_NAME.fullmatch(name) or name in RESERVED_NAMES:
            raise InvalidValue(
                f"{name[:130]!r} can't be a user's name: a letter or _ first, then letters, "
                "digits and _ . @ -, at most 127; `local` and `bootstrap` are taken.",
                code="invalid_user_name",
            )
        if role not in ROLES:
            raise InvalidValue(f"There is no role {role[:40]!r}, but {', '.join(ROLES)}.")
        if role == "admin" and tables is not None:
            raise InvalidValue("The role admin holds for everything; leave `tables` out.")
        if name in self.state.users:
            raise Conflict(
                f"A user named {name!r} exists already.", code="duplicate_user", sqlstate="42710"
            )
        self._check_room(len(self.state.users), "users")
        limited = None if tables is None else tuple(sorted(set(tables)))
        self._commit(c.CreateUser(request_id=_id(), name=name, role=role, tables=limited))

    def check_room_for_key(self) -> None:
        """Raise Conflict (`too_many_keys`) where `create_key` would."""
        self._check_room(len(self.state.keys), "keys")

    def drop_user(self, name: str, *, if_exists: bool = False) -> bool:
        """Durably forget a user, with grants and keys; whether there was one."""
        if name not in self.state.users:
            if if_exists:
                return False
            raise undefined_user(name)
        self._commit(c.DropUser(request_id=_id(), name=name))
        return True

    def change_grants(
        self, user: str, table: TableDef, actions: Sequence[str], *, revoke: bool
    ) -> None:
        """Durably give or take actions on a table; a key's id means its user."""
        key = self.state.keys.get(user)
        name = key.user if key is not None and user not in self.state.users else user
        if name not in self.state.users:
            raise undefined_user(name)
        words = {"revoked" if revoke else "granted": tuple(actions)}
        self._commit(c.ChangeGrants(request_id=_id(), user=name, table_uuid=table.uuid, **words))

    # ---- keys -----------------------------------------------------------------------------------

    def create_key(
        self,
        user: str,
        *,
        expires_in_s: int | None = None,
        rate: int | None = None,
        concurrency: int | None = None,
    ) -> NewKey:
        """Durably add a key of a user."""
        self.check_room_for_key()
        text, now = keys.new_key(), self.now_ms()
        command = c.CreateKey(
            request_id=_id(),
            key_id=keys.new_id(),
            user=user,
            digest=keys.digest(text),
            created_ms=now,
            expires_ms=_after(now, expires_in_s),
            rate=rate,
            concurrency=concurrency,
        )
        self._commit(command)
        return NewKey(self._key(command.key_id), text)

    def open_session(
        self, user: str, parent: str, lifetime_s: int, ends_ms: int | None = None
    ) -> NewKey:
        """Durably open a session of a key, which ends with it at the latest."""
        text, now = keys.new_session(), self.now_ms()
        expires = now + lifetime_s * 1000
        command = c.CreateKey(
            request_id=_id(),
            key_id=keys.new_id(),
            user=user,
            digest=keys.digest(text),
            created_ms=now,
            expires_ms=expires if ends_ms is None else min(expires, ends_ms),
            parent=parent,
        )
        self._commit(command)
        return NewKey(self._key(command.key_id), text)

    def rotate_key(self, key_id: str, grace_s: int, expires_in_s: int | None = None) -> NewKey:
        """Durably replace a key's text; the old one stays valid for `grace_s`.

        Without `expires_in_s` a key that expires lives as long again as it was meant to.
        """
        row, now, text = self._key(key_id), self.now_ms(), keys.new_key()
        expires = _after(now, expires_in_s)
        if expires_in_s is None and row.expires_ms is not None:
            expires = now + row.expires_ms - (row.rotated_ms or row.created_ms)
        self._commit(
            c.RotateKey(
                request_id=_id(),
                key_id=key_id,
                digest=keys.digest(text),
                rotated_ms=now,
                grace_until_ms=now + grace_s * 1000,
                expires_ms=expires,
            )
        )
        return NewKey(self._key(key_id), text)

    def revoke_key(self, key_id: str) -> None:
        """Durably forget a key and the sessions opened with it."""
        self._commit(c.RevokeKey(request_id=_id(), key_id=key_id))

    def revoke_token(self, lifetime_s: int, *, token_id: str | None, subject: str | None) -> None:
        """Durably void a signed token, or all of a subject that were issued before now."""
        now = self.now_ms()
        self._commit(
            c.RevokeToken(
                request_id=_id(),
                revoked_ms=now,
                until_ms=now + lifetime_s * 1000,
                jti=token_id,
                subject=subject,
            )
        )

    def user(self, name: str) -> UserRow | None:
        """The user of this name."""
        return self.state.users.get(name)

    def _key(self, key_id: str) -> KeyRow:
        found = self.state.keys.get(key_id)
        if found is None:
            raise NotFound(
                f"There is no key {key_id[:40]!r}.", code="undefined_key", sqlstate="42704"
            )
        return found

    def _check_room(self, count: int, what: str) -> None:
        if count >= self._most:
            raise Conflict(
                f"There are {count} {what} already, the limit (auth.max_keys). Remove some.",
                code="too_many_keys",
                sqlstate="54000",
            )

    def _commit(self, command: Command) -> Any:
        result = self._metadata.propose(command)
        if not result.ok:
            kind = _STATUS_OF.get(result.code, InternalError)
            raise kind(result.detail, code=result.code, sqlstate="42704")
        return result.value


def undefined_user(name: str) -> NotFound:
    """The error for a user that isn't there."""
    return NotFound(
        f"There is no user {name[:130]!r}; GET /v1/keys lists all.",
        code="undefined_user",
        sqlstate="42704",
    )


def _after(now_ms: int, seconds: int | None) -> int | None:
    return None if seconds is None else now_ms + seconds * 1000


def _id() -> str:
    return uuid.uuid4().hex
