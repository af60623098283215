"""The engine in this process: what `nearql.connect("./directory")` talks to.

`EmbeddedTransport` implements the client's transport Protocol by its shape (neither side imports
the other): a call comes as a value with the attributes of `Call`, and is answered like its HTTP
request would be, as (status, body, table); an error is a problem document with its status. Rows
cross as Arrow tables, without a copy.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from urllib.parse import unquote

import pyarrow as pa
import structlog

from nearql.engine.errors import InvalidRequest, NearQLError, Unavailable, Unsupported
from nearql.engine.request_id import make_request_id
from nearql.engine.types import OnConflict
from nearql.server.config import load_config
from nearql.server.logs import quiet_logs
from nearql.server.node import Node
from nearql.server.problem import document, from_unexpected
from nearql.server.routes.cluster import describe_cluster
from nearql.server.routes.tables import describe_tables, find_table
from nearql.server.wire import described, statistics

log = structlog.get_logger("nearql.embedded")

Answer = tuple[int, dict[str, Any], "pa.Table | None"]
_ON_CONFLICT = {"insert": OnConflict.ERROR, "upsert": OnConflict.REPLACE}


class Call(Protocol):
    """What the client asks; see `nearql.client.transport.Call`."""

    @property
    def kind(self) -> str:
        """sql, insert or get."""

    @property
    def text(self) -> str:
        """The SQL text, or the route of a get."""

    @property
    def parameters(self) -> dict[str, Any] | list[Any] | None:
        """As in the JSON body."""

    @property
    def settings(self) -> dict[str, Any]:
        """As in the JSON body; of an insert, as in the query string."""

    @property
    def request_id(self) -> str:
        """`<uuid>:<number>`, or empty."""

    @property
    def table(self) -> str:
        """Where to insert."""

    @property
    def mode(self) -> str:
        """insert or upsert."""

    @property
    def rows(self) -> pa.Table | None:
        """What to insert."""


class EmbeddedTransport:
    """One open node; thread-safe. `close` flushes and releases the directory."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._closed = False
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The data directory."""
        return str(self._node.config.node.data_dir)

    def call(self, call: Call) -> Answer:
        """Do one call in this thread."""
        started = time.perf_counter()
        try:
            if self._closed:
                raise Unavailable(f"{self.name} is closed.", code="shutting_down")
            return _KINDS[call.kind](self._node, call, started)
        except NearQLError as error:
            return _problem(error, call)
        except Exception as error:  # as over HTTP: told as a 500, logged with its trace
            log.exception("request_failed", request_id=call.request_id)
            return _problem(from_unexpected(error), call)

    async def acall(self, call: Call) -> Answer:
        """`call` in a thread, so that the event loop goes on."""
        return await asyncio.to_thread(self.call, call)

    def close(self) -> None:
        """Close the node; calls afterwards answer that it is closed."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._node.close()

    async def aclose(self) -> None:
        """`close` in a thread."""
        await asyncio.to_thread(self.close)


def try_open(
    directory: str | os.PathLike[str],
) -> tuple[EmbeddedTransport | None, dict[str, Any]]:
    """Open (or make) a data directory in this process: the transport, or the problem document.

    A problem is an answer here too, because its exception class is the client's to choose:
    `data_dir_in_use` where another process has it open, `corruption`, `newer_format`, ...
    """
    quiet_logs()
    try:
        config = load_config(flags={"node.data_dir": os.fspath(directory)})
        return EmbeddedTransport(Node.open(config)), {}
    except NearQLError as error:
        return None, document(error, str(uuid.uuid4()))


def _sql(node: Node, call: Call, started: float) -> Answer:
    result = node.session().execute(
        call.text, call.parameters, call.settings or None, request_id=_request_id(call)
    )
    elapsed_ms = (time.perf_counter() - started) * 1000
    stats = statistics(node.config.node.name, elapsed_ms, result.stats, {})
    body = {"row_count": result.row_count, "stats": stats, "notices": list(result.notices)}
    return 200, body, described(result, {})


def _insert(node: Node, call: Call, started: float) -> Answer:
    assert call.rows is not None
    on_conflict = _ON_CONFLICT.get(call.mode)
    if on_conflict is None:
        raise InvalidRequest(f"mode is {call.mode!r}; it must be insert or upsert.")
    outcome = node.session().insert_rows(
        call.table, call.rows, on_conflict, settings=call.settings or None,
        request_id=_request_id(call),
    )  # fmt: skip
    failed = [{"row": f.row, "code": f.code, "detail": f.detail} for f in outcome.failed]
    return 200, {
        "rows": call.rows.num_rows,
        "inserted": outcome.inserted,
        "updated": outcome.updated,
        "failed": failed,
    }, None  # fmt: skip


def _get(node: Node, call: Call, started: float) -> Answer:
    if call.text in _ROUTES:
        return 200, _ROUTES[call.text](node), None
    prefix = "/v1/tables/"
    if not call.text.startswith(prefix):
        raise _for_a_node(call)
    found = find_table(node, unquote(call.text.removeprefix(prefix)))
    described_tables = describe_tables(node)
    return 200, next(t for t in described_tables if t["uuid"] == found.uuid), None


def _administer(node: Node, call: Call, started: float) -> Answer:
    raise _for_a_node(call)


def _for_a_node(call: Call) -> Unsupported:
    method = "GET" if call.kind == "get" else call.mode
    return Unsupported(
        f"{method} {call.text} is for a node that serves; here a directory is open in this "
        "process, and nobody is asked for a key. Start one with `nearql serve`, and give its URL."
    )


_ROUTES: Mapping[str, Callable[[Node], dict[str, Any]]] = {
    "/v1/cluster": lambda node: describe_cluster(node),
    "/v1/tables": lambda node: {"tables": describe_tables(node)},
    "/readyz": lambda node: {"status": "ready", "failed_tables": len(node.failed_tables())},
}
_KINDS: Mapping[str, Callable[[Node, Call, float], Answer]] = {
    "sql": _sql,
    "insert": _insert,
    "get": _get,
    "ask": _administer,
}


def _request_id(call: Call) -> bytes | None:
    if not call.request_id:
        return None
    return make_request_id(call.request_id.encode(), call.text.encode())


def _problem(error: NearQLError, call: Call) -> Answer:
    body = document(error, call.request_id or str(uuid.uuid4()))
    return error.http_status, body, None
