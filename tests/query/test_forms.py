"""What people write around a distance, statement by statement, against the naive executor.

The statements are those of tests/scripts/forms.sql, over two tables with NULL, zero and equal
vectors, NULL values and ties, and two views.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nearql.engine.errors import NearQLError
from support.model import Data, Model, both, near, plain
from support.sql import Sql

SCRIPT = Path(__file__).parents[1] / "scripts" / "forms.sql"
VIEWS = {
    "cheap": "SELECT * FROM docs WHERE price < 6",
    "renamed (n, label, cost, v)": "SELECT id, cat, price, vec FROM docs WHERE NOT id % 4 = 1",
}
VALUES: dict[str, Any] = {
    "q": [1, 0, -1], "q2": [0, 2, 1], "k": 4, "o": 2, "r": 2.5, "n": 4, "zero": [0, 0, 0],
    "none": None,
}  # fmt: skip


def statements() -> list[str]:
    """The script's, without its head."""
    return [line for line in SCRIPT.read_text().splitlines() if line and line[:2] != "--"]


def data(shards: int) -> Data:
    """40 rows and 6 to ask about."""
    vecs: list[list[int] | None] = [
        None if i % 9 == 4 else [i % 5 - 2, i * i % 5 - 2, (i * 3) % 7 % 5 - 2] for i in range(40)
    ]
    vecs[7] = [0, 0, 0]
    cats = [None if i % 11 == 3 else "abc"[i * 7 % 3] for i in range(40)]
    prices = [None if i % 13 == 5 else i * 5 % 9 for i in range(40)]
    asked: list[list[int] | None] = [None if i == 3 else [i - 2, 1, -i % 3] for i in range(6)]
    return Data(vecs, cats, prices, asked, shards)


@pytest.fixture(scope="module", params=[1, 3], ids=["one shard", "three shards"])
def executors(request: pytest.FixtureRequest) -> Iterator[tuple[Sql, Model]]:
    """NearQL and the model with the same tables and views."""
    with both(data(request.param)) as (sql, model):
        for name, query in VIEWS.items():
            sql.run(f"CREATE VIEW {name} AS {query}")
            model.connection.execute(f"CREATE VIEW {name} AS {query}")
        yield sql, model


@pytest.mark.parametrize("line", statements())
def test_a_form_is_answered_as_naively(executors: tuple[Sql, Model], line: str) -> None:
    sql, model = executors
    text = near(line.lstrip("!"))
    used = {name: value for name, value in VALUES.items() if re.search(rf":{name}\b", text)}
    got = plain(sql.rows(text, used))
    expected = plain(model.rows(line.lstrip("!"), VALUES))
    if line.startswith("!"):
        got, expected = sorted(got, key=repr), sorted(expected, key=repr)
    assert got == expected, "\n".join(sql.explain(text, used))


def test_limit_all_and_limit_null_are_no_limit(docs: Sql) -> None:
    every = docs.rows("SELECT id FROM docs ORDER BY vec <-> '[0,0]', id")
    for word in ("ALL", "NULL", "all"):
        assert docs.rows(f"SELECT id FROM docs ORDER BY vec <-> '[0,0]', id LIMIT {word}") == every
    skipped = docs.rows("SELECT id FROM docs ORDER BY vec <-> '[0,0]', id LIMIT ALL OFFSET 2")
    assert skipped == every[2:]


def test_nulls_first_is_asked_of_every_row(docs: Sql) -> None:
    docs.run("INSERT INTO docs (id) VALUES (700), (701)")
    text = "SELECT id FROM docs ORDER BY vec <-> '[0,0]' NULLS FIRST LIMIT 2"
    assert docs.rows(text) == [(3,), (700,)]
    assert "NULLS FIRST" in docs.explain(text)[-1]
    assert "VectorSearch" in docs.explain(text.replace("FIRST", "LAST"))[1]


@pytest.fixture
def tagged(sql: Sql) -> Sql:
    """Rows with JSON beside their vectors, as LangChain keeps them."""
    sql.run("CREATE TABLE t (id BIGINT PRIMARY KEY, cat TEXT, meta JSON, v VECTOR(2))")
    sql.run(
        """INSERT INTO t VALUES (1, 'a', '{"lang": "en", "n": 3, "k": {"x": 1}}', '[1,0]'),
        (2, 'a', '{"lang": "de", "n": 5}', '[3,2]'), (3, 'b', NULL, '[5,5]'),
        (4, 'b', '{"lang": "en", "n": 9}', NULL)"""
    )
    return sql


@pytest.mark.parametrize(
    ("condition", "ids"),
    [
        ("meta->>'lang' = 'en'", [1, 4]),
        ("meta->'k'->>'x' = '1' AND meta->>'lang' <> 'de'", [1]),
        ("meta->>'lang' IN ('de', 'fr') OR meta->>'lang' IS NULL", [2, 3]),
        ("NOT meta->>'lang' = 'de' OR meta->>'lang' LIKE 'd%'", [1, 2, 4]),
        ("meta->>'n' BETWEEN '3' AND '5'", [1, 2]),
        ("meta->>'lang' NOT IN ('de')", [1, 4]),
        ("meta->>'lang' || '!' = 'de!'", [2]),
        ("coalesce(meta->>'lang' = 'de', TRUE)", [2, 3]),
    ],
)
def test_arrows_bind_tighter_than_comparisons(tagged: Sql, condition: str, ids: list[int]) -> None:
    """As in PostgreSQL; DuckDB alone would compare first and then look for a key TRUE."""
    assert tagged.rows(f"SELECT id FROM t WHERE {condition} ORDER BY id") == [(i,) for i in ids]
    near = f"SELECT id FROM t WHERE {condition} ORDER BY v <-> '[0,0]' LIMIT 9"
    assert tagged.rows(near) == [(i,) for i in ids if i != 4]
    assert "VectorSearch" in "".join(tagged.explain(near))


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("avg(v) FILTER (WHERE id < 2)", [[1, 0]]),
        ("sum(v) FILTER (WHERE id > 9)", [None]),
        ("sum(v) OVER (ORDER BY id)", [[1, 0], [4, 2], [9, 7], [9, 7]]),
        ("avg(v) OVER (PARTITION BY cat)", [[2, 1], [2, 1], [5, 5], [5, 5]]),
        ("sum(v) FILTER (WHERE id <> 2) OVER (ORDER BY id)", [[1, 0], [1, 0], [6, 5], [6, 5]]),
        ("avg(v) OVER () <-> v", [3.0731814, 0.33333325, 3.3333335, None]),
    ],
)
def test_vectors_are_aggregated_with_filter_and_over(
    tagged: Sql, item: str, expected: list[Any]
) -> None:
    order = " ORDER BY id" if "OVER" in item else ""
    found = tagged.run(f"SELECT {item} FROM t{order}")
    assert found.columns[0].name.replace("FILTER(", "FILTER (") == item
    values = found.table.column(0).to_pylist()
    assert [pytest.approx(one) if isinstance(one, float) else one for one in expected] == values


@pytest.mark.parametrize(
    "item",
    [
        "'[3e38]'::vector + '[3e38]'::vector", "'[3e38]'::vector * '[-3e38]'::vector",
        "(SELECT sum(x::vector) FROM (VALUES ('[3e38]'), ('[3e38]')) s(x))",
    ],
)  # fmt: skip
def test_no_vector_is_made_that_is_not_finite(sql: Sql, item: str) -> None:
    with pytest.raises(NearQLError, match="beyond the range of float32") as caught:
        sql.run(f"SELECT {item}")
    assert caught.value.code == "invalid_vector"
