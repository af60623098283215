"""What every part of the dialect asks of tokens."""

from __future__ import annotations

from sqlglot.tokenizer_core import Token, TokenType

OPENS = {TokenType.L_PAREN: ")", TokenType.L_BRACKET: "]", TokenType.L_BRACE: "}"}
CLOSES = (TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE)
_OPERANDS = (TokenType.IDENTIFIER, TokenType.NUMBER, TokenType.STRING)
_BEFORE_OPERAND = frozenset(
    {
        "ALL",
        "AND",
        "ANY",
        "AS",
        "ASC",
        "BETWEEN",
        "BY",
        "CASE",
        "DEFAULT",
        "DISTINCT",
        "ELSE",
        "ESCAPE",
        "EXCEPT",
        "FILTER",
        "FROM",
        "GLOB",
        "HAVING",
        "IF",
        "ILIKE",
        "IN",
        "INTERVAL",
        "IS",
        "LIKE",
        "LIMIT",
        "NOT",
        "OFFSET",
        "ON",
        "OR",
        "QUALIFY",
        "RETURNING",
        "SAMPLE",
        "SELECT",
        "SET",
        "SIMILAR",
        "SOME",
        "THEN",
        "TIMEOUT",
        "TO",
        "UNION",
        "USING",
        "VALUES",
        "WAIT",
        "WHEN",
        "WHERE",
        "XOR",
        "ZONE",
    }
)


def retyped(token: Token, kind: TokenType, text: str) -> Token:
    """A token of another kind and text in the same place."""
    return Token(kind, text, token.line, token.col, token.start, token.end, token.comments)


def ends_operand(token: Token) -> bool:
    """Whether a value may end with this token, so that an operator may follow."""
    if token.token_type in CLOSES or token.token_type in _OPERANDS:
        return True
    words = str(token.text).upper().split()
    return bool(words) and words[-1].isidentifier() and words[-1] not in _BEFORE_OPERAND
