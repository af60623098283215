"""No web page of another site may use a visitor's browser to reach the node.

A browser tells where a page came from in `Origin` and `Sec-Fetch-Site`. A request that changes or
asks something (any method but GET and HEAD) from another origin is refused. Programs send neither
header.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from nearql.engine.errors import Forbidden

_SAFE_METHODS = frozenset({"GET", "HEAD"})


class SameOrigin:
    """Refuses requests that a page of another origin made."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in _SAFE_METHODS:
            check_origin(Headers(scope=scope))
        await self.app(scope, receive, send)


def check_origin(headers: Headers) -> None:
    """Raises Forbidden (code `cross_origin`) where a browser says that another site is asking."""
    origin = headers.get("origin")
    foreign = headers.get("sec-fetch-site") == "cross-site"
    if origin is not None and _host_of(origin) != headers.get("host", "").lower():
        foreign = True
    if foreign:
        raise Forbidden(
            f"A page from {origin or 'another site'} may not use this node.", code="cross_origin"
        )


def _host_of(origin: str) -> str | None:
    """Host and port; None of what is no URL."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None
