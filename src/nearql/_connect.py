"""`nearql.connect`: a URL goes to a server, a path to the engine in this process.

The only place that knows both sides: the client must not import the server, so the choice is here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nearql.client import AsyncConnection, Connection, Transport
    from nearql.client.aio import Opening

_URL_SCHEMES = ("http://", "https://")
_NO_PATH = re.compile(r"[a-z][a-z0-9+.-]*://|[\w.-]+:\d+/?$", re.IGNORECASE)


Target = str | os.PathLike[str] | Sequence[str]


def connect(target: Target, **options: Any) -> Connection:
    """Open a connection; `with` closes it.

    Args:
        target: a node's URL (`http://host:8470`), the URLs of several nodes of a cluster (a list,
            or with commas between), or a data directory to open in this process, which needs
            `pip install 'nearql[server]'`.
        options: what `nearql.client.connect` takes (`token`, `timeout`, ...).

    Raises:
        nearql.client.errors.Unavailable: another process has the directory open.
        nearql.client.errors.UsageError: a target that is neither; the server is not installed.
    """
    from nearql import client

    urls = _urls(target)
    if urls is not None:
        return client.connect(urls, **options)
    opened = _open_here(target)
    try:
        return client.connect(transport=opened, **options)
    except BaseException:
        opened.close()
        raise


def aconnect(target: Target, **options: Any) -> Opening[AsyncConnection]:
    """`connect` for asyncio; the same targets and options. `async with` closes it, too:

    async with nearql.aconnect("http://localhost:8470") as db: ...
    """
    from nearql.client.aio import Opening

    return Opening(_opened(target, options))


async def _opened(target: Target, options: dict[str, Any]) -> AsyncConnection:
    import asyncio

    from nearql import client

    urls = _urls(target)
    if urls is not None:
        return await client.aconnect(urls, **options)
    opened = await asyncio.to_thread(_open_here, target)
    try:
        return await client.aconnect(transport=opened, **options)
    except BaseException:
        opened.close()
        raise


def _urls(target: Target) -> str | Sequence[str] | None:
    """The target, if it is a URL or several of them."""
    from nearql.client.errors import UsageError

    if isinstance(target, str) and target.strip():
        return target if target.lower().startswith(_URL_SCHEMES) else None
    if isinstance(target, os.PathLike):
        return None
    several = isinstance(target, list | tuple) and target
    if several and all(isinstance(each, str) for each in target):
        return target
    raise UsageError(
        "connect takes a node's URL such as http://host:8470, a list of them, or a directory; "
        f"{target!r} is none of these."
    )


def _open_here(target: Any) -> Transport:
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
