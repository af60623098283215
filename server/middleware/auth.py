"""Who is asking: keys and tokens are checked here, before anything of a request is read.

Denied by default: without a principal only routes of kind `open` are reached; any other path,
also one that is no route, answers 401. With `auth.mode: none` everybody is the one local principal.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from nearql.engine.errors import Forbidden, Unauthenticated
from nearql.server.access.principal import LOCAL, Principal

Authenticate = Callable[[Scope], Principal | None]
IsOpen = Callable[[Scope], bool]


def everybody(scope: Scope) -> Principal | None:
    """`auth.mode: none`."""
    return LOCAL


class Authentication:
    """Sets `scope["principal"]`, None where the request proves nobody.

    Args:
        authenticate: the principal, or None without credentials; raises for wrong ones.
        is_open: whether the request is for a route that needs no token.
        refused: told the code of each refusal.
    """

    def __init__(
        self,
        app: ASGIApp,
        authenticate: Authenticate,
        is_open: IsOpen,
        refused: Callable[[str], None],
    ) -> None:
        self.app = app
        self.authenticate = authenticate
        self.is_open = is_open
        self.refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["principal"] = self._principal(scope)
        await self.app(scope, receive, send)

    def _principal(self, scope: Scope) -> Principal | None:
        try:
            found = self.authenticate(scope)
            if found is None and not self.is_open(scope):
                raise Unauthenticated(
                    "This node needs a key or a token: Authorization: Bearer <key>.",
                )
        except (Unauthenticated, Forbidden) as error:
            if self.is_open(scope):  # health is told to whoever asks, however
                return None
            self.refused(error.code)
            raise
        return found
