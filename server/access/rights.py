"""What somebody may do: a role, for all tables or some, and grants on single tables.

    role    SELECT  INSERT  UPDATE  DELETE  ADMIN (of a table)  everything else
    none
    reader    x
    writer    x       x       x       x
    admin     x       x       x       x          x                    x

A right is never taken away by another: a grant adds to what the role gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from nearql.cluster.metadata.access import UserRow


class Action(StrEnum):
    """What a grant on a table permits. ADMIN: ALTER, DROP and indexes, and every other action."""

    SELECT = "SELECT"
    INSERT = "INSERT"
    UPDATE = "UPDATE"
    DELETE = "DELETE"
    ADMIN = "ADMIN"


class Role(StrEnum):
    """What holds beside grants."""

    NONE = "none"
    READER = "reader"
    WRITER = "writer"
    ADMIN = "admin"


Actions = frozenset[Action]
EVERYTHING: Actions = frozenset(Action)
ROLE_ACTIONS: Mapping[Role, Actions] = {
    Role.NONE: frozenset(),
    Role.READER: frozenset({Action.SELECT}),
    Role.WRITER: EVERYTHING - {Action.ADMIN},
    Role.ADMIN: EVERYTHING,
}
_NOTHING: Actions = frozenset()


@dataclass(frozen=True)
class Rights:
    """Equal rights are interchangeable: sessions are shared by them.

    admin: everything, also what belongs to no table. everywhere: on every table, those to come
    included. tables: by table uuid, sorted, so that equal rights compare equal.
    """

    admin: bool = False
    everywhere: Actions = _NOTHING
    tables: tuple[tuple[str, Actions], ...] = ()
    _by_uuid: Mapping[str, Actions] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )
    _hash: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_uuid", dict(self.tables))
        object.__setattr__(self, "_hash", hash((self.admin, self.everywhere, self.tables)))

    def __hash__(self) -> int:
        return self._hash  # asked for with each request

    def on(self, table_uuid: str) -> Actions:
        """What is permitted on a table."""
        return self.everywhere | self._by_uuid.get(table_uuid, _NOTHING)

    def allows(self, action: Action, table_uuid: str) -> bool:
        """Whether this action on this table is permitted."""
        return action in self.everywhere or action in self._by_uuid.get(table_uuid, _NOTHING)

    @property
    def sees_all(self) -> bool:
        """Whether every table may be known of."""
        return bool(self.everywhere)

    def sees(self, table_uuid: str) -> bool:
        """Whether a table may be known of: any action on it."""
        return bool(self.on(table_uuid))


ALL = Rights(admin=True, everywhere=EVERYTHING)


def rights_of(user: UserRow) -> Rights:
    """The rights of a user's role and grants."""
    grants = {uuid: _actions(words) for uuid, words in user.grants.items()}
    return make_rights(Role(user.role), user.tables, grants)


def make_rights(
    role: Role, scope: Iterable[str] | None, grants: Mapping[str, Actions] | None = None
) -> Rights:
    """Rights of a role (scope: uuids of the only tables it counts for, None = all) and grants."""
    given = ROLE_ACTIONS[role]
    if scope is None:
        tables = dict(grants or {})
        return Rights(role is Role.ADMIN, given, _sorted(tables))
    tables = dict.fromkeys(scope, given) if given else {}
    for uuid, actions in (grants or {}).items():
        tables[uuid] = tables.get(uuid, _NOTHING) | actions
    return Rights(False, _NOTHING, _sorted(tables))


def _actions(words: Iterable[str]) -> Actions:
    found = frozenset(Action(word) for word in words)
    return EVERYTHING if Action.ADMIN in found else found


def _sorted(tables: Mapping[str, Actions]) -> tuple[tuple[str, Actions], ...]:
    return tuple(sorted(tables.items()))
