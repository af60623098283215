"""`POST /v1/tables/{table}/rows`: bulk rows in one streamed body."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pyarrow as pa
from starlette.requests import Request
from starlette.responses import Response

from nearql.engine.errors import InvalidRequest, InvalidValue
from nearql.engine.types import OnConflict
from nearql.query.watchdog import Stop
from nearql.server.access.node import forbidden
from nearql.server.access.principal import Principal, acting_as
from nearql.server.access.rights import Action
from nearql.server.body import BodyLimit, decoded_chunks
from nearql.server.bulk import Kept, Load, Report, load
from nearql.server.decoding.formats import format_of
from nearql.server.edge import Edge, principal_of
from nearql.server.gateway.gateway import NODES_HEADER
from nearql.server.gateway.rows import storing
from nearql.server.ports import NodePort, Stores
from nearql.server.replies import json_reply
from nearql.server.request import media_type, request_id_of
from nearql.server.routes.tables import visible_table
from nearql.server.session_token import SESSION_HEADER, positions_of, token_after
from nearql.server.spool import Spool

MODES = {"insert": OnConflict.ERROR, "upsert": OnConflict.REPLACE}
_PARAMETERS = frozenset({"mode", "write_concern"})
_NO_TIMEOUT_MS = 24 * 3_600_000
_FILE_PIECE = 1 << 20  # what one write to the file gathers


async def rows(request: Request, edge: Edge) -> Response:
    """Store the rows of a body; answers counts and the rows that failed."""
    node, principal = edge.node_of(request), principal_of(request)
    asked = _asked(request, edge, node)
    since = positions_of(node, request.headers.get(SESSION_HEADER))
    _check_rights(principal, asked)
    edge.bulk_workers.check_room()
    stop = Stop()
    with edge.spool() as spool:
        await _receive(request, edge, spool)
        edge.metrics.bytes_received.inc(spool.size)
        body = spool.buffer()
        report = await edge.run(
            lambda: _store(edge, replace(asked, stop=stop), body, node, principal),
            request, stop.stop, bulk=True,
        )  # fmt: skip
    edge.metrics.rows_loaded.inc(report.inserted + report.updated)
    token = token_after(since, asked.table.uuid, report.ends.values())
    nodes = {} if edge.gateway is None else {NODES_HEADER: edge.gateway.node_urls()}
    return json_reply(report.answer(), headers={SESSION_HEADER: token, **nodes})


def _check_rights(principal: Principal, asked: Load) -> None:
    """Before the body is read; the table's handle checks again."""
    wanted = [Action.INSERT]
    if asked.on_conflict is OnConflict.REPLACE:
        wanted.append(Action.UPDATE)
    for action in wanted:
        if not principal.rights.allows(action, asked.table.uuid):
            with acting_as(principal):
                raise forbidden(action, asked.table.name)


def _asked(request: Request, edge: Edge, node: NodePort) -> Load:
    """The request without its body; whatever is wrong is told before the body is read."""
    unknown = set(request.query_params) - _PARAMETERS
    if unknown:
        raise InvalidRequest(
            f"Unknown query parameter {min(unknown)[:80]!r}; known are mode and write_concern."
        )
    return Load(
        table=visible_table(node, principal_of(request), request.path_params["table"]),
        decode=format_of(media_type(request)),
        on_conflict=_mode(request.query_params.get("mode", "insert")),
        settings=_settings(request),
        request_id=request_id_of(request),
        limit=BodyLimit.stream(edge.config.limits),
    )


def _mode(name: str) -> OnConflict:
    if name not in MODES:
        raise InvalidValue(f"mode = {name[:80]!r}: must be insert or upsert.")
    return MODES[name]


def _settings(request: Request) -> dict[str, Any]:
    concern = request.query_params.get("write_concern")
    return {} if concern is None else {"write_concern": concern}


async def _receive(request: Request, edge: Edge, spool: Spool) -> None:
    """The body into the spool; writes to a file leave the event loop free."""
    pending: list[bytes] = []
    size = 0
    async for chunk in decoded_chunks(request, BodyLimit.stream(edge.config.limits)):
        if not pending and spool.fits(len(chunk)):
            spool.keep(chunk)
            continue
        pending.append(chunk)
        size += len(chunk)
        if size >= _FILE_PIECE:
            await asyncio.to_thread(spool.write, b"".join(pending))
            pending, size = [], 0
    if pending:
        await asyncio.to_thread(spool.write, b"".join(pending))


def _storing(edge: Edge, asked: Load, node: NodePort, principal: Principal) -> Stores:
    """What stores the batches: this node's session, or another node's."""
    if edge.gateway is None:
        return node.session()
    timeout_ms = edge.config.limits.statement_timeout_ms or _NO_TIMEOUT_MS
    return storing(edge.gateway, asked.table, principal, timeout_ms) or node.session()


def _store(
    edge: Edge, asked: Load, body: pa.Buffer, node: NodePort, principal: Principal
) -> Report:
    """In a worker thread."""
    with acting_as(principal), edge.spool() as spool:
        kept = Kept(edge.spool_memory, spool, body)
        try:
            return load(_storing(edge, asked, node, principal), asked, body, kept)
        finally:
            kept.close()
