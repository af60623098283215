"""How deep a statement nests, measured on its tokens before a parser recurses into it.

sqlglot's parser and generator recurse on brackets, on prefix operators (`NOT NOT ...`), on chains
that lean one way (`a ** b ** ...`, `a[1][1]...`) and on CASE. In Python that ends as
RecursionError; in sqlglot's compiled build it ends the process. In two places it also tries both
ways at each level, 2^n steps for n of them: a type's name before a bracket, `DATE(DATE(...`, and a
JOIN that no ON follows.

So every open bracket counts one, CASE until its END is one, and every token that deepens what it
stands in counts one more until the next comma, AND, OR or ON on its level. The sum over the open
levels must stay below `Limits.nesting`.

    SELECT f(NOT NOT (1))
            1  2   3 4        levels: [SELECT: 0] [f(: 1 + 2 for NOT] [(: 1] -> 4
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlglot.parsers.duckdb import DuckDBParser
from sqlglot.tokenizer_core import Token, TokenType

from nearql.engine.errors import SqlError
from nearql.query.dialect.grammar import CARRIER_TOKENS
from nearql.query.dialect.tokens import CLOSES, OPENS, ends_operand

_DEEPENS = frozenset(
    {
        TokenType.NOT, TokenType.ELSE, TokenType.INTERVAL, TokenType.DSTAR,
        TokenType.CARET, TokenType.IN, TokenType.TILDE, TokenType.OVER, TokenType.DISTINCT,
        TokenType.ARROW, TokenType.DARROW, TokenType.PARAMETER, TokenType.LATERAL, TokenType.UNION,
        TokenType.EXCEPT, TokenType.INTERSECT, TokenType.UNPIVOT, TokenType.PIVOT, TokenType.LIKE,
        TokenType.ILIKE, TokenType.BETWEEN, TokenType.IS, TokenType.COLON, TokenType.COLON_EQ,
        TokenType.COLLATE, TokenType.WITH, TokenType.ESCAPE, TokenType.ALIAS, TokenType.ANY,
    }
) | CARRIER_TOKENS  # fmt: skip
_SIGNS = (TokenType.DASH, TokenType.PLUS)  # deepen as prefixes
_POSTFIX = (TokenType.DOT, TokenType.DCOLON, TokenType.L_BRACKET)  # deepen in a row
_BINARY = (
    TokenType.DASH,
    TokenType.PLUS,
    TokenType.STAR,
    TokenType.SLASH,
    TokenType.DIV,
    TokenType.MOD,
    TokenType.DPIPE,
    TokenType.PIPE,
    TokenType.AMP,
    TokenType.EQ,
    TokenType.NEQ,
    TokenType.LT,
    TokenType.GT,
    TokenType.LTE,
    TokenType.GTE,
)
_SEPARATES = (
    TokenType.COMMA,
    TokenType.AND,
    TokenType.OR,
    TokenType.ON,
    TokenType.SELECT,
    TokenType.FROM,
    TokenType.WHERE,
    TokenType.USING,
    TokenType.WHEN,
    TokenType.THEN,
)
_RESTARTS = (TokenType.COMMA, TokenType.FROM, TokenType.WHERE, TokenType.ON)
_CONNECTORS = (TokenType.AND, TokenType.OR)
_SET_OPERATIONS = (TokenType.UNION, TokenType.EXCEPT, TokenType.INTERSECT)
_OPENS = {**OPENS, TokenType.CASE: "END"}
_CASE_WORDS = (TokenType.CASE, TokenType.END)
_NAMING = (TokenType.DOT, TokenType.ALIAS)  # `d.case`, `AS "end"` without its quotes
_ON_FREE = ("CROSS", "NATURAL", "POSITIONAL")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request's text may be; beyond it is refused before parsing."""

    text_chars: int = 16 << 20
    statements: int = 1_000
    tokens: int = 20_000  # what sqlglot parses at once; long lists of literals in IN are one
    nesting: int = 32  # brackets within brackets, and what else deepens
    chain: int = 500  # operators in a row, as in a OR b OR c: as deep a tree, leaning left
    queries: int = 500  # SELECTs in a statement, and set operations
    type_nesting: int = 4  # open brackets after a type's name
    open_joins: int = 8  # JOINs before the ON or USING of the first of them


DEFAULT_LIMITS = Limits()


@dataclass(slots=True)
class _Level:
    """An open bracket or CASE. weight: what deepened it since the last separator."""

    token: Token | None
    is_type: bool = False
    weight: int = 0
    outside: int = 0  # depth of the levels outside
    run: int = 0  # postfix operators since the last binary one
    chained: int = 0  # operators in a row outside
    chain: int = 0  # arithmetic and comparisons since the last AND, OR, comma or clause
    connectors: int = 0  # AND, OR since the last comma or clause

    @property
    def is_case(self) -> bool:
        """Whether END closes it."""
        return self.token is not None and self.token.token_type is TokenType.CASE

    @property
    def depth(self) -> int:
        """Of what stands here."""
        return self.outside + self.weight + self.run

    @property
    def in_a_row(self) -> int:
        """Operators in a row, here and outside."""
        return self.chained + self.chain + self.connectors


def check_depth(tokens: Sequence[Token], limits: Limits) -> None:
    """Refuse what nests too deeply, and brackets that don't match.

    Raises:
        SqlError: with the position; code `statement_too_complex` where it is too deep.
    """
    levels = [_Level(None)]
    types = joins = selects = unions = 0
    before: Token | None = None
    for token in tokens:
        kind = token.token_type
        _weigh(levels[-1], token, before)
        is_name = kind in _CASE_WORDS and before is not None and before.token_type in _NAMING
        if kind in _OPENS and not is_name:
            is_type = before is not None and before.token_type in DuckDBParser.TYPE_TOKENS
            types += is_type
            inner = _Level(token, is_type, 1, levels[-1].depth, chained=levels[-1].in_a_row)
            levels.append(inner)
        elif kind in CLOSES or kind is TokenType.END and levels[-1].is_case and not is_name:
            types -= _closed(levels, token).is_type
        joins = _open_joins(joins, token, before)
        selects += kind is TokenType.SELECT
        unions += kind in _SET_OPERATIONS
        if levels[-1].depth > limits.nesting or types > limits.type_nesting:
            raise _too_deep(token, f"nests more than {limits.nesting} deep")
        if levels[-1].in_a_row > limits.chain:
            raise _too_deep(
                token,
                f"has more than {limits.chain} operators in a row; use IN (...) or = ANY(list)",
            )
        if max(selects, unions) > limits.queries:
            raise _too_deep(token, f"holds more than {limits.queries} queries")
        if joins > limits.open_joins:
            raise SqlError("JOIN needs ON or USING.", position=int(token.start) + 1)
        before = token
    if levels[-1].token is not None:
        token = levels[-1].token
        raise SqlError(f"This {token.text!r} is never closed.", position=int(token.start) + 1)


def _weigh(level: _Level, token: Token, before: Token | None) -> None:
    kind = token.token_type
    if kind in _RESTARTS:
        level.chain = level.connectors = 0
    elif kind in _CONNECTORS:
        level.chain, level.connectors = 0, level.connectors + 1
    elif kind in _BINARY or kind in CARRIER_TOKENS:
        level.chain += 1
    if kind in _SEPARATES:
        level.weight, level.run = int(level.token is not None), 0
    elif kind in _SIGNS and (before is None or not ends_operand(before)) or kind in _DEEPENS:
        level.weight += 1
    elif kind in _POSTFIX:
        level.run += 1
    elif kind in _BINARY:
        level.run = 0


def _open_joins(joins: int, token: Token, before: Token | None) -> int:
    if token.token_type in (TokenType.ON, TokenType.USING):
        return max(0, joins - 1)
    if token.token_type is TokenType.JOIN:
        return joins + (before is None or str(before.text).upper() not in _ON_FREE)
    return joins


def _closed(levels: list[_Level], token: Token) -> _Level:
    """The innermost level, which the token closes; an error where it doesn't."""
    position = int(token.start) + 1
    opened = levels[-1].token
    if opened is None:
        raise SqlError(
            f"Unexpected {token.text!r}: there is no bracket to close.", position=position
        )
    expected = _OPENS[opened.token_type]
    if str(token.text).upper() != expected:
        raise SqlError(
            f"Unexpected {token.text!r}, where {expected!r} would close.", position=position
        )
    return levels.pop()


def _too_deep(token: Token, how: str) -> SqlError:
    return SqlError(
        f"The statement {how}.",
        position=int(token.start) + 1,
        code="statement_too_complex",
        sqlstate="54001",
    )
