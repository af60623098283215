"""Filters on a JSON column, as LangChain's stores take them: which rows they keep."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

import nearql
from nearql.client.errors import UsageError
from nearql.client.langchain.filters import where_of

ROWS: dict[str, Any] = {
    "a": {"s": "a", "n": 1, "b": True, "x.y": 1, "$k": 2, "o": {"p": 1}},
    "b": {"s": "5", "n": 2.5, "b": False, "it's": "quoted"},
    "c": {"s": 5, "n": "2", "e": None},
    "d": {"n": 2**60},
    "e": {},
}
BIG = 2**60


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[nearql.Connection]:
    with nearql.connect(tmp_path_factory.mktemp("filters") / "data") as opened:
        opened.sql("CREATE TABLE t (id TEXT PRIMARY KEY, metadata JSON)")
        texts = [json.dumps(row) for row in ROWS.values()]
        opened.insert("t", {"id": list(ROWS), "metadata": texts})
        yield opened


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (None, "abcde"),
        ({}, "abcde"),
        ({"s": "a"}, "a"),
        ({"s": "5"}, "b"),
        ({"s": 5}, "c"),
        ({"n": 1}, "a"),
        ({"n": 1.0}, "a"),
        ({"n": BIG}, "d"),
        ({"n": BIG + 1}, ""),
        ({"n": True}, ""),
        ({"b": True}, "a"),
        ({"b": 1}, ""),
        ({"b": False}, "b"),
        ({"s": None}, "de"),
        ({"e": None}, "abcde"),
        ({"x.y": 1, "$not": {"n": 2}}, "a"),
        ({"it's": "quoted"}, "b"),
        ({"n": {"$gt": 1}}, "bd"),
        ({"n": {"$gte": 1, "$lt": 2.6}}, "ab"),
        ({"n": {"$lte": "2"}}, "c"),
        ({"n": {"$between": [1, 3]}}, "ab"),
        ({"n": {"$eq": 2.5}}, "b"),
        ({"n": {"$ne": 1}}, "bcde"),
        ({"s": {"$in": ["a", 5]}}, "ac"),
        ({"s": {"$in": []}}, ""),
        ({"s": {"$nin": ["a", 5]}}, "bde"),
        ({"s": {"$nin": []}}, "abcde"),
        ({"s": {"$in": [None, "a"]}}, "ade"),
        ({"s": {"$like": "%"}}, "ab"),
        ({"s": {"$ilike": "A"}}, "a"),
        ({"b": {"$exists": True}}, "ab"),
        ({"b": {"$exists": False}}, "cde"),
        ({"e": {"$exists": True}}, ""),
        ({"o": {"$exists": True}}, "a"),
        ({"$or": [{"s": "a"}, {"n": 2.5}]}, "ab"),
        ({"$and": [{"s": "a"}, {"n": 2.5}]}, ""),
        ({"$not": {"$or": [{"s": "a"}, {"n": 2.5}]}}, "cde"),
        ({"s": "'; DROP TABLE t; --"}, ""),
    ],
)
def test_which_rows_are_kept(db: nearql.Connection, given: Any, kept: str) -> None:
    where, parameters = where_of(given, "metadata")
    found = db.execute(f"SELECT id FROM t WHERE {where} ORDER BY id", parameters)
    assert "".join(name for (name,) in found) == kept


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([("s", "a")], "A filter is a dict"),
        ({"$or": {}}, r"\$or takes a list of filters"),
        ({"$and": []}, r"\$and takes a list of filters"),
        ({"$nor": [{}]}, r"no operator \$nor between filters; there are \$and"),
        ({"s": {"$regex": "a"}}, r"no operator '\$regex' for 's'; there are \$lt"),
        ({"s": {"p": 1}}, "no operator 'p' for 's'"),
        ({"s": {"$in": "abc"}}, "take a list"),
        ({"s": {"$between": [1]}}, "takes two values"),
        ({"s": {"$like": 5}}, "takes text"),
        ({"s": {"$exists": "yes"}}, "takes True or False"),
        ({"s": float("nan")}, "finite number"),
        ({"s": ["a"]}, "compares with"),
        ({"s": {"$gt": None}}, "compares with None"),
        ({'q"': 1}, "quote or backslash"),
    ],
)
def test_what_is_no_filter_is_said(given: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        where_of(given, "metadata")
