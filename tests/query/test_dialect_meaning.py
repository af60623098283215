"""A statement's meaning is DuckDB's: what NearQL renders gives what DuckDB gives for the text as
written."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from nearql.engine.errors import NearQLError
from nearql.query import duck_functions
from nearql.query.dialect import parse, to_duckdb, to_nearql
from nearql.query.statements import Select

CORPUS = (Path(__file__).parent / "corpus" / "duckdb_features.sql").read_text().split(";\n")
FEATURES = [text.strip().rstrip(";") for text in CORPUS if text.strip()]
TABLE = """
CREATE TABLE docs (id BIGINT, price DOUBLE, title TEXT, cat TEXT, ts TIMESTAMP, tags TEXT[],
    st STRUCT(a INT, b TEXT), m MAP(TEXT, INT), j JSON, arr FLOAT[3]);
INSERT INTO docs VALUES
    (1, 1.5, 'Hello', 'x', '2024-01-01', ['a', 'b'], {'a': 1, 'b': 'q'}, map {'k': 1},
     '{"a.b": 1, "a": {"b": 2}}', [1, 2, 3]),
    (2, 7, 'World', 'y', '2024-05-01', ['c'], {'a': 3, 'b': 'z'}, map {'k': 5}, '{"a": [1, 2]}',
     [4, 5, 6]),
    (3, 9, 'hello', 'x', '2023-01-01', [], NULL, NULL, NULL, NULL);
"""


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB itself, with a table of every kind of column."""
    with duckdb.connect() as connection:
        connection.execute(TABLE)
        duck_functions.install(connection, 100_000)
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


def tree(text: str) -> Any:
    """The one query of a text."""
    (statement,) = parse(text)
    assert isinstance(statement, Select)
    return statement.tree


def test_the_corpus_is_large() -> None:
    """A list of features is worth something only while it is long."""
    assert len(FEATURES) >= 190


@pytest.mark.parametrize("text", FEATURES, ids=range(len(FEATURES)))
def test_feature_means_the_same(con: duckdb.DuckDBPyConnection, text: str) -> None:
    """The same rows (in any order) from the text as written and as rendered."""
    written = sorted(map(repr, con.execute(text).fetchall()))
    rendered = sorted(map(repr, con.execute(to_duckdb(tree(text))).fetchall()))
    assert rendered == written


@pytest.mark.parametrize("text", FEATURES, ids=range(len(FEATURES)))
def test_rendering_is_stable(text: str) -> None:
    """What was rendered is read as what it renders to."""
    once = to_nearql(tree(text))
    assert to_nearql(tree(once)) == once


# ---- Random expressions: DuckDB's own parser says whether two texts are one tree -----------

ATOMS = (
    "1",
    "2",
    "x",
    "y",
    "'a'",
    "NULL",
    "true",
    "[1, 2]",
    "f(x)",
    "{'a': 1}",
    "t.x",
    "interval 1 day",
    "case when x then 1 else y end",
    "(x)",
    "(1, 2)",
    "date '2024-01-01'",
    "count(*)",
    "cast(x as int)",
    "$q",
    "list_sort(y)",
)
BINARY = (
    "+",
    "-",
    "*",
    "/",
    "//",
    "%",
    "||",
    "=",
    "<>",
    "<",
    "<=",
    ">",
    ">=",
    "AND",
    "OR",
    "LIKE",
    "ILIKE",
    "NOT LIKE",
    "IS DISTINCT FROM",
    "->>",
    "&",
    "|",
    "<<",
    "**",
    "@>",
    "&&",
    "~",
    "SIMILAR TO",
)
SUFFIXES = (
    " IS NULL",
    " IS NOT NULL",
    "::int",
    "[1]",
    " IN (1, 2)",
    " NOT IN (1, x)",
    " BETWEEN 1 AND 2",
    " NOT BETWEEN x AND y",
    "::varchar",
    "[1:2]",
    " IS TRUE",
    " IS NOT TRUE",
)
TYPES = {"INT": "INTEGER", "TEXT": "VARCHAR"}


def expression(chance: random.Random, depth: int) -> str:
    """Up to 2**depth operands; both sides of an operator are bracketed unless they are simple."""
    if depth == 0:
        return chance.choice(ATOMS)
    kind = chance.random()
    if kind < 0.55:
        left, right = bracketed(chance, depth - 1), bracketed(chance, depth - 1)
        return f"{left} {chance.choice(BINARY)} {right}"
    if kind < 0.7:
        return chance.choice(("NOT ", "-", "~")) + bracketed(chance, depth - 1)
    if kind < 0.9:
        return bracketed(chance, depth - 1) + chance.choice(SUFFIXES)
    return f"f({expression(chance, depth - 1)}, {expression(chance, depth - 1)})"


def bracketed(chance: random.Random, depth: int) -> str:
    """An operand."""
    return f"({expression(chance, depth)})" if depth else chance.choice(ATOMS)


def duckdb_tree(con: duckdb.DuckDBPyConnection, text: str) -> Any:
    """DuckDB's parse of a text, without places; None where DuckDB refuses it."""
    (found,) = con.execute("SELECT json_serialize_sql(?)", [text]).fetchone() or ("{}",)
    parsed = json.loads(found)
    return None if parsed.get("error") else normal(parsed)


def normal(node: Any) -> Any:
    """The parts of DuckDB's tree that carry meaning, equal spellings made one."""
    if isinstance(node, list):
        return [normal(item) for item in node]
    if not isinstance(node, dict):
        return node
    made = {
        key: normal(value)
        for key, value in node.items()
        if not key.startswith("query_location") and key not in ("qualified_name", "is_operator")
    }
    if "type_name" in made:
        name = str(made["type_name"]).upper()
        made["type_name"] = TYPES.get(name, name)
    if set(made) == {"kind", "text"}:
        return {"text": made["text"]}  # INTERVAL 1 DAY and INTERVAL '1' DAY
    return made


def test_random_expressions_are_the_same_tree(con: duckdb.DuckDBPyConnection) -> None:
    """Of 800 random expressions, those that DuckDB takes are rendered as the same expression."""
    chance = random.Random(20260801)
    compared = refused = 0
    for _ in range(800):
        text = f"SELECT {expression(chance, chance.choice((1, 2, 3)))} FROM t"
        written = duckdb_tree(con, text)
        if written is None:
            continue
        try:
            rendered = to_duckdb(tree(text))
        except NearQLError:
            refused += 1
            continue
        assert duckdb_tree(con, rendered) == written, f"{text}\n{rendered}"
        compared += 1
    assert compared > 700
    assert refused < 5
