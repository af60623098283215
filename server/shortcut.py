"""Searches that come again, answered from the connection: no task, no layer, no route between.

Of a search through an index the layers of an HTTP application take as long as the search. All they
decide is known here before: the request is `POST /v1/sql` with a short body, its headers say
nothing unusual, whoever sends it may ask, and its text is one that the event loop runs itself
(`server.inline`). Then the answer is written at once, head and body in one piece.

Everything else goes the usual way, and so does every error: nothing is done here that the usual way
would not do again, and it alone says what is wrong.

    head -> may_take -> body -> takes -> Inline.join -> answers of a group -> connection
               | no               | no                      | an error, much to send or to do
               +------------------+-> the application       +-> the application, told of it
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

from structlog.contextvars import bind_contextvars
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from nearql.engine import spans
from nearql.engine.errors import NearQLError
from nearql.query.watchdog import Stop
from nearql.server import wire
from nearql.server.access.principal import Principal
from nearql.server.edge import Edge
from nearql.server.gateway.gateway import NODES_HEADER
from nearql.server.middleware.auth import Authenticate
from nearql.server.middleware.context import answer_headers, request_id
from nearql.server.request import bare_media_type, is_request_id
from nearql.server.routes import Endpoint, check_rule
from nearql.server.routes.sql import (
    GLANCE_BYTES,
    Later,
    Made,
    Question,
    Tried,
    answers_of,
    group_of,
    known_of,
)

# What a browser's page, a compressed body or an unfinished one says.
_UNUSUAL = frozenset({
    b"origin", b"sec-fetch-site", b"cookie", b"content-encoding", b"transfer-encoding", b"expect",
})  # fmt: skip
NODES_LINE = NODES_HEADER.lower().encode() + b": %b\r\n"
Begin = Callable[[], None]
T = TypeVar("T")


class Shortcut:
    """Of one application; used by its event loop."""

    def __init__(self, edge: Edge, endpoint: Endpoint, authenticate: Authenticate) -> None:
        """endpoint: that of `POST /v1/sql`, whose path and rule hold here too."""
        self._edge = edge
        self._endpoint = endpoint
        self._authenticate = authenticate
        head = [STATUS_LINE[200], *_lines(answer_headers(bool(edge.config.http.tls_cert_file)))]
        self._head = b"".join(head)
        self._limit = min(GLANCE_BYTES, edge.config.http.small_body, edge.config.limits.json_body)
        self.answered = 0

    def may_take(self, scope: Any) -> bool:
        """Whether to wait for the body before the application begins, by the head alone."""
        if (
            scope["path"] != self._endpoint.path
            or scope["method"] != self._endpoint.method
            or scope["query_string"]
            or spans.tracer is not None
        ):
            return False
        headers = dict(scope["headers"])
        if len(headers) != len(scope["headers"]) or not _UNUSUAL.isdisjoint(headers):
            return False
        scope["nearql.headers"] = headers
        length: bytes = headers.get(b"content-length", b"")
        return length.isdigit() and len(length) < 8 and 0 < int(length) <= self._limit

    def takes(self, cycle: RequestResponseCycle, begin: Begin) -> bool:
        """Have a whole request that may take it answered, unless it is for the application.

        begin: starts the application on it; called later where the answer is not for here.
        """
        if cycle.flow.write_paused:
            return False
        scope: Any = cycle.scope
        try:
            question = self._question(scope, bytes(cycle.body))
            if question is None:
                return False
            known = known_of(self._edge, question)
        except NearQLError:
            return False  # the application meets it again, and answers it
        scope["nearql.tried"] = Tried(known)
        inline = self._edge.inline
        if known.prepared is None or not inline.takes(known.prepared, known.asked.settings or {}):
            return False
        scope["request_id"] = request_id(scope)
        key, again = group_of(question, known)
        inline.join(
            key,
            known.prepared,
            (question, known, _Context(scope["request_id"]), again),
            partial(answers_of, self._edge),
            partial(self._tell, cycle, begin, question, known),
        )
        return True

    def _question(self, scope: Any, body: bytes) -> Question | None:
        """What is asked and by whom; None where somebody else is to look at it.

        Raises:
            NearQLError: he may not ask.
        """
        get = scope["nearql.headers"].get
        number = get(b"nearql-request-id")
        if number is not None and not is_request_id(number.decode("latin-1")):
            return None
        principal = self._principal(scope)
        if principal is None:
            return None
        session = get(b"nearql-session")
        return Question(
            body=body,
            content_type=bare_media_type(get(b"content-type", b"").decode("latin-1")),
            request_id=None,  # a search changes nothing
            session=None if session is None else session.decode("latin-1"),
            arrow=wire.wants_arrow(get(b"accept", b"").decode("latin-1")),
            started=time.perf_counter(),
            stop=Stop(),
            node=self._edge.node_as(principal),
            principal=principal,
        )

    def _principal(self, scope: Any) -> Principal | None:
        principal = self._authenticate(scope)
        if principal is None or self._edge.quotas.limit(principal):
            return None
        check_rule(self._endpoint.rule, principal)
        return principal

    def _tell(
        self,
        cycle: RequestResponseCycle,
        begin: Begin,
        question: Question,
        known: Later,
        outcome: Made | Later | Exception,
    ) -> None:
        scope: Any = cycle.scope
        if cycle.disconnected:
            _let_go(cycle)
            return
        piece = outcome.pieces[0] if isinstance(outcome, Made) and outcome.is_short else None
        if piece is None:
            scope["nearql.tried"] = Tried(known, outcome)
            begin()
            return
        assert isinstance(outcome, Made)
        self._write(cycle, bytes(piece), outcome.kind)
        self.answered += 1
        metrics = self._edge.metrics
        metrics.rows_returned.inc(outcome.rows)
        metrics.short_searches.inc()
        scope["nearql.route"] = self._endpoint.path
        metrics.observe(scope, 200, time.perf_counter() - question.started)

    def _nodes(self) -> bytes:
        """Where a client finds the other nodes of a cluster."""
        gateway = self._edge.gateway
        return b"" if gateway is None else NODES_LINE % gateway.node_urls().encode("latin-1")

    def _write(self, cycle: RequestResponseCycle, body: bytes, media_type: str) -> None:
        """The answer, and what uvicorn keeps about it."""
        scope: Any = cycle.scope
        cycle.response_started = cycle.response_complete = True
        cycle.transport.write(
            b"%b%bcontent-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n%b\r\n%b"
            % (
                self._head,
                b"".join(_lines(cycle.default_headers)) + self._nodes(),
                media_type.encode(),
                len(body),
                scope["request_id"].encode(),
                b"" if cycle.keep_alive else b"connection: close\r\n",
                body,
            )
        )
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
        _let_go(cycle)


class _Context:
    """A context with the request's id, made when somebody runs in it: few do."""

    def __init__(self, request_id: str) -> None:
        self._id = request_id

    def run(self, work: Callable[..., T], /, *given: Any) -> T:
        """As `contextvars.Context.run`."""
        context = copy_context()
        context.run(bind_contextvars, request_id=self._id)
        return context.run(work, *given)


def _let_go(cycle: RequestResponseCycle) -> None:
    """An idle connection keeps its last request: nothing of what that held."""
    scope: Any = cycle.scope
    scope.pop("nearql.tried", None)
    cycle.body = bytearray()
    cycle.on_response = lambda: None  # as uvicorn: no circle of connection and request


def _lines(headers: Any) -> list[bytes]:
    return [b"%b: %b\r\n" % pair for pair in headers]
