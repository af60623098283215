"""Filters kept: the row set that a WHERE gave, for as long as nothing it depends on has changed.

Keyed by the filter's SQL, the values of its parameters and the data versions of the tables it
reads. Bounded by bytes; the least recently used goes first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from nearql.engine.types import RowSet


@dataclass(frozen=True, slots=True)
class FilterStats:
    """Counted since the start."""

    hits: int
    misses: int
    entries: int
    bytes: int


class FilterCache:
    """Thread-safe. Invariant: the bytes of all masks are at most the limit."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, RowSet] = OrderedDict()
        self._bytes = 0
        self._hits = 0
        self._misses = 0

    def get(self, key: Hashable) -> RowSet | None:
        """The row set kept under this key."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                self._misses += 1
                return None
            self._hits += 1
            self._kept.move_to_end(key)
            return found

    def put(self, key: Hashable, rows: RowSet) -> None:
        """Keep a row set; one larger than the whole cache isn't kept."""
        size = _size(rows)
        if size > self._limit:
            return
        with self._lock:
            if (old := self._kept.pop(key, None)) is not None:
                self._bytes -= _size(old)
            self._kept[key] = rows
            self._bytes += size
            while self._bytes > self._limit:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= _size(dropped)

    def stats(self) -> FilterStats:
        """Hits, misses and what is kept."""
        with self._lock:
            return FilterStats(self._hits, self._misses, len(self._kept), self._bytes)


def _size(rows: RowSet) -> int:
    return sum(mask.nbytes for mask in rows.masks)
