"""A statement's text for a log: its shape, without the values and comments written in it."""

from __future__ import annotations

import re

from sqlglot.tokenizer_core import TokenType

from nearql.engine.errors import NearQLError
from nearql.query.dialect.lexer import tokenize

READ_CHARS = 4096
_VALUES = frozenset(
    kind for kind in TokenType if "STRING" in kind.name or kind is TokenType.NUMBER
)  # LINESTRING and the like are types; as `?` they do no harm
_SUSPICIOUS = re.compile(r"['\"$]|--|/\*")


def without_values(text: str) -> str:
    """`SELECT * FROM t WHERE a = 'x' AND b < 7` as `SELECT * FROM t WHERE a = ? AND b < ?`.

    A text that can't be read, because it was cut, is shown up to its first quote or comment.
    """
    begun = text[:READ_CHARS]
    cut = "..." if len(text) > READ_CHARS else ""
    try:
        tokens = tokenize(begun)
    except NearQLError:
        found = _SUSPICIOUS.search(begun)
        start = begun[: found.start()] if found else begun
        return re.sub(r"\d[\w.]*", "?", " ".join(start.split())) + "..."
    parts: list[str] = []
    end = 0
    for token in tokens:
        gap = " " if parts and int(token.start) > end else ""
        is_value = token.token_type in _VALUES
        parts.append(gap + ("?" if is_value else begun[int(token.start) : int(token.end) + 1]))
        end = int(token.end) + 1
    return "".join(parts) + cut
