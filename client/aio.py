"""The asyncio connection: `nearql.aconnect`; the same names as the blocking one, awaited."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, cast

from nearql.client import calls
from nearql.client.calls import Caller
from nearql.client.flight import Tasks
from nearql.client.network import Steps, adrive
from nearql.client.stream import BatchStream, astream
from nearql.client.sync import connect
from nearql.client.transport import Transport

P = ParamSpec("P")
T = TypeVar("T")


def awaited(
    operation: Callable[Concatenate[Caller, P], Steps[T]],
) -> Callable[Concatenate[AsyncConnection, P], Coroutine[Any, Any, T]]:
    """A coroutine method that runs the operation's calls one after the other."""

    async def method(self: AsyncConnection, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return cast("T", await self.run(operation(self, *args, **kwargs)))

    functools.update_wrapper(method, operation)
    return method


class _World(Tasks):
    """The steps of an operation, on a transport's asyncio form."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport.acall)
        self.call = transport.acall
        self.stream = functools.partial(astream, transport)


class AsyncConnection(Caller):
    """A database for asyncio; share it between tasks of one event loop. `async with` closes it."""

    def __init__(self, transport: Transport, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(transport, settings)
        self._world = _World(transport)

    sql = awaited(calls.sql)
    execute = awaited(calls.execute)
    explain = awaited(calls.explain)
    insert = awaited(calls.insert)
    tables = awaited(calls.tables)
    table = awaited(calls.table)
    health = awaited(calls.health)

    def stream(
        self,
        text: str,
        params: Mapping[str, Any] | Sequence[Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Opening[BatchStream]:
        """As `Connection.stream`; to be awaited, or used by `async with db.stream(...)`."""
        return Opening(self.run(calls.stream(self, text, params, settings)))

    async def run(self, steps: Steps[Any]) -> Any:
        """Do an operation's calls, one after the other, and return its value."""
        return await adrive(steps, self._world)

    async def close(self) -> None:
        """Close its network connections, or the engine in this process; again does nothing."""
        if not self.closed:
            self.closed = True
            await self.transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Opening(Coroutine[Any, Any, T]):
    """A coroutine whose result `async with` opens and closes: `async with nearql.aconnect(...)`."""

    def __init__(self, coming: Coroutine[Any, Any, T]) -> None:
        self._coming = coming
        self._opened: T | None = None

    def __await__(self) -> Generator[Any, Any, T]:
        return self._coming.__await__()

    def send(self, value: Any) -> Any:
        """As of any coroutine."""
        return self._coming.send(value)

    def throw(self, *error: Any) -> Any:
        """As of any coroutine."""
        return self._coming.throw(*error)

    def close(self) -> None:
        """As of any coroutine: nothing was opened, and nothing will be."""
        self._coming.close()

    async def __aenter__(self) -> T:
        self._opened = await self._coming
        return self._opened

    async def __aexit__(self, *_: object) -> None:
        closing = cast("Any", self._opened).close()
        if inspect.isawaitable(closing):
            await closing


def aconnect(url: str | Sequence[str] | None = None, **options: Any) -> Opening[AsyncConnection]:
    """`nearql.client.connect` for asyncio: the same arguments; to be awaited, or `async with`."""
    return Opening(_connected(url, options))


async def _connected(url: str | Sequence[str] | None, options: dict[str, Any]) -> AsyncConnection:
    opened = connect(url, **options)
    return AsyncConnection(opened.transport, opened.settings)
