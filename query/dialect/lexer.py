"""Text -> statements' tokens, with every limit checked before any parser recurses."""

from __future__ import annotations

from dataclasses import dataclass

from sqlglot.errors import TokenError
from sqlglot.tokens import Token, TokenType

from nearql.engine.errors import SqlError, TooLarge
from nearql.query.dialect.grammar import DIALECT

_OPEN = {TokenType.L_PAREN: ")", TokenType.L_BRACKET: "]", TokenType.L_BRACE: "}"}
_CLOSE = {TokenType.R_PAREN: ")", TokenType.R_BRACKET: "]", TokenType.R_BRACE: "}"}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request's text may be; beyond it is refused before parsing."""

    text_chars: int = 16 << 20
    nesting: int = 32  # brackets within brackets; sqlglot's parser recurses on each
    prefix_run: int = 64  # NOT NOT NOT, - - -: also recursion
    statements: int = 1_000


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Source:
    """One statement's tokens; their start and end are positions in the whole request text."""

    request: str
    tokens: tuple[Token, ...]

    @property
    def offset(self) -> int:
        """Where the statement starts, 0-based."""
        return int(self.tokens[0].start)

    @property
    def text(self) -> str:
        """As written, without the `;`."""
        return self.request[self.offset : int(self.tokens[-1].end) + 1]


def split(text: str, limits: Limits = DEFAULT_LIMITS) -> list[Source]:
    """The statements of a request; empty ones are skipped.

    Raises:
        SqlError: a text that isn't made of tokens (an unclosed quote, say), or nested too deeply.
        TooLarge: too long a text, or too many statements.
    """
    if len(text) > limits.text_chars:
        raise TooLarge(
            f"The SQL text has {len(text)} characters; at most {limits.text_chars} are accepted. "
            "Send rows in bulk or values as parameters."
        )
    statements: list[Source] = []
    current: list[Token] = []
    for token in tokenize(text):
        if token.token_type is not TokenType.SEMICOLON:
            current.append(token)
        elif current:
            statements.append(_checked(text, current, limits))
            current = []
    if current:
        statements.append(_checked(text, current, limits))
    if len(statements) > limits.statements:
        raise TooLarge(f"{len(statements)} statements in one request; at most {limits.statements}.")
    return statements


def tokenize(text: str) -> list[Token]:
    """Tokens of the dialect.

    Raises:
        SqlError: with the position where an unclosed quote or comment starts.
    """
    try:
        return list(DIALECT.tokenize(text))
    except TokenError as error:
        raise SqlError(f"The SQL text can't be read: {_first_line(error)}.", position=1) from error


def _first_line(error: Exception) -> str:
    cause = error.__cause__ or error
    return str(cause).split("\n", 1)[0].rstrip(".")


def _checked(text: str, tokens: list[Token], limits: Limits) -> Source:
    open_brackets: list[Token] = []
    for token in tokens:
        if token.token_type in _OPEN:
            open_brackets.append(token)
            if len(open_brackets) > limits.nesting:
                raise SqlError(
                    f"Brackets are nested more than {limits.nesting} deep.",
                    position=int(token.start) + 1, code="statement_too_complex", sqlstate="54001",
                )  # fmt: skip
        elif token.token_type in _CLOSE:
            _close(open_brackets, token)
    if open_brackets:
        token = open_brackets[-1]
        raise SqlError(f"This {token.text!r} is never closed.", position=int(token.start) + 1)
    return Source(text, tuple(tokens))


def _close(open_brackets: list[Token], token: Token) -> None:
    position = int(token.start) + 1
    if not open_brackets:
        raise SqlError(f"Unexpected {token.text!r}: there is no bracket to close.", position=position)
    expected = _OPEN[open_brackets.pop().token_type]
    if token.text != expected:
        raise SqlError(f"Unexpected {token.text!r}, where {expected!r} would close.", position=position)
