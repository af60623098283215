"""Small JSON bodies of the routes that administer: read whole, every member known and typed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from nearql.engine.errors import InvalidRequest, InvalidValue, UnsupportedMediaType
from nearql.server.body import BodyLimit, read_body
from nearql.server.request import media_type, parse_json

BODY = BodyLimit(64 << 10, "64 KiB for this route", 20, 64 << 10)
MOST_SECONDS = 315_360_000  # ten years
_NAMES = {str: "a string", int: "a whole number", list: "a list of strings", bool: "true or false"}


async def read_members(
    request: Request, known: Mapping[str, type], *, nulls: bool = True
) -> dict[str, Any]:
    """The members of a JSON object; an empty body has none. nulls: null is as if left out.

    Raises:
        InvalidRequest: no object, or a member that is not known. InvalidValue: one of a wrong type.
    """
    kind = media_type(request)
    if kind not in ("", "application/json"):
        raise UnsupportedMediaType(f"This route takes application/json, not {kind[:80]}.")
    body = await read_body(request, BODY)
    content = parse_json(body) if body.strip() else {}
    if not isinstance(content, dict):
        raise InvalidRequest("The body must be a JSON object.")
    for name, value in content.items():
        if name not in known:
            raise InvalidRequest(
                f'Unknown member "{name[:80]}"; known are {", ".join(known)}.',
                code="unknown_member",
            )
        if value is not None or not nulls:
            _check(name, value, known[name])
    return {name: value for name, value in content.items() if value is not None}


def _check(name: str, value: Any, kind: type) -> None:
    is_right = isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
    if kind is list:
        is_right = is_right and all(isinstance(item, str) for item in value)
    if not is_right:
        raise InvalidValue(f'"{name}" must be {_NAMES[kind]}.')


def bounded(members: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
    """A whole number within its range, None where it is not given."""
    value: int | None = members.get(name)
    if value is not None and not low <= value <= high:
        raise InvalidValue(f'"{name}" must be {low} to {high}.')
    return value
