"""Errors of the one tree, as bytes: what a handler raised is raised alike at the caller."""

from __future__ import annotations

from typing import Any

import msgpack

from nearql.engine import errors
from nearql.engine.errors import InternalError, NearQLError

_CLASSES: dict[str, type[NearQLError]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, NearQLError)
}
_PLAIN = (str, int, float, bool, type(None))


def pack_error(error: NearQLError) -> bytes:
    """The error as bytes; members of `extra` that are not plain are left out."""
    kind = next(name for base in type(error).__mro__ if (name := base.__name__) in _CLASSES)
    extra = {name: value for name, value in error.extra.items() if isinstance(value, _PLAIN)}
    members = {
        "kind": kind, "detail": error.detail, "code": error.code, "sqlstate": error.sql_state,
        "position": error.position, "extra": extra,
    }  # fmt: skip
    return msgpack.packb(members)  # type: ignore[no-any-return]


def unpack_error(data: bytes | memoryview) -> NearQLError:
    """What `pack_error` was given; an InternalError where the bytes are none."""
    try:
        found: dict[str, Any] = msgpack.unpackb(data)
        return _CLASSES[found["kind"]](
            str(found["detail"]),
            code=str(found["code"]),
            sqlstate=str(found["sqlstate"]),
            position=found["position"],
            **{str(name): value for name, value in found["extra"].items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError, msgpack.UnpackException) as error:
        return InternalError(f"Another node answered with an error that can't be read: {error!r}.")
