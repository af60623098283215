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
_NOISE = re.compile(r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/|\()*", re.DOTALL)
_WORD = re.compile(r"[a-z_]+", re.IGNORECASE)
_WRITE_WORDS = re.compile(r"\b(insert|update|delete|truncate|merge|create|drop|alter)\b", re.I)


def nature_of(text: str) -> Nature:
    """How the request may be treated; several statements are only repeated if all of them read."""
    pieces = [piece for piece in text.split(";") if _first_word(piece)]
    if len(pieces) == 1:
        return _one(text)
    return READ if all(_one(piece) is READ for piece in pieces) else UNPROTECTED


def _one(text: str) -> Nature:
    word = _first_word(text)
    if word in _READS:
        return READ
    if word in _MIXED:
        return UNPROTECTED if _WRITE_WORDS.search(text) else READ
    return PROTECTED if word in _PROTECTED else UNPROTECTED


def _first_word(text: str) -> str:
    start = _NOISE.match(text)
    word = _WORD.match(text, start.end() if start else 0)
    return word[0].lower() if word else ""
