"""Arguments that can't be right, refused before anything is sent, with what would be right."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nearql.client.errors import UsageError

_COUNTS = {"retries": 0, "max_connections": 1}  # the least of each
_SECONDS = ("timeout", "connect_timeout")


def check_options(token: object, options: Mapping[str, Any]) -> None:
    """Raises UsageError for an option of `connect` that can't be."""
    if token is not None and not isinstance(token, str):
        raise UsageError(f"token is of type {type(token).__name__}; it is text.")
    for name in _SECONDS:
        value = options[name]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value < math.inf:
            raise UsageError(f"{name} is {value!r}; it must be a number of seconds above 0.")
    for name, least in _COUNTS.items():
        check_count(name, options[name], least)


def check_count(name: str, value: object, least: int = 1) -> None:
    """Raises UsageError for what is no whole number, or below `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"{name} is {value!r}; it must be a whole number, at least {least}.")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises UsageError for what is none of the choices."""
    if value not in choices:
        raise UsageError(f"{name} is {value!r}; it must be {' or '.join(map(repr, choices))}.")


def check_text(what: str, value: object) -> None:
    """Raises UsageError for what is no text; bytes are told apart."""
    if not isinstance(value, str):
        remedy = "; decode it" if isinstance(value, bytes) else ""
        raise UsageError(f"{what} is text, and this is of type {type(value).__name__}{remedy}.")
    if not is_unicode(value):
        raise UsageError(f"{what} is no Unicode: it holds half a character (a surrogate).")


def is_unicode(text: str) -> bool:
    """Whether it can be sent: halves of characters, as `surrogateescape` makes, can't."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_table(name: object) -> None:
    """Raises UsageError for what no table is called."""
    check_text("A table's name", name)
    if not str(name).strip() or "/" in str(name):
        raise UsageError(f"{name!r} is no name of a table.")


def check_settings(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings as they are sent. Raises UsageError for what is no dict of plain values."""
    if not settings:
        return {}
    if not isinstance(settings, Mapping):
        raise UsageError(
            'settings is a dict such as {"target_recall": 0.95}, and this is of type '
            f"{type(settings).__name__}."
        )
    return {str(name): _plain(name, value) for name, value in settings.items()}


def _plain(name: object, value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # NumPy's numbers
        return value.item()
    raise UsageError(
        f"The setting {name} is of type {type(value).__name__}; it is a number or text."
    )
