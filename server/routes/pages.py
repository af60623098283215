"""The dashboard, the API's viewer and the description they read: all served by the node itself.

Every file is read once, at start. The pages may load scripts and styles from this node only, and
their data comes from the public routes.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import orjson
from starlette.requests import Request
from starlette.responses import Response

from nearql.engine.errors import NotFound
from nearql.server.edge import Edge

_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
ASSETS = ("dashboard.js", "docs.js", "page.js", "page.css", "icon.svg")


@cache
def _file(name: str) -> bytes:
    return files("nearql.server.dashboard").joinpath(name).read_bytes()


def _page(name: str) -> Response:
    kind = _TYPES[name.rsplit(".", 1)[1]]
    return Response(_file(name), headers=_HEADERS, media_type=kind)


async def dashboard(request: Request, edge: Edge) -> Response:
    """Tables, a SQL box, results."""
    return _page("dashboard.html")


async def docs(request: Request, edge: Edge) -> Response:
    """The OpenAPI description, for people."""
    return _page("docs.html")


async def asset(request: Request, edge: Edge) -> Response:
    """A script or style of the pages; only the names in ASSETS."""
    name = request.path_params["asset"]
    if name not in ASSETS:
        raise NotFound(f"There is no asset {name[:80]!r}.", code="no_such_route", sqlstate="02000")
    return _page(name)


async def openapi(request: Request, edge: Edge) -> Response:
    """The description."""
    return Response(_description(), media_type="application/json")


@cache
def _description() -> bytes:
    from nearql.server.openapi import document
    from nearql.server.routes.all import ROUTES  # this module is in it

    return orjson.dumps(document(ROUTES))
