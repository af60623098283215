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
