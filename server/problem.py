"""Errors on the wire: every failure is an RFC 9457 `application/problem+json` document.

    {"title": "SQL error", "status": 400, "detail": "...", "code": "syntax_error",
     "sqlstate": "42601", "position": 8, "request_id": "...", "definite": true, "retryable": false}

`definite: false` means that the operation may have happened. Members beyond these nine come from
the error's `extra`. What is not one of ours becomes a 500 that tells its request id and nothing
else.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.responses import Response

from nearql.engine.errors import (
    InternalError,
    InvalidRequest,
    NearQLError,
    NotFound,
    Unavailable,
)

MEDIA_TYPE = "application/problem+json"
_PARTS = frozenset({"rows_stored", "promoted_shards"})  # members that tell what was done before


class MethodNotAllowed(InvalidRequest):
    """The route exists, and does not take this method; `Allow` lists those it takes."""

    code = "method_not_allowed"
    sqlstate = "0A000"
    http_status = 405
    title = "Method not allowed"


def document(error: NearQLError, request_id: str) -> dict[str, Any]:
    """The members of the problem document; `extra` never replaces one of the nine."""
    return {
        **error.extra,
        "title": error.title,
        "status": error.http_status,
        "detail": error.detail,
        "code": error.code,
        "sqlstate": error.sql_state,
        "position": error.position,
        "request_id": request_id,
        # What failed half-way did happen in part.
        "definite": error.definite and not _PARTS & error.extra.keys(),
        "retryable": error.retryable,
    }


def problem_response(
    error: NearQLError, request_id: str, headers: Mapping[str, str] | None = None
) -> Response:
    """The answer that tells an error, with `Retry-After` where waiting helps."""
    sent = dict(headers or {})
    if error.retry_after_s is not None:
        sent["Retry-After"] = str(error.retry_after_s)
    if error.http_status == HTTPStatus.UNAUTHORIZED:
        sent["WWW-Authenticate"] = "Bearer"
    body = orjson.dumps(document(error, request_id), default=str, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, error.http_status, sent, MEDIA_TYPE)


def from_http(error: HTTPException, method: str, path: str) -> NearQLError:
    """What the router refused (no route, wrong method), as one of ours."""
    if error.status_code == HTTPStatus.NOT_FOUND:
        return NotFound(
            f"There is no route {method} {path}; /openapi.json lists all.",
            code="no_such_route",
            sqlstate="02000",
        )
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "")
        return MethodNotAllowed(f"{path} takes {allowed}, not {method}.")
    return InvalidRequest(str(error.detail))


def from_unexpected(error: BaseException) -> NearQLError:
    """A 500 (503 where memory ran out) that shows nothing of the inside."""
    if isinstance(error, MemoryError):
        return Unavailable(
            "This request needs more memory than is free on the node; nothing was changed by it "
            "after that point. Ask for less, or retry later.",
            code="out_of_memory",
            sqlstate="53200",
        )
    return InternalError(
        "The server failed on this request. Report the request id; the log has the details."
    )
