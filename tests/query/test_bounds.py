"""Calls that make much of little are bounded when their arguments are known, and stay what they
are below the bound."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from nearql.engine.errors import NearQLError, SqlError, StatementTimeout, TooLarge
from nearql.query import patience
from nearql.query.dialect import Limits, parse, to_duckdb
from nearql.query.duck_errors import translate
from nearql.query.planner import plan_query
from nearql.query.statements import Select
from support.sql import Sql

MOST = 20_000  # limits.call_length
ROWS = "(VALUES (1)) AS v(one)"


@pytest.fixture(scope="module")
def sql() -> Iterator[Sql]:
    """One database for all."""
    made = Sql()
    yield made
    made.database.close()


# What fits and what doesn't, both with numbers that only the statement's run knows.
EDGES = [
    ("length(repeat('a', one * {}))", MOST),
    ("length(repeat('ab', one * {}))", MOST // 2),
    ("length(repeat(repeat('a', 1000), one * {}))", MOST // 1000),
    ("len(repeat([1], one * {}))", (MOST - 1) // 3),
    ("length(lpad('a', one * {}, 'b'))", MOST),
    ("length(rpad('a', one * {}, 'b'))", MOST),
    ("len(list_resize([1], one * {}))", MOST),
    ("bit_length(bitstring('1', one * {}))", MOST),
    ("len(range(one * {}))", MOST),
    ("len(range(1, one * {}))", MOST + 1),
    ("len(range(0, one * {}, 2))", 2 * MOST),
    ("len(generate_series(one * {}, 0, -1))", MOST),
    (
        (
            "len(range(TIMESTAMP '2020-01-01', TIMESTAMP '2020-01-01' + to_seconds(one * {}), "
            "INTERVAL 1 SECOND))"
        ),
        MOST,
    ),
    ("length(replace(repeat('a', one * {}), 'a', 'bbbbbbbbbb'))", MOST),
    ("length(regexp_replace(repeat('a', one * {}), 'a', 'bbbbbbbbbb', 'g'))", MOST),
    ("levenshtein(repeat('a', one * {}), 'b')", MOST),
    ("levenshtein(repeat('a', one * {}), 'bcd')", 2 * MOST // 3),
    ("damerau_levenshtein(repeat('a', one * {}), 'bc')", MOST),
    ("editdist3(repeat('a', one * {}), 'bc')", MOST),
    ("jaro_similarity(repeat('a', one * {}), 'bc')", MOST),
    ("jaro_winkler_similarity(repeat('a', one * {}), 'bc')", MOST),
    ("len(list_intersect(range(one * {}), range(2000)))", MOST),
    ("len(list_transform([1], lambda x: repeat('a', one * {})))", MOST // 100),
    ("len(list_transform([1], lambda x: repeat('a', {})))", MOST // 100),
    ("len([range({}) for x in [1]])", MOST // 100),
    ("len(list_transform([1], lambda x: [range({}) for y in [1]]))", MOST // 10_000),
]  # fmt: skip


@pytest.mark.parametrize(("call", "most"), EDGES, ids=[call for call, _ in EDGES])
def test_calls_are_bounded_at_the_edge(sql: Sql, call: str, most: int) -> None:
    """The longest value is made, one more is refused before it is."""
    assert sql.run(f"SELECT {call.format(most)} FROM {ROWS}").row_count == 1
    with pytest.raises(TooLarge) as caught:
        sql.run(f"SELECT {call.format(most + 1)} FROM {ROWS}")
    assert caught.value.extra["setting"] == "call_length"
    assert "limits.call_length" in caught.value.detail


# One call for each of 2,048 rows: the most that fits, and one more.
CHUNKS = [
    ("length(repeat('a', n))", 100 * MOST),
    ("len(range(n))", 100 * MOST),
    ("length(lpad('a', n::INTEGER, 'b'))", 100 * MOST),
    ("len(list_transform([1], lambda x: repeat('a', n)))", 10 * MOST),
    ("levenshtein(repeat('a', n), 'b')", 2 * 1_500 * MOST),
    ("len(list_intersect(range(n), range(n)))", 25 * 2_000 * MOST),
]  # fmt: skip


@pytest.mark.parametrize(("call", "most"), CHUNKS, ids=[call for call, _ in CHUNKS])
def test_calls_of_a_chunk_are_bounded_together(sql: Sql, call: str, most: int) -> None:
    """Nothing interrupts DuckDB before it is done with a chunk of rows."""
    each, rest = divmod(most, 2048)
    if "intersect" in call:
        each, rest = math.isqrt(each), 0
    rows = f"(SELECT {{}} + (i < {rest})::BIGINT AS n FROM range(2048) r(i))"
    if each <= MOST // (100 if "lambda" in call else 1):
        assert sql.run(f"SELECT {call} FROM {rows.format(each)} r").row_count == 2048
    with pytest.raises(TooLarge) as caught:
        sql.run(f"SELECT {call} FROM {rows.format(each + 1)} r")
    assert caught.value.extra["setting"] == "call_length"


@pytest.mark.parametrize(
    "text",
    [
        "format('{:>10000}', 'a')",
        "format('{:{}}', 'a', 20)",
        "format('{:>' || '2000000000' || '}', 'a')",
        "printf('%10000d', 1)",
        "printf('%*d', 20, 1)",
        "printf('%.99999f', 1)",
    ],
)
def test_widths_are_written_out_and_short(sql: Sql, text: str) -> None:
    """At most four digits, and none from an argument."""
    with pytest.raises(TooLarge):
        sql.run(f"SELECT {text}")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("repeat(x, 2)", "xx"),
        ("repeat([1], 2)", [1, 1]),
        ("repeat(NULL, 2)", None),
        ("repeat(x, NULL)", None),
        ("lpad(x, CAST(length(x) + 1 AS INTEGER), '*')", "*x"),
        ("format('{:>4}|{}', x, 1)", "   x|1"),
        ("printf('%4d', 5)", "   5"),
        ("replace(x, 'x', 'yy')", "yy"),
        ("replace(x, x, x || x)", "xx"),
        ("regexp_replace(x, '(x)', '\\1\\1')", "xx"),
        ("range(length(x))", [0]),
        ("len(range(DATE '2020-01-01', DATE '2020-02-01', INTERVAL 1 DAY))", 31),
        ("range(5, 1, -2)", [5, 3]),
        ("range(1, 5, NULL)", None),
        ("levenshtein(x, 'y')", 1),
        ("list_transform([1, 2], lambda y: repeat(x, y))", ["x", "xx"]),
    ],
)
def test_below_the_bound_nothing_changes(sql: Sql, text: str, value: Any) -> None:
    """Value and column name are those of the call as written."""
    result = sql.run(f"SELECT {text} FROM (VALUES ('x')) AS v(x)")
    assert result.table.column(0).to_pylist() == [value]
    assert "nq_" not in result.columns[0].name


def test_literal_calls_reach_duckdb_as_written() -> None:
    """The guard has checked their numbers."""
    for text in ("repeat('a', 3)", "lpad(x, 5, ' ')", "range(3)", "format('{:.2f}', x)"):
        (statement,) = parse(f"SELECT {text}")
        assert isinstance(statement, Select)
        assert "nq_" not in to_duckdb(statement.tree)


def test_growing_calls_nest_a_little_only(sql: Sql) -> None:
    """Each level would name its argument twice."""
    text = "x"
    for _ in range(6):
        text = f"repeat({text}, 1 + 1)"
    assert sql.run(f"SELECT length({text}) FROM (VALUES ('x')) AS v(x)").row_count == 1
    with pytest.raises(SqlError) as caught:
        sql.run(f"SELECT repeat({text}, 1 + 1) FROM (VALUES ('x')) AS v(x)")
    assert caught.value.code == "statement_too_complex"


@pytest.mark.parametrize("one", ["'a'", "['a']"])
@pytest.mark.parametrize("name", ["list_reduce", "array_reduce", "reduce"])
def test_what_a_reduction_makes_is_bounded_at_each_step(sql: Sql, name: str, one: str) -> None:
    """Sixty doublings took gigabytes, and no interrupt reached them."""
    doubling = f"{name}(list_transform(range({{}}), lambda x: {one}), lambda a, b: a || a)"
    assert sql.rows(f"SELECT len({doubling.format(12)})") == [(2**11,)]
    with pytest.raises(TooLarge) as caught:
        sql.run(f"SELECT {doubling.format(60)}")
    assert caught.value.extra["setting"] == "call_length"


def test_a_reduction_below_the_bound_is_as_written(sql: Sql) -> None:
    joined = "list_reduce(['a', 'b', 'c'], lambda a, b: a || ', ' || b)"
    nested = f"list_reduce([{joined}, 'd'], lambda a, b: a || {joined})"
    found = sql.run(f"SELECT {joined}, {nested}, list_reduce([1, 2], lambda a, b: a + b, 4)")
    assert list(found.table.to_pylist()[0].values()) == ["a, b, c", "a, b, ca, b, c", 7]
    assert not any("nq_" in column.name for column in found.columns)


# ---- Long statements --------------------------------------------------------------------


@pytest.mark.parametrize("item", ["{}", "'k{}'", "-{}.5e1"])
def test_long_lists_in_in_are_one_literal(sql: Sql, item: str) -> None:
    """The tree stays small, and what follows keeps its place."""
    listed = ", ".join(item.format(i) for i in range(30_000))
    text = f"SELECT 5 IN ({listed}) AS found, 'x' NOT IN ({listed}) AS gone"
    assert len(list(parse(text)[0].tree.walk())) < 30  # type: ignore[attr-defined]
    with pytest.raises(SqlError) as caught:
        parse(text + " oops oops")
    assert caught.value.position == len(text) + 2


def test_long_lists_in_in_mean_the_same(sql: Sql) -> None:
    """As filters of a search, too."""
    sql.run("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, v VECTOR(1))")
    rows = ", ".join(f"({i}, 'n{i}', '[{i}]')" for i in range(50))
    sql.run(f"INSERT INTO t VALUES {rows}")
    numbers = ", ".join(map(str, range(10, 2_000)))
    names = ", ".join(f"'n{i}'" for i in range(10, 2_000))
    for condition in (f"id IN ({numbers})", f"name IN ({names})", f"name IN ( {names}, 'it''s' )"):
        near = f"SELECT id FROM t WHERE {condition} ORDER BY v <-> '[0]' LIMIT 3"
        assert sql.run(near).table.column(0).to_pylist() == [10, 11, 12]
        count = f"SELECT count(*) FROM t WHERE NOT ({condition})"
        assert sql.run(count).table.column(0).to_pylist() == [10]
    sql.run("DROP TABLE t")


def test_statements_have_a_longest_form() -> None:
    """At its edge; literal rows of INSERT count apart."""
    limits = Limits(tokens=101)
    parse("SELECT " + ", ".join("x" * 50), limits)
    with pytest.raises(TooLarge) as caught:
        parse("SELECT 1; SELECT " + ", ".join("x" * 52), limits)
    assert caught.value.position == 11
    assert caught.value.extra["setting"] == "sql_tokens"
    parse("INSERT INTO t VALUES " + ", ".join(["(1, 2)"] * 100), limits)
    with pytest.raises(TooLarge):
        parse("INSERT INTO t VALUES " + ", ".join(["(1, 2 + x)"] * 100), limits)
    with pytest.raises(TooLarge):
        parse("INSERT INTO t VALUES " + ", ".join(["(1, 2)"] * 2_000), limits)


def test_planning_ends_with_the_statements_time(sql: Sql) -> None:
    """Parsing, checking and planning ask for the time themselves."""
    text = "WITH " + ", ".join(f"c{i} AS (SELECT {i})" for i in range(50)) + " SELECT 1"
    with patience.until(lambda: 0.0), pytest.raises(StatementTimeout):
        parse(text)
    (statement,) = parse(text)
    assert isinstance(statement, Select)
    with patience.until(lambda: 0.0), pytest.raises(StatementTimeout):
        plan_query(statement.tree, sql.database.catalog())
    plan_query(statement.tree, sql.database.catalog())


def test_an_interrupt_while_rows_are_read_is_a_timeout() -> None:
    """It comes through Arrow's reader as an OSError."""
    error: NearQLError = translate(OSError("INTERRUPT Error: Interrupted!"))
    assert isinstance(error, StatementTimeout)
