"""The column cache: never more than its bound, the least recently used go first."""

from __future__ import annotations

import pyarrow as pa

from nearql.engine.segment.cache import ColumnCache


def array(rows: int) -> pa.Array:
    return pa.array(range(rows), pa.int64())


def test_kept_arrays_are_made_once() -> None:
    cache = ColumnCache(1000)
    first = cache.get((1, 1), lambda: array(10))
    assert cache.get((1, 1), lambda: array(99)) is first
    cache.check_invariants()


def test_the_least_recently_used_go_first() -> None:
    cache = ColumnCache(3 * 80)
    kept = {name: cache.get((name, 0), lambda: array(10)) for name in (1, 2, 3)}
    cache.get((1, 0), lambda: array(1))
    cache.get((4, 0), lambda: array(10))
    assert cache.bytes == 240
    assert cache.get((1, 0), lambda: array(1)) is kept[1]
    assert len(cache.get((2, 0), lambda: array(1))) == 1, "2 had to go"
    cache.check_invariants()


def test_what_is_larger_than_the_bound_is_not_kept() -> None:
    cache = ColumnCache(80)
    assert len(cache.get((1, 1), lambda: array(10))) == 10
    assert len(cache.get((2, 1), lambda: array(11))) == 11
    assert len(cache.get((2, 1), lambda: array(12))) == 12
    assert cache.bytes == 80


def test_a_cache_of_size_0_is_none() -> None:
    cache = ColumnCache(0)
    assert len(cache.get((1, 1), lambda: array(3))) == 3
    assert cache.bytes == 0
