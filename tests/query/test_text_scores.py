"""bm25() wherever a value may stand, rrf(), and hybrid search in plain SQL."""

from __future__ import annotations

from typing import Any

import pytest

from nearql.engine.errors import InvalidValue, NearQLError, SqlError, Unsupported
from support.sql import Sql

TEXTS = {
    1: "the red fox jumps",
    2: "red",
    3: "a blue whale",
    4: None,
    5: "red wine and red cheese",
    6: "whale of a time",
}


@pytest.fixture
def db(sql: Sql) -> Sql:
    """Six notes; vectors grow with the id."""
    sql.run("CREATE TABLE notes (id BIGINT PRIMARY KEY, body TEXT, n INT, v VECTOR(2))")
    for key, text in TEXTS.items():
        row = {"k": key, "t": text, "n": key % 2, "v": [key, 1]}
        sql.run("INSERT INTO notes VALUES (:k, :t, :n, :v)", row)
    return sql


def ids(db: Sql, text: str, **params: Any) -> list[Any]:
    """The first column of the answer."""
    return [row[0] for row in db.rows(text, params or None)]


def test_ordered_by_score(db: Sql) -> None:
    found = ids(db, "SELECT id FROM notes ORDER BY bm25(body, :q) DESC NULLS LAST, id", q="red")
    assert found == [2, 5, 1, 3, 6, 4], "2 is all about it, 5 says it twice, 4 is NULL"


def test_the_value(db: Sql) -> None:
    rows = db.rows("SELECT id, bm25(body, 'red') AS s FROM notes ORDER BY id")
    scores = dict(rows)
    assert scores[4] is None
    assert scores[3] == scores[6] == 0
    assert scores[2] > scores[5] > scores[1] > 0
    assert db.rows("SELECT bm25(body, NULL) FROM notes WHERE id = 1") == [(None,)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT id FROM notes WHERE bm25(body, :q) > 0 ORDER BY id", [1, 2, 5]),
        ("SELECT id FROM notes WHERE bm25(body, :q) > 0 AND n = 1 ORDER BY id", [1, 5]),
        ("SELECT id FROM notes WHERE bm25(body, :q) > 0 ORDER BY v <-> '[5,1]' LIMIT 2", [5, 2]),
        ("SELECT id FROM notes ORDER BY v <-> '[5,1]', bm25(body, :q) LIMIT 1", [5]),
        ("SELECT count(*) FROM notes WHERE bm25(body, :q) > 0", [3]),
        ("SELECT n FROM notes GROUP BY n ORDER BY max(bm25(body, :q)) DESC", [0, 1]),
        (("WITH x AS (SELECT id, bm25(body, :q) s FROM notes) SELECT id FROM x WHERE s > 0"
         " ORDER BY s DESC"), [2, 5, 1]),
        (("SELECT a.id FROM notes a JOIN notes b ON a.id = b.id + 1 WHERE bm25(a.body, :q) > 0"
         " AND bm25(b.body, 'whale') = 0 ORDER BY 1"), [2]),
        (("SELECT id FROM notes WHERE bm25(body, (SELECT body FROM notes WHERE id = 2)) > 0"
         " AND :q = 'red' ORDER BY id"), [1, 2, 5]),
        ("SELECT id FROM notes WHERE v <-> '[5,1]' < 4 AND bm25(body, :q) > 0 ORDER BY 1", [2, 5]),
        (("SELECT id FROM notes QUALIFY row_number() OVER (PARTITION BY n ORDER BY bm25(body, :q)"
         " DESC NULLS LAST) = 1 ORDER BY id"), [2, 5]),
        ("SELECT id FROM (SELECT * FROM notes) s WHERE :q = 'red' AND id = 3", [3]),
    ],
)  # fmt: skip
def test_anywhere(db: Sql, text: str, expected: list[int]) -> None:
    assert ids(db, text, q="red") == expected


def test_hybrid_by_reciprocal_rank_fusion(db: Sql) -> None:
    """3 is third by vector and not in the text's list; 5 leads both."""
    found = db.rows(
        "WITH t AS (SELECT id, row_number() OVER (ORDER BY bm25(body, :q) DESC) r FROM notes"
        "           WHERE bm25(body, :q) > 0),"
        "     v AS (SELECT id, row_number() OVER () r FROM"
        "           (SELECT id FROM notes ORDER BY v <-> '[5,1]' LIMIT 3))"
        " SELECT id, rrf(t.r, v.r) s FROM t FULL JOIN v USING (id) ORDER BY s DESC, id",
        {"q": "wine red"},
    )
    scores = {key: pytest.approx(score) for key, score in found}
    assert found[0][0] == 5
    assert scores[5] == 1 / 61 + 1 / 61
    assert set(scores) == {1, 2, 4, 5, 6}


def test_rrf_is_arithmetic(db: Sql) -> None:
    assert db.rows("SELECT rrf(1), rrf(1, 2), rrf(NULL, 2), rrf(NULL)") == [
        (pytest.approx(1 / 61), pytest.approx(1 / 61 + 1 / 62), pytest.approx(1 / 62), 0.0)
    ]


def test_writes_follow_the_index(db: Sql) -> None:
    db.run("UPDATE notes SET body = 'nothing left' WHERE bm25(body, 'fox') > 0")
    db.run("DELETE FROM notes WHERE bm25(body, 'wine') > 0")
    db.run("INSERT INTO notes VALUES (9, 'red again', 1, '[9,1]')")
    assert ids(db, "SELECT id FROM notes WHERE bm25(body, 'red') > 0 ORDER BY id") == [2, 9]
    assert ids(db, "SELECT body FROM notes WHERE id = 1") == ["nothing left"]


def test_a_plan_serves_other_words(db: Sql) -> None:
    text = "SELECT id FROM notes WHERE bm25(body, :q) > 0 ORDER BY id"
    assert ids(db, text, q="red") == [1, 2, 5]
    assert ids(db, text, q="whale") == [3, 6]
    assert ids(db, text, q="red whale") == [1, 2, 3, 5, 6]


def test_explain_shows_it(db: Sql) -> None:
    rows = ids(db, "EXPLAIN SELECT id FROM notes ORDER BY bm25(body, :q) DESC LIMIT 3", q="red")
    assert any("computing bm25(body, :q)" in line for line in rows)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("SELECT bm25(body) FROM notes", SqlError, "takes a TEXT column and the words"),
        ("SELECT bm25('x', 'y') FROM notes", SqlError, "must be a column of a table in this FROM"),
        ("SELECT bm25(upper(body), 'y') FROM notes", SqlError, "must be a column of a table"),
        ("SELECT bm25(n, 'y') FROM notes", SqlError, "column 'n' is INTEGER, not TEXT"),
        ("SELECT bm25(body, body) FROM notes", SqlError, "the same for every row"),
        ("SELECT bm25(body, :q) FROM notes", InvalidValue, "must be a text, not 7"),
        ("SELECT rrf()", SqlError, "takes one rank or more"),
        ("SELECT bm25(s.body, 'y') FROM (SELECT body FROM notes LIMIT 3) s", SqlError, "a column"),
        ("INSERT INTO notes VALUES (10, 'x', 1, '[1,1]') RETURNING bm25(body, 'x')",
         Unsupported, "not offered in RETURNING"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_told(
    db: Sql, text: str, error: type[NearQLError], words: str
) -> None:
    params = {"q": 7} if ":q" in text else {}
    with pytest.raises(error) as caught:
        db.run(text, params or None)
    assert words in caught.value.detail
    assert ids(db, "SELECT count(*) FROM notes") == [6]
