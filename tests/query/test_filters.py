"""The filter cache: bounded by bytes, the least recently used goes first, counted.

Filters of any SQL are kept, for as long as nothing that they read has changed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nearql.engine.types import RowSet
from nearql.query.filters import FilterCache
from support.sql import Sql


def rows(size: int) -> RowSet:
    """A filter of `size` bytes."""
    return RowSet((np.ones(size, np.bool_),), size)


def test_what_was_put_is_found_and_counted() -> None:
    cache = FilterCache(100)
    kept = rows(10)
    assert cache.get("a") is None
    cache.put("a", kept)
    assert cache.get("a") is kept
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.entries, stats.bytes) == (1, 1, 1, 10)


def test_the_least_recently_used_goes_when_bytes_run_out() -> None:
    cache = FilterCache(100)
    for name in "abc":
        cache.put(name, rows(33))
    assert cache.get("a") is not None
    cache.put("d", rows(33))
    assert [cache.get(name) is not None for name in "abcd"] == [True, False, True, True]
    assert cache.stats().bytes == 99


def test_a_filter_as_large_as_the_cache_is_kept_a_larger_one_is_not() -> None:
    cache = FilterCache(100)
    cache.put("fits", rows(100))
    assert cache.get("fits") is not None
    cache.put("large", rows(101))
    assert (cache.get("large"), cache.get("fits") is not None) == (None, True)


def test_putting_a_key_again_replaces_it() -> None:
    cache = FilterCache(100)
    cache.put("a", rows(60))
    cache.put("a", rows(70))
    assert (cache.stats().entries, cache.stats().bytes) == (1, 70)


FILTERS = {
    "LIKE": "title LIKE '%e 1%'",
    "ILIKE with a parameter": "title ILIKE :p",
    "a regular expression": "regexp_matches(title, '1[0-5]$')",
    "JSON": "CAST(info ->> 'n' AS INTEGER) < 9",
    "JSON by path": "json_extract_string(info, '$.tags[0]') = 'even'",
    "a sub-query": "price > (SELECT avg(price) FROM docs)",
    "IN over another table": "cat IN (SELECT name FROM cats WHERE good)",
    "EXISTS over another table": "EXISTS (SELECT 1 FROM cats c WHERE c.name = cat AND c.good)",
    "a list": "list_contains(tags, 'even')",
    "ANY of a list": "'even' = ANY (tags)",
    "CASE and arithmetic": "CASE WHEN price > 9 THEN id % 3 ELSE 0 END = 0",
}
PARAMS = {"p": "%TITLE 2%"}
SEARCH = "SELECT id FROM docs WHERE {} ORDER BY vec <-> '[2,2]' LIMIT 5"


@pytest.fixture
def rich(docs: Sql) -> Sql:
    """`docs` with JSON and a list, and a table of categories."""
    docs.run("ALTER TABLE docs ADD COLUMN info JSON")
    docs.run("ALTER TABLE docs ADD COLUMN tags TEXT[]")
    docs.run(
        "UPDATE docs SET info = json_object('n', id, 'tags', json_array(CASE WHEN id % 2 = 0 THEN "
        "'even' ELSE 'odd' END)), tags = CASE WHEN id % 2 = 0 THEN ['even', 'x'] ELSE ['odd'] END"
    )
    docs.run("CREATE TABLE cats (name TEXT PRIMARY KEY, good BOOLEAN)")
    docs.run("INSERT INTO cats VALUES ('a', true), ('b', false)")
    return docs


def ask(sql: Sql, condition: str) -> tuple[list[Any], int]:
    """The ids found, and how many filters came from the cache."""
    before = sql.session.filters.stats().hits
    params = PARAMS if ":p" in condition else None
    found = [row for (row,) in sql.rows(SEARCH.format(condition), params)]
    return found, sql.session.filters.stats().hits - before


@pytest.mark.parametrize("condition", FILTERS.values(), ids=FILTERS)
def test_any_filter_is_kept_until_what_it_reads_changes(rich: Sql, condition: str) -> None:
    first, hits = ask(rich, condition)
    assert hits == 0
    assert first
    assert ask(rich, condition) == (first, 1)
    rich.run("DELETE FROM docs WHERE id = :id", {"id": first[0]})
    second, hits = ask(rich, condition)
    assert hits == 0
    assert first[0] not in second
    assert ask(rich, condition) == (second, 1)


@pytest.mark.parametrize("condition", [FILTERS[name] for name in FILTERS if "another" in name])
def test_a_filter_over_another_table_follows_it(rich: Sql, condition: str) -> None:
    first, _ = ask(rich, condition)
    rich.run("UPDATE cats SET good = NOT good")
    second, hits = ask(rich, condition)
    assert hits == 0
    assert not set(first) & set(second)


def test_parameters_tell_filters_apart(rich: Sql) -> None:
    text = SEARCH.format("title LIKE :p")
    stats = rich.session.filters.stats
    one = rich.rows(text, {"p": "%1"})
    assert rich.rows(text, {"p": "%2"}) != one
    assert stats().hits == 0
    assert rich.rows(text, {"p": "%1"}) == one
    assert stats().hits == 1


def test_a_join_that_drops_rows_still_gives_as_many(rich: Sql) -> None:
    """LIMIT rows come, although the other table leaves only every second one."""
    text = (
        "SELECT d.id FROM docs d JOIN cats c ON c.name = d.cat WHERE c.good "
        "ORDER BY d.vec <-> '[2,2]' LIMIT 5"
    )
    assert all(row % 2 == 0 for (row,) in rich.rows(text))
    assert len(rich.rows(text)) == 5


@pytest.mark.parametrize("condition", ["random() < 2", "price < extract(epoch FROM now())"])
def test_what_may_change_by_itself_is_not_kept(rich: Sql, condition: str) -> None:
    assert ask(rich, condition)[1] == 0
    assert ask(rich, condition)[1] == 0
