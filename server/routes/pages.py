"""The dashboard, the API's viewer and the description they read: all served by the node itself.

Every file is read and compressed once, when it is first asked for. The pages may load scripts and
styles from this node only, and their data comes from the public routes.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
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
_PLACES = {"codemirror.js": "vendor/codemirror.js"}  # by name, where it is not in the folder itself
ASSETS = (
    "access.js", "answer.js", "chart.js", "cluster.js", "codemirror.js", "dashboard.css",
    "dashboard.js", "docs.js", "editor.js", "icon.svg", "map.js", "overview.js", "page.css",
    "page.js", "plan.js", "queries.js", "samples.js", "settings.js", "sql.js", "tables.js",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _File:
    """A file of the pages. tag: changes with its content."""

    content: bytes
    compressed: bytes
    tag: str


@cache
def _file(name: str) -> _File:
    place = files("nearql.server.dashboard").joinpath(_PLACES.get(name, name))
    content = place.read_bytes()
    tag = f'"{blake2b(content, digest_size=12).hexdigest()}"'
    return _File(content, gzip.compress(content, mtime=0), tag)


def _page(name: str, request: Request) -> Response:
    """The file, compressed where the browser can; nothing but 304 where it has it already."""
    file = _file(name)
    headers = {**_HEADERS, "ETag": file.tag, "Vary": "Accept-Encoding"}
    if file.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    kind = _TYPES[name.rsplit(".", 1)[1]]
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        return Response(file.compressed, headers=headers, media_type=kind)
    return Response(file.content, headers=headers, media_type=kind)


async def dashboard(request: Request, edge: Edge) -> Response:
    """What people look at: overview, SQL, tables, cluster, queries, access, settings."""
    return _page("dashboard.html", request)


async def docs(request: Request, edge: Edge) -> Response:
    """The OpenAPI description, for people."""
    return _page("docs.html", request)


async def asset(request: Request, edge: Edge) -> Response:
    """A script or style of the pages; only the names in ASSETS."""
    name = request.path_params["asset"]
    if name not in ASSETS:
        raise NotFound(f"There is no asset {name[:80]!r}.", code="no_such_route", sqlstate="02000")
    return _page(name, request)


async def openapi(request: Request, edge: Edge) -> Response:
    """The description."""
    return Response(_description(), media_type="application/json")


@cache
def _description() -> bytes:
    from nearql.server.openapi import document
    from nearql.server.routes.all import ROUTES  # this module is in it

    return orjson.dumps(document(ROUTES))
