"""knn_graph(): the join that it stands for, and what it can't take."""

from __future__ import annotations

from typing import Any

import pytest

from nearql.engine.errors import NearQLError
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
