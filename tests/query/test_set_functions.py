"""knn_graph(), kmeans() and mmr(): what they stand for, and what they can't take."""

from __future__ import annotations

from typing import Any

import pytest

from nearql.engine.errors import NearQLError
from nearql.query.session import Session
from nearql.query.settings import SessionSettings
from support.sql import Sql

BY_HAND = """SELECT a.id, n.id, n.d FROM docs a CROSS JOIN LATERAL (
    SELECT b.id, b.vec {operator} a.vec AS d FROM docs b WHERE b.id <> a.id ORDER BY d LIMIT {k}
) n ORDER BY a.id, n.d, n.id"""


@pytest.mark.parametrize("k", [0, 1, 3, 50])
@pytest.mark.parametrize(
    ("metric", "operator"),
    [("l2", "<->"), ("cosine", "<=>"), ("inner_product", "<#>"), ("l1", "<+>")],
)
def test_it_is_the_join_of_a_table_with_itself(
    docs: Sql, k: int, metric: str, operator: str
) -> None:
    text = f"SELECT id, neighbour, distance FROM knn_graph(docs, vec, {k}, '{metric}') ORDER BY"
    got = docs.rows(f"{text} id, distance, neighbour")
    expected = docs.rows(BY_HAND.format(operator=operator, k=k))
    assert repr(got) == repr(expected)  # NaN is not itself
    assert bool(got) == (k > 0)


def test_ranks_count_from_one_for_each_row(docs: Sql) -> None:
    rows = docs.rows("SELECT id, list(rank ORDER BY rank) FROM knn_graph(docs, vec, 4) GROUP BY id")
    assert len(rows) == 29  # row 3 has no vector
    assert all(ranks == [1, 2, 3, 4] for _, ranks in rows)


def test_it_stands_wherever_a_table_does(docs: Sql) -> None:
    by_join = docs.rows(
        "SELECT count(*) FROM docs d JOIN knn_graph(docs, vec, :k) g ON g.id = d.id", {"k": 2}
    )
    assert by_join == [(58,)]
    assert docs.rows("SELECT count(*) FROM knn_graph(DOCS, Vec, 1)") == [(29,)]
    docs.run("CREATE TABLE pairs AS SELECT * FROM knn_graph(docs, vec, 1)")
    assert docs.rows("SELECT count(*) FROM pairs") == [(29,)]
    assert "as one batch" in "".join(docs.explain("SELECT * FROM knn_graph(docs, vec, 3)"))


@pytest.mark.parametrize(
    ("call", "code", "position"),
    [
        ("knn_graph()", "wrong_arguments", None),
        ("knn_graph(docs, vec)", "wrong_arguments", None),
        ("knn_graph(docs, vec, 1, 'l2', 5)", "wrong_arguments", None),
        ("knn_graph('docs', vec, 1)", "wrong_arguments", None),
        ("knn_graph(docs, 'vec', 1)", "wrong_arguments", None),
        ("knn_graph(docs, vec, 'x')", "wrong_arguments", None),
        ("knn_graph(docs, vec, 1.5)", "wrong_arguments", None),
        ("knn_graph(docs, vec, 1, 'hamming')", "wrong_arguments", None),
        ("knn_graph(docs, vec, 1, l2)", "wrong_arguments", None),
        ("knn_graph(dosc, vec, 1)", "undefined_table", 25),
        ("knn_graph(docs, vce, 1)", "undefined_column", 31),
        ("knn_graph(docs, title, 1)", "wrong_type", 31),
        ("knn_graph(docs, vec, 99999)", "limit_too_large", None),
        ("knn_graph(keyless, vec, 1)", "wrong_arguments", 25),
        ("kmeans(docs, vec)", "wrong_arguments", None),
        ("kmeans(docs, vec, 1.5)", "wrong_arguments", None),
        ("kmeans(docs, vec, 2, 'l1')", "wrong_arguments", None),
        ("kmeans(docs, title, 2)", "wrong_type", 28),
        ("kmeans(dosc, vec, 2)", "undefined_table", 22),
        ("kmeans(keyless, vec, 1)", "wrong_arguments", 22),
        ("kmeans(docs, vec, 99999)", "limit_too_large", 33),
        ("mmr(docs, vec, '[1,2]')", "wrong_arguments", None),
        ("mmr(docs, vec, vec, 3)", "wrong_arguments", None),
        ("mmr(docs, vec, '[1,2,3]', 3)", "wrong_dimensions", 30),
        ("mmr(docs, vec, '[1,2]', 3, 'x')", "wrong_arguments", None),
        ("mmr(docs, vec, '[1,2]', 3, 1.5)", "invalid_value", 42),
        ("mmr(docs, vec, '[1,2]', 99999)", "limit_too_large", 39),
        ("mmr(docs, vec, '[1,2]', 3, 1, 99999)", "limit_too_large", 45),
        ("mmr(docs, vec, '[1,2]', 3, 1, 9, 'x')", "wrong_arguments", None),
    ],
)
def test_what_it_cannot_take_is_told(docs: Sql, call: str, code: str, position: int | None) -> None:
    docs.run("CREATE TABLE keyless (vec VECTOR(2))")
    with pytest.raises(NearQLError) as found:
        docs.run(f"SELECT * FROM {call}")
    assert found.value.code == code
    assert position is None or found.value.position == position


def test_it_stands_in_from_alone(docs: Sql) -> None:
    params: dict[str, Any] = {}
    with pytest.raises(NearQLError) as found:
        docs.run("SELECT knn_graph(docs, vec, 1) FROM docs", params)
    assert found.value.code == "undefined_function"


# ---- kmeans ----------------------------------------------------------------------------


def test_clusters_hold_every_row_that_has_a_vector(docs: Sql) -> None:
    rows = docs.rows("SELECT id, cluster, distance FROM kmeans(docs, vec, 4) ORDER BY id")
    assert [row[0] for row in rows] == [i for i in range(30) if i != 3]
    sizes = docs.rows("SELECT cluster, count(*) FROM kmeans(docs, vec, 4) GROUP BY 1 ORDER BY 1")
    assert [one for one, _ in sizes] == [1, 2, 3, 4]
    assert [size for _, size in sizes] == sorted((size for _, size in sizes), reverse=True)
    assert all(distance >= 0 for _, _, distance in rows)


def test_clusters_stay_the_same_when_rows_move(docs: Sql) -> None:
    text = "SELECT id, cluster FROM kmeans(docs, vec, :k) ORDER BY id"
    before = docs.rows(text, {"k": 5})
    docs.run("UPDATE docs SET title = 'moved' WHERE id % 3 = 0")
    assert docs.rows(text, {"k": 5}) == before


@pytest.mark.parametrize(("k", "clusters"), [(0, 0), (1, 1), (29, 29), (50, 29)])
def test_clusters_at_the_edges_of_k(docs: Sql, k: int, clusters: int) -> None:
    docs.run("CREATE TABLE apart (id BIGINT PRIMARY KEY, vec VECTOR(2))")
    docs.run("INSERT INTO apart SELECT i, [i * 10, i]::FLOAT[] FROM range(29) AS t(i)")
    rows = docs.rows("SELECT DISTINCT cluster FROM kmeans(apart, vec, :k)", {"k": k})
    assert len(rows) == clusters


def test_zero_vectors_have_no_cluster_by_cosine(docs: Sql) -> None:
    docs.run("CREATE TABLE some (id TEXT PRIMARY KEY, vec VECTOR(2))")
    docs.run("INSERT INTO some VALUES ('a', '[1,0]'), ('b', '[0,0]'), ('c', '[2,0]'), ('d', NULL)")
    rows = docs.rows("SELECT id, cluster, distance FROM kmeans(some, vec, 1, 'cosine') ORDER BY 1")
    assert rows == [("a", 1, 0.0), ("c", 1, 0.0)]


def test_too_large_a_table_is_not_copied(docs: Sql) -> None:
    """At the edge of the setting."""
    docs.run("CREATE TABLE wide (id BIGINT PRIMARY KEY, vec VECTOR(128))")
    docs.run("INSERT INTO wide SELECT i, list_resize([i], 128, 0)::FLOAT[] FROM range(100) t(i)")
    text = "SELECT count(*) FROM kmeans(wide, vec, 2)"
    enough = Session(docs.database, SessionSettings(result_bytes=100 * 128 * 4))
    assert enough.execute(text).table.column(0).to_pylist() == [100]
    tight = Session(docs.database, SessionSettings(result_bytes=100 * 128 * 4 - 1))
    with pytest.raises(NearQLError) as found:
        tight.execute(text)
    assert found.value.code == "result_too_large"


# ---- mmr -------------------------------------------------------------------------------


def test_diverse_rows_stand_in_the_order_of_their_choice(docs: Sql) -> None:
    rows = docs.rows("SELECT id, rank, distance FROM mmr(docs, vec, '[1,1]', 6, 0.1) ORDER BY rank")
    assert [row[1] for row in rows] == [1, 2, 3, 4, 5, 6]
    nearest = docs.rows("SELECT id, vec <-> '[1,1]' AS d FROM docs ORDER BY d LIMIT 6")
    assert rows[0][0] == nearest[0][0]
    assert {row[0] for row in rows} != {row[0] for row in nearest}


def test_without_balance_it_is_the_search(docs: Sql) -> None:
    text = "SELECT id FROM mmr(docs, vec, :q, :k, 1) ORDER BY rank"
    for k in (0, 1, 7, 40):
        got = docs.rows(text, {"q": [1.5, 2.0], "k": k})
        expected = "SELECT id FROM docs ORDER BY vec <-> :q, id LIMIT :k"
        assert got == docs.rows(expected, {"q": [1.5, 2.0], "k": k})


def test_the_query_may_be_asked_for(docs: Sql) -> None:
    text = "SELECT id FROM mmr(docs, vec, (SELECT vec FROM docs WHERE id = 7), 1)"
    assert docs.rows(text) == [(7,)]
    missing = "SELECT id FROM mmr(docs, vec, (SELECT vec FROM docs WHERE id = 999), 3)"
    assert docs.rows(missing) == []
    searched = "(SELECT vec FROM docs WHERE id > 8 ORDER BY vec <-> '[0,0]' LIMIT 1)"
    [(first,)] = docs.rows(f"SELECT id FROM mmr(docs, vec, {searched}, 1)")
    assert docs.rows(f"SELECT vec::TEXT FROM docs WHERE id = {first}") == docs.rows(
        f"SELECT {searched}::TEXT"
    )


def test_they_are_explained_and_stand_where_tables_do(docs: Sql) -> None:
    shown = "".join(docs.explain("SELECT * FROM mmr(docs, vec, '[1,1]', 3, 0.2, 9, 'cosine')"))
    assert "Diversify docs.vec (cosine" in shown
    assert "KMeans docs.vec (l2, 3)" in "".join(docs.explain("SELECT * FROM kmeans(docs, vec, 3)"))
    docs.run("CREATE TABLE kept AS SELECT * FROM kmeans(docs, vec, 2)")
    assert docs.rows("SELECT count(*) FROM kept") == [(29,)]
    both = (
        "SELECT count(*) FROM kmeans(docs, vec, 2) a JOIN mmr(docs, vec, '[0,0]', 5) b USING (id)"
    )
    assert docs.rows(both) == [(5,)]
    docs.run(
        "CREATE VIEW grouped AS SELECT cluster, count(*) AS n FROM kmeans(docs, vec, 3) GROUP BY 1"
    )
    assert docs.rows("SELECT sum(n) FROM grouped") == [(29,)]
