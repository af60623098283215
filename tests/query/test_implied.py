"""What WHERE implies of a partial index's condition, as PostgreSQL would find out."""

from __future__ import annotations

from typing import Any

import pytest

from nearql.query.implied import holds, normal, parameters_in, with_values
from nearql.query.index_terms import tree_of

IMPLIED = [
    ("lang = 'en'", "lang = 'en'"),
    ("lang = 'en'", "'en' = lang"),
    ("lang = 'en'", "docs.LANG = 'en'::text"),
    ("lang = 'en'", "(size > 2 AND (lang = 'en'))"),
    ("lang = 'en' AND size > 2", "size > 3 AND price < 2 AND lang = 'en'"),
    ("lang IN ('en', 'de')", "lang = 'de'"),
    ("lang IN ('en', 'de')", "lang IN ('de')"),
    ("lang IN ('en', 'de', 'fr')", "lang IN ('de', 'en')"),
    ("lang = 'en' OR size > 5", "size = 6"),
    ("lang = 'en' OR size > 5", "size > 7 OR lang = 'en'"),
    ("lang IS NOT NULL", "lang = 'de'"),
    ("lang IS NOT NULL", "lang IN ('a', 'b')"),
    ("NOT (lang IS NULL)", "lang IS NOT NULL"),
    ("lang <> 'en'", "lang = 'de'"),
    ("lang <> 'en'", "NOT lang = 'en'"),
    ("size > 2", "2 < size"),
    ("size > 2", "size = 3"),
    ("size > 2", "size BETWEEN 3 AND 9"),
    ("size >= 2", "size > 2"),
    ("size > -2", "size > -1.5"),
    ("size BETWEEN 1 AND 9", "size >= 2 AND size < 9"),
    ("size < 10", "size IN (1, 2, 3)"),
    ("day >= '2024-01-01'", "day = '2024-03-05'"),
    ("active", "active = true"),
    ("active IS TRUE", "active"),
    ("NOT active", "active = false"),
    ("lower(title) = 'x'", "LOWER(docs.title) = 'x'"),
    ("title LIKE 'a%'", "size = 1 AND title LIKE 'a%'"),
    ("meta ->> 'k' = 'v'", "meta ->> 'k' = 'v'"),
]
NOT_IMPLIED = [
    ("lang = 'en'", "lang = 'EN'"),
    ("lang = 'en'", "lang IN ('en', 'de')"),
    ("lang = 'en'", "lang = 'en' OR size = 1"),
    ("lang = 'en'", "title = 'en'"),
    ("lang = 'en'", "lang IS NOT NULL"),
    ("lang = 'en' AND size > 2", "lang = 'en'"),
    ("lang <> 'en'", "lang IS NOT NULL"),
    ("size > 2", "size >= 2"),
    ("size > 2", "size < 9"),
    ("size > 2", "size <> 2"),
    ("size > 2", "NOT size > 2"),
    ("size = 2", "size = '2'"),
    ("size <> 3", "size > 2"),
    ("day >= '2024-01-01'", "day >= '24-1-5'"),
    ("title > 'b'", "title > 'c'"),
    ("lang IS NOT NULL", "size = 2"),
    ("active", "active IS NOT NULL"),
    ("title LIKE 'a%'", "title LIKE 'ab%'"),
]


def implies(goal: str, where: str, **values: Any) -> bool:
    facts = [with_values(normal(tree_of(where)), values)]
    return holds(facts, normal(tree_of(goal)))


@pytest.mark.parametrize(("goal", "where"), IMPLIED)
def test_what_is_implied(goal: str, where: str) -> None:
    assert implies(goal, where)


@pytest.mark.parametrize(("goal", "where"), NOT_IMPLIED)
def test_what_is_not(goal: str, where: str) -> None:
    assert not implies(goal, where)


def test_parameters_count_with_their_values() -> None:
    assert parameters_in(normal(tree_of("lang = :l AND size IN (:n, 3)"))) == {"l", "n"}
    assert not implies("lang = 'en'", "lang = :l")
    assert implies("lang = 'en'", "lang = :l", l="en")
    assert not implies("lang = 'en'", "lang = :l", l="de")
    assert implies("size > 2", "size = :n", n=3)
    assert implies("size > 2", "size = $1", **{"1": 2.5})
    assert implies("size IN (1, 2)", "size IN (:n, 2)", n=1)
    assert not implies("size > 2", "size = :n", n=None)
    assert not implies("size > 2", "size = :n", n=[3])
    assert not implies("size > 2", "size = :n", n=float("nan"))
