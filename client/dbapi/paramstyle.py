"""Other ways to write parameters, turned into those that the server knows: `?`, `$1`, `:name`.

| paramstyle | written | becomes |
|---|---|---|
| qmark, numeric_dollar, named | `?`, `$1`, `:name` | itself |
| numeric | `:1` | `$1` |
| format | `%s`, `%%` | `?`, `%` |
| pyformat | `%(name)s`, `%%` | `:name`, `%` |

Texts in quotes and comments stay as they are, but for `%%` in format and pyformat, as in psycopg.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from nearql.client.dbapi.exceptions import InterfaceError

STYLES = ("qmark", "numeric", "named", "format", "pyformat", "numeric_dollar")
_QUIET = r"""--[^\n]*|/\*.*?(?:\*/|\Z)|'(?:[^']|'')*(?:'|\Z)|"(?:[^"]|"")*(?:"|\Z)
    |(?P<dollar>\$[A-Za-z_]*\$).*?(?:(?P=dollar)|\Z)"""
_NUMERIC = re.compile(_QUIET + r"|(?<!:):(?P<number>\d+)", re.DOTALL | re.VERBOSE)
_PERCENT = re.compile(r"%(?:%|s|\((?P<name>[A-Za-z_]\w*)\)s|(?P<wrong>.?))", re.DOTALL)


def server_text(text: str, style: str) -> str:
    """The statement as the server takes it.

    Raises:
        InterfaceError: a `%` that is no parameter, in format and pyformat.
    """
    if style == "numeric":
        return _NUMERIC.sub(_dollar, text)
    if style in ("format", "pyformat"):
        return _PERCENT.sub(_percent(style), text)
    return text


def _dollar(found: re.Match[str]) -> str:
    return f"${found['number']}" if found["number"] else found[0]


def _percent(style: str) -> Callable[[re.Match[str]], str]:
    def replaced(found: re.Match[str]) -> str:
        if found[0] == "%%":
            return "%"
        if style == "format" and found[0] == "%s":
            return "?"
        if style == "pyformat" and found["name"]:
            return f":{found['name']}"
        raise InterfaceError(f"{found[0]!r} is no parameter of the style {style}; write %% for %.")

    return replaced
