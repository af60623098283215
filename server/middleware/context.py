"""The outermost layer: an id for every request, every failure as a problem document, one log line.

`X-Request-Id` is echoed where the client sent one that is safe to log, else made here; it is in
each answer's headers, in each problem document and in every log line of the request.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version

import structlog
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nearql.engine.errors import NearQLError, WriteUnknown
from nearql.server.problem import from_http, from_unexpected, problem_response

log = structlog.get_logger("nearql.http")

_SAFE_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "NearQL-Version": version("nearql"),  # a client of another version can say so
}

_TLS_HEADERS = {"Strict-Transport-Security": "max-age=31536000"}

Observer = Callable[[Scope, int, float], None]
RawHeaders = Sequence[tuple[bytes, bytes]]  # lower-case name, value
_ID = b"x-request-id"


def _raw(headers: Mapping[str, str]) -> RawHeaders:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


def answer_headers(tls: bool) -> RawHeaders:
    """What each answer carries. tls: over TLS."""
    return _raw({**_HEADERS, **(_TLS_HEADERS if tls else {})})


def request_id(scope: Scope) -> str:
    """The request's id: the client's `X-Request-Id` where it is safe to log, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SAFE_ID.fullmatch(value):
            return str(value, "ascii")
    return os.urandom(16).hex()


class RequestContext:
    """Wraps the application; `observe(scope, status, seconds)` is told of every request."""

    def __init__(
        self, app: ASGIApp, observe: Observer, access_log: bool = False, tls: bool = False
    ) -> None:
        self.app = app
        self.headers = answer_headers(tls)
        self.observe = observe
        self.access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, send, self.headers)
        tokens = structlog.contextvars.bind_contextvars(request_id=exchange.id)
        try:
            await self.app(scope, receive, exchange.send)
        except Exception as error:  # noqa: BLE001 - the last place where an error can be answered
            await exchange.fail(error, receive)
        finally:
            scope.pop("nearql.tried", None)  # an idle connection keeps its last request
            self._finish(exchange)
            structlog.contextvars.reset_contextvars(**tokens)

    def _finish(self, exchange: _Exchange) -> None:
        seconds = time.perf_counter() - exchange.started
        self.observe(exchange.scope, exchange.status, seconds)
        if self.access_log:
            log.info(
                "request",
                method=exchange.scope["method"],
                path=exchange.scope["path"],
                status=exchange.status,
                elapsed_ms=round(seconds * 1000, 2),
            )


def let_go(error: BaseException | None) -> None:
    """Free what an error's frames hold, now that it is answered.

    Some of them hold the error, or a future with it. So the tokens of a long text with a mistake
    would wait for the garbage collector, and some hundred such texts make it stop all for 30 ms.
    """
    while error is not None and error.__traceback__ is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


class _Exchange:
    """One request and what was answered to it. status 0 = nothing was sent."""

    def __init__(self, scope: Scope, send: Send, headers: RawHeaders) -> None:
        self.headers = headers
        self.scope = scope
        self.started = time.perf_counter()
        known: str | None = scope.get("request_id")  # a search that was tried before has one
        self.id = scope["request_id"] = known or request_id(scope)
        self.status = 0
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = {name for name, _ in message["headers"]}
            message["headers"] = [
                *(pair for pair in message["headers"] if pair[0] != _ID),
                (_ID, self.id.encode()),
                *(pair for pair in self.headers if pair[0] not in given),
            ]
        await self._send(message)

    async def fail(self, error: Exception, receive: Receive) -> None:
        """Answer an error; one that comes after the answer began can only break the connection."""
        told = self._told(error)
        if told.http_status >= 500 and not told.retryable:
            log.error("request_failed", code=told.code, path=self.scope["path"], exc_info=error)
        if self.status:
            raise error
        headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
        await problem_response(told, self._id_of(told), headers)(self.scope, receive, self.send)
        let_go(error)

    def _id_of(self, told: NearQLError) -> str:
        """Of a write whose outcome is unknown, the id under which to ask for it again."""
        if isinstance(told, WriteUnknown):
            for name, value in self.scope["headers"]:
                if name == b"nearql-request-id" and _SAFE_ID.fullmatch(value):
                    return str(value, "ascii")
        return self.id

    def _told(self, error: Exception) -> NearQLError:
        if isinstance(error, NearQLError):
            return error
        if isinstance(error, HTTPException):
            return from_http(error, self.scope["method"], self.scope["path"])
        return from_unexpected(error)
