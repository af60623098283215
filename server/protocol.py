"""HTTP/1.1 on one connection: uvicorn's protocol on httptools, bounding what a client may hold.

    a head (request line and headers)   max_head bytes, head_timeout_ms           431, 408
    a body                              receive_timeout_ms without a byte, and
                                        receive_rate bytes/s on average after it  408
    an answer that nobody reads         send_timeout_ms without a byte            closed
    connections                         max_connections                           503

Time during which the server itself did not read does not count. Requests that are not HTTP get a
problem document, as every other error does. What comes after an answer that did not wait for the
whole body is thrown away for DISCARD_S, so that the client gets to read the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import orjson
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from nearql.engine.errors import InvalidRequest, NearQLError, TooLarge, Unavailable
from nearql.server.config import HttpSection
from nearql.server.problem import MEDIA_TYPE, document

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

    from nearql.server.shortcut import Shortcut

DISCARD_S = 30.0
_TICK_S = 1.0


class RequestTimeout(InvalidRequest):
    """A client took too long to send its request."""

    code = "request_timeout"
    sqlstate = "08006"
    http_status = 408
    title = "Request timeout"


class HeadTooLarge(TooLarge):
    """Headers beyond `http.max_head`."""

    code = "head_too_large"
    http_status = 431
    title = "Request header fields too large"


def make_protocol(
    section: HttpSection, refused: Callable[[str], None], shortcut: Shortcut | None = None
) -> type[HttpToolsProtocol]:
    """The protocol with a node's bounds. refused: told the code of each connection cut short."""
    quick = shortcut

    class Bounded(BoundedProtocol):
        bounds = section
        shortcut = quick

        def told(self, code: str) -> None:
            refused(code)

    return Bounded


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Invariant: a timer runs exactly while a head or a body is incomplete."""

    bounds: HttpSection
    shortcut: Shortcut | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._in_body = False
        self._head_bytes = 0
        self._body_bytes = 0
        self._answered = 0.0
        self._since = self._last = self.loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._held: tuple[RequestResponseCycle, ASGI3Application] | None = None

    def told(self, code: str) -> None:
        """Count a connection that is cut short."""

    # ---- receiving ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As uvicorn's; one connection too many is told so and closed."""
        super().connection_made(transport)
        if len(self.connections) > self.bounds.max_connections:
            self.cut(
                Unavailable(
                    f"This node holds {self.bounds.max_connections} connections "
                    "(http.max_connections); retry later, and close idle ones.",
                    code="too_many_connections",
                )
            )
            return
        self._begin()

    def data_received(self, data: bytes) -> None:
        """As uvicorn's, with an eye on what is not complete after it."""
        if self.transport.is_closing():
            return
        self._last = self.loop.time()
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > self.bounds.max_head:
            limit = self.bounds.max_head
            self.cut(HeadTooLarge(f"The headers have more than {limit} bytes (http.max_head)."))
        elif not (self._in_head or self._in_body):
            self._stop_timer()
        elif self._timer is None:
            self._begin()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        """The head is whole."""
        super().on_headers_complete()
        self._in_head, self._in_body = False, True
        self._head_bytes = self._body_bytes = 0
        self._since = self.loop.time()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._body_bytes += len(body)
        if self.cycle.response_complete and self.loop.time() - self._answered > DISCARD_S:
            self.transport.close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._in_body = False
        super().on_message_complete()
        if self._held is not None and self.shortcut is not None:
            (cycle, app), self._held = self._held, None
            begin = partial(super()._start_asgi_task, cycle, app)
            if not self.shortcut.takes(cycle, begin):
                begin()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """As uvicorn's; a request that may take the shortcut waits for its body first."""
        if (
            self._in_head
            and cycle.more_body  # else it waited for the one before it, and is whole already
            and self._held is None
            and self.shortcut is not None
            and self.shortcut.may_take(cycle.scope)
        ):
            self._held = cycle, app
        else:
            super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """The last byte of an answer was handed over."""
        self._answered = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn's."""
        self._stop_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    # ---- time -----------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._since = self._last = self.loop.time()
        self._timer = self.loop.call_later(_TICK_S, self._tick)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        if self.transport is None or self.transport.is_closing():
            return
        now = self.loop.time()
        if self.flow.read_paused:  # the server's own doing
            self._since += _TICK_S
            self._last = now
        late = self._late(now)
        if late is not None:
            self.cut(RequestTimeout(late))
            return
        self._timer = self.loop.call_later(_TICK_S, self._tick)

    def _late(self, now: float) -> str | None:
        """Why the client is too slow; None where it is not."""
        bounds = self.bounds
        if self._in_head:
            if now - self._since > bounds.head_timeout_ms / 1000:
                return f"No whole head within {bounds.head_timeout_ms} ms (http.head_timeout_ms)."
            return None
        allowed_s = bounds.receive_timeout_ms / 1000
        if now - self._last > allowed_s:
            return (
                f"Nothing of the body came for {bounds.receive_timeout_ms} ms "
                "(http.receive_timeout_ms)."
            )
        if now - self._since > allowed_s + self._body_bytes / bounds.receive_rate:
            return f"The body came slower than {bounds.receive_rate} bytes/s (http.receive_rate)."
        return None

    # ---- sending --------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """The client reads slower than the answer is made."""
        super().pause_writing()
        self._watch_writing(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """There is room again."""
        self._stop_write_timer()
        super().resume_writing()

    def _watch_writing(self, waiting: int) -> None:
        delay_s = self.bounds.send_timeout_ms / 1000
        self._write_timer = self.loop.call_later(delay_s, self._check_writing, waiting)

    def _check_writing(self, before: int) -> None:
        self._write_timer = None
        waiting = self.transport.get_write_buffer_size()
        if waiting >= before:
            self.told("send_timeout")
            self.transport.abort()
            return
        self._watch_writing(waiting)

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    # ---- the end --------------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        """What httptools can't read is answered as a problem."""
        self.cut(InvalidRequest(f"{msg} It is no HTTP/1.1.", code="invalid_http"))

    def cut(self, error: NearQLError) -> None:
        """Tell the client why, where no answer has begun, and close the connection."""
        self.told(error.code)
        self._stop_timer()
        if self._may_answer():
            self.transport.write(_raw(error))
        self.transport.close()

    def _may_answer(self) -> bool:
        """Whether the client expects an answer and none has begun."""
        if self.cycle is None or not self.cycle.response_started:
            return True
        return bool(self.cycle.response_complete and self._in_head)


def _raw(error: NearQLError) -> bytes:
    """The problem document as a whole HTTP answer."""
    body = orjson.dumps(document(error, uuid4().hex), default=str)
    head = [
        STATUS_LINE[error.http_status],
        b"content-type: " + MEDIA_TYPE.encode() + b"\r\n",
        b"content-length: %d\r\n" % len(body),
        b"cache-control: no-store\r\n",
        b"connection: close\r\n",
    ]
    if error.retry_after_s is not None:
        head.append(b"retry-after: %d\r\n" % error.retry_after_s)
    return b"".join([*head, b"\r\n", body])
