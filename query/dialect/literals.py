"""Vector literals written as arrays, lifted out of the text before it is tokenised.

`vec <-> ARRAY[0.1, ...]` with 384 numbers is 770 tokens to sqlglot (9 ms); as text, `'[0.1, ...]'`,
it is one. Where both mean the same vector, and only there, a long array of plain numbers is blanked
to a string literal of the same length (every position in the request stays right) and its text is
put back into the token that the blank becomes. They mean the same

* beside a distance operator,
* as the second argument of a distance function: `l2_distance(vec, ARRAY[...])`,
* as a value of INSERT ... VALUES, if it is long and not of whole numbers alone: it can only be
  meant for a vector or a list, and text becomes either.

The scan is one pass of a regular expression without backtracking, whatever the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlglot.tokenizer_core import Token

_WORTH = 24  # characters; below it tokenising costs nothing
_VECTOR_LENGTH = 16  # numbers in a value of INSERT that is taken for a vector

_OPERATOR = r"<(?:->|=>|\#>|\+>)"
_FUNCTION = (
    r"\b(?:l2_distance|cosine_distance|l1_distance|inner_product)\s*+\(\s*+[\w.\":$]++\s*+,\s*+"
)
_LITERAL = r"(?:-?\d++(?:\.\d*+)?+(?:[eE][+-]?+\d++)?+(?![\w.])|'(?:[^']|'')*+')"
_LISTED = 1_024  # characters of a list in IN from which it is kept as text
LIST = "\x00list:"  # starts the text of a string that stands for such a list
_ARRAY = r"(?:\bARRAY\s*+)?+\[[\s\d.,eE+\-]{3,}+\]"
# What may hold something that only looks like an array comes first and is stepped over.
_SCAN = re.compile(
    rf"""'(?:[^']|'')*+'?|"(?:[^"]|"")*+"?|--[^\n]*+|/\*(?:.*?\*/|.*)
    |\$(?P<tag>\w*+)\$(?:.*?\$(?P=tag)\$|.*)
    |(?P<lead>{_OPERATOR}\s*+|{_FUNCTION})(?P<led>{_ARRAY})
    |(?P<bare>{_ARRAY})(?P<leads>(?=\s*+{_OPERATOR}))?+
    |(?P<in>\bIN\s*+\()(?P<listed>\s*+{_LITERAL}(?:\s*+,\s*+{_LITERAL})++\s*+)(?=\))
    |(?P<open>\()|(?P<close>\))|(?P<end>;)|\b(?P<word>INSERT|VALUES|RETURNING|CONFLICT|SELECT)\b""",
    re.S | re.I | re.X,
)
_WORTHWHILE = re.compile(rf"{_OPERATOR}|_distance\b|\binner_product\b|\bVALUES\b", re.I)


def lift(text: str) -> tuple[str, dict[int, str]]:
    """The text with arrays and long lists blanked, and their texts by the 0-based position of their
    blank.
    """
    if LIST in text or not ("[" in text and _WORTHWHILE.search(text) or len(text) > _LISTED):
        return text, {}
    lifter = _Lifter()
    return _SCAN.sub(lifter.step, text), lifter.lifted


class _Lifter:
    """Steps through a request. depth: open brackets since an INSERT's VALUES; None elsewhere."""

    def __init__(self) -> None:
        self.lifted: dict[int, str] = {}
        self.inserting = False
        self.depth: int | None = None

    def step(self, match: re.Match[str]) -> str:
        """What stands for one match."""
        written = match["led"] or match["bare"]
        self._follow(match)
        if match["listed"] is not None:
            return self._listed(match)
        if written is None:
            return match[0]
        beside = match["led"] is not None or match["leads"] is not None
        if len(written) < _WORTH or not _is_vector(written, beside, self.depth == 1):
            return match[0]
        lead = match["lead"] or ""
        self.lifted[match.start() + len(lead)] = written[written.index("[") :]
        return f"{lead}'{' ' * (len(written) - 2)}'"

    def _listed(self, match: re.Match[str]) -> str:
        """IN and a bracket, and a string in place of the list if that is long."""
        listed = match["listed"]
        if len(listed) < _LISTED:
            return match[0]
        self.lifted[match.start("listed")] = LIST + listed
        return f"{match['in']}'{' ' * (len(listed) - 2)}'"

    def _follow(self, match: re.Match[str]) -> None:
        if match["end"]:
            self.inserting, self.depth = False, None
        elif match["word"]:
            word = match["word"].upper()
            self.inserting = self.inserting or word == "INSERT"
            self.depth = 0 if word == "VALUES" and self.inserting else None
        elif self.depth is not None:
            opened = match["open"] is not None or "(" in (match["lead"] or match["in"] or "")
            self.depth += opened - (match["close"] is not None)


def _is_vector(written: str, beside: bool, inserted: bool) -> bool:
    body = written[written.index("[") + 1 : -1]
    numbers = body.split(",")
    try:
        any(float(number) != float(number) for number in numbers)
    except ValueError:
        return False
    fractional = "." in body or "e" in body.lower()
    return beside or (inserted and fractional and len(numbers) >= _VECTOR_LENGTH)


def put_back(tokens: Sequence[Token], lifted: dict[int, str]) -> None:
    """Give the tokens of blanks their text, in place."""
    for token in tokens if lifted else ():
        text = lifted.get(token.start)
        if text is not None:
            token.text = text
