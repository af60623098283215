"""The filter cache: bounded by bytes, the least recently used goes first, counted."""

from __future__ import annotations

import numpy as np

from nearql.engine.types import RowSet
from nearql.query.filters import FilterCache


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
