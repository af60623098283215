"""`POST /v1/sql`: one request body in, one result out, everything between in a worker thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from nearql.engine import spans
from nearql.engine.errors import NearQLError, Overloaded, StatementTimeout
from nearql.query.at_once import shared_key
from nearql.query.settings import Variables
from nearql.query.watchdog import Stop
from nearql.query.weight import Deferred
from nearql.server import wire
from nearql.server.access.principal import Principal, acting_as
from nearql.server.body import BodyLimit, JsonRoom, is_small, read_small
from nearql.server.edge import Edge, principal_of
from nearql.server.gateway.gateway import NODES_HEADER
from nearql.server.gateway.statements import Asked, There, forward
from nearql.server.ports import NodePort, ResultPort
from nearql.server.replies import PiecesResponse
from nearql.server.request import SqlRequest, media_type, parse_sql_request, request_id_of
from nearql.server.session_token import (
    SESSION_HEADER,
    Positions,
    check_token,
    positions_of,
    session_token,
)

T = TypeVar("T")
Answer = tuple[list[Any], str, int]  # pieces, media type, rows
_NO_TIMEOUT_MS = 24 * 3_600_000
GLANCE_BYTES = 64 << 10  # bodies up to here are parsed by the event loop
SHORT_BYTES = 256 << 10  # answers up to here are sent in one piece, and not counted meanwhile


@dataclass(frozen=True, slots=True)
class Question:
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
        body = await read_small(request, BodyLimit.json(edge.config.limits))
        return await _answered(request, edge, body, started)
    with JsonRoom(edge.json_memory) as room:
        body = await room.read(request, BodyLimit.json(edge.config.limits))
        return await _answered(request, edge, body, started)


@dataclass(frozen=True, slots=True)
class Made:
    """An answer. wrote: something was written for it, so it may not be refused any more."""

    pieces: list[Any]
    kind: str
    rows: int
    wrote: bool

    @property
    def is_short(self) -> bool:
        """Whether it is one piece, which is sent as it is."""
        return len(self.pieces) == 1 and memoryview(self.pieces[0]).nbytes <= SHORT_BYTES


@dataclass(frozen=True, slots=True)
class Later:
    """A request that is more than a search, or another node's; nothing of it was done yet."""

    asked: SqlRequest
    prepared: Any
    there: There | None = None  # where it belongs, if not here
    placed: bool = True  # whether that is known


@dataclass(frozen=True, slots=True)
class Tried:
    """How far `server.shortcut` came with a request. outcome: None where it did not begin."""

    known: Later
    outcome: Made | Later | Exception | None = None


async def _answered(request: Request, edge: Edge, body: bytes, started: float) -> Response:
    question = Question(
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
    made = await _first_tried(request, edge, question)
    if isinstance(made, Later):
        stop = question.stop.stop
        rest = partial(answer, edge, question, made)
        made = await edge.run(rest, request, stop, heavy=not made.there, remote=bool(made.there))
        assert isinstance(made, Made)
    edge.metrics.rows_returned.inc(made.rows)
    headers = {} if edge.gateway is None else {NODES_HEADER: edge.gateway.node_urls()}
    if made.is_short:
        return Response(bytes(made.pieces[0]), media_type=made.kind, headers=headers)
    return _large(edge, made, headers)


async def _first_tried(request: Request, edge: Edge, question: Question) -> Made | Later:
    """The answer, unless it is found to be a matter for other threads."""
    tried: Tried | None = request.scope.pop("nearql.tried", None)
    if tried is not None and isinstance(tried.outcome, Exception):
        raise tried.outcome
    if tried is not None and isinstance(tried.outcome, Made):
        return tried.outcome
    bulk = len(question.body) > edge.config.http.small_body
    known = known_of(edge, question, tried) if len(question.body) <= GLANCE_BYTES else None
    if known is None or known.prepared is None:
        work = partial(answer, edge, question, known, light_only=not bulk)
        return await edge.run(work, request, question.stop.stop, bulk=bulk)
    more = tried is not None and tried.outcome is not None  # it was more than the loop takes
    if not more and edge.inline.takes(known.prepared, known.asked.settings or {}):
        key, again = group_of(question, known)
        one = question, known, copy_context(), again
        made = await edge.inline.ask(key, known.prepared, one, partial(answers_of, edge))
        if isinstance(made, Made):
            return made
    work = partial(_paced, edge, question, known, time.thread_time)
    return await edge.run(work, request, question.stop.stop)


def known_of(edge: Edge, question: Question, tried: Tried | None = None) -> Later:
    """The request parsed, and prepared where it is a search that was planned before.

    tried: what this said before.
    """
    if tried is not None:
        return tried.known
    asked = parse_sql_request(question.body, question.content_type)
    prepared = question.node.session().known_search(asked.sql)
    return Later(asked, prepared, placed=edge.gateway is None)


_Joined = tuple[Question, Later, "Runs", Hashable]  # the last: see `group_of`


class Runs(Protocol):
    """A context: what is called in it has the request's id in what it logs."""

    def run(self, work: Callable[..., T], /, *given: Any) -> T:
        """`work(*given)` in it."""


def group_of(question: Question, known: Later) -> tuple[Hashable, Hashable]:
    """Equal for requests that may be answered by one call; and what is equal for those that come
    again, of whoever may ask the same: None where each is a matter of its own.
    """
    shared = shared_key(known.prepared, known.asked.params)
    if shared is None or spans.tracer is not None:  # each has spans of its own
        return object(), None
    settings = tuple((name, repr(value)) for name, value in (known.asked.settings or {}).items())
    again = settings, shared
    return (id(known.prepared), id(question.node), question.principal.user, again), again


def answers_of(edge: Edge, members: Sequence[_Joined]) -> Sequence[Made | Later | Exception]:
    """The answers of a group: what they share is done once, or all of it for each."""
    if members[0][3] is not None and (made := _repeated(edge, members)) is not None:
        return made
    if edge.gateway is not None:  # it may have to wait for other nodes
        return [known for _, known, *_ in members]
    # Each in its own context: its id is in what is logged.
    return [context.run(_alone, edge, one, known) for one, known, context, _ in members]


def _repeated(edge: Edge, members: Sequence[_Joined]) -> list[Made] | None:
    """The answers to requests like those before them; None where that is not all there is to it."""
    question, known, context, key = members[0]
    asked, before = known.asked, time.perf_counter()
    try:
        for one, *_ in members:
            _check_awaited(edge, one)
        since = [_seen(edge, one) for one, *_ in members]
        reads = [] if edge.gateway is None else [edge.gateway.reads(seen) for seen in since]
        params = [each.asked.params for _, each, *_ in members]
        session = question.node.session()
        found = session.repeat(known.prepared, key, params, asked.settings, reads)
        if found is None:
            return None
        made = [
            _encoded(edge, one, seen, result)
            for (one, *_), seen, result in zip(members, since, found.answers, strict=True)
        ]
    except (Deferred, NearQLError):
        return None
    known.prepared.pace.told(asked.settings or {}, (time.perf_counter() - before) / len(made))
    if session.statements.is_slow(found.elapsed_s):
        text, user = asked.sql, question.principal.user
        context.run(session.statements.noted, text, user, found.elapsed_s, found.trace)
    return made


def _alone(edge: Edge, question: Question, known: Later) -> Made | Later | Exception:
    try:
        return _paced(edge, question, known, time.perf_counter, at_once=True)
    except Exception as error:  # noqa: BLE001 - raised where the request waits for it
        return error


def _paced(
    edge: Edge,
    question: Question,
    known: Later,
    clock: Callable[[], float],
    *,
    at_once: bool = False,
) -> Made | Later:
    """The answer to a known search; remembers how long it took."""
    before = clock()
    made = answer(edge, question, known, light_only=True, at_once=at_once)
    if isinstance(made, Made):
        known.prepared.pace.told(known.asked.settings or {}, clock() - before)
    return made


def _large(edge: Edge, made: Made, headers: Mapping[str, str]) -> Response:
    """An answer in pieces; its bytes count among those of all such answers until it is sent."""
    size = sum(memoryview(piece).nbytes for piece in made.pieces)
    if not edge.answer_memory.take(size):
        if not made.wrote:
            raise Overloaded(
                f"An answer of {size} bytes finds no room among those that are being sent "
                "(limits.answer_memory); retry later, or ask for less."
            )
        edge.answer_memory.overdraw(size)
    return PiecesResponse(
        made.pieces, made.kind, headers, sent=partial(edge.answer_memory.give, size)
    )


def answer(
    edge: Edge,
    question: Question,
    later: Later | None = None,
    *,
    light_only: bool = False,
    at_once: bool = False,
) -> Made | Later:
    """Parse, execute here or where it belongs, encode; in a worker thread, or see `server.inline`.

    light_only: where the request is more than a search, or another node's, do nothing and say so.
    later: what it said. at_once: where it would have to wait, likewise.
    """
    _check_awaited(edge, question)
    asked = later.asked if later else parse_sql_request(question.body, question.content_type)
    prepared, there = (later.prepared, later.there) if later else (None, None)
    if edge.gateway is not None and (later is None or not later.placed):
        nature, prepared = question.node.session().nature(asked.sql)
        node = edge.gateway.place(nature)
        there = None if node is None else There(node, nature.writes)
        if there is not None and light_only:
            return Later(asked, prepared, there)
    if there is not None:
        return _relayed(edge, question, asked, there)
    how = {"light_only": light_only, "prepared": prepared, "at_once": at_once}
    try:
        return _executed(edge, question, asked, how)
    except Deferred as deferred:
        return Later(asked, deferred.prepared)


def _relayed(edge: Edge, question: Question, asked: SqlRequest, there: There) -> Made:
    """Another node's answer. That node ends it when the client goes away, or has waited enough."""
    assert edge.gateway is not None
    sent = Asked(
        question.body, question.content_type, request_id=question.request_id,
        session=question.session, arrow=question.arrow, principal=question.principal,
        waited_ms=int((time.perf_counter() - question.started) * 1000),
    )  # fmt: skip
    told = forward(edge.gateway, there, sent, _timeout_ms(edge, asked), question.stop)
    return Made(*told, there.writes)


def answer_forwarded(edge: Edge, asked: Asked, stop: Stop) -> Answer:
    """What another node forwarded: done here, or refused; heavy statements wait among those of this
    node.
    """
    question = Question(
        body=asked.body, content_type=asked.content_type, request_id=asked.request_id,
        session=asked.session, arrow=asked.arrow, stop=stop,
        started=time.perf_counter() - asked.waited_ms / 1000,
        node=edge.node_as(asked.principal), principal=asked.principal,
    )  # fmt: skip
    parsed = parse_sql_request(asked.body, asked.content_type)
    try:
        made = _executed(edge, question, parsed, {"light_only": True})
    except Deferred as deferred:
        how = {"prepared": deferred.prepared}
        made = edge.run_heavy(lambda: _executed(edge, question, parsed, how))
    return made.pieces, made.kind, made.rows


def _timeout_ms(edge: Edge, asked: SqlRequest) -> int:
    """How long another node may take; one that the request's text SETs is shorter, or its own."""
    variables = Variables(edge.config.session_settings())
    for name, value in (asked.settings or {}).items():
        if name.lower() == "statement_timeout_ms":
            variables.set(name, value)
    return int(variables.get("statement_timeout_ms")) or _NO_TIMEOUT_MS


def _executed(edge: Edge, question: Question, asked: SqlRequest, how: Mapping[str, Any]) -> Made:
    since = _seen(edge, question)
    reads = None if edge.gateway is None else edge.gateway.reads(since)
    with acting_as(question.principal):
        result = question.node.session().execute(
            asked.sql,
            asked.params,
            asked.settings,
            request_id=question.request_id,
            stop=question.stop,
            user=question.principal.user,
            reads=reads,
            waited_s=time.perf_counter() - question.started,
            **how,
        )
    return _encoded(edge, question, since, result)


def _seen(edge: Edge, question: Question) -> Positions:
    """What the client's token says; on a node alone, checked against what the node has."""
    if edge.gateway is None:
        return check_token(edge.node, question.session)
    return positions_of(edge.node, question.session)


def _encoded(edge: Edge, question: Question, since: Positions, result: ResultPort) -> Made:
    elapsed_ms = (time.perf_counter() - question.started) * 1000
    token = session_token(edge.node, since, result.stats.get("shards") or ())
    stats = wire.statistics(edge.config.node.name, elapsed_ms, result.stats, {"session": token})
    rows = result.row_count if result.values is not None else result.table.num_rows
    wrote = "write" in result.stats
    if question.arrow:
        pieces = wire.arrow_answer(result, stats, edge.result_bytes)
        return Made(pieces, wire.ARROW_STREAM, rows, wrote)
    return Made(wire.json_answer(result, stats, edge.result_bytes), wire.JSON, rows, wrote)


def _check_awaited(edge: Edge, question: Question) -> None:
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
