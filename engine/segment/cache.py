"""Columns without their dead rows, kept within a memory bound; least recently used go first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pyarrow as pa

Key = tuple[int, int]  # (token of a segment view, column number)


class ColumnCache:
    """Invariant: the kept arrays have at most `limit_bytes`; a larger array is never kept."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._kept: OrderedDict[Key, pa.Array] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """What is kept now."""
        return self._bytes

    @property
    def limit_bytes(self) -> int:
        """What is kept at most."""
        return self._limit_bytes

    def get(self, key: Key, make: Callable[[], Any]) -> pa.Array:
        """The array kept under `key`, else what `make` returns, kept from now on if it fits."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        made = make()
        self._keep(key, made)
        return made

    def clear(self) -> None:
        """Keep nothing of what is kept now."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def _keep(self, key: Key, array: pa.Array) -> None:
        if array.nbytes > self._limit_bytes:
            return
        with self._lock:
            if key in self._kept:
                return
            self._kept[key] = array
            self._bytes += array.nbytes
            while self._bytes > self._limit_bytes:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes

    def check_invariants(self) -> None:
        """Raise AssertionError where the accounting is wrong."""
        assert self._bytes == sum(array.nbytes for array in self._kept.values())
        assert self._bytes <= self._limit_bytes
