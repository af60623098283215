"""Texts that nest in every way that a parser may recurse on."""

from __future__ import annotations

from nearql.engine.errors import NearQLError
from nearql.query.dialect import Limits, parse, to_duckdb
from nearql.query.dialect.depth import DEFAULT_LIMITS
from nearql.query.statements import Select

# What a parser may recurse on, a piece for each level, and what stands before the first of them.
NESTING = [
    ("SELECT ", "("), ("SELECT ", "CASE WHEN a THEN "), ("SELECT ", "CASE "), ("SELECT ", "NOT "),
    ("SELECT * FROM ", "(SELECT * FROM "), ("SELECT * FROM ", "("), ("SELECT ", "f("),
    ("SELECT ", "CAST("), ("SELECT ", "["), ("SELECT ", "{'a': "), ("SELECT ", "- "),
    ("SELECT 1 ", "IN (1 "), ("SELECT ", "INTERVAL "), ("SELECT ", "~ "),
    ("SELECT ", "EXISTS ("), ("WITH a AS ", "("), ("SELECT 1 ", "** 1 "),
    ("SELECT f(", "lambda x: "), ("SELECT 1 ", "BETWEEN 1 "), ("SELECT a ", "-> 1 "),
    ("SELECT * FROM a", ", LATERAL (SELECT "), ("SELECT a", "::INT"),
    ("SELECT 1 ", "UNION SELECT 1 "),
]  # fmt: skip
NO_LIMITS = Limits(nesting=10**9, chain=10**9, queries=10**9, type_nesting=4, open_joins=10**9)

__all__ = ["DEFAULT_LIMITS", "NESTING", "NO_LIMITS", "ask_all"]


def asked(text: str, limits: Limits) -> str:
    """The code of the error that a text meets; empty where it is parsed and written again."""
    try:
        [statement] = parse(text, limits)
        assert isinstance(statement, Select)
        to_duckdb(statement.tree)
    except NearQLError as error:
        return error.code
    return ""


def ask_all(limits: Limits) -> None:
    """Ask them all, a line of output for each."""
    for before, piece in NESTING:
        for times in (30, 3000):
            print(asked(before + piece * times, limits), flush=True)
