"""One connection: frames in, frames out, and when it ended.

Everything here runs in the loop. Frames are handed over as they complete, without a task between:
`on_frame` must be quick. What is written waits in the transport; a peer that reads too slowly loses
its connection when `WAITING_BYTES` wait for it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any, cast

from nearql.cluster.replication.link.frames import (
    MAX_FRAME_BYTES,
    Assembler,
    Frame,
    Kind,
    Malformed,
    pack,
)
from nearql.cluster.tls import certified_names

WAITING_BYTES = 64 << 20
_UNACKNOWLEDGED_MS = 5000  # after which the kernel gives a peer up


class Connection(asyncio.BufferedProtocol):
    """See the module. Made by the loop, once the TLS handshake is done.

    ended: resolves to the reason's word, once. heard_at, spoke_at: by the loop's clock.
    """

    def __init__(self, limit: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._assembler = Assembler(limit)
        self._first: asyncio.Future[Frame] = self._loop.create_future()
        self._on_frame: Callable[[Frame], None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._gone = asyncio.Event()
        self._reason = "closed"
        self.ended: asyncio.Future[str] = self._loop.create_future()
        self.heard_at = self.spoke_at = self._loop.time()
        self.received_bytes = self.sent_bytes = 0
        self._transport: asyncio.Transport | None = None  # None: the handshake is not done

    # ---- What the loop calls ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is done."""
        self._transport = cast("asyncio.Transport", transport)
        raw = transport.get_extra_info("socket")
        if raw is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        return self._assembler.room()

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have come."""
        if self.ended.done():
            return
        self.received_bytes += nbytes
        try:
            frame = self._assembler.filled(nbytes)
        except Malformed as error:
            self.abort(str(error))
            return
        if frame is not None:
            self.heard_at = self._loop.time()
            self._deliver(frame)

    def _deliver(self, frame: Frame) -> None:
        if self._on_frame is not None:
            if frame.kind != Kind.PING:
                self._on_frame(frame)
        elif self._first.done():
            self.abort("malformed")  # nobody speaks twice before he is answered
        else:
            self._first.set_result(frame)

    def pause_writing(self) -> None:
        """Much waits to be sent."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Less does now."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._end()
        self._gone.set()

    # ---- What its owner calls -----------------------------------------------------------------

    @property
    def transport(self) -> asyncio.Transport:
        """What carries it, once the handshake is done."""
        assert self._transport is not None
        return self._transport

    async def first(self) -> Frame:
        """The first frame.

        Raises:
            OSError: the connection ended before it.
        """
        await asyncio.wait((self._first, self.ended), return_when=asyncio.FIRST_COMPLETED)
        if not self._first.done():
            raise ConnectionResetError(self.ended.result())
        return self._first.result()

    def open(self, on_frame: Callable[[Frame], None]) -> None:
        """The peer is proved: take whole frames from now on."""
        self._assembler.limit = MAX_FRAME_BYTES
        self._on_frame = on_frame

    def proved_names(self) -> set[str]:
        """The names in the peer's certificate."""
        proof: ssl.SSLObject | None = self.transport.get_extra_info("ssl_object")
        return certified_names(proof.getpeercert() if proof else None)

    def send(self, kind: Kind, *parts: bytes | memoryview) -> bool:
        """Send a frame; False where the connection has ended."""
        if self.ended.done() or self.transport.is_closing():
            return False
        if self.transport.get_write_buffer_size() > WAITING_BYTES:
            self.abort("slow")
            return False
        buffers: list[Any] = pack(kind, parts)
        self.sent_bytes += sum(len(buffer) for buffer in buffers)
        self.spoke_at = self._loop.time()
        self.transport.writelines(buffers)
        return True

    async def writable(self) -> None:
        """Return when little waits to be sent, or the connection has ended."""
        await self._writable.wait()

    def abort(self, reason: str) -> None:
        """End it at once; harmless when repeated."""
        if not self.ended.done():
            self._reason = reason
            self._end()
        if self._transport is not None:
            self._transport.abort()

    async def leave(self) -> None:
        """End it after what was sent, and return when the peer has closed his end too."""
        self._end()
        try:
            self.transport.close()
            await self._gone.wait()
        finally:
            self.transport.abort()

    def _end(self) -> None:
        self._writable.set()
        if not self.ended.done():
            self.ended.set_result(self._reason)
