"""Whatever text comes in, parse() answers or raises a NearQLError; so do rendering and the
guard."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nearql.engine.errors import NearQLError
from nearql.engine.schema import TableDef, TableSchema
from nearql.query.dialect import parse, to_duckdb, to_nearql
from nearql.query.guard import check, trees_of
from nearql.query.ports import CatalogView

CORPUS = (Path(__file__).parent / "corpus" / "duckdb_features.sql").read_text().split(";\n")
STATEMENTS = [
    *[text.strip() for text in CORPUS if text.strip()],
    *(Path(__file__).parent / "corpus" / "statements.sql").read_text().split("\n\n"),
]
PIECES = [
    *"()[]{},;.'\"$:?*+-/<>=!@~^&|%\\\n\0#",
    "<->",
    "<#>",
    "<=>",
    "<+>",
    "<~>",
    "::",
    "->>",
    "$$",
    "--",
    "/*",
    "*/",
    " NOT ",
    " NULL",
    " IN ",
    " AS ",
    " FROM ",
    " WHERE ",
    " SELECT ",
    " JOIN ",
    " ON ",
    " CASE ",
    " WHEN ",
    " END ",
    " VALUES ",
    " LIMIT ",
    " OVER ",
    " ARRAY[",
    " INTERVAL ",
    " DATE ",
    " WITH ",
    " UNION ",
    " LATERAL ",
    " PIVOT ",
    " lambda x: ",
    " STRUCT(",
    " DISTINCT ",
    " IS ",
    " SET ",
    " é",
    "\u2028",
    "😀",
    " 1e999 ",
    " 0x1",
    " E'\\",
    " U&'",
    " nq·a(",
]
CATALOG = CatalogView(1, {"docs": TableDef("", "docs", TableSchema((), 0))})


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A good statement with up to four places cut out, doubled, swapped or filled with a piece."""
    text = draw(st.sampled_from(STATEMENTS))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        middle = draw(
            st.sampled_from([*PIECES, "", text[start:end] * 2, text[start:end][::-1]])
            | st.text(max_size=3)
        )
        text = text[:start] + middle + text[end:]
    return text


def survive(text: str) -> None:
    """Only NearQLError may come out, with a place inside the text."""
    error = failure(text)
    if error is not None:
        assert error.position is None or 1 <= error.position <= len(text) + 2
        assert error.detail


def failure(text: str) -> NearQLError | None:
    """What is wrong with a text, if anything."""
    try:
        for statement in parse(text):
            for tree in trees_of(statement):
                to_nearql(tree)
                to_duckdb(tree)
            check(statement, CATALOG)
    except NearQLError as error:
        return error
    return None


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated())
@example("SELECT $")
@example("SELECT :")
@example("SELECT ?::")
@example("'")
@example("SELECT {")
@example("SELECT 1 FROM t WHERE x IN")
@example("EXPLAIN (")
@example("CREATE TABLE t (a")
@example("\0")
def test_mutated_statements(text: str) -> None:
    """Good statements with damage."""
    survive(text)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_pieces_alone(text: str) -> None:
    """Tokens in any order."""
    survive(text)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_any_text(text: str) -> None:
    """Text that was never SQL."""
    survive(text)
