"""VALUES of literals and parameters alone, the usual INSERT, read without sqlglot's parser.

A value goes through some forty calls there, for each of many rows; here through one. The tree is
the same (a test compares), and anything else in the rows leaves the whole text to sqlglot.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp
from sqlglot.tokenizer_core import Token, TokenType

_LITERALS = (TokenType.NUMBER, TokenType.STRING)
_SEPARATORS = (TokenType.COMMA, TokenType.R_PAREN)


def literal_values(tokens: Sequence[Token]) -> exp.Values | None:
    """The tree of `VALUES (...), (...)`, or None where a value is no literal or parameter."""
    rows: list[exp.Expr] = []
    at, end = 1, len(tokens)
    while at < end:
        if tokens[at].token_type is not TokenType.L_PAREN:
            return None
        row, at = _row(tokens, at + 1)
        if row is None or (at < end and tokens[at].token_type is not TokenType.COMMA):
            return None
        rows.append(exp.Tuple(expressions=row))
        at += 1
    return exp.Values(expressions=rows) if rows and at == end + 1 else None


def _row(tokens: Sequence[Token], at: int) -> tuple[list[exp.Expr] | None, int]:
    """The values up to the closing bracket, and where the row ends."""
    row: list[exp.Expr] = []
    while at + 1 < len(tokens):
        value, at = _value(tokens, at)
        if value is None or at >= len(tokens) or tokens[at].token_type not in _SEPARATORS:
            return None, at
        row.append(value)
        if tokens[at].token_type is TokenType.R_PAREN:
            return row, at + 1
        at += 1
    return None, at


def _value(tokens: Sequence[Token], at: int) -> tuple[exp.Expr | None, int]:
    token = tokens[at]
    kind = token.token_type
    if kind in _LITERALS:
        return exp.Literal(this=token.text, is_string=kind is TokenType.STRING), at + 1
    if kind is TokenType.NULL:
        return exp.Null(), at + 1
    if kind in (TokenType.TRUE, TokenType.FALSE):
        return exp.Boolean(this=kind is TokenType.TRUE), at + 1
    after = tokens[at + 1].token_type
    if kind is TokenType.DASH and after is TokenType.NUMBER:
        return exp.Neg(this=exp.Literal(this=tokens[at + 1].text, is_string=False)), at + 2
    if kind is TokenType.PARAMETER and after in (TokenType.NUMBER, TokenType.VAR):
        return exp.Placeholder(this=tokens[at + 1].text), at + 2
    return None, at
