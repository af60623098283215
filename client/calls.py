"""What a connection can do, written once: generators that yield calls and are sent their answers.

`Connection` runs them on a transport's blocking form, `AsyncConnection` on its asyncio form. Their
signatures and docstrings are the public API.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from nearql.client.checks import (
    check_choice,
    check_count,
    check_settings,
    check_table,
    check_text,
)
from nearql.client.errors import RowsFailed, UsageError, from_problem
from nearql.client.flight import IN_FLIGHT, overlapped
from nearql.client.loader import BATCH_BYTES, InsertReport, source_of
from nearql.client.network import Step, Steps
from nearql.client.parameters import encode_parameters
from nearql.client.progress import Advance, progress_bar
from nearql.client.result import Result
from nearql.client.session import SessionTokens
from nearql.client.statements import nature_of, split
from nearql.client.stream import BatchStream
from nearql.client.transport import Answer, Call, Transport

if TYPE_CHECKING:
    import pyarrow as pa

FAILED_ROWS_SHOWN = 3
SESSION_ENDS = frozenset({"rolled_back_session", "invalid_session"})  # the next call begins another


class Caller:
    """State of a connection: transport, settings, the numbers of requests, the session."""

    def __init__(self, transport: Transport, settings: Mapping[str, Any] | None = None) -> None:
        self.transport = transport
        self.settings: dict[str, Any] = dict(settings or {})
        self.seen = SessionTokens()  # what its next read must show at least
        self.closed = False
        self._uuid = uuid.uuid4()
        self._numbers = itertools.count(1)

    def __repr__(self) -> str:
        state = "closed, " if self.closed else ""
        return f"<{type(self).__name__} {state}{self.transport.name}>"

    def next_request_id(self) -> str:
        """A request id that was never used: `<uuid>:<number>`."""
        return f"{self._uuid}:{next(self._numbers)}"

    def run(self, steps: Steps[Any]) -> Any:
        """Do an operation's calls and return its value; a coroutine on an asyncio connection."""
        raise NotImplementedError

    def check_open(self) -> None:
        """Raises UsageError on a closed connection."""
        if self.closed:
            raise UsageError("This connection is closed; open another with nearql.connect(...).")


def sql(self: Caller, text: str, /, *values: Any, **parameters: Any) -> Steps[Result]:
    """Run a statement with `:name` parameters by keyword, or `$1` and `?` by position.

        db.sql("SELECT id FROM docs ORDER BY vec <-> :q LIMIT 5", q=vector)
        db.sql("SELECT title FROM docs WHERE id = $1", 7)

    Raises:
        ServerError: one of its classes, see `nearql.client.errors`.
        ConnectionFailed, OutcomeUnknown: no answer.
        UsageError: a parameter that can't be sent, or both kinds at once.
    """
    if values and parameters:
        raise UsageError("Give parameters by name or by position, not both in one statement.")
    return (yield from execute(self, text, values or parameters))


def execute(
    self: Caller,
    text: str,
    params: Mapping[str, Any] | Sequence[Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Steps[Result]:
    """Run one statement or several (`;`), and return the last one's result.

    Args:
        params: a dict for `:name`, a list for `$1` and `?`.
        settings: for this call, as in `{"target_recall": 0.95}`; see SHOW SETTINGS.

    Raises:
        As `sql`.
    """
    _, body, table = yield from _ask(self, _statement(self, text, params, settings))
    return Result(table, body, lambda again: self.run(explain(self, text, params, settings, again)))


def stream(
    self: Caller,
    text: str,
    params: Mapping[str, Any] | Sequence[Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Steps[BatchStream]:
    """As `execute`, but the rows come as Arrow batches while they arrive; memory stays bounded.

        with db.stream("SELECT id, vec FROM docs") as batches:
            for batch in batches: ...

    It holds a network connection of its own until it is read or closed.

    Raises:
        As `sql`; and while it is read, ConnectionFailed where the answer breaks off.
    """
    call = _statement(self, text, params, settings)
    status, body, batches = yield Step("stream", (call,))
    _accept(self, call, status, body)
    return BatchStream(batches, body)


def explain(
    self: Caller,
    text: str,
    params: Mapping[str, Any] | Sequence[Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    analyze: bool = False,
) -> Steps[str]:
    """How a statement is run, as text; with `analyze`, what running it took.

    Raises:
        UsageError: several statements, or a write to be measured, which would happen.
        As `sql`.
    """
    check_text("A statement", text)
    statements, rest = split(text)
    every = [each for each in (*statements, rest) if each]
    if len(every) != 1:
        raise UsageError(f"A plan is of one statement, and here are {len(every)}.")
    if analyze and nature_of(every[0]).writes:
        raise UsageError("To measure a write is to do it; run EXPLAIN ANALYZE yourself.")
    asked = f"EXPLAIN {'ANALYZE ' if analyze else ''}{every[0]}"
    _, _, table = yield from _ask(self, _statement(self, asked, params, settings))
    assert table is not None
    return "\n".join(map(str, table.column(0).to_pylist()))


def _statement(
    self: Caller,
    text: str,
    params: Mapping[str, Any] | Sequence[Any] | None,
    settings: Mapping[str, Any] | None,
) -> Call:
    self.check_open()
    check_text("A statement", text)
    nature = nature_of(text)
    return Call(
        kind="sql",
        text=text,
        parameters=encode_parameters(params),
        settings={**self.settings, **check_settings(settings)},
        request_id=self.next_request_id(),
        session=self.seen.text,
        repeatable=nature.repeatable,
        writes=nature.writes,
    )


def insert(
    self: Caller,
    table: str,
    data: Any,
    mode: Literal["insert", "upsert"] = "insert",
    *,
    progress: bool = False,
    batch_bytes: int = BATCH_BYTES,
    errors: Literal["raise", "report"] = "raise",
    write_concern: str | int | None = None,
    in_flight: int | None = None,
    total: int | None = None,
) -> Steps[InsertReport]:
    """Store many rows, batch by batch; a batch whose answer is lost is sent again and counts once.

    The next batch is made while one is under way. Rows of an upsert arrive in order, so that of two
    with the same key the later one stays.

    Args:
        data: Arrow table, batches or reader; pandas or polars frame; dict of columns (a NumPy array
            of shape (n, d) is a vector column); or an iterable of dicts, dataclasses or batches.
        mode: "upsert" replaces rows of the same key, "insert" reports them as failed.
        progress: draw a progress bar on stderr, if it is a terminal.
        batch_bytes: bytes of Arrow data in one request.
        errors: "raise" raises RowsFailed at the end if rows were refused; "report" only lists them.
        write_concern: one, majority, all, or a number of copies.
        in_flight: requests under way at once: 2, or 1 for an upsert. With more than 1 batches may
            be stored out of order, and which one of two rows with the same key is refused is open.
        total: rows in `data`, for the progress bar, where it can't tell itself.

    Returns:
        InsertReport: rows, inserted, updated, failed (row numbers from 0 in `data`), rows_per_s.

    Raises:
        RowsFailed: some rows were refused; the others are stored.
        As `sql`; a note says how many rows are stored.
    """
    self.check_open()
    check_table(table)
    check_choice("mode", mode, ("insert", "upsert"))
    check_choice("errors", errors, ("raise", "report"))
    check_count("batch_bytes", batch_bytes)
    limit = (1 if mode == "upsert" else IN_FLIGHT) if in_flight is None else in_flight
    check_count("in_flight", limit)
    settings = {} if write_concern is None else {"write_concern": str(write_concern)}
    source, report = source_of(data), InsertReport()
    calls = (
        _batch_call(self, table, batch, mode=mode, settings=settings)
        for batch in source.batches(batch_bytes)
    )
    with progress_bar(f"into {table}", source.rows or total, shown=progress) as advance:
        yield from _insert_all(self, calls, report, limit, advance)
    if report.failed_count and errors == "raise":
        raise RowsFailed(_describe(report, table), report)
    return report


def _insert_all(
    self: Caller, calls: Iterable[Call], report: InsertReport, limit: int, advance: Advance
) -> Steps[None]:
    """Send every batch, and count what became of it in the report."""
    started, stored_besides = time.perf_counter(), 0

    def landed(call: Call, answer: Answer) -> None:
        status, body, _ = answer
        _accept(self, call, status, body)
        assert call.rows is not None
        report.add(call.rows.num_rows, body)
        report.seconds = time.perf_counter() - started
        advance(call.rows.num_rows)

    def settled(answer: Answer) -> None:
        nonlocal stored_besides
        stored_besides += answer[1].get("inserted", 0) + answer[1].get("updated", 0)

    try:
        yield from overlapped(calls, landed, settled, limit)
    except Exception as error:
        stored = report.inserted + report.updated + stored_besides
        error.add_note(f"{stored} rows of this insert are stored.")
        raise


def send_batch(
    self: Caller,
    table: str,
    rows: pa.Table,
    *,
    mode: str,
    settings: dict[str, Any] | None = None,
    request_id: str | None = None,
) -> Steps[dict[str, Any]]:
    """Store one batch under a request id, a new one unless it is given; answers the counts."""
    call = _batch_call(self, table, rows, mode=mode, settings=settings, request_id=request_id)
    _, body, _ = yield from _ask(self, call)
    return body


def _batch_call(
    self: Caller,
    table: str,
    rows: pa.Table,
    *,
    mode: str,
    settings: dict[str, Any] | None = None,
    request_id: str | None = None,
) -> Call:
    return Call(
        kind="insert",
        table=table,
        rows=rows,
        mode=mode,
        settings=settings or {},
        request_id=request_id or self.next_request_id(),
        session=self.seen.text,
        writes=True,
    )


def tables(self: Caller) -> Steps[list[dict[str, Any]]]:
    """Every table: name, columns, rows, bytes, as `GET /v1/tables` tells them."""
    body = yield from get(self, "/v1/tables")
    found: list[dict[str, Any]] = body["tables"]
    return found


def table(self: Caller, name: str) -> Steps[dict[str, Any]]:
    """One table: schema, rows, bytes, indexes. Raises NotFound."""
    check_table(name)
    return (yield from get(self, f"/v1/tables/{quote(name, safe='')}"))


def health(self: Caller) -> Steps[dict[str, Any]]:
    """Whether the node serves: `{"ready": True, ...}`; not ready is an answer, not an error."""
    self.check_open()
    status, body, _ = yield Step("call", (Call(kind="get", text="/readyz"),))
    return {"ready": status == 200, **body}


def get(self: Caller, route: str) -> Steps[dict[str, Any]]:
    """What a route answers to GET."""
    self.check_open()
    _, body, _ = yield from _ask(self, Call(kind="get", text=route, session=self.seen.text))
    return body


def ask(
    self: Caller, method: str, route: str, members: dict[str, Any] | None = None
) -> Steps[dict[str, Any]]:
    """What a route answers to another method; never sent twice."""
    self.check_open()
    call = Call(kind="ask", mode=method, text=route, parameters=members, repeatable=False)
    _, body, _ = yield from _ask(self, call)
    return body


def _ask(self: Caller, call: Call) -> Steps[Answer]:
    answer: Answer = yield Step("call", (call,))
    _accept(self, call, *answer[:2])
    return answer


def _accept(self: Caller, call: Call, status: int, body: Mapping[str, Any]) -> None:
    """Raise an answer that is a problem; of another, keep the session."""
    if status >= 400:
        if body.get("code") in SESSION_ENDS:
            self.seen.forget()
        raise from_problem(body)
    self.seen.answered(call.session, body.get("stats", {}).get("session"))


def _describe(report: InsertReport, table: str) -> str:
    shown = [f"row {f.row}: {f.detail.rstrip('.')}" for f in report.failed[:FAILED_ROWS_SHOWN]]
    more = report.failed_count - len(shown)
    tail = f" ... and {more} more" if more else ""
    stored = report.inserted + report.updated
    return (
        f"{report.failed_count} of {report.rows} rows were refused by {table}, {stored} stored: "
        + "; ".join(shown)
        + tail
    )
