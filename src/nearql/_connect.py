"""`nearql.connect`: a URL goes to a server, a path to the engine in this process.

The only place that knows both sides: the client must not import the server, so the choice is here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nearql.client import AsyncConnection, Connection

_URL_SCHEMES = ("http://", "https://")


def connect(target: str | os.PathLike[str], **options: Any) -> Connection:
    """Open a connection; `with` closes it.

    Args:
        target: a node's URL (`http://host:8470`), or a data directory to open in this process,
            which needs `pip install 'nearql[server]'`.
        options: what `nearql.client.connect` takes (`token`, `timeout`, ...).
    """
    from nearql import client

    if _is_url(target):
        return client.connect(os.fspath(target), **options)
    from nearql.server import embedded

    return client.connect(transport=embedded.open(os.fspath(target)), **options)


async def aconnect(target: str | os.PathLike[str], **options: Any) -> AsyncConnection:
    """`connect` for asyncio; the same targets and options."""
    from nearql import client

    if _is_url(target):
        return await client.aconnect(os.fspath(target), **options)
    from nearql.server import embedded

    return await client.aconnect(transport=embedded.open(os.fspath(target)), **options)


def _is_url(target: str | os.PathLike[str]) -> bool:
    return isinstance(target, str) and target.lower().startswith(_URL_SCHEMES)
