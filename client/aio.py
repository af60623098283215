"""The asyncio connection: `nearql.aconnect`; the same names as the blocking one, awaited."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, NamedTuple, ParamSpec, Self, TypeVar

from nearql.client import calls
from nearql.client.calls import Caller
from nearql.client.network import Steps, adrive
from nearql.client.sync import connect
from nearql.client.transport import Answer, Call

P = ParamSpec("P")
T = TypeVar("T")


class _World(NamedTuple):
    call: Callable[[Call], Awaitable[Answer]]


def awaited(
    operation: Callable[Concatenate[Caller, P], Steps[T]],
) -> Callable[Concatenate[AsyncConnection, P], Coroutine[Any, Any, T]]:
    """A coroutine method that runs the operation's calls one after the other."""

    async def method(self: AsyncConnection, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await adrive(operation(self, *args, **kwargs), _World(self.transport.acall))

    functools.update_wrapper(method, operation)
    return method


class AsyncConnection(Caller):
    """A database for asyncio; share it between tasks of one event loop. `async with` closes it."""

    sql = awaited(calls.sql)
    execute = awaited(calls.execute)
    insert = awaited(calls.insert)
    tables = awaited(calls.tables)
    table = awaited(calls.table)
    health = awaited(calls.health)

    async def close(self) -> None:
        """Close its network connections, or the engine in this process; again does nothing."""
        if not self.closed:
            self.closed = True
            await self.transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def aconnect(url: str | None = None, **options: Any) -> AsyncConnection:
    """`nearql.client.connect` for asyncio: the same arguments."""
    opened = connect(url, **options)
    return AsyncConnection(opened.transport, opened.settings)
