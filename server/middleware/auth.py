"""Who is asking: the slot where keys and tokens are checked, before anything of a request is read.

Denied by default: a request without a principal passes only to routes of kind `open`
(`routes.bound`). With `auth.mode: none` everybody is the one local principal. `required` has no
implementation in this version, and `create_app` refuses it by name rather than letting requests in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from nearql.engine.errors import Unsupported


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request acts for."""

    name: str


Authenticate = Callable[[Scope], Awaitable[Principal | None]]
_LOCAL = Principal("local")


async def everybody(scope: Scope) -> Principal | None:
    """`auth.mode: none`."""
    return _LOCAL


_MODES: dict[str, Authenticate] = {"none": everybody}


def authenticator(mode: str) -> Authenticate:
    """The check that a mode names.

    Raises:
        Unsupported: the mode is not part of this version.
    """
    found = _MODES.get(mode)
    if found is None:
        raise Unsupported(
            f"auth.mode = {mode} is not part of this version; requests would go unchecked. "
            "Use `none` on a loopback address, or put an authenticating proxy in front."
        )
    return found


class Authentication:
    """Sets `scope["principal"]`, None where the request proves nobody."""

    def __init__(self, app: ASGIApp, authenticate: Authenticate) -> None:
        self.app = app
        self.authenticate = authenticate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["principal"] = await self.authenticate(scope)
        await self.app(scope, receive, send)
