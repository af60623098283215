"""What a statement can't touch: each escape is refused, and what is offered passes."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from nearql.engine.errors import Forbidden, NearQLError, NotFound, SqlError, TooLarge, Unsupported
from nearql.engine.schema import TableDef, TableSchema
from nearql.query import duck, functions
from nearql.query.dialect import bounds, parse, to_duckdb
from nearql.query.guard import GuardLimits, check, check_constant, check_scalar, trees_of
from nearql.query.ports import CatalogView
from nearql.query.statements import Select
from support.escapes import ESCAPES

CATALOG = CatalogView(
    1, {name: TableDef("", name, TableSchema((), 0)) for name in ("docs", "notes")}
)
CORPUS = (Path(__file__).parent / "corpus" / "duckdb_features.sql").read_text().split(";\n")


def guard(text: str, limits: GuardLimits | None = None) -> None:
    """Parse and check a text."""
    for statement in parse(text):
        check(statement, CATALOG, limits or GuardLimits())


@pytest.mark.parametrize("text", ESCAPES)
def test_escape_is_refused(text: str) -> None:
    """By an error that says what, never by DuckDB's lock alone."""
    with pytest.raises((SqlError, Unsupported, NotFound)) as caught:
        guard(text)
    assert caught.value.http_status in (400, 404)
    assert not isinstance(caught.value, Forbidden)


NOT_OFFERED = ("error(", "current_user", "divide", "setseed", "can_cast_implicitly")


def test_what_duckdb_can_do_passes() -> None:
    """The corpus of features is offered, but for the functions that were left out on purpose."""
    for text in CORPUS:
        if not any(name in text for name in NOT_OFFERED):
            guard(text)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM docs, notes AS n, (SELECT 1) AS x, unnest([1, 2]) AS u(v)",
        "SELECT * FROM DOCS JOIN main.notes USING (id) JOIN public.docs AS d USING (id)",
        "SELECT * FROM nearql.tables, nearql.columns",
        "WITH a AS (SELECT 1), b AS (SELECT * FROM a) SELECT * FROM b, (SELECT * FROM a) AS c",
        (
            "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 5) "
            "SELECT * FROM t"
        ),
        "WITH docs2 AS (SELECT * FROM docs) SELECT (SELECT max(id) FROM docs2) FROM docs2",
        "INSERT INTO docs WITH a AS (SELECT 1) SELECT * FROM a",
        (
            "SELECT l2_distance(v, [1]), -inner_product(v, [1]), vector_dims(v), "
            "l2_normalize(v) FROM docs"
        ),
        "SELECT v <-> :q, avg(v), subvector(v, 1, 2) FROM docs",
        "SELECT * FROM range(10) AS r(i), generate_series(1, 5), json_each('{}')",
        "UPDATE docs SET a = n.b FROM notes AS n WHERE n.id = docs.id",
        (
            "SELECT * FROM docs AS d CROSS JOIN LATERAL (SELECT * FROM notes ORDER BY v <-> "
            "d.v LIMIT 3) AS n"
        ),
    ],
)
def test_what_is_offered_passes(text: str) -> None:
    """Tables of the catalog, system tables, CTEs where they are visible, table functions."""
    guard(text)


@pytest.mark.parametrize(
    ("text", "code", "near"),
    [
        ("SELECT * FROM dosc", "undefined_table", "'docs'"),
        ("SELECT * FROM nearql.tablez", "undefined_table", "'nearql.tables'"),
        ("UPDATE note SET a = 1", "undefined_table", "'notes'"),
        ("SELECT lowr(title) FROM docs", "undefined_function", "'lower'"),
        ("SELECT l2_distanc(v, v) FROM docs", "undefined_function", "'l2_distance'"),
        ("SELECT hamming_distence(v, v) FROM docs", "undefined_function", "'hamming_distance'"),
        ("SELECT nextval('x')", "undefined_function", "bigserial"),
    ],
)
def test_unknown_names_come_with_the_nearest(text: str, code: str, near: str) -> None:
    """Or with what to use instead, and where they stand."""
    with pytest.raises(NearQLError) as caught:
        guard(text)
    assert caught.value.code == code
    assert near in caught.value.detail
    assert caught.value.position is not None


def test_position_is_where_the_function_stands() -> None:
    """Counted in the whole request."""
    text = "SELECT 1; SELECT id, getenv('x') FROM docs"
    with pytest.raises(NearQLError) as caught:
        guard(text)
    assert caught.value.position == text.index("getenv") + 1


# ---- Numbers that make much of little ---------------------------------------------------

LIMITS = GuardLimits(grown=100, series_rows=50)


@pytest.mark.parametrize(
    ("fits", "beyond"),
    [
        ("repeat('a', 100)", "repeat('a', 101)"),
        ("lpad('a', 100, 'x')", "lpad('a', 10 * 11, 'x')"),
        ("rpad('a', 100, 'x')", "rpad('a', 2 ** 7, 'x')"),
        ("list_resize([1], 100)", "list_resize([1], (101)::INT)"),
        ("bitstring('1', 100)", "bitstring('1', 100 + 1)"),
        ("repeat('ab', 50)", "repeat('ab', 51)"),
        ("range(100)", "range(101)"),
        ("range(100, 200)", "range(100, 201)"),
        ("range(0, 200, 2)", "range(0, 202, 2)"),
        ("generate_series(100, 1, -1)", "generate_series(102, 1, -1)"),
        ("repeat('a', 10 / 0)", "repeat('a', 9 ** 999)"),
    ],
)
def test_literal_growth_is_capped(fits: str, beyond: str) -> None:
    """At the limit a call passes, beyond it is refused before it runs."""
    if "/ 0" not in fits:
        guard(f"SELECT {fits}", LIMITS)
    with pytest.raises(TooLarge):
        guard(f"SELECT {beyond}", LIMITS)


def test_series_in_from_are_capped_too() -> None:
    """The same in FROM."""
    guard("SELECT * FROM range(50)", LIMITS)
    with pytest.raises(TooLarge):
        guard("SELECT * FROM generate_series(1, 1000)", LIMITS)


def test_joins_are_counted() -> None:
    """DuckDB's optimizer can't be interrupted: their number is bounded."""
    limits = GuardLimits(joins=3)
    for comma in (", docs AS d{}", " JOIN docs AS d{} ON true"):
        guard("SELECT 1 FROM docs" + "".join(comma.format(i) for i in range(3)), limits)
        with pytest.raises(SqlError, match="limits.sql_joins"):
            guard("SELECT 1 FROM docs" + "".join(comma.format(i) for i in range(4)), limits)


# ---- Expressions of DDL -----------------------------------------------------------------


def expression(text: str) -> object:
    """One expression's tree."""
    (statement,) = parse(f"SELECT {text}")
    assert isinstance(statement, Select)
    return statement.tree.expressions[0]


@pytest.mark.parametrize(
    "text", ["1 + 1", "now()", "uuid()", "'a' || 'b'", "[1, 2]", "DATE '2024-01-01'"]
)
def test_constants_pass(text: str) -> None:
    """Literals and functions."""
    check_constant(expression(text), "DEFAULT")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["a", "(SELECT 1)", "sum(1)", ":p", "row_number() OVER ()", "unnest([1])"]
)
def test_what_varies_by_row_is_no_constant(text: str) -> None:
    """With the reason."""
    with pytest.raises(SqlError, match="DEFAULT may not"):
        check_constant(expression(text), "DEFAULT")  # type: ignore[arg-type]


def test_check_may_read_columns() -> None:
    """But no more than its row."""
    check_scalar(expression("a > 1 AND lower(b) = 'x'"), "CHECK")  # type: ignore[arg-type]
    for text in ("sum(a) > 1", "a IN (SELECT 1)", "a = :p"):
        with pytest.raises(SqlError, match="CHECK may not"):
            check_scalar(expression(text), "CHECK")  # type: ignore[arg-type]


# ---- The list of functions --------------------------------------------------------------

DANGEROUS = (
    "read_",
    "scan",
    "glob",
    "getenv",
    "setting",
    "variable",
    "pragma",
    "duckdb",
    "sniff",
    "copy",
    "secret",
    "http",
    "nextval",
    "currval",
    "txid",
    "log_",
    "query",
    "serialize",
    "sleep",
    "system",
    "attach",
    "install",
    "seed",
    "checkpoint",
    "file_",
    "logging",
)


def test_no_allowed_function_has_a_dangerous_name() -> None:
    """A second look at the list, by name."""
    harmless = {"parse_filename"}
    found = {n for n in functions.ALLOWED | functions.TABLE for bad in DANGEROUS if bad in n}
    assert found - harmless == set()


def test_every_allowed_function_exists() -> None:
    """In DuckDB, its parser, or among ours; a name that DuckDB drops must go here too."""
    with duckdb.connect() as connection:
        rows = connection.execute("SELECT DISTINCT lower(function_name) FROM duckdb_functions()")
        known = {name for (name,) in rows.fetchall()}
    elsewhere = functions.SYNTAX | functions.VECTOR | functions.TEXT | functions.SETS
    assert known >= (functions.ALLOWED | functions.TABLE) - elsewhere
    with duck.shared().cursor() as cursor:
        answer = cursor.query("SELECT DISTINCT lower(function_name) AS n FROM duckdb_functions()")
        assert set(answer.table.column("n").to_pylist()) >= functions.VECTOR


@pytest.mark.parametrize("name", sorted(functions.SCALAR | functions.AGGREGATE | functions.WINDOW))
def test_calls_are_kept_as_written(name: str) -> None:
    """No function is renamed, reordered or rewritten on its way to DuckDB."""
    if name in ("overlay", "position"):
        pytest.skip("their arguments have a syntax of their own; see the corpus")
    if name in bounds.BOUNDS:
        pytest.skip("what grows is bounded; see test_bounds")
    for text in (f"SELECT {name}(x, 1) FROM t", f"SELECT 2 * {name}(x) + 1 FROM t"):
        (statement,) = parse(text)
        (tree,) = trees_of(statement)
        assert to_duckdb(tree).lower() == text.lower()
