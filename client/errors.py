"""The client's exceptions: what can go wrong between a call and its answer.

    Error
    ├── ServerError               the node answered with a problem; the class follows its `code`
    │   ├── InvalidRequest        400  the request is wrong and will stay wrong
    │   │   ├── SqlError          400  wrong SQL, with the position
    │   │   │   └── UndefinedColumn
    │   │   ├── InvalidValue      400  a value does not fit its column or parameter
    │   │   └── Unsupported       400  understood, but not offered
    │   ├── Unauthenticated       401
    │   ├── Forbidden             403
    │   ├── NotFound              404
    │   ├── Conflict              409
    │   ├── TooLarge              413
    │   ├── UnsupportedMediaType  415
    │   ├── Overloaded            429
    │   ├── Unavailable           503
    │   ├── StatementTimeout      504
    │   │   └── WriteUnknown      504  the node does not know whether the write happened
    │   ├── StorageFull           507
    │   ├── Corruption            500
    │   └── InternalError         500
    ├── ConnectionFailed          no node could be reached, or none answered a read
    ├── OutcomeUnknown            the connection broke after a write was sent
    ├── ProtocolError             something answered, but not as NearQL
    │   └── VersionMismatch       a NearQL whose version this client doesn't speak
    ├── RowsFailed                an insert stored some rows and not others; `.report` lists them
    └── UsageError                the call itself is wrong; nothing was sent

`definite` says that the operation certainly did not happen, `retryable` that the same call may
succeed later. The classes are the client's own: it doesn't import the engine's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nearql.client.loader import InsertReport


class Error(Exception):
    """Base of everything that the client raises.

    Attributes: detail (one sentence with the remedy), code, sqlstate, status (HTTP, None without an
    answer), position (1-based, in the SQL text), request_id, definite, retryable, extra.
    """

    code = "client_error"
    definite = True
    retryable = False
    sqlstate: str | None = None
    status: int | None = None
    position: int | None = None

    def __init__(self, detail: str, *, request_id: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.request_id = request_id
        self.extra: dict[str, Any] = {}


class UsageError(Error, ValueError):
    """The call itself is wrong; nothing was sent."""

    code = "usage"
    sqlstate = "22023"


class ConnectionFailed(Error, ConnectionError):
    """No node could be reached: the detail names the address, what was tried and the remedy."""

    code = "connection_failed"
    sqlstate = "08001"
    retryable = True


class OutcomeUnknown(Error):
    """The connection broke after a write was sent; repeating it was not safe or did not help.

    `request_id` is the one to look for, or to repeat the same call with.
    """

    code = "outcome_unknown"
    sqlstate = "08007"
    definite = False


class ProtocolError(Error):
    """Something answered at this address, but not as NearQL."""

    code = "protocol_error"
    sqlstate = "08P01"
    definite = False


class VersionMismatch(ProtocolError):
    """The node is a NearQL whose version this client doesn't speak."""

    code = "version_mismatch"


class RowsFailed(Error):
    """Some rows of an insert were refused, the others are stored; `report.failed` lists them."""

    code = "rows_failed"
    sqlstate = "22000"

    def __init__(self, detail: str, report: InsertReport) -> None:
        super().__init__(detail)
        self.report = report


class ServerError(Error):
    """The node answered with a problem document (RFC 9457)."""

    code = "internal_error"

    def __init__(self, problem: Mapping[str, Any]) -> None:
        detail = str(problem.get("detail") or problem.get("title") or "The node gave no reason.")
        super().__init__(detail, request_id=problem.get("request_id"))
        self.code = problem.get("code", self.code)
        self.sqlstate = problem.get("sqlstate")
        self.status = problem.get("status")
        self.position = problem.get("position")
        self.definite = bool(problem.get("definite", True))
        self.retryable = bool(problem.get("retryable", False))
        self.extra = {k: v for k, v in problem.items() if k not in _KNOWN}


_KNOWN = frozenset(
    ["type", "title", "status", "detail", "code", "sqlstate", "position", "request_id"]
    + ["definite", "retryable"]
)


class InvalidRequest(ServerError, ValueError):
    """The request is wrong and will stay wrong."""


class SqlError(InvalidRequest):
    """Wrong SQL text; `position` is where."""


class UndefinedColumn(SqlError):
    """A statement names a column that is not there."""


class InvalidValue(InvalidRequest):
    """A value does not fit its column or parameter."""


class Unsupported(InvalidRequest):
    """Understood, but not offered; the detail names the alternative."""


class Unauthenticated(ServerError, PermissionError):
    """No credentials, or credentials that are not valid."""


class Forbidden(ServerError, PermissionError):
    """Valid credentials without the right to do this."""


class NotFound(ServerError, LookupError):
    """No such table, index or job."""


class Conflict(ServerError):
    """Duplicate key, object that exists already, rolled-back session."""


class TooLarge(ServerError):
    """A body, result or LIMIT beyond its setting."""


class UnsupportedMediaType(ServerError):
    """A body in a format that the route does not take."""


class Overloaded(ServerError):
    """A bounded queue of the node is full."""


class Unavailable(ServerError):
    """The node cannot do this now."""


class StatementTimeout(ServerError, TimeoutError):
    """The statement ran out of time."""


class WriteUnknown(StatementTimeout):
    """The node stopped waiting before it knew the write's outcome."""


class StorageFull(ServerError):
    """No space left on the node; nothing was written."""


class Corruption(ServerError):
    """Stored data failed its checksum; it was set aside, never served."""


class InternalError(ServerError):
    """A bug of the node; `request_id` is what to report."""


_BY_CODE: dict[str, type[ServerError]] = {
    "invalid_request": InvalidRequest,
    "syntax_error": SqlError,
    "undefined_column": UndefinedColumn,
    "invalid_value": InvalidValue,
    "unsupported": Unsupported,
    "statement_timeout": StatementTimeout,
    "write_unknown": WriteUnknown,
    "storage_full": StorageFull,
    "corruption": Corruption,
    "internal_error": InternalError,
}
_BY_STATUS: dict[int, type[ServerError]] = {
    400: InvalidRequest,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    415: UnsupportedMediaType,
    429: Overloaded,
    500: InternalError,
    503: Unavailable,
    504: StatementTimeout,
    507: StorageFull,
}
# A 400 with a code this client doesn't know is classified by its SQLSTATE's class.
_BY_SQLSTATE = {"42": SqlError, "22": InvalidValue, "0A": Unsupported}


def from_problem(problem: Mapping[str, Any]) -> ServerError:
    """The exception for a problem document: by `code`, else by SQLSTATE and status."""
    return class_of(problem)(problem)


def class_of(problem: Mapping[str, Any]) -> type[ServerError]:
    """Which class a problem document is raised as; `ServerError` where nothing fits."""
    status = problem.get("status", 500)
    found = _BY_CODE.get(problem.get("code", ""))
    if found is None and status == 400:
        found = _BY_SQLSTATE.get(str(problem.get("sqlstate", ""))[:2])
    if found is None and status == 504 and not problem.get("definite", True):
        found = WriteUnknown
    return found or _BY_STATUS.get(status, ServerError)
