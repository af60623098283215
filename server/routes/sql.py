"""`POST /v1/sql`: one request body in, one result out, everything between in a worker thread."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from nearql.engine.errors import Overloaded, StatementTimeout
from nearql.query.watchdog import Stop
from nearql.server import wire
from nearql.server.access.principal import Principal, acting_as
from nearql.server.body import BodyLimit, JsonRoom, is_small, read_body
from nearql.server.edge import Edge, principal_of
from nearql.server.gateway.gateway import NODES_HEADER
from nearql.server.gateway.statements import Asked, forward
from nearql.server.ports import NodePort
from nearql.server.replies import PiecesResponse
from nearql.server.request import SqlRequest, media_type, parse_sql_request, request_id_of
from nearql.server.session_token import SESSION_HEADER, check_token, positions_of, session_token

Answer = tuple[list[Any], str, int]  # pieces, media type, rows
_NO_TIMEOUT_MS = 24 * 3_600_000


@dataclass(frozen=True, slots=True)
class _Question:
    """What a worker thread needs to answer."""

    body: bytes
    content_type: str
    request_id: bytes | None
    session: str | None
    arrow: bool
    started: float
    stop: Stop
    node: NodePort
    principal: Principal


async def sql(request: Request, edge: Edge) -> Response:
    """Run the statements of a body."""
    started = time.perf_counter()
    if is_small(request):
        body = await read_body(request, BodyLimit.json(edge.config.limits))
        return await _answered(request, edge, body, started)
    with JsonRoom(edge.json_memory) as room:
        body = await room.read(request, BodyLimit.json(edge.config.limits))
        return await _answered(request, edge, body, started)


async def _answered(request: Request, edge: Edge, body: bytes, started: float) -> Response:
    question = _Question(
        started=started,
        stop=Stop(),
        request_id=request_id_of(request, body),
        content_type=media_type(request),
        session=request.headers.get(SESSION_HEADER),
        arrow=wire.wants_arrow(request.headers.get("accept", "")),
        body=body,
        node=edge.node_of(request),
        principal=principal_of(request),
    )
    pieces, kind, rows = await edge.run(
        partial(answer, edge, question), request, question.stop.stop,
        bulk=len(body) > edge.config.http.small_body,
    )  # fmt: skip
    edge.metrics.rows_returned.inc(rows)
    headers = {} if edge.gateway is None else {NODES_HEADER: edge.gateway.node_urls()}
    if len(pieces) == 1 and isinstance(pieces[0], bytes):
        return Response(pieces[0], media_type=kind, headers=headers)
    return PiecesResponse(pieces, kind, headers)


def answer(edge: Edge, question: _Question) -> Answer:
    """Parse, execute here or where it belongs, encode; in a worker thread."""
    _check_awaited(edge, question)
    asked = parse_sql_request(question.body, question.content_type)
    if edge.gateway is not None:
        nature = question.node.session().nature(asked.sql)
        node = edge.gateway.place(nature)
        if node is not None:
            timeout_ms = _timeout_ms(edge, asked)
            return forward(
                edge.gateway, node, _as_asked(question), timeout_ms, writes=nature.writes
            )
    return _executed(edge, question, asked)


def answer_forwarded(edge: Edge, asked: Asked) -> Answer:
    """What another node forwarded: done here, or refused."""
    question = _Question(
        body=asked.body, content_type=asked.content_type, request_id=asked.request_id,
        session=asked.session, arrow=asked.arrow, started=time.perf_counter(), stop=Stop(),
        node=edge.node_as(asked.principal), principal=asked.principal,
    )  # fmt: skip
    return _executed(edge, question, parse_sql_request(asked.body, asked.content_type))


def _as_asked(question: _Question) -> Asked:
    return Asked(
        question.body, question.content_type, request_id=question.request_id,
        session=question.session, arrow=question.arrow, principal=question.principal,
    )  # fmt: skip


def _timeout_ms(edge: Edge, asked: SqlRequest) -> int:
    """How long another node may take; one that the request's text SETs is shorter, or its own."""
    given = (asked.settings or {}).get("statement_timeout_ms")
    if isinstance(given, int) and given > 0:
        return given
    return edge.config.limits.statement_timeout_ms or _NO_TIMEOUT_MS


def _executed(edge: Edge, question: _Question, asked: SqlRequest) -> Answer:
    gateway = edge.gateway
    if gateway is None:
        since, reads = check_token(edge.node, question.session), None
    else:
        since = positions_of(edge.node, question.session)
        reads = gateway.reads(since)
    with acting_as(question.principal):
        result = question.node.session().execute(
            asked.sql,
            asked.params,
            asked.settings,
            request_id=question.request_id,
            stop=question.stop,
            user=question.principal.user,
            reads=reads,
        )
    elapsed_ms = (time.perf_counter() - question.started) * 1000
    token = session_token(edge.node, since, result.stats.get("shards") or ())
    stats = wire.statistics(edge.config.node.name, elapsed_ms, result.stats, {"session": token})
    limit = edge.config.limits.result_bytes
    if question.arrow:
        return wire.arrow_answer(result, stats, limit), wire.ARROW_STREAM, result.table.num_rows
    return wire.json_answer(result, stats, limit), wire.JSON, result.table.num_rows


def _check_awaited(edge: Edge, question: _Question) -> None:
    """Begin nothing for which the client has not waited, or has waited too long already."""
    if question.stop.asked:
        raise StatementTimeout("The client went away before the statement began.")
    limit_ms = edge.config.limits.statement_timeout_ms
    if limit_ms and time.perf_counter() - question.started > limit_ms / 1000:
        raise Overloaded(
            f"The request waited {limit_ms} ms for a thread (limits.statement_timeout_ms); nothing "
            "was done. Retry later.",
            code="queue_timeout",
        )
