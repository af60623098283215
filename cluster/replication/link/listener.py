"""Incoming connections: from a socket to a proved name.

Who has not proved his name costs a few kilobytes and at most `handshake_s`: `PENDING` connections
may be on their way, and the oldest makes room for the newest, so that a flood of silent strangers
keeps no node out for longer than its own handshake.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from functools import partial

from nearql.cluster.replication.link.connection import Connection
from nearql.cluster.replication.link.frames import Frame, Kind, Malformed
from nearql.cluster.replication.link.hello import (
    FEATURES,
    HELLO_BYTES,
    PROTOCOL_MAX,
    Hello,
    Welcome,
    pack,
    unpack,
)
from nearql.cluster.replication.link.patience import Patience
from nearql.cluster.tls import RenewedContext, TlsFiles
from nearql.engine.errors import InvalidRequest

PENDING = 64
BACKLOG = 256


class Listener:
    """Runs In the loop. admit: given a hello and the names proved, why it is refused, or "".

    on_open: the connection and its hello, once it is answered.
    """

    def __init__(
        self,
        address: tuple[str, int],
        tls: TlsFiles,
        patience: Patience,
        *,
        admit: Callable[[Hello, set[str]], str],
        on_open: Callable[[Connection, Hello], None],
        ours: Callable[[], Welcome],
    ) -> None:
        """Listen; connections are accepted after `start`.

        Raises:
            InvalidRequest: certificates. OSError: the address can't be had.
        """
        self._patience = patience
        self._admit, self._on_open, self._ours = admit, on_open, ours
        self._context = RenewedContext(tls, server=True)
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._socket = socket.create_server(address, family=family, backlog=BACKLOG)
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self.refused: Counter[str] = Counter()  # connections, by reason
        self._loop: asyncio.AbstractEventLoop | None = None  # None: not started
        self._pending: dict[asyncio.Task[None], None] = {}  # the oldest first

    def start(self) -> None:
        """Accept from now on. In the loop."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._accept)

    def close(self) -> None:
        """Accept nobody any more, and let go of who is on his way. In the loop."""
        if self._socket.fileno() >= 0 and self._loop is not None:
            self._loop.remove_reader(self._socket)
        self._socket.close()
        for task in list(self._pending):
            task.cancel()

    def _accept(self) -> None:
        assert self._loop is not None
        try:
            raw, _ = self._socket.accept()
        except BlockingIOError:
            return
        except OSError:  # out of file descriptors: some come back soon
            self._loop.remove_reader(self._socket)
            self._loop.call_later(0.05, self._resume)
            return
        raw.setblocking(False)
        self._make_room()
        task = self._loop.create_task(self._greet(raw))
        self._pending[task] = None
        task.add_done_callback(partial(self._done, raw))

    def _resume(self) -> None:
        if self._loop is not None and self._socket.fileno() >= 0:
            self._loop.add_reader(self._socket, self._accept)

    def _done(self, raw: socket.socket, task: asyncio.Task[None]) -> None:
        self._pending.pop(task, None)
        if task.cancelled():  # perhaps before it began
            raw.close()

    def _make_room(self) -> None:
        if len(self._pending) >= PENDING:
            oldest = next(iter(self._pending))
            del self._pending[oldest]
            oldest.cancel()
            self.refused["flood"] += 1

    async def _greet(self, raw: socket.socket) -> None:
        connection = Connection(HELLO_BYTES)
        admitted = False
        try:
            async with asyncio.timeout(self._patience.handshake_s):
                await self._secure(raw, connection)
                hello = unpack(Hello, _hello_payload(await connection.first()))
                admitted = await self._answer(connection, hello)
        except Malformed as error:
            self.refused[str(error)] += 1
        except TimeoutError:
            self.refused["silent"] += 1
        except (ssl.SSLError, InvalidRequest):
            self.refused["tls"] += 1
        except OSError as error:
            self.refused["connection" if error.errno else str(error)] += 1
        finally:
            if not admitted:
                connection.abort("refused")
                raw.close()

    async def _secure(self, raw: socket.socket, connection: Connection) -> None:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: connection,
            raw,
            ssl=self._context.current(),
            ssl_handshake_timeout=self._patience.handshake_s,
            ssl_shutdown_timeout=self._patience.handshake_s,
        )

    async def _answer(self, connection: Connection, hello: Hello) -> bool:
        refused = self._admit(hello, connection.proved_names())
        if refused:
            self.refused[refused] += 1
            connection.send(Kind.WELCOME, pack(Welcome(refused)))
            await connection.leave()
            return False
        ours = self._ours()
        welcome = Welcome(
            "", min(hello.protocol_max, PROTOCOL_MAX), hello.features & FEATURES,
            ours.node_id, ours.incarnation,
        )  # fmt: skip
        connection.send(Kind.WELCOME, pack(welcome))
        self._on_open(connection, hello)
        return True


def _hello_payload(frame: Frame) -> memoryview:
    if frame.kind != Kind.HELLO:
        raise Malformed("malformed")
    return frame.payload
