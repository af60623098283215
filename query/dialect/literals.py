"""Vector literals written as arrays, lifted out of the text before it is tokenised.

`vec <-> ARRAY[0.1, ...]` with 384 numbers is 770 tokens to sqlglot (9 ms); as the text `'[0.1,
...]'` it is one. Beside a distance operator both mean the same vector, so there, and only there, a
long array of plain numbers is blanked to a string literal of the same length (every position in
the request stays right) and its text is put back into the token that the blank becomes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlglot.tokenizer_core import Token

_WORTH = 24  # characters; below it tokenising costs nothing

# Whatever may hold something that only looks like an array is matched first and left alone.
_SKIPPED = r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$"
_NUMBERS = r"(?:ARRAY\s*)?\[[\s\d.,eE+\-_]*\d[\s\d.,eE+\-_]*\]"
_OPERATOR = r"<(?:->|=>|#>|\+>)"
_FIND = re.compile(
    rf"{_SKIPPED}|(?P<after>{_OPERATOR}\s*)(?P<right>{_NUMBERS})|(?P<left>{_NUMBERS})(?=\s*{_OPERATOR})",
    re.S | re.I,
)


def lift(text: str) -> tuple[str, dict[int, str]]:
    """The text with arrays blanked, and `[..]` texts by the 0-based position of their blank."""
    if "[" not in text or not re.search(_OPERATOR, text):
        return text, {}
    lifted: dict[int, str] = {}

    def blank(match: re.Match[str]) -> str:
        written = match["right"] or match["left"]
        if written is None or len(written) < _WORTH or not _is_vector(written):
            return match[0]
        before = match["after"] or ""
        lifted[match.start() + len(before)] = written[written.index("[") :]
        return f"{before}'{' ' * (len(written) - 2)}'"

    return _FIND.sub(blank, text), lifted


def _is_vector(written: str) -> bool:
    body = written[written.index("[") + 1 : -1]
    try:
        [float(number) for number in body.split(",")]
    except ValueError:
        return False
    return True


def put_back(tokens: Sequence[Token], lifted: dict[int, str]) -> None:
    """Give the tokens of blanks their text, in place."""
    for token in tokens if lifted else ():
        text = lifted.get(token.start)
        if text is not None:
            token.text = text
