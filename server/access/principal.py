"""Whoever a request acts for, and the one that the current thread works for."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from nearql.server.access.rights import ALL, Rights


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request acts for.

    name: the user. kind: how it was proved: key, session, token, bootstrap, or local (nobody was
    asked). key_id: of a key, or of the key that opened a session; what limits are counted by.
    rate, concurrency: requests per second and at a time; None = the node's settings.
    """

    name: str
    kind: str
    rights: Rights
    key_id: str = ""
    rate: int | None = None
    concurrency: int | None = None

    @property
    def user(self) -> str | None:
        """The name where somebody was asked for it."""
        return None if self.kind == "local" else self.name


LOCAL = Principal("local", "local", ALL)
_acting: ContextVar[Principal] = ContextVar("nearql_principal", default=LOCAL)


class acting_as:  # used like a function; a class costs a third of a generator
    """What the block does is done for this principal: the audit log and nearql.queries say so."""

    __slots__ = ("_principal", "_token")

    def __init__(self, principal: Principal) -> None:
        self._principal = principal

    def __enter__(self) -> None:
        self._token = _acting.set(self._principal)

    def __exit__(self, *exception: object) -> None:
        _acting.reset(self._token)


def acting() -> Principal:
    """Who the current thread or task works for."""
    return _acting.get()
