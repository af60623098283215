"""Sockets for the client: one blocking and one asyncio driver for the same steps.

Everything above is generators that yield `Step`s (open, send, receive, ...) and get their results,
so that the blocking and the asyncio client are one source. `BlockingNetwork.run` and
`AsyncNetwork.run` perform the steps; an exception of a step is thrown in at its `yield`.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast
from urllib.parse import urlsplit

from nearql.client.errors import UsageError

if TYPE_CHECKING:
    import asyncio
    import ssl

T = TypeVar("T")
READ_BYTES = 1 << 18


class Step(NamedTuple):
    """One thing to do in the world: the name of a network's method, and its arguments."""

    name: str
    arguments: tuple[Any, ...] = ()


Steps = Generator[Step, Any, T]  # yields steps, is sent their results, returns T


@dataclass(frozen=True, slots=True)
class Address:
    """A node's base URL in parts."""

    scheme: str
    host: str
    port: int
    path: str = ""  # prefix of every route, without a slash at its end

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises UsageError for anything but http[s]://host[:port][/prefix]."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise UsageError(f"{url!r} is no address of a node: {error}.") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{url!r} is no address of a node; write http://host:8470.")
        if parts.username is not None:
            raise UsageError("An address can't carry a user and password; give token=... instead.")
        if parts.query or parts.fragment or not url.isprintable():
            raise UsageError(f"{url!r} is more than an address; write http://host:8470.")
        default = 443 if parts.scheme == "https" else 80
        return cls(parts.scheme, parts.hostname, port or default, parts.path.rstrip("/"))

    @property
    def authority(self) -> str:
        """host:port as in a Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds and counts; see `nearql.client.connect`."""

    timeout: float = 60.0
    connect_timeout: float = 5.0
    max_connections: int = 32
    idle_expiry: float = 4.0  # below uvicorn's 5 s, so that we close an idle connection first


@dataclass(slots=True)
class Link:
    """An open connection. idle_since: monotonic seconds, when it was last put back."""

    address: Address
    socket: Any  # a socket, or the asyncio (reader, writer)
    idle_since: float = 0.0
    reused: bool = False
    cut: bool = False  # the request could not be sent whole


class _Network:
    """The pool, shared by both drivers: the newest idle link of an address is used first."""

    def __init__(self, limits: Limits, ca_file: str | None = None) -> None:
        self.limits = limits
        self.ca_file = ca_file
        self.idle: dict[Address, deque[Link]] = {}
        self._context: ssl.SSLContext | None = None

    def tls(self, address: Address) -> ssl.SSLContext | None:
        """The TLS context for an address; None for plain HTTP."""
        if address.scheme == "http":
            return None
        if self._context is None:  # made once: reading the system's certificates takes 10 ms
            import ssl

            try:
                self._context = ssl.create_default_context(cafile=self.ca_file)
            except OSError as error:
                raise UsageError(f"ca_file={self.ca_file!r} can't be read: {error}.") from error
        return self._context

    def take(self, address: Address, idle_at_most: float) -> Link | None:
        """An idle link that was used less than `idle_at_most` seconds ago."""
        links = self.idle.get(address)
        oldest = time.monotonic() - min(idle_at_most, self.limits.idle_expiry)
        while links:
            try:
                link = links.pop()
            except IndexError:  # another thread was quicker
                return None
            if link.idle_since >= oldest and self.is_open(link):
                link.reused = True
                return link
            self.shut(link)
        return None

    def put(self, link: Link) -> None:
        """Keep a link for the next request."""
        link.idle_since = time.monotonic()
        self.idle.setdefault(link.address, deque()).append(link)

    def close_all(self) -> None:
        """Close every idle link."""
        for links in self.idle.values():
            while links:
                self.shut(links.pop())

    def is_open(self, link: Link) -> bool:
        """Whether an idle link still looks usable: the peer neither closed nor sent anything."""
        raise NotImplementedError

    def shut(self, link: Link) -> None:
        """Close a link at once."""
        raise NotImplementedError


class BlockingNetwork(_Network):
    """Steps on blocking sockets; safe to use from several threads."""

    def __init__(self, limits: Limits, ca_file: str | None = None) -> None:
        super().__init__(limits, ca_file)
        self._slots = threading.BoundedSemaphore(limits.max_connections)
        self._closing = threading.Event()

    def run(self, steps: Steps[T]) -> T:
        """Perform the steps and return what the generator returns."""
        with self._slots:
            return drive(steps, self)

    def open(self, address: Address) -> Link:
        """Connect; OSError where nobody answers in `connect_timeout`."""
        place, context = (address.host, address.port), self.tls(address)
        sock: socket.socket = socket.create_connection(place, self.limits.connect_timeout)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is not None:
                sock = context.wrap_socket(sock, server_hostname=address.host)
        except BaseException:
            sock.close()
            raise
        sock.settimeout(self.limits.timeout)
        return Link(address, sock)

    def send(self, link: Link, data: bytes | memoryview) -> None:
        """Send all of it."""
        link.socket.sendall(data)

    def receive(self, link: Link) -> bytes:
        """What arrived; b"" when the peer closed; TimeoutError after `timeout` of silence."""
        data: bytes = link.socket.recv(READ_BYTES)
        return data

    def pause(self, seconds: float) -> None:
        """Wait, unless the connection is closed meanwhile by another thread."""
        self._closing.wait(seconds)

    def is_open(self, link: Link) -> bool:
        return not _readable(link.socket)

    def shut(self, link: Link) -> None:
        link.socket.close()

    def close(self) -> None:
        """Close the idle links and end all pauses."""
        self._closing.set()
        self.close_all()


def _readable(sock: socket.socket) -> bool:
    """Whether something, or the end, arrived on an idle socket; a TLS socket can't be peeked at."""
    import select

    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))


class AsyncNetwork(_Network):
    """Steps on asyncio streams; belongs to the event loop that it was first used in."""

    def __init__(self, limits: Limits, ca_file: str | None = None) -> None:
        super().__init__(limits, ca_file)
        self._slots: asyncio.Semaphore | None = None

    async def run(self, steps: Steps[T]) -> T:
        """Perform the steps and return what the generator returns."""
        import asyncio

        if self._slots is None:
            self._slots = asyncio.Semaphore(self.limits.max_connections)
        async with self._slots:
            return await adrive(steps, self)

    async def open(self, address: Address) -> Link:
        """Connect; OSError where nobody answers in `connect_timeout`."""
        import asyncio

        context = self.tls(address)
        async with asyncio.timeout(self.limits.connect_timeout):
            streams = await asyncio.open_connection(
                address.host, address.port, ssl=context, limit=READ_BYTES
            )
        return Link(address, streams)

    async def send(self, link: Link, data: bytes | memoryview) -> None:
        """Send all of it."""
        import asyncio

        writer = link.socket[1]
        writer.write(data)
        async with asyncio.timeout(self.limits.timeout):
            await writer.drain()

    async def receive(self, link: Link) -> bytes:
        """What arrived; b"" when the peer closed; TimeoutError after `timeout` of silence."""
        import asyncio

        async with asyncio.timeout(self.limits.timeout):
            data: bytes = await link.socket[0].read(READ_BYTES)
        return data

    async def pause(self, seconds: float) -> None:
        """Wait."""
        import asyncio

        await asyncio.sleep(seconds)

    def is_open(self, link: Link) -> bool:
        reader, writer = link.socket
        return not (reader.at_eof() or reader._buffer or writer.is_closing())

    def shut(self, link: Link) -> None:
        link.socket[1].close()

    async def close(self) -> None:
        """Close the idle links and wait until they are."""
        import contextlib

        writers = [link.socket[1] for links in self.idle.values() for link in links]
        self.close_all()
        for writer in writers:
            with contextlib.suppress(OSError):  # the peer's reset of a link that we leave anyway
                await writer.wait_closed()


def drive(steps: Steps[T], world: Any) -> T:
    """Run a generator of steps, each as a call of `world`'s method of that name."""
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            step = steps.send(value) if error is None else steps.throw(error)
        except StopIteration as end:
            return cast("T", end.value)
        value, error = None, None
        try:
            value = getattr(world, step.name)(*step.arguments)
        except BaseException as failure:  # noqa: BLE001 - the generator decides, not we
            error = failure


async def adrive(steps: Steps[T], world: Any) -> T:
    """`drive` where `world`'s methods are coroutines."""
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            step = steps.send(value) if error is None else steps.throw(error)
        except StopIteration as end:
            return cast("T", end.value)
        value, error = None, None
        try:
            value = await getattr(world, step.name)(*step.arguments)
        except BaseException as failure:  # noqa: BLE001 - the generator decides, not we
            error = failure
