"""HTTP/1.1 on one connection: uvicorn's protocol on httptools, bounding what a client may hold.

    a head (request line and headers)   max_head bytes, head_timeout_ms           431, 408
    chunk lines and trailers            max_head bytes without one of the body    431
    a body                              receive_timeout_ms without a byte, and
                                        receive_rate bytes/s on average after it  408
    an answer that nobody reads         send_timeout_ms without a byte            closed
    connections                         max_connections                           503

Time during which the server itself did not read does not count. Requests that are not HTTP get a
problem document, as every other error does. What comes after an answer that did not wait for the
whole body is thrown away for DISCARD_S, so that the client gets to read the answer.

One request is one request, whatever stands before this server: exactly one Host; fields that come
behind a body count for nothing; and who asks for another protocol (`Upgrade: h2c`, as Java's and
curl's clients do with their first request) is answered in this one. httptools would take the rest
of such a request for the next one's beginning, so its head is parsed again without that wish.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httptools
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
        self._between_bytes = 0  # since the last byte of the body: chunk lines, trailers
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
        before = self._body_bytes if self._in_body else -1
        self._parse(data)
        self._between_bytes = self._between_bytes + len(data) if before == self._body_bytes else 0
        limit = self.bounds.max_head
        if self._in_head and self._head_bytes > limit:
            self.cut(_head_too_large("headers have", limit))
        elif self._in_body and self._between_bytes > limit:
            self.cut(_head_too_large("chunk lines and trailers have", limit))
        elif not (self._in_head or self._in_body):
            self._stop_timer()
        elif self._timer is None:
            self._begin()

    def _parse(self, data: bytes) -> None:
        """As uvicorn's `data_received`, but an upgrade is declined by going on without it."""
        self._unset_keepalive_if_required()
        try:
            while True:
                try:
                    self.parser.feed_data(data)
                    return
                except httptools.HttpParserUpgrade as asked:
                    data = data[asked.args[0] :]
                    head = self._head_without_upgrade()
                    self.parser = httptools.HttpRequestParser(self)
                    self.parser.feed_data(head)
        except httptools.HttpParserError:
            if not self.transport.is_closing():  # not cut by one of our own bounds
                self.send_400_response("Invalid HTTP request received.")

    def _head_without_upgrade(self) -> bytes:
        kept = (b"%b: %b\r\n" % pair for pair in self.headers if pair[0] != b"upgrade")
        line = b"%b %b HTTP/%b\r\n" % (
            self.parser.get_method(), self.url, self.parser.get_http_version().encode()
        )  # fmt: skip
        return b"".join([line, *kept, b"\r\n"])

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        """The head is whole. Raises what ends the parsing, where it is refused."""
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise _Refused
            return  # it comes again without that wish
        self._check_head()
        super().on_headers_complete()
        self.headers = []  # the request keeps its own; fields behind the body go into this one
        self._in_head, self._in_body = False, True
        self._head_bytes = self._body_bytes = self._between_bytes = 0
        self._since = self.loop.time()

    def _check_head(self) -> None:
        hosts = len([1 for name, _ in self.headers if name == b"host"])
        if hosts != 1 and (hosts or self.parser.get_http_version() != "1.0"):
            self.cut(InvalidRequest(
                f"A request has one header Host; this one has {hosts or 'none'}.",
                code="invalid_http",
            ))  # fmt: skip
            raise _Refused
        if self._head_bytes > self.bounds.max_head:  # or only what came with its last byte
            size = sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size + len(self.url) > self.bounds.max_head:
                self.cut(_head_too_large("headers have", self.bounds.max_head))
                raise _Refused

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._body_bytes += len(body)
        if self.cycle.response_complete and self.loop.time() - self._answered > DISCARD_S:
            self.transport.close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        if self._in_head:  # of a head that comes again
            return
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


class _Refused(Exception):
    """Ends the parsing."""


def _head_too_large(what: str, limit: int) -> HeadTooLarge:
    return HeadTooLarge(f"The {what} more than {limit} bytes (http.max_head).")


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
