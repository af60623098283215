"""HTTP requests from calls, and answers from HTTP responses: 1-product 4 as bytes.

Answers of `/v1/sql` are always asked for as an Arrow stream: it keeps what JSON has not (NaN,
dates, decimals, blobs), and 10 rows cost 6 us to decode where JSON costs 1 us, so a second form for
small answers would not pay. What the JSON body says besides the rows is in the schema's metadata
under `nearql`, the SQL types in the fields' under `nearql.type`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import orjson

from nearql.client.errors import ProtocolError, UsageError, VersionMismatch
from nearql.client.transport import Answer, Call

if TYPE_CHECKING:
    import pyarrow as pa

    from nearql.client.http_stream import HttpBatches

ARROW = "application/vnd.apache.arrow.stream"
JSON = "application/json"
PROBLEM = "application/problem+json"
METADATA_KEY = b"nearql"


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request without its address. target: path and query."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes | memoryview = b""


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response. headers: lower-case names; batches: a body that is read later."""

    status: int
    headers: dict[str, str]
    body: bytes
    batches: HttpBatches | None = None


def encode(call: Call) -> Request:
    """The request that does a call."""
    return _ENCODERS[call.kind](call)


def _encode_sql(call: Call) -> Request:
    body: dict[str, Any] = {"sql": call.text}
    if call.parameters is not None:
        body["params"] = call.parameters
    if call.settings:
        body["settings"] = call.settings
    headers = (("content-type", JSON), ("accept", f"{ARROW}, {PROBLEM}"), *_identity(call))
    return Request("POST", "/v1/sql", headers, _json_bytes(body))


def _encode_insert(call: Call) -> Request:
    assert call.rows is not None
    query = urlencode({"mode": call.mode, **call.settings})
    headers = (("content-type", ARROW), ("accept", f"{JSON}, {PROBLEM}"), *_identity(call))
    target = f"/v1/tables/{quote(call.table, safe='')}/rows?{query}"
    return Request("POST", target, headers, to_arrow_stream(call.rows))


def _encode_get(call: Call) -> Request:
    return Request("GET", call.text, (("accept", f"{JSON}, {PROBLEM}"), *_identity(call)))


def _encode_ask(call: Call) -> Request:
    headers = (("content-type", JSON), ("accept", f"{JSON}, {PROBLEM}"), *_identity(call))
    body = b"" if call.parameters is None else _json_bytes(call.parameters)
    return Request(call.mode, call.text, headers, body)


def _json_bytes(body: Any) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError as error:  # half of a surrogate pair is in Python's text, and in no other
        raise UsageError(f"The call can't be sent as JSON: {error}.") from error


_ENCODERS: dict[str, Callable[[Call], Request]] = {
    "sql": _encode_sql,
    "insert": _encode_insert,
    "get": _encode_get,
    "ask": _encode_ask,
}


def _identity(call: Call) -> list[tuple[str, str]]:
    headers = [("nearql-request-id", call.request_id)] if call.request_id else []
    return [*headers, ("nearql-session", call.session)] if call.session else headers


def to_arrow_stream(table: pa.Table) -> memoryview:
    """The table as an Arrow IPC stream, without a copy of the result."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return memoryview(sink.getvalue())


def decode(call: Call, response: Response, place: str) -> Answer:
    """The answer in a response.

    Raises:
        ProtocolError: what answered at `place` is no NearQL, or one that this client can't read.
    """
    kind = _media_type(response)
    if response.status >= 400:
        return _decode_problem(call, response, kind, place)
    if kind == ARROW:
        return _decode_arrow(response, place)
    if kind == JSON and call.kind != "sql":
        return response.status, _with_session(response, _json(response, place)), None
    raise _not_nearql(response, kind, place)


def decode_stream(
    call: Call, response: Response, place: str
) -> tuple[int, dict[str, Any], HttpBatches | None]:
    """The answer in a response whose batches are still to come. Raises as `decode`."""
    if response.batches is None:
        status, body, table = decode(call, response, place)
        assert table is None  # an Arrow answer comes as batches
        return status, body, None
    try:
        body = orjson.loads((response.batches.schema.metadata or {})[METADATA_KEY])
    except (KeyError, orjson.JSONDecodeError) as error:
        response.batches.close()
        raise _mismatch(response, f"its Arrow answer is not understood ({error})", place) from error
    return response.status, body, response.batches


def is_arrow(response: Response) -> bool:
    """Whether a response's body is rows."""
    return response.status == 200 and _media_type(response) == ARROW


def _media_type(response: Response) -> str:
    return response.headers.get("content-type", "").split(";")[0].strip().lower()


def _decode_problem(call: Call, response: Response, kind: str, place: str) -> Answer:
    if kind not in (PROBLEM, JSON):
        if call.text == "/readyz":
            return response.status, {"detail": response.body.decode("utf-8", "replace")}, None
        raise _not_nearql(response, kind, place)
    body = _json(response, place)
    if call.kind != "get" and "code" not in body:
        raise _not_nearql(response, kind, place)
    body.setdefault("status", response.status)
    if "retry-after" in response.headers:
        body.setdefault("retry_after", response.headers["retry-after"])
    return response.status, body, None


def _decode_arrow(response: Response, place: str) -> Answer:
    import pyarrow as pa

    try:
        table = pa.ipc.open_stream(response.body).read_all()
        body = orjson.loads((table.schema.metadata or {})[METADATA_KEY])
    except (pa.lib.ArrowException, OSError, KeyError, orjson.JSONDecodeError) as error:
        raise _mismatch(response, f"its Arrow answer is not understood ({error})", place) from error
    return response.status, body, table


def _with_session(response: Response, body: dict[str, Any]) -> dict[str, Any]:
    """Stored rows are answered with the session's token as a header."""
    token = response.headers.get("nearql-session")
    return {**body, "stats": {"session": token}} if token else body


def _json(response: Response, place: str) -> dict[str, Any]:
    try:
        body = orjson.loads(response.body)
    except orjson.JSONDecodeError as error:
        raise _mismatch(response, f"its JSON is broken ({error})", place) from error
    return body if isinstance(body, dict) else {"value": body}


def _not_nearql(response: Response, kind: str, place: str) -> ProtocolError:
    what = f"status {response.status}, {kind or 'no content type'}"
    return _mismatch(response, f"it answered with {what}", place)


def _mismatch(response: Response, what: str, place: str) -> ProtocolError:
    version = response.headers.get("nearql-version")
    if version is not None:
        from importlib.metadata import version as version_of

        ours = version_of("nearql")
        return VersionMismatch(
            f"{place} is NearQL {version}, this client is {ours}: {what}. "
            "Use the client of the server's version: pip install nearql==" + version
        )
    return ProtocolError(
        f"{place} does not talk like a NearQL node: {what}. "
        "Check the address and the port (NearQL's is 8470)."
    )
