"""Text -> statements: operators, parameters, splitting, errors with their place."""

from __future__ import annotations

import pytest
from sqlglot import exp

from nearql.engine.errors import InvalidValue, NearQLError, SqlError, TooLarge, Unsupported
from nearql.engine.types import Metric
from nearql.query.dialect import Limits, distance_of, parse, to_duckdb, to_nearql
from nearql.query.dialect.literals import lift
from nearql.query.parameters import names_in
from nearql.query.settings import SessionSettings
from nearql.query.statements import Explain, Select, Statement
from support.sql import Sql

OPERATORS = {
    "<->": Metric.L2, "<#>": Metric.INNER_PRODUCT, "<=>": Metric.COSINE, "<+>": Metric.L1,
}  # fmt: skip
CANONICAL = {"<->": "nq_l2", "<#>": "nq_ip", "<=>": "nq_cos", "<+>": "nq_l1"}
STYLES = {":q": ("$q", "q"), "$1": ("$1", "1"), "$name": ("$name", "name"), "?": ("$1", "1")}


def select(text: str) -> exp.Query:
    """The tree of a text that is one query."""
    (statement,) = parse(text)
    assert isinstance(statement, Select)
    return statement.tree


def item(text: str) -> exp.Expr:
    """The only item of SELECT `text`."""
    found = select(f"SELECT {text} FROM t").expressions[0]
    assert isinstance(found, exp.Expr)
    return found


def failure(text: str) -> NearQLError:
    """The error of parsing a text."""
    with pytest.raises(NearQLError) as caught:
        parse(text)
    return caught.value


# ---- Operators and parameters -----------------------------------------------------------


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("style", STYLES)
def test_operator_with_parameter_round_trips(operator: str, style: str) -> None:
    """Each operator takes each style of parameter and comes out as itself and as its function."""
    text = (
        f"SELECT id, vec {operator} {style} AS d FROM docs WHERE p < 3 ORDER BY vec "
        f"{operator} x LIMIT 5"
    )
    shown, name = STYLES[style]
    tree = select(text)
    assert to_nearql(tree) == text.replace(style, shown)
    assert to_nearql(select(to_nearql(tree))) == to_nearql(tree)
    assert f"{CANONICAL[operator]}(vec, {shown}) AS d" in to_duckdb(tree)
    assert names_in([tree]) == [name]


@pytest.mark.parametrize("operator", OPERATORS)
def test_distance_of_operators(operator: str) -> None:
    """An operator is recognised with its metric and operands."""
    found = distance_of(item(f"a {operator} b"))
    assert found is not None
    metric, left, right = found
    assert (metric, left.name, right.name) == (OPERATORS[operator], "a", "b")


@pytest.mark.parametrize(
    ("text", "metric"),
    [
        ("l2_distance(a, b)", Metric.L2),
        ("L2_Distance(a, b)", Metric.L2),
        ("cosine_distance(a, b)", Metric.COSINE),
        ("l1_distance(a, b)", Metric.L1),
        ("-inner_product(a, b)", Metric.INNER_PRODUCT),
        ("inner_product(a, b)", None),  # positive: a similarity, no distance
        ("-l2_distance(a, b)", None),
        ("l2_distance(a)", None),
        ("a - b", None),
    ],
)
def test_distance_of_functions(text: str, metric: Metric | None) -> None:
    """The functions are the operators by other names; inner_product has the other sign."""
    found = distance_of(item(text))
    assert (found[0] if found else None) == metric


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a + b OP c < 2", "F(a + b, c) < 2"),
        ("a OP b - c = d", "F(a, b - c) = d"),
        ("a OP b < c AND d OP e > f", "F(a, b) < c AND F(d, e) > f"),
        ("a OP b BETWEEN c AND d", "F(a, b) BETWEEN c AND d"),
        ("1 - (a OP b)", "1 - (F(a, b))"),
        ("NOT a OP b < 1", "NOT F(a, b) < 1"),
        ("a OP b IS NULL", "F(a, b) IS NULL"),
        ("a * 2 OP b / 2", "F(a * 2, b / 2)"),
        ("a OP '[1]'::vector(1)", "F(a, CAST('[1]' AS FLOAT[1]))"),
        ("a OP b IN (1, 2)", "F(a, b) IN (1, 2)"),
    ],
)
def test_precedence_is_postgresqls(operator: str, text: str, expected: str) -> None:
    """Below + and -, above comparisons, BETWEEN, IN, NOT and AND."""
    made = to_duckdb(item(text.replace("OP", operator)))
    assert made == expected.replace("F(", f"{CANONICAL[operator]}(")


@pytest.mark.parametrize(("operator", "name"), [("<~>", "hamming"), ("<%>", "jaccard")])
def test_bit_operators_and_their_functions(operator: str, name: str) -> None:
    """Both are one function to DuckDB."""
    assert to_duckdb(item(f"a {operator} b")) == f"nq_{name}(a, b)"
    assert to_duckdb(item(f"{name}_distance(a, b)")) == f"nq_{name}(a, b)"


def test_operators_are_tokens_only_as_a_whole() -> None:
    """`a<-1` is a comparison with a negative number."""
    assert to_duckdb(item("a<-1")) == "a < -1"
    assert to_duckdb(item("a <> b")) == "a <> b"


def test_questions_are_numbered_through_the_request() -> None:
    """The third `?` of a request is the third value, whichever statement it is in."""
    first, second = parse("SELECT ?, ?; SELECT ?")
    assert isinstance(first, Select)
    assert isinstance(second, Select)
    assert (names_in([first.tree]), names_in([second.tree])) == (["1", "2"], ["3"])


@pytest.mark.parametrize("sign", [":", "$"])
@pytest.mark.parametrize(
    "word", ["like", "limit", "order", "end", "key", "values", "from", "select", "WHERE", "null"]
)
def test_parameters_may_be_named_like_words_of_sql(word: str, sign: str) -> None:
    """A parameter's name is a name, wherever it stands."""
    named = f"{sign}{word}"
    text = f"SELECT {named}, id + {named} FROM t WHERE a LIKE {named} AND b = {named} LIMIT {named}"
    (statement,) = parse(text)
    assert isinstance(statement, Select)
    assert names_in([statement.tree]) == [word]
    assert to_duckdb(statement.tree) == text.replace(named, f"${word}")


def test_questions_and_numbers_do_not_mix() -> None:
    """`?` and `$1` in one request would leave it open which value is whose."""
    assert failure("SELECT ?, $1").position == 11


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("a[1:n]", "a[1:n]"),
        ("a[:n]", "a[1:n]"),
        ("a[:2]", "a[:2]"),
        ("a[1: :q]", "a[1:$q]"),
        ("{'a': :q, b: 1}", "{'a': $q, 'b': 1}"),
        ("{date:q}", "{'date': q}"),
        ("case when a then :x else :y end", "CASE WHEN a THEN $x ELSE $y END"),
        ("x IN (:a, :b)", "x IN ($a, $b)"),
        ("n: 5", "5 AS n"),
        ("a=:b", "a = $b"),
        ("':q' || \":q\"", "':q' || \":q\""),
    ],
)
def test_colon_is_a_parameter_only_where_duckdb_has_none(text: str, rendered: str) -> None:
    """Slices, struct keys and prefix aliases keep DuckDB's meaning."""
    assert to_duckdb(item(text)) == rendered


def test_vector_casts() -> None:
    """VECTOR is a list of FLOAT to DuckDB, HALFVEC text is rounded as storage would."""
    assert to_duckdb(item("x::vector")) == "CAST(x AS FLOAT[])"
    assert to_duckdb(item("CAST(x AS VECTOR(3))")) == "CAST(x AS FLOAT[3])"
    assert to_duckdb(item("'[0.1]'::halfvec(1)")) == "CAST(nq_half('[0.1]') AS FLOAT[1])"
    assert to_duckdb(item("x::halfvec")) == "CAST(nq_half(x) AS FLOAT[])"


def test_bit_casts() -> None:
    """BIT(n) cuts off or fills up, as PostgreSQL does; BIT alone is DuckDB's."""
    assert to_duckdb(item("x::bit(3)")) == "nq_bits(x, 3)"
    assert to_duckdb(item("TRY_CAST(x AS BIT(3))")) == "nq_try_bits(x, 3)"
    assert to_duckdb(item("x::bit")) == "CAST(x AS BIT)"
    assert to_duckdb(item("B'101'")) == "(CAST('101' AS BIT))"
    with pytest.raises(InvalidValue, match="64000"):
        to_duckdb(item("x::bit(64001)"))


@pytest.mark.parametrize("text", ["x::interval day", "CAST('90' AS INTERVAL MINUTE)"])
def test_casts_to_intervals_of_a_unit_are_refused(text: str) -> None:
    """DuckDB leaves the unit out: 90 would be seconds, where PostgreSQL has 90 minutes."""
    with pytest.raises(Unsupported, match="CAST to INTERVAL without a unit"):
        to_duckdb(item(text))
    assert to_duckdb(item("x::interval")) == "CAST(x AS INTERVAL)"


@pytest.mark.parametrize("text", ["x::sparsevec(3)", "x::sparsevec"])
def test_casts_without_meaning_are_refused(text: str) -> None:
    """Nothing is reinterpreted silently."""
    with pytest.raises(Unsupported, match=r"VECTOR\(n\)"):
        to_duckdb(item(text))


def test_a_bit_literal_holds_bits() -> None:
    """With the place of the one that doesn't."""
    error = failure("SELECT B'101', b'12' FROM t")
    assert (error.position, error.detail) == (16, "B'12' holds more than 0 and 1.")


# ---- Long literals ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "literal", ["ARRAY[1, -2.5, 3e-1, 4, 5, 6, 7, 8]", "[1,2,3,4,5,6,7,8,9,10,11,12]"]
)
@pytest.mark.parametrize("text", ["vec <-> {} AS d", "{} <=> vec AS d"])
def test_arrays_beside_an_operator_become_text(literal: str, text: str) -> None:
    """The array is one token; what follows keeps its place in the request."""
    written = f"SELECT {text.format(literal)}, oops oops oops FROM t"
    assert failure(written).position == written.index("oops") + len("oops oops ") + 1
    made = to_duckdb(item(text.format(literal)))
    assert f"'{literal.removeprefix('ARRAY')}'" in made


@pytest.mark.parametrize(
    "text",
    [
        "'vec <-> ARRAY[1, 2, 3, 4, 5, 6, 7, 8, 9]'",
        "ARRAY[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]",
        "f(ARRAY[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], a <-> b)",
        "a <-> [1, x, 3, 4, 5, 6, 7, 8, 9, 10]",
    ],
)
def test_other_arrays_stay(text: str) -> None:
    """In strings, elsewhere in an expression, and with anything but numbers in them."""
    assert to_duckdb(item(text)).count("'[") == 0


LONG = ", ".join(f"{at}.5" for at in range(16))


@pytest.mark.parametrize(
    ("text", "lifted"),
    [
        (f"INSERT INTO t VALUES (1, ARRAY[{LONG}]), (2, [{LONG}])", 2),
        (f"INSERT INTO t (v) VALUES ([{LONG}]) ON CONFLICT DO NOTHING", 1),
        (f"SELECT 1; INSERT INTO t VALUES ((1), [{LONG}]); SELECT [{LONG}]", 1),
        (f"INSERT INTO t VALUES (1, list_sum([{LONG}]))", 0),  # text has no sum
        (f"INSERT INTO t VALUES (l2_distance(v, [{LONG}]), [{LONG}])", 2),
        (f"INSERT INTO t SELECT [{LONG}]", 0),
        (f"SELECT * FROM (VALUES ([{LONG}]))", 0),
        (f"SELECT cosine_distance(t.v, ARRAY[{LONG}]) FROM t", 1),
        (f"SELECT f(t.v, ARRAY[{LONG}]) FROM t", 0),
        (f"INSERT INTO t VALUES (1, [{', '.join('1' * 30)}])", 0),  # perhaps a list of integers
    ],
)
def test_arrays_of_inserts_and_distance_functions(text: str, lifted: int) -> None:
    """Long ones that can only be vectors or lists become text; nothing else does."""
    blanked, found = lift(text)
    assert len(blanked) == len(text)
    assert len(found) == lifted
    for at, written in found.items():
        assert written in text[at:]
    parse(text)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "piece", ["/*", "[1", "1,", "'", "$a$", "(", "l2_distance(", "<->", "ARRAY "]
)
def test_lifting_takes_one_pass(piece: str) -> None:
    """Whatever is opened and never closed, twice the text takes about twice the time."""
    lift("INSERT VALUES <-> [" + piece * 200_000)


def test_arrays_in_comments_stay() -> None:
    """A comment with half a quote hides nothing after it."""
    text = "SELECT 1 -- don't <-> ARRAY[1, 2, 3, 4, 5, 6, 7, 8, 9]\n, 'x' /* it's */ FROM t"
    assert to_duckdb(select(text)) == "SELECT 1, 'x' FROM t"


# ---- Statements, their places, splitting ------------------------------------------------


def test_statements_are_split_and_keep_their_place() -> None:
    """Not inside strings, names, dollar quotes or comments; empty ones are skipped."""
    text = ";; SELECT ';' ; /* ; */ SELECT $$;$$, \";\" -- ;\n ; ;SELECT 3"
    statements = parse(text)
    assert [statement.text for statement in statements] == [
        "SELECT ';'", 'SELECT $$;$$, ";"', "SELECT 3",
    ]  # fmt: skip
    for statement in statements:
        assert text[statement.offset :].startswith(statement.text)


def test_nothing_is_no_statement() -> None:
    """Blank text, comments and semicolons."""
    assert parse("") == parse(" ;;\n-- x\n/* y */;") == []


@pytest.mark.parametrize(
    ("text", "position", "named"),
    [
        ("SELEC 1", 1, "SELECT"),
        ("UPDATEE docs SET a = 1", 1, "UPDATE"),
        ("SELECT 1; DELETEE FROM docs", 11, "DELETE"),
        ("SELECT * FROM docs WHERE ORDER BY id", 26, "ORDER BY"),
        ("SELECT a b c FROM t", 12, "'c'"),
        ("SELECT 1 FROM t t2 t3", 20, "'t3'"),
        ("SELECT 'abc", 8, "'"),
        ('SELECT "abc', 8, '"'),
        ("SELECT 1;\n SELECT /* abc", 19, "/*"),
        ("SELECT $$abc", 8, "$$"),
        ("SELECT (1", 8, "("),
        ("SELECT 1)", 9, ")"),
        ("SELECT [1)", 10, "]"),
        ("SELECT 1 2x", 10, "2x"),
        ("SELECT 0x1F", 8, "0x1F"),
        ("SELECT 'a' 'b'", 12, "||"),
        ("INSERT INTO docs VALUES", 18, "VALUES"),
        ("INSERT docs VALUES (1)", 8, "INTO"),
        ("UPDATE docs SET a", 18, "="),
        ("UPDATE docs SET a = 1, A = 2", 24, "twice"),
        ("DELETE docs", 8, "FROM"),
        ("CREATE TABLE t ()", 17, "column"),
        ("CREATE TABLE t (a INT,)", 23, "','"),
        ("CREATE TABLE t (a)", 18, "type"),
        ("CREATE TABLE t (a INT PRIMARY)", 23, "constraint"),
        ("WAIT x TIMEOUT 5", 6, "copies"),
        ("SET a", 6, "="),
        ("EXPLAIN", 8, "explain"),
        ("EXPLAIN EXPLAIN SELECT 1", 9, "EXPLAIN"),
        ("DROP TABLE", 11, "table name"),
        ("TRUNCATE docs docs", 15, "end"),
    ],
)
def test_syntax_errors_say_where_and_what(text: str, position: int, named: str) -> None:
    """Each names its place in the request and the token or the near word."""
    error = failure(text)
    assert isinstance(error, SqlError)
    assert error.position == position
    assert named in error.detail


# ---- Limits -----------------------------------------------------------------------------


def test_text_length_is_limited() -> None:
    """At the limit a text is parsed, beyond it refused."""
    text = "SELECT 1"
    assert parse(text, Limits(text_chars=8))
    with pytest.raises(TooLarge):
        parse(text + " ", Limits(text_chars=8))


def test_statements_are_limited() -> None:
    """So is their number."""
    assert len(parse("SELECT 1;" * 3, Limits(statements=3))) == 3
    with pytest.raises(TooLarge):
        parse("SELECT 1;" * 4, Limits(statements=3))


def test_limits_of_text_are_the_nodes_settings() -> None:
    """A session takes them from its node's configuration."""
    sql = Sql(SessionSettings(sql_chars=20, sql_depth=8))
    assert sql.rows("SELECT (((1))) AS a") == [(1,)]
    with pytest.raises(TooLarge):
        sql.run("SELECT 1 AS too_long_x")
    with pytest.raises(SqlError, match="nests more than 8 deep"):
        sql.run("SELECT (((((((((1")
    sql.database.close()


def test_nesting_is_limited() -> None:
    """At its limit a statement is parsed, one bracket deeper is refused where it opens."""
    limits = Limits(nesting=10)
    assert parse("SELECT " + "(" * 10 + "1" + ")" * 10, limits)
    with pytest.raises(SqlError) as caught:
        parse("SELECT " + "(" * 11 + "1" + ")" * 11, limits)
    assert caught.value.code == "statement_too_complex"
    assert caught.value.position == 18


def test_case_nests_until_its_end() -> None:
    """In all of its parts; what follows END is outside again."""
    limits = Limits(nesting=3)
    one = "CASE WHEN {} THEN {} ELSE {} END"
    for inner in (["a", "b", "c"], ["a", one.format("a", "b", "c"), "c"]):
        deep = one.format(*inner)
        assert parse(f"SELECT {deep}, {deep} + {deep} AS x FROM t", limits)
    assert parse("SELECT d.case, CASE WHEN d.end THEN 1 END AS case FROM d", limits)
    deep = "c"
    for _ in range(4):
        deep = f"CASE x WHEN a THEN {deep} END"
    with pytest.raises(SqlError, match="nests more than 3 deep"):
        parse(f"SELECT {deep}", limits)
    for text in ("SELECT (CASE WHEN a THEN b)", "SELECT CASE WHEN a THEN b"):
        with pytest.raises(SqlError, match="END|never closed"):
            parse(text)


def test_operators_in_a_row_are_limited() -> None:
    """AND and OR count alone; arithmetic counts until the next of them; a comma starts anew."""
    limits = Limits(chain=5)
    for text in (
        "SELECT 1 WHERE " + " AND ".join(["a = 1"] * 5),
        "SELECT 1+1+1+1+1+1, 2+2+2+2+2+2",
        "SELECT a <-> b + c FROM t WHERE a + b < 5 OR c = 6",
    ):
        assert parse(text, limits)
    for text in (
        "SELECT 1 WHERE " + " OR ".join(["a = 1"] * 7),
        "SELECT 1+1+1+1+1+1+1",
        "SELECT 1+1+1+(1+1+1+1)",
    ):
        with pytest.raises(SqlError, match="operators in a row"):
            parse(text, limits)


def test_queries_in_a_statement_are_limited() -> None:
    """Whether by UNION, by CTEs or by sub-queries."""
    limits = Limits(queries=3)
    assert parse("SELECT 1 UNION SELECT 2 UNION SELECT 3", limits)
    assert parse("SELECT 1; SELECT 2; SELECT 3; SELECT 4", limits)
    for text in (
        "SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4",
        "WITH a AS (SELECT 1), b AS (SELECT 1), c AS (SELECT 1) SELECT 1",
        "FROM a UNION FROM b UNION FROM c UNION FROM d UNION FROM e",
    ):
        with pytest.raises(SqlError, match="more than 3 queries"):
            parse(text, limits)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1 FROM t WHERE " + " AND ".join(["id = 1"] * 500),
        "SELECT 1 FROM t WHERE " + " OR ".join(["id = 1"] * 500),
        "SELECT " + " + ".join(["id"] * 500) + " FROM t",
        " UNION ALL ".join(["SELECT id FROM t"] * 300),
        "UPDATE t SET id = 1 WHERE " + " OR ".join(["id = 1"] * 500),
        "EXPLAIN ANALYZE SELECT id FROM t WHERE " + " OR ".join(["id = 1"] * 500) + " LIMIT 1",
        "SELECT " + "(" * 25 + "1" + ")" * 25,
    ],
    ids=["and", "or", "sum", "union", "update", "explain", "brackets"],
)
def test_what_the_limits_let_through_runs(sql: Sql, text: str) -> None:
    """Nothing behind the parser runs out of stack on it."""
    sql.run("CREATE TABLE t (id BIGINT PRIMARY KEY)")
    sql.run(text)


# What makes sqlglot recurse or try both ways; each as (before, repeated, middle, repeated after).
DEEP = {
    "brackets": ("SELECT ", "(", "1", ")"),
    "arrays": ("SELECT ", "ARRAY[", "1", "]"),
    "structs": ("SELECT ", "{'a': ", "1", "}"),
    "calls": ("SELECT ", "f(", "1", ")"),
    "types": ("SELECT ", "DATE(", "x", ")"),
    "timestamps": ("SELECT ", "TIMESTAMP(", "x", ")"),
    "casts": ("SELECT x", "", "", "::INT"),
    "subqueries": ("", "SELECT * FROM (", "t", ")"),
    "case": ("SELECT ", "CASE WHEN a THEN ", "1", " END"),
    "else": ("SELECT ", "CASE WHEN a THEN 1 ELSE ", "1", " END"),
    "not": ("SELECT ", "NOT ", "1", ""),
    "minus": ("SELECT ", "- ", "1", ""),
    "power": ("SELECT ", "2 ** ", "1", ""),
    "interval": ("SELECT ", "INTERVAL ", "1", ""),
    "distances": ("SELECT ", "a <-> ", "1", ""),
    "subscripts": ("SELECT a", "", "", "[1]"),
    "joins": ("SELECT * FROM a", " JOIN a", "", ""),
    "joins with conditions": ("SELECT * FROM a", " JOIN a", "", " ON true"),
    "comprehensions": ("SELECT ", "[x FOR x IN ", "a", "]"),
    "unions": ("SELECT 1", "", "", " UNION SELECT 1"),
    "ands": ("SELECT ", "a AND ", "b", ""),
    "explain": ("", "EXPLAIN ", "SELECT 1", ""),
    "struct types": ("SELECT x::", "STRUCT(a ", "INT", ")"),
}


@pytest.mark.parametrize("count", [40, 5_000])
@pytest.mark.parametrize("name", DEEP)
@pytest.mark.timeout(20)
def test_depth_never_leaks_a_recursion_error(name: str, count: int) -> None:
    """Deep text is answered or refused in good time, and rendering it too."""
    before, left, middle, right = DEEP[name]
    try:
        statements = parse(before + left * count + middle + right * count)
    except NearQLError:
        return
    for statement in statements:
        if isinstance(statement, Select):
            to_duckdb(statement.tree)


# ---- EXPLAIN ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "analyze", "json"),
    [
        ("EXPLAIN", False, False),
        ("EXPLAIN ANALYZE", True, False),
        ("EXPLAIN ANALYZE VERBOSE", True, False),
        ("explain (analyze)", True, False),
        ("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)", True, True),
        ("EXPLAIN (ANALYZE false, FORMAT TEXT)", False, False),
    ],
)
def test_explain_reads_its_options(head: str, analyze: bool, json: bool) -> None:
    """And keeps the place of the statement inside."""
    (statement,) = parse(f"{head} SELECT 1")
    assert isinstance(statement, Explain)
    assert (statement.analyze, statement.json) == (analyze, json)
    assert (statement.statement.text, statement.statement.offset) == ("SELECT 1", len(head) + 1)


def test_explain_of_a_bracketed_query() -> None:
    """A bracket after EXPLAIN opens options only if it holds options."""
    (statement,) = parse("EXPLAIN (SELECT 1)")
    assert isinstance(statement, Explain)
    assert isinstance(statement.statement, Select)


def kinds(text: str) -> list[str]:
    """The names of the statements of a text."""
    made: list[Statement] = parse(text)
    return [type(statement).__name__ for statement in made]


def test_every_statement_has_a_class() -> None:
    """What the product offers, in one request."""
    text = """
        SELECT 1; WITH a AS (SELECT 1) SELECT * FROM a; VALUES (1); FROM docs; TABLE docs; (SELECT
        1); INSERT INTO t VALUES (1); UPDATE t SET a = 1; DELETE FROM t; TRUNCATE t;
        CREATE TABLE t (a INT); CREATE TABLE t AS SELECT 1; DROP TABLE t; ALTER TABLE t RENAME TO u;
        CREATE INDEX ON t USING hnsw (v); DROP INDEX i; REINDEX INDEX i; CREATE EXTENSION vector;
        SET a = 1; RESET a; SHOW TABLES; DESCRIBE t; EXPLAIN SELECT 1; BEGIN; COMMIT; ROLLBACK;
        WAIT 1 TIMEOUT 5
    """
    assert kinds(text) == [
        *["Select"] * 6, "Insert", "Update", "Delete", "Truncate", "CreateTable", "CreateTable",
        "DropTable", "AlterTable", "CreateIndex", "DropIndex", "Reindex", "CreateExtension",
        "SetVariable", "SetVariable", "Show", "Describe", "Explain", *["Transaction"] * 3, "Wait",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", ["SELECT 1 +", "SELECT * FROM", "SELECT 1 LIKE", "SELECT CASE WHEN"]
)
def test_syntax_errors_name_no_class_of_the_parser(text: str) -> None:
    with pytest.raises(SqlError) as caught:
        parse(text)
    assert "sqlglot" not in caught.value.detail
    assert "Token" not in caught.value.detail
