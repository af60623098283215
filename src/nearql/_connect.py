"""`nearql.connect`: a URL goes to a server, a path to the engine in this process.

The only place that knows both sides: the client must not import the server, so the choice is here.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nearql.client import AsyncConnection, Connection, Transport

_URL_SCHEMES = ("http://", "https://")
_NO_PATH = re.compile(r"[a-z][a-z0-9+.-]*://|[\w.-]+:\d+/?$", re.IGNORECASE)


def connect(target: str | os.PathLike[str], **options: Any) -> Connection:
    """Open a connection; `with` closes it.

    Args:
        target: a node's URL (`http://host:8470`), or a data directory to open in this process,
            which needs `pip install 'nearql[server]'`.
        options: what `nearql.client.connect` takes (`token`, `timeout`, ...).

    Raises:
        nearql.client.errors.Unavailable: another process has the directory open.
        nearql.client.errors.UsageError: a target that is neither; the server is not installed.
    """
    from nearql import client

    if _is_url(target):
        return client.connect(os.fspath(target), **options)
    return client.connect(transport=_open_here(target), **options)


async def aconnect(target: str | os.PathLike[str], **options: Any) -> AsyncConnection:
    """`connect` for asyncio; the same targets and options."""
    import asyncio

    from nearql import client

    if _is_url(target):
        return await client.aconnect(os.fspath(target), **options)
    transport = await asyncio.to_thread(_open_here, target)
    return await client.aconnect(transport=transport, **options)


def _is_url(target: str | os.PathLike[str]) -> bool:
    return isinstance(target, str) and target.lower().startswith(_URL_SCHEMES)


def _open_here(target: str | os.PathLike[str]) -> Transport:
    from nearql.client.errors import UsageError, from_problem

    if isinstance(target, str) and _NO_PATH.match(target):
        raise UsageError(f"{target!r} is no directory; for a node write http://host:8470.")
    try:
        from nearql.server import embedded
    except ModuleNotFoundError as error:
        if (error.name or "nearql").startswith("nearql"):
            raise  # a bug of ours, not a missing extra
        raise UsageError(
            f"To open {os.fspath(target)!r} in this process the package {error.name!r} is missing: "
            "pip install 'nearql[server]'. For a node write http://host:8470."
        ) from error
    opened, problem = embedded.try_open(target)
    if opened is None:
        raise from_problem(problem)
    return opened
