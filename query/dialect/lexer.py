"""Text -> statements' tokens, with every limit checked before any parser recurses."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sqlglot.errors import TokenError
from sqlglot.parsers.duckdb import DuckDBParser
from sqlglot.tokenizer_core import Token, TokenType

from nearql.engine.errors import SqlError, TooLarge, Unsupported
from nearql.query import patience
from nearql.query.dialect.depth import DEFAULT_LIMITS, Limits, check_depth
from nearql.query.dialect.grammar import DIALECT
from nearql.query.dialect.literals import lift, put_back
from nearql.query.dialect.tokens import ends_operand, retyped

_PARAMETER = re.compile(r"[A-Za-z_]\w*$")
_LITERALS = (TokenType.NUMBER, TokenType.STRING)
_POSTFIX = (TokenType.DCOLON, TokenType.L_BRACKET, TokenType.DOT)
_PATHS = (TokenType.HASH_ARROW, TokenType.DHASH_ARROW)
_FOREIGN = {  # operators of PostgreSQL that are other tokens here
    (TokenType.PLACEHOLDER, TokenType.STRING): (
        "The operator ? is not offered: json_exists(value, '$.key') asks whether JSON has a key. "
        "A ? is a parameter."
    ),
    (TokenType.PARAMETER, TokenType.PARAMETER): (
        "The operator @@ is not offered: full text is bm25(column, 'words')."
    ),
}
_LIKES = (TokenType.LIKE, TokenType.ILIKE)


@dataclass(frozen=True, slots=True)
class Source:
    """One statement's tokens; their start and end are positions in the whole request text."""

    request: str
    tokens: tuple[Token, ...]
    limits: Limits = DEFAULT_LIMITS

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
    for token in tokenize(text, limits):
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


def tokenize(text: str, limits: Limits = DEFAULT_LIMITS) -> list[Token]:
    """Tokens of the dialect, every parameter spelled `$name`.

    Raises:
        SqlError: with the position where an unclosed quote or comment starts.
    """
    blanked, lifted = lift(text)
    _check_length(blanked, limits)
    try:
        tokens = list(DIALECT.tokenize(blanked))
    except TokenError as error:
        raise _unreadable(text) from error
    put_back(tokens, lifted)
    _check_neighbours(text, tokens)
    return _spell_parameters(_bracket_literals(_bit_literals(tokens)))


_STRING = re.compile(r"'[^']*'")
_SIGNS, _WORDS = re.compile(r"[^\w\s]"), re.compile(r"\w+")
_ROWS = 20  # times as many signs as one parsed statement may have: literal rows of INSERT are many


def _check_length(text: str, limits: Limits) -> None:
    """Refuse what would take seconds to cut into tokens alone."""
    most = limits.tokens * _ROWS
    if len(text) <= most:
        return
    for kind, name in ((_SIGNS, "signs"), (_WORDS, "words and numbers")):
        if sum(1 for _ in kind.finditer(_STRING.sub("''", text))) > most:
            raise TooLarge(
                f"The request has more than {most} {name} (20 times limits.sql_tokens). Send rows "
                "in bulk, or bind lists as parameters.",
                position=1, setting="sql_tokens",
            )  # fmt: skip


_PIECE = re.compile(
    r"""(?P<ok>'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/|\$(?P<tag>[A-Za-z_]?\w*)\$.*?\$(?P=tag)\$)"""
    r"""|(?P<open>'|"|/\*|\$(?:[A-Za-z_]\w*)?\$)""",
    re.S,
)


def _unreadable(text: str) -> SqlError:
    for piece in _PIECE.finditer(text):
        if piece["open"]:
            return SqlError(
                f"This {piece['open']} starts a quote or comment that never ends.",
                position=piece.start() + 1,
            )
    return SqlError("The SQL text can't be read: a quote or comment in it never ends.", position=1)


def _check_neighbours(text: str, tokens: list[Token]) -> None:
    """Refuse pairs that sqlglot reads as something else than was meant."""
    for before, token in zip(tokens, tokens[1:], strict=False):
        kinds = (before.token_type, token.token_type)
        position = int(token.start) + 1
        if kinds == (TokenType.NUMBER, TokenType.VAR) and before.end + 1 == token.start:
            written = text[before.start : token.end + 1]
            raise SqlError(f"{written!r} is no number.", position=int(before.start) + 1)
        if kinds in _FOREIGN:
            raise Unsupported(_FOREIGN[kinds], position=int(before.start) + 1)
        if token.token_type in _PATHS:
            raise Unsupported(
                f"{token.text} is not offered; write value -> 'a' ->> 'b', or '$.a.b' as the path.",
                position=position,
            )
        if kinds == (TokenType.STRING, TokenType.STRING):
            raise SqlError("Two strings in a row; join them with ||.", position=position)
        if before.token_type in _LIKES and str(token.text).upper() in ("ANY", "ALL", "SOME"):
            raise Unsupported(
                f"{before.text} {token.text} is not offered; join conditions with OR or AND.",
                position=position,
            )


def _bit_literals(tokens: list[Token]) -> list[Token]:
    """`B'101'` as the cast that it means, `('101'::BIT)`."""
    made: list[Token] = []
    for token in tokens:
        before = made[-1] if made else None
        if before is None or not _is_bit_string(before, token):
            made.append(token)
            continue
        if set(str(token.text)) - {"0", "1"}:
            raise SqlError(
                f"B'{token.text}' holds more than 0 and 1.", position=int(before.start) + 1
            )
        made.pop()
        cast = (retyped(token, TokenType.DCOLON, "::"), retyped(token, TokenType.BIT, "BIT"))
        made += _bracketed(token, *cast)
    return made


def _is_bit_string(before: Token, token: Token) -> bool:
    adjacent = token.token_type is TokenType.STRING and int(before.end) + 1 == token.start
    return adjacent and str(before.text).upper() == "B" and before.token_type is TokenType.VAR


def _bracket_literals(tokens: list[Token]) -> list[Token]:
    """Brackets where sqlglot would read a literal together with the wrong neighbour.

    `DATE '2024-01-01'::TEXT` casts a date to text; sqlglot would cast the text and then make a
    date of it. `INTERVAL 1 DAY + 1` adds a number; sqlglot would make an interval of it.
    """
    made: list[Token] = []
    for at, token in enumerate(tokens):
        after = tokens[at + 1].token_type if at + 1 < len(tokens) else None
        if _is_typed_string(tokens, at) and after in _POSTFIX:
            made += _bracketed(made.pop(), token)
        elif token.token_type in _LITERALS and _adds_to_interval(tokens, at):
            made += _bracketed(token)
        else:
            made.append(token)
    return made


def _bracketed(*tokens: Token) -> list[Token]:
    first, last = tokens[0], tokens[-1]
    closing = retyped(last, TokenType.R_PAREN, ")")
    return [retyped(first, TokenType.L_PAREN, "("), *tokens, closing]


def _is_typed_string(tokens: list[Token], at: int) -> bool:
    typed = at > 0 and tokens[at - 1].token_type in DuckDBParser.TYPE_TOKENS
    return typed and tokens[at].token_type is TokenType.STRING


def _adds_to_interval(tokens: list[Token], at: int) -> bool:
    kinds = [token.token_type for token in tokens[max(0, at - 4) : at]]
    return bool(kinds) and kinds[-1] is TokenType.PLUS and TokenType.INTERVAL in kinds


def _spell_parameters(tokens: list[Token]) -> list[Token]:
    """`?` (numbered through the request) and `:name` as `$name`, which is all that the grammar
    knows.

    A colon after an operand is DuckDB's: a slice (`a[1:n]`), a struct's key or a prefix alias; so
    is one that starts a slice (`a[:n]`).
    """
    spelled: list[Token] = []
    questions = 0
    for at, token in enumerate(tokens):
        before = tokens[at - 1] if at else None
        if token.token_type in (TokenType.PLACEHOLDER, TokenType.QDCOLON):
            questions += 1
            spelled += [
                retyped(token, TokenType.PARAMETER, "$"),
                retyped(token, TokenType.NUMBER, str(questions)),
            ]
            if token.token_type is TokenType.QDCOLON:  # `?::vector` is `?` and a cast
                spelled.append(retyped(token, TokenType.DCOLON, "::"))
        elif _is_array_word(tokens, at):
            continue
        elif _starts_parameter(tokens, at):
            spelled.append(retyped(token, TokenType.PARAMETER, "$"))
        elif _names_parameter(tokens, at):  # :from, $values: also where it is a word of SQL
            spelled.append(retyped(token, TokenType.VAR, str(token.text)))
        elif (
            token.token_type is TokenType.COLON and before is not None and _opens_slice(tokens, at)
        ):
            spelled += [retyped(token, TokenType.NUMBER, "1"), token]
        else:
            spelled.append(token)
    if questions:
        _refuse_mixed(tokens)
    return spelled


def _is_array_word(tokens: list[Token], at: int) -> bool:
    """The ARRAY of `ARRAY[...]`: `[...]` means the same, and sqlglot takes 2^n steps for n nested
    ones."""
    if tokens[at].token_type is not TokenType.ARRAY or at + 1 >= len(tokens):
        return False
    bracket = tokens[at + 1].token_type is TokenType.L_BRACKET
    return bracket and (at == 0 or not ends_operand(tokens[at - 1]))


def _starts_parameter(tokens: list[Token], at: int) -> bool:
    if tokens[at].token_type is not TokenType.COLON or at + 1 >= len(tokens):
        return False
    name = tokens[at + 1]
    if name.start != tokens[at].end + 1 or not _PARAMETER.match(str(name.text)):
        return False
    return at == 0 or not (ends_operand(tokens[at - 1]) or _opens_slice(tokens, at))


def _names_parameter(tokens: list[Token], at: int) -> bool:
    if not at or not _PARAMETER.match(str(tokens[at].text)):
        return False
    sign = tokens[at - 1]
    if sign.token_type is TokenType.PARAMETER:
        return int(sign.end) + 1 == tokens[at].start
    return _starts_parameter(tokens, at - 1)


def _opens_slice(tokens: list[Token], at: int) -> bool:
    after = tokens[at + 1].token_type if at + 1 < len(tokens) else None
    return tokens[at - 1].token_type is TokenType.L_BRACKET and after is TokenType.VAR


def _refuse_mixed(tokens: list[Token]) -> None:
    for token, after in zip(tokens, tokens[1:], strict=False):
        if token.token_type is TokenType.PARAMETER and after.token_type is TokenType.NUMBER:
            raise SqlError(
                "Parameters are written as ? or as $1 in one request, not both.",
                position=int(token.start) + 1,
            )


def _checked(text: str, tokens: list[Token], limits: Limits) -> Source:
    check_depth(tokens, limits)
    patience.check()
    return Source(text, tuple(tokens), limits)
