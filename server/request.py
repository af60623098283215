"""Reading requests: bodies within their limits, JSON with the place of a mistake, our headers.

Everything here raises errors of `engine.errors` that name the thing and its place.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa
from crc32c import crc32c
from starlette.requests import ClientDisconnect, Request

from nearql.engine.errors import InvalidRequest, InvalidValue, TooLarge, UnsupportedMediaType
from nearql.engine.request_id import make_request_id

REQUEST_ID_HEADER = "NearQL-Request-Id"
_REQUEST_ID = re.compile(
    r"([0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}):(\d{1,19})"
)
_SQL_KEYS = ("sql", "params", "settings")


@dataclass(frozen=True, slots=True)
class SqlRequest:
    """The body of `POST /v1/sql`."""

    sql: str
    params: Mapping[str, Any] | Sequence[Any] | None
    settings: Mapping[str, Any] | None


def media_type(request: Request) -> str:
    """The body's media type without parameters, lower-case; empty where none is given."""
    return bare_media_type(request.headers.get("content-type", ""))


def bare_media_type(content_type: str) -> str:
    """A media type without its parameters, lower-case."""
    return content_type.partition(";")[0].strip().lower()


def request_id_of(request: Request, content: bytes = b"") -> bytes | None:
    """16 bytes that stand for `NearQL-Request-Id: <uuid>:<seq>` and what is asked under it; None
    without the header.

    Raises:
        InvalidRequest: the header does not have that form.
    """
    text = request.headers.get(REQUEST_ID_HEADER)
    if text is None:
        return None
    match = _REQUEST_ID.fullmatch(text.strip())
    if match is None:
        raise InvalidRequest(
            f"The header {REQUEST_ID_HEADER} must be <uuid>:<number>, as in "
            f"6f1c2f0e-6f0c-4c5e-9d0e-2f6a1b3c4d5e:1; it is {text[:80]!r}.",
            code="invalid_request_id",
        )
    canonical = f"{match[1].replace('-', '').lower()}:{int(match[2])}"
    return make_request_id(canonical.encode(), fingerprint(content))


def is_request_id(text: str) -> bool:
    """Whether this is what `NearQL-Request-Id` takes."""
    return _REQUEST_ID.fullmatch(text.strip()) is not None


def fingerprint(content: bytes | pa.Buffer) -> bytes:
    """Tells bodies apart that were sent under one id; for large ones it is faster than a digest."""
    return b"%d:%d" % (memoryview(content).nbytes, crc32c(content))


def check_length(request: Request, limit: int, setting: str) -> None:
    """Refuse a body whose Content-Length alone says that it is too large."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise body_too_large(limit, setting, f"{int(length)} bytes are announced")


def body_too_large(limit: int, setting: str, found: str) -> TooLarge:
    """The 413 that every route answers for its body."""
    return TooLarge(
        f"The body is larger than {limit} bytes ({setting}): {found}. Send it in parts, or raise "
        "the setting.",
        code="body_too_large",
    )


async def body_chunks(request: Request) -> AsyncIterator[bytes]:
    """The body as it arrives.

    Raises:
        InvalidRequest: code `incomplete_body`; the client went away before its end.
    """
    received = 0
    try:
        async for chunk in request.stream():
            received += len(chunk)
            if chunk:
                yield chunk
    except ClientDisconnect as error:
        raise InvalidRequest(
            f"The connection ended after {received} bytes of an unfinished body; nothing was "
            "stored.",
            code="incomplete_body",
        ) from error


def parse_sql_request(body: bytes, content_type: str) -> SqlRequest:
    """The body of `POST /v1/sql`, every part's type checked.

    Raises:
        UnsupportedMediaType: it says that it is not JSON.
        InvalidRequest: names the byte or the member that is wrong.
    """
    if content_type not in ("", "application/json"):
        raise UnsupportedMediaType(
            f"/v1/sql takes application/json, not {content_type}; "
            "send the header 'Content-Type: application/json'."
        )
    content = parse_json(body)
    if not isinstance(content, dict):
        raise InvalidRequest(
            f'The body must be a JSON object such as {{"sql": "SELECT 1"}}, not {_kind(content)}.'
        )
    _check_keys(content)
    sql = content.get("sql")
    if not isinstance(sql, str):
        what = "is missing" if "sql" not in content else f"must be a string, not {_kind(sql)}"
        raise InvalidRequest(
            f'"sql" {what}: send {{"sql": "SELECT 1"}}.', code="invalid_sql_member"
        )
    return SqlRequest(sql, _params(content.get("params")), _settings(content.get("settings")))


def parse_json(body: bytes) -> Any:
    """The JSON value of a UTF-8 body.

    Raises:
        InvalidRequest: code `invalid_json`, extra `offset`: the byte (0-based) of the mistake.
    """
    if not body.strip():
        raise InvalidRequest(
            'The body is empty; send JSON such as {"sql": "SELECT 1"}.',
            code="invalid_json",
            offset=0,
        )
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _json_error(body, error) from None


def _json_error(body: bytes, error: orjson.JSONDecodeError) -> InvalidRequest:
    try:
        text = body.decode()
    except UnicodeDecodeError as wrong:
        return InvalidRequest(
            f"The body is not UTF-8: byte 0x{body[wrong.start]:02x} at offset {wrong.start}.",
            code="invalid_json",
            offset=wrong.start,
        )
    offset = len(text[: error.pos].encode())  # orjson counts characters
    return InvalidRequest(
        f"The body is not valid JSON: {error.msg} at byte offset {offset}.",
        code="invalid_json",
        offset=offset,
    )


def _check_keys(content: dict[str, Any]) -> None:
    for key in content:
        if key not in _SQL_KEYS:
            close = difflib.get_close_matches(key, _SQL_KEYS, n=1, cutoff=0.4)
            hint = f'did you mean "{close[0]}"?' if close else "known are sql, params, settings."
            raise InvalidRequest(
                f'Unknown member "{key[:80]}" in the body; {hint}', code="unknown_member"
            )


def _params(params: Any) -> Mapping[str, Any] | Sequence[Any] | None:
    if params is None or isinstance(params, dict | list):
        return params
    raise InvalidRequest(
        '"params" must be an object for :name parameters or a list for $1, $2, not '
        f"{_kind(params)}.",
        code="invalid_params_member",
    )


def _settings(settings: Any) -> Mapping[str, Any] | None:
    if settings is not None and not isinstance(settings, dict):
        raise InvalidRequest(
            f'"settings" must be an object such as {{"statement_timeout_ms": 1000}}, not '
            f"{_kind(settings)}.",
            code="invalid_settings_member",
        )
    for name, value in (settings or {}).items():
        if not isinstance(value, str | int | float | bool | None):
            raise InvalidValue(
                f'The setting "{name[:80]}" must be a string, number or boolean, '
                f"not {_kind(value)}."
            )
    return settings


def _kind(value: Any) -> str:
    """What JSON calls the value's type."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")
