"""The NearQL dialect for sqlglot: DuckDB's grammar, pgvector's operators, and no translation.

sqlglot is a transpiler: its DuckDB parser turns `LIST_SORT(x)` into a dialect-neutral node and its
generator turns that node into what it believes DuckDB calls it, which is not always what was
written. NearQL must not change what a statement means, so three things differ from
`sqlglot.dialects.duckdb`:

* The names of ordinary functions are marked in the token stream (`mark_functions`), which makes
the parser
  keep each call as written (`exp.Anonymous`); the marks are taken off the tree again (`unmark`).
  Only what has its own syntax (CAST, EXTRACT, SUBSTRING ... FROM) keeps its own node.
* JSON paths stay the text they are (`to_json_path`).
* The distance operators are tokens that the DuckDB dialect has no use for, parsed at the level of
  PostgreSQL's "other operators": below + and -, above comparisons.

With sqlglot's compiled build (`sqlglotc`) parsers and generators can't be subclassed, so the
operator tokens are added to `DuckDBParser.BITWISE` in place. That is visible to others in the
process, but only to text that contains those tokens, which no other dialect's tokenizer makes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, ClassVar

from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.generators.duckdb import DuckDBGenerator
from sqlglot.parsers.duckdb import DuckDBParser
from sqlglot.tokenizer_core import Token, TokenType

from nearql.query.dialect.literals import LIST
from nearql.query.dialect.stack import LAYERS
from nearql.query.dialect.tokens import ends_operand, retyped
from nearql.query.trees import nodes_of_shallow

# Operator -> (token that DuckDB's dialect never makes, carrier node that it never builds).
# The compiled parser only takes node classes that it knows, hence sqlglot's own.
OPERATORS: dict[str, tuple[TokenType, type[exp.Binary]]] = {
    "<->": (TokenType.DOTCARET, exp.Distance),
    "<=>": (TokenType.NCOLON_GT, exp.DistanceNd),
    "<#>": (TokenType.COLON_GT, exp.Adjacent),
    "<+>": (TokenType.DCOLONDOLLAR, exp.ExtendsLeft),
    "<~>": (TokenType.DCOLONPERCENT, exp.ExtendsRight),
    "<%>": (TokenType.DCOLONQMARK, exp.JSONBContains),
}
CARRIERS: dict[type[exp.Expr], str] = {
    carrier: operator for operator, (_, carrier) in OPERATORS.items()
}

CARRIER_TOKENS = frozenset(token for token, _ in OPERATORS.values())

# Calls with a syntax of their own inside the parentheses; everything else is kept as written.
_OWN_SYNTAX = frozenset(
    {
        "CAST",
        "TRY_CAST",
        "EXTRACT",
        "SUBSTRING",
        "TRIM",
        "POSITION",
        "OVERLAY",
        "EXISTS",
        "MAP",
        "ANY",
        "ALL",
        "SOME",
        "CASE",
        "STRUCT",
        "ROW",
        "ARRAY",
        "VALUES",
        "COLUMNS",
        "LIKE",
        "ILIKE",
        "GLOB",
        "COLLATE",
    }
)
# `j -> 'a'` inside a call would be a lambda to sqlglot; DuckDB 2 writes lambdas `lambda x: ...`
# and `->` is JSON.
_ARROW = TokenType.SOUNDS_LIKE
_MARK = "nq\N{MIDDLE DOT}"


# On some malformed text sqlglot's parser doesn't complain but breaks, its compiled build more
# often.
BROKEN = (TypeError, AttributeError, ValueError, LookupError, AssertionError)


def _install() -> None:
    DuckDBParser.BITWISE.update(dict(OPERATORS.values()))
    DuckDBParser.JSON_OPERATORS[_ARROW] = DuckDBParser.JSON_OPERATORS[TokenType.ARROW]
    for carrier, operator in CARRIERS.items():
        DuckDBGenerator.TRANSFORMS[carrier] = _infix(operator)


def _infix(operator: str) -> Callable[[Any, exp.Expr], str]:
    return lambda generator, node: (
        f"{generator.sql(node, 'this')} {operator} {generator.sql(node, 'expression')}"
    )


_install()


class NearQL(DuckDB):
    """The dialect; use `parse` and `render` of this module rather than sqlglot's registry."""

    def to_json_path(self, path: exp.Expr | None) -> exp.Expr | None:
        """The path as written; sqlglot would normalise it, and `'a.b'` is one key to DuckDB."""
        return path

    class Tokenizer(DuckDB.Tokenizer):
        """DuckDB's tokens and the distance operators; no statement swallows its text unread."""

        COMMANDS: ClassVar[set[TokenType]] = set()
        KEYWORDS = {
            **DuckDB.Tokenizer.KEYWORDS,
            **{op: token for op, (token, _) in OPERATORS.items()},
        }


DIALECT = NearQL()
_PARSING: set[int] = set()  # threads


def _is_others(_record: logging.LogRecord) -> bool:
    """sqlglot logs statements that it can't parse, values and all; ours are answered instead."""
    return threading.get_ident() not in _PARSING


logging.getLogger("sqlglot").addFilter(_is_others)


def parsed(tokens: list[Token], text: str) -> list[exp.Expr | None]:
    """sqlglot's trees of marked tokens, and nothing in logs."""
    thread = threading.get_ident()
    _PARSING.add(thread)
    try:
        return DIALECT.parser().parse(tokens, text)
    finally:
        _PARSING.discard(thread)


_FUNCTION_TOKENS = frozenset(DuckDBParser.FUNC_TOKENS) - frozenset(DuckDBParser.TYPE_TOKENS)
_TEMPORAL = frozenset(
    {
        TokenType.TIME,
        TokenType.TIMESTAMP,
        TokenType.TIMESTAMPNTZ,
        TokenType.DATETIME,
    }
)
_BEFORE_TYPES = (TokenType.DCOLON, TokenType.ALIAS)
_NAMES = (
    frozenset(DuckDBParser.FUNCTIONS)
    | frozenset(DuckDBParser.FUNCTION_PARSERS)
    | frozenset(DuckDBParser.NO_PAREN_FUNCTION_PARSERS)
) - _OWN_SYNTAX


def mark_functions(stream: list[Token]) -> list[Token]:
    """The same tokens with function names marked, so that the parser knows none of them."""
    marked = list(stream)
    for at in range(len(stream) - 1):
        token = stream[at]
        if stream[at + 1].token_type is TokenType.L_PAREN and _is_call(stream, at):
            marked[at] = retyped(token, TokenType.VAR, _MARK + str(token.text))
        elif token.token_type is TokenType.ARROW:
            marked[at] = retyped(token, _ARROW, "->")
    return marked


def _is_call(stream: list[Token], at: int) -> bool:
    token, before = stream[at], stream[at - 1].token_type if at else None
    if token.token_type is TokenType.APPLY:
        return before not in (TokenType.CROSS, TokenType.OUTER)
    if token.text.upper() == "POSITION":
        return not _has_in(stream, at + 1)
    if token.text.upper() not in _NAMES:
        return False
    if token.token_type is TokenType.FILTER:
        return before is not TokenType.R_PAREN
    if token.token_type in DuckDBParser.TYPE_TOKENS:
        return token.token_type not in _TEMPORAL and before not in _BEFORE_TYPES
    if token.token_type is TokenType.REPLACE and _replaces_columns(stream, at):
        return False
    return token.token_type in _FUNCTION_TOKENS


def _replaces_columns(stream: list[Token], at: int) -> bool:
    """`SELECT * REPLACE (...)`, `* EXCLUDE (id) REPLACE (...)`; but `2 * replace(...)` is a
    call."""
    if at == 0:
        return False
    if stream[at - 1].token_type is TokenType.STAR:
        return at < 2 or not ends_operand(stream[at - 2])
    return ends_operand(stream[at - 1])


def _has_in(stream: list[Token], opening: int) -> bool:
    """Whether the brackets that open here hold IN, as in POSITION('a' IN b); DuckDB's position(b,
    'a') has none."""
    depth = 0
    for token in stream[opening:]:
        depth += {TokenType.L_PAREN: 1, TokenType.R_PAREN: -1}.get(token.token_type, 0)
        if depth == 0 or depth == 1 and token.token_type is TokenType.IN:
            return depth == 1
    return False


class _Place(dict[str, Any]):
    """A node's meta. Trees are copied often, and what it holds needs no deep copy."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Place:
        return _Place(self)


def _is_endless(limit: exp.Expr) -> bool:
    """LIMIT ALL and LIMIT NULL are PostgreSQL's words for no limit."""
    return isinstance(limit, exp.Null) or (isinstance(limit, exp.Var) and limit.name == "ALL")


def unmark(tree: exp.Expr) -> exp.Expr:
    """Take the marks off again, in place; of each node's place keep what messages use.

    Raises:
        RecursionError: too deep a tree for what recurses.
    """
    for node in nodes_of_shallow(tree, LAYERS):
        if node._meta:
            node._meta = _Place(start=node._meta["start"]) if "start" in node._meta else None
        if isinstance(node, exp.Literal) and str(node.this).startswith(LIST):
            node.replace(exp.Var(this=node.this[len(LIST) :]))
            continue
        if isinstance(node, exp.Limit) and _is_endless(node.expression):
            node.pop()
            continue
        for key in ("this", "alias"):
            text = node.args.get(key)
            if isinstance(text, str) and text.startswith(_MARK):
                node.set(key, text[len(_MARK) :])
    return tree
