"""Who a forwarded request acts for: told by the gateway, looked up again where it arrives.

The link between nodes proves which node calls; that node has proved who asks. The receiver takes
rights from its own metadata, so that what was revoked there is dead there, and believes the caller
only about rights that a signed token carries, for which metadata has no user.
"""

from __future__ import annotations

from typing import Any

from nearql.cluster.metadata.access import BOOTSTRAP
from nearql.engine.errors import Forbidden, Unauthenticated
from nearql.server.access.layer import AccessLayer
from nearql.server.access.principal import LOCAL, Principal
from nearql.server.access.rights import ALL, Action, Rights, rights_of


def told(principal: Principal) -> dict[str, Any]:
    """A principal as plain values."""
    rights = principal.rights
    return {
        "name": principal.name,
        "kind": principal.kind,
        "key_id": principal.key_id,
        "admin": rights.admin,
        "everywhere": sorted(rights.everywhere),
        "tables": [[uuid, sorted(actions)] for uuid, actions in rights.tables],
    }


def believed(plain: dict[str, Any], access: AccessLayer | None) -> Principal:
    """The principal for whom a forwarded request runs here.

    Raises:
        Unauthenticated: the user is gone. Forbidden: the caller asks nobody for a key, and this
            node does.
    """
    if access is None:
        return LOCAL
    name, kind = str(plain["name"]), str(plain["kind"])
    if kind == LOCAL.kind:
        raise Forbidden(
            "The node that forwards this request has auth.mode = none, this one has required; "
            "give all nodes of a cluster the same."
        )
    return Principal(name, kind, _rights(name, kind, plain, access), str(plain["key_id"]))


def _rights(name: str, kind: str, plain: dict[str, Any], access: AccessLayer) -> Rights:
    if name == BOOTSTRAP and kind != "token":  # a token may call itself anything
        return ALL
    user = access.store.user(name)
    if user is not None:
        return rights_of(user)
    if kind == "token":
        tables = tuple((str(uuid), _actions(words)) for uuid, words in plain["tables"])
        return Rights(bool(plain["admin"]), _actions(plain["everywhere"]), tables)
    raise Unauthenticated(f"There is no user {name!r} any more.", code="invalid_token")


def _actions(words: list[str]) -> frozenset[Action]:
    return frozenset(Action(word) for word in words)
