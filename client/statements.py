"""What the client needs to know of a statement: may it be repeated, does it write?

The first word decides; the server's parser has the last word. When in doubt a text counts as a
write that can't be repeated: at worst an `OutcomeUnknown` where a retry would have been safe.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Nature(NamedTuple):
    """repeatable: reads, and writes that a request id protects. writes: belongs to the leader."""

    repeatable: bool
    writes: bool


READ = Nature(repeatable=True, writes=False)
PROTECTED = Nature(repeatable=True, writes=True)
UNPROTECTED = Nature(repeatable=False, writes=True)

_READS = frozenset(
    ["select", "from", "values", "table", "show", "describe", "desc", "summarize", "pivot"]
    + ["unpivot", "set", "reset", "begin", "start", "commit", "rollback", "end", "wait"]
)
_MIXED = frozenset(["with", "explain"])  # may carry a write inside
_PROTECTED = frozenset(["insert", "update", "delete", "truncate"])
_WORD = re.compile(r"[a-z_]+", re.IGNORECASE)
_WRITE_WORDS = re.compile(r"\b(insert|update|delete|truncate|merge|create|drop|alter)\b", re.I)
# What may hold a `;` that ends nothing, each also unfinished at the end of the text.
_TOKEN = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))
      | '(?:[^']|'')*(?:'|\Z)
      | "(?:[^"]|"")*(?:"|\Z)
      | (?P<dollar>\$\w*\$).*?(?:(?P=dollar)|\Z)
      | (?P<end>;)""",
    re.DOTALL | re.VERBOSE,
)


def nature_of(text: str) -> Nature:
    """How the request may be treated; several statements are only repeated if all of them read."""
    statements, rest = split(text)
    natures = [_one(each) for each in (*statements, rest) if each]
    if len(natures) == 1:
        return natures[0]
    return READ if all(nature is READ for nature in natures) else UNPROTECTED


def split(text: str) -> tuple[list[str], str]:
    """The statements that `;` ends, and what follows the last; without comments before them.

    >>> split("SELECT ';'; /* one; two */ SELECT 2")
    (["SELECT ';'"], 'SELECT 2')
    """
    statements, start = [], 0
    for token in _TOKEN.finditer(text):
        if token["end"]:
            statements.append(_trimmed(text[start : token.start()]))
            start = token.end()
    return [each for each in statements if each], _trimmed(text[start:])


def _trimmed(text: str) -> str:
    text = text.strip()
    while (comment := _TOKEN.match(text)) and comment["comment"]:
        text = text[comment.end() :].strip()
    return text


def _one(text: str) -> Nature:
    word = _WORD.match(text.lstrip("( \t\r\n"))
    first = word[0].lower() if word else ""
    if first in _READS:
        return READ
    if first in _MIXED:
        return UNPROTECTED if _WRITE_WORDS.search(text) else READ
    return PROTECTED if first in _PROTECTED else UNPROTECTED
