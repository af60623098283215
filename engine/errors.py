"""The one exception tree of NearQL.

    NearQLError
    ├── InvalidRequest            400  the request is wrong and will stay wrong
    │   ├── SqlError              400  SQL text, with the position of the mistake
    │   │   └── UndefinedColumn   400  no such column, with the nearest name
    │   ├── InvalidValue          400  a value does not fit its column or parameter
    │   └── Unsupported           400  understood, but not offered; names the alternative
    ├── Unauthenticated           401
    ├── Forbidden                 403
    ├── NotFound                  404  no such table, index, job
    ├── Conflict                  409  duplicate key, object exists, rolled-back session
    ├── TooLarge                  413  body, result, LIMIT beyond a setting
    ├── UnsupportedMediaType      415
    ├── Overloaded                429  queue full; retry after a while
    ├── Unavailable               503  no leader, not enough replicas, starting, stopping
    ├── StatementTimeout          504  the statement ran out of time
    │   └── WriteUnknown          504  a write's outcome is unknown
    ├── StorageFull               507  no space left; nothing was written
    ├── Corruption                500  stored data failed its checksum; it was set aside, not served
    └── InternalError             500  a bug of ours

Each class says whether the operation may have happened (`definite`: it certainly did not) and
whether the same request may succeed later (`retryable`). Errors are logged where they are
handled.
"""

from __future__ import annotations

from typing import Any, ClassVar


class NearQLError(Exception):
    """Base of every error that a user can meet.

    Args:
        detail: one sentence that names the thing, its place and the remedy.
        code: a stable machine-readable word; defaults to the class's own.
        position: 1-based character position in the SQL text, where there is one.
        extra: further machine-readable members of the problem document.
    """

    code: str = "internal_error"
    sqlstate: ClassVar[str] = "XX000"
    http_status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    definite: ClassVar[bool] = True
    retryable: ClassVar[bool] = False
    retry_after_s: ClassVar[int | None] = None

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        sqlstate: str | None = None,
        position: int | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        if code is not None:
            self.code = code
        self.sql_state = sqlstate or self.sqlstate
        self.position = position
        self.extra = extra


class InternalError(NearQLError):
    """A bug of ours; the message carries the request id to report."""

    definite = False


class InvalidRequest(NearQLError):
    """The request is wrong and will stay wrong."""

    code = "invalid_request"
    sqlstate = "22023"
    http_status = 400
    title = "Invalid request"


class SqlError(InvalidRequest):
    """Wrong SQL text."""

    code = "syntax_error"
    sqlstate = "42601"
    title = "SQL error"


class UndefinedColumn(SqlError):
    """A statement names a column that is not there: wrong SQL, where a missing table is a 404."""

    code = "undefined_column"
    sqlstate = "42703"
    title = "No such column"


class InvalidValue(InvalidRequest):
    """A value does not fit its column or parameter."""

    code = "invalid_value"
    sqlstate = "22000"
    title = "Invalid value"


class Unsupported(InvalidRequest):
    """Understood, but not offered; the detail names the alternative."""

    code = "unsupported"
    sqlstate = "0A000"
    title = "Not supported"


class Unauthenticated(NearQLError):
    """No credentials, or credentials that are not valid."""

    code = "unauthenticated"
    sqlstate = "28000"
    http_status = 401
    title = "Unauthenticated"


class Forbidden(NearQLError):
    """Valid credentials without the right to do this."""

    code = "forbidden"
    sqlstate = "42501"
    http_status = 403
    title = "Forbidden"


class NotFound(NearQLError):
    """No such table, index or job."""

    code = "not_found"
    sqlstate = "42P01"
    http_status = 404
    title = "Not found"


class Conflict(NearQLError):
    """Duplicate key, object that exists already, rolled-back session."""

    code = "conflict"
    sqlstate = "23505"
    http_status = 409
    title = "Conflict"


class TooLarge(NearQLError):
    """A body, result or LIMIT beyond its setting."""

    code = "too_large"
    sqlstate = "54000"
    http_status = 413
    title = "Too large"


class UnsupportedMediaType(NearQLError):
    """A body in a format that the route does not take."""

    code = "unsupported_media_type"
    sqlstate = "08P01"
    http_status = 415
    title = "Unsupported media type"


class Overloaded(NearQLError):
    """A bounded queue is full."""

    code = "overloaded"
    sqlstate = "53000"
    http_status = 429
    title = "Too many requests"
    retryable = True
    retry_after_s = 1


class Unavailable(NearQLError):
    """The node cannot do this now."""

    code = "unavailable"
    sqlstate = "57P03"
    http_status = 503
    title = "Unavailable"
    retryable = True
    retry_after_s = 1


class StatementTimeout(NearQLError):
    """The statement ran out of time; a read, or a write that certainly did not happen."""

    code = "statement_timeout"
    sqlstate = "57014"
    http_status = 504
    title = "Timeout"
    retryable = True


class WriteUnknown(StatementTimeout):
    """The wait for a write ended before its outcome was known."""

    code = "write_unknown"
    sqlstate = "08007"
    definite = False


class StorageFull(NearQLError):
    """No space left on the data directory's device; nothing was written."""

    code = "storage_full"
    sqlstate = "53100"
    http_status = 507
    title = "Insufficient storage"
    retryable = True


class Corruption(NearQLError):
    """Stored data failed its checksum; it was set aside, never served."""

    code = "corruption"
    sqlstate = "XX001"
    title = "Data corruption"
