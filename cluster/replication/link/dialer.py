"""One outgoing connection to one peer for one purpose, made again whenever it ends."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from nearql.cluster.replication.link.connection import Connection
from nearql.cluster.replication.link.frames import Frame, Kind, Malformed
from nearql.cluster.replication.link.hello import (
    FEATURES,
    HELLO_BYTES,
    PROTOCOL_MAX,
    PROTOCOL_MIN,
    Channel,
    Hello,
    Refused,
    Welcome,
    pack,
    unpack,
)
from nearql.cluster.replication.link.patience import Backoff, Patience
from nearql.cluster.replication.link.resolver import Resolver
from nearql.engine.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Peer:
    """A node that this one talks to. host: resolved for each connection."""

    name: str
    node_id: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Identity:
    """This node, as it presents itself. boot_ms: uptime of its machine."""

    cluster: str
    node_id: str
    name: str
    incarnation: int
    boot_ms: int


class Dialer:
    """Runs in the loop. state: what `nearql cluster status` says of it."""

    def __init__(
        self,
        peer: Peer,
        channel: Channel,
        patience: Patience,
        *,
        resolver: Resolver,
        context: Callable[[], ssl.SSLContext],
        ours: Callable[[], Identity],
        on_frame: Callable[[Dialer, Frame], None],
        on_change: Callable[[Dialer], None],
        on_refused: Callable[[str], None],
    ) -> None:
        self.peer, self.channel = peer, channel
        self.connection: Connection | None = None
        self.session = 0
        self.attempts = 0
        self._patience, self._backoff = patience, Backoff(patience)
        self._resolver, self._context, self._ours = resolver, context, ours
        self._on_frame, self._on_change, self._on_refused = on_frame, on_change, on_refused

    @property
    def up(self) -> bool:
        """Whether the peer can be spoken to."""
        return self.connection is not None and not self.connection.ended.done()

    def send(self, kind: Kind, *parts: bytes | memoryview) -> bool:
        """Send a frame; False while there is no connection."""
        return self.connection is not None and self.connection.send(kind, *parts)

    async def run(self) -> None:
        """Connect again and again, until cancelled."""
        while True:
            self.attempts += 1
            try:
                connection = await self._connect()
            except (Refused, Malformed) as refusal:
                self._on_refused(f"by_peer_{refusal}")
            except (OSError, TimeoutError, InvalidRequest):
                pass  # absent, unreachable or gone: that is what the next attempt is for
            else:
                self._backoff.reset()
                await self._stay(connection)
            await asyncio.sleep(self._backoff.next_s())

    async def _stay(self, connection: Connection) -> None:
        self.connection = connection
        try:
            connection.open(lambda frame: self._on_frame(self, frame))
            self._on_change(self)
            await asyncio.wait((connection.ended,))
        finally:
            self.connection = None
            connection.abort("stopped")
            self._on_change(self)

    async def _connect(self) -> Connection:
        async with asyncio.timeout(self._patience.handshake_s):
            addresses = await self._resolver.addresses(self.peer.host, self.peer.port)
        failure: OSError = ConnectionError("no address")
        for address in addresses:
            try:
                return await self._connect_to(address)
            except OSError as error:
                failure = error
        raise failure

    async def _connect_to(self, address: str) -> Connection:
        connection = Connection(HELLO_BYTES)
        try:
            async with asyncio.timeout(self._patience.connect_s + self._patience.handshake_s):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection,
                    address,
                    self.peer.port,
                    ssl=self._context(),
                    server_hostname=self.peer.name,
                    ssl_handshake_timeout=self._patience.handshake_s,
                    ssl_shutdown_timeout=self._patience.handshake_s,
                )
                await self._greet(connection)
        except BaseException:
            connection.abort("refused")
            raise
        return connection

    async def _greet(self, connection: Connection) -> None:
        ours = self._ours()
        self.session = secrets.randbits(62) + 1
        hello = Hello(
            PROTOCOL_MIN, PROTOCOL_MAX, FEATURES, ours.cluster, ours.node_id, ours.name,
            ours.incarnation, self.peer.node_id, self.channel.value, self.session, ours.boot_ms,
        )  # fmt: skip
        connection.send(Kind.HELLO, pack(hello))
        kind, payload = await connection.first()
        if kind != Kind.WELCOME:
            raise Malformed("malformed")
        welcome = unpack(Welcome, payload)
        if welcome.refused:
            raise Refused(welcome.refused[:40])
        if welcome.node_id != self.peer.node_id:
            raise Refused("not_me")
