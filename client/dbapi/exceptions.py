"""The exceptions of PEP 249, chosen by SQLSTATE.

Warning
Error
├── InterfaceError          used wrongly: a closed cursor, a parameter that can't be sent
└── DatabaseError
    ├── DataError           22  a value does not fit
    ├── OperationalError    08, 53, 57, 58, 28  no connection, no room, no time, no right
    ├── IntegrityError      23  a key twice, NULL where none may be
    ├── InternalError       XX  a bug of the node
    ├── ProgrammingError    42  wrong SQL, no such table
    └── NotSupportedError   0A  understood, but not offered
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nearql.client import errors


class Warning(Exception):
    """Important, but no error; never raised so far."""


class Error(Exception):
    """Base of the errors. sqlstate, code, request_id: as in `nearql.client.errors`, or None."""

    sqlstate: str | None = None
    code: str | None = None
    request_id: str | None = None


class InterfaceError(Error):
    """The interface is used wrongly; nothing was sent."""


class DatabaseError(Error):
    """The database says no, or nothing."""


class DataError(DatabaseError):
    """A value does not fit its column or parameter."""


class OperationalError(DatabaseError):
    """Not of the programmer's making: no connection, no room, no time, no right."""


class IntegrityError(DatabaseError):
    """A constraint would be broken."""


class InternalError(DatabaseError):
    """A bug of the node."""


class ProgrammingError(DatabaseError):
    """Wrong SQL, a table that is not there, a wrong number of parameters."""


class NotSupportedError(DatabaseError):
    """Understood, but not offered."""


_BY_SQLSTATE: dict[str, type[Error]] = {
    "02": ProgrammingError,
    "08": OperationalError,
    "0A": NotSupportedError,
    "22": DataError,
    "23": IntegrityError,
    "28": OperationalError,
    "3D": ProgrammingError,
    "3F": ProgrammingError,
    "40": OperationalError,
    "42": ProgrammingError,
    "53": OperationalError,
    "54": OperationalError,
    "57": OperationalError,
    "58": OperationalError,
    "XX": InternalError,
}


def class_of(error: errors.Error) -> type[Error]:
    """Which exception of PEP 249 an error of the client is."""
    if isinstance(error, errors.UsageError):
        return InterfaceError
    if isinstance(error, errors.NotFound):
        return ProgrammingError
    if isinstance(error, errors.InvalidRequest) and error.sqlstate == "08P01":
        return ProgrammingError  # a wrong number of parameters, not a broken connection
    return _BY_SQLSTATE.get((error.sqlstate or "")[:2], DatabaseError)


@contextmanager
def translated() -> Iterator[None]:
    """Raise the client's errors as PEP 249's; the original is their `__cause__`."""
    try:
        yield
    except errors.Error as error:
        raised = class_of(error)(error.detail)
        raised.sqlstate, raised.code = error.sqlstate, error.code
        raised.request_id = error.request_id
        raise raised from error
