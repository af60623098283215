"""The blocking connection: `nearql.connect`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, cast

from nearql.client import calls
from nearql.client.calls import Caller
from nearql.client.checks import check_options, check_settings
from nearql.client.errors import UsageError
from nearql.client.flight import Threads
from nearql.client.http import HttpTransport
from nearql.client.network import Limits, Steps, drive
from nearql.client.stream import stream
from nearql.client.transport import Transport

P = ParamSpec("P")
T = TypeVar("T")


def blocking(
    operation: Callable[Concatenate[Caller, P], Steps[T]],
) -> Callable[Concatenate[Connection, P], T]:
    """A method that runs the operation's calls one after the other."""

    def method(self: Connection, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return cast("T", self.run(operation(self, *args, **kwargs)))

    functools.update_wrapper(method, operation)
    return method


class _World(Threads):
    """The steps of an operation, on a transport's blocking form."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport.call)
        self.call = transport.call
        self.stream = functools.partial(stream, transport)


class Connection(Caller):
    """A database, blocking; safe to share between threads. `with` closes it."""

    def __init__(self, transport: Transport, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(transport, settings)
        self._world = _World(transport)

    sql = blocking(calls.sql)
    execute = blocking(calls.execute)
    stream = blocking(calls.stream)
    explain = blocking(calls.explain)
    insert = blocking(calls.insert)
    tables = blocking(calls.tables)
    table = blocking(calls.table)
    health = blocking(calls.health)

    def run(self, steps: Steps[Any]) -> Any:
        """Do an operation's calls, one after the other, and return its value."""
        return drive(steps, self._world)

    def close(self) -> None:
        """Close its network connections, or the engine in this process; again does nothing."""
        if not self.closed:
            self.closed = True
            self.transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_transport(
    url: str | Sequence[str] | None, transport: Transport | None, token: str | None, **options: Any
) -> Transport:
    """The transport given, or one over HTTP."""
    check_options(token, options)
    if transport is not None:
        return transport
    if url is None:
        raise UsageError("connect needs a node's address, such as http://host:8470.")
    retries, ca_file = options.pop("retries"), options.pop("ca_file")
    limits = Limits(**options)
    return HttpTransport(url, token=token, limits=limits, retries=retries, ca_file=ca_file)


def connect(
    url: str | Sequence[str] | None = None,
    *,
    transport: Transport | None = None,
    token: str | None = None,
    timeout: float = 60.0,
    connect_timeout: float = 5.0,
    max_connections: int = 32,
    retries: int = 4,
    ca_file: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Connection:
    """A connection to a node; the first call opens the network connection.

    Args:
        url: `http://host:8470`, or https; several nodes of a cluster as a list, or with commas
            between: reads go to each in turn, writes to the leader, and none to a dead one.
        transport: instead of a url, e.g. the engine in this process.
        token: access token or key; None where the node needs none.
        timeout: seconds that a node may be silent before a call fails.
        connect_timeout: seconds to reach it.
        max_connections: network connections at once; further calls wait for one.
        retries: how often a call is repeated where that is safe.
        ca_file: certificates (PEM) to trust instead of the system's.
        settings: for every call, as in `{"target_recall": 0.95}`.

    Raises:
        UsageError: no address, or an argument that can't be.
    """
    chosen = open_transport(
        url, transport, token, timeout=timeout, connect_timeout=connect_timeout,
        max_connections=max_connections, retries=retries, ca_file=ca_file,
    )  # fmt: skip
    return Connection(chosen, check_settings(settings))
