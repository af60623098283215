"""GRANT, REVOKE, CREATE USER and DROP USER."""

from __future__ import annotations

from typing import Any

from nearql.engine.errors import SqlError, Unsupported
from nearql.query.dialect.create import with_options
from nearql.query.dialect.cursor import Cursor
from nearql.query.statements import ChangeGrants, CreateUser, DropUser

ACTIONS = ("SELECT", "INSERT", "UPDATE", "DELETE", "ADMIN")
ROLES = ("none", "reader", "writer", "admin")


def _common(cursor: Cursor) -> dict[str, Any]:
    cursor.expect_end()
    return {"text": cursor.source.text, "offset": cursor.source.offset}


def grant(cursor: Cursor) -> ChangeGrants:
    """GRANT actions ON [TABLE] tables TO users."""
    cursor.expect("GRANT")
    return _change(cursor, "TO")


def revoke(cursor: Cursor) -> ChangeGrants:
    """REVOKE actions ON [TABLE] tables FROM users."""
    cursor.expect("REVOKE")
    return _change(cursor, "FROM")


def _change(cursor: Cursor, before_users: str) -> ChangeGrants:
    actions = _actions(cursor)
    if not cursor.accept("ON"):
        raise cursor.unexpected("ON and a table")
    if cursor.word() in ("ALL", "SCHEMA", "DATABASE"):
        raise cursor.refuse("Rights are granted on tables; a role of CREATE USER holds for all.")
    _ = cursor.accept("TABLE")
    tables = tuple(cursor.listed(cursor.table))
    cursor.expect(before_users)
    users = tuple(cursor.listed(lambda: _user(cursor)))
    if cursor.word() == "WITH":
        raise cursor.refuse("WITH GRANT OPTION is not offered: administrators grant rights.")
    _ = cursor.accept_any("CASCADE", "RESTRICT")
    return ChangeGrants(
        actions=actions, tables=tables, users=users, revoke=before_users == "FROM",
        **_common(cursor),
    )  # fmt: skip


def _actions(cursor: Cursor) -> tuple[str, ...]:
    if cursor.accept("ALL"):
        _ = cursor.accept("PRIVILEGES")
        return ACTIONS
    return tuple(dict.fromkeys(cursor.listed(lambda: _action(cursor))))


def _action(cursor: Cursor) -> str:
    found = cursor.accept_any(*ACTIONS)
    if found is None:
        raise cursor.unexpected(f"ALL or one of {', '.join(ACTIONS)}")
    if cursor.word() == "(":
        raise cursor.refuse("Rights on single columns are not offered; grant them on the table.")
    return found


def _user(cursor: Cursor) -> str:
    return cursor.name("the name of a user, or the id of a key")


def create_user(cursor: Cursor) -> CreateUser:
    """After CREATE: USER name [WITH (role = reader)]."""
    cursor.expect("USER")
    name = _user(cursor)
    if cursor.word() in ("PASSWORD", "LOGIN") or cursor.word(1) == "PASSWORD":
        raise cursor.refuse("Users have keys, not passwords: POST /v1/keys, or nearql token.")
    position = cursor.position
    options = dict(with_options(cursor))
    role = str(options.pop("role", "none")).lower()
    if options:
        raise SqlError(f"A user has no option {min(options)!r}, but role.", position=position)
    if role not in ROLES:
        raise Unsupported(
            f"There is no role {role!r}; a user's role is one of {', '.join(ROLES)}.",
            position=position,
        )
    return CreateUser(name=name, role=role, **_common(cursor))


def drop_user(cursor: Cursor) -> DropUser:
    """After DROP: USER [IF EXISTS] name."""
    cursor.expect("USER")
    if_exists = cursor.accept("IF", "EXISTS")
    return DropUser(name=_user(cursor), if_exists=if_exists, **_common(cursor))
