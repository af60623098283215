"""Orders candidates by (query, distance, primary key), NaN last; asks for keys only where needed.

Keys live in Arrow columns elsewhere, so they are fetched for rows that tie, and only for ties that
reach the first k places. Example, k = 2: distances [.1 .3 .3 .3 .5] ask for the three keys of .3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_PLAIN = frozenset((pa.int16(), pa.int32(), pa.int64()))
KeysOf = Callable[[NDArray[np.int64]], "NDArray[Any] | pa.Array"]


@dataclass
class Ranking:
    """Candidates of several queries, sorted by (query, distance); ties in any order until settled.

    queries, rows: int64, shape (m,); distances: float32, shape (m,).
    starts: int64, shape (nq + 1,): the candidates of query i are [starts[i], starts[i + 1]).
    """

    queries: NDArray[np.int64]
    rows: NDArray[np.int64]
    distances: NDArray[np.float32]
    starts: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        queries: NDArray[np.int64],
        rows: NDArray[np.int64],
        distances: NDArray[np.float32],
        query_count: int,
    ) -> Ranking:
        """Sort candidates in any order, all of shape (m,)."""
        order = np.argsort(distances) if query_count == 1 else np.lexsort((distances, queries))
        queries = queries[order]
        starts = np.searchsorted(queries, np.arange(query_count + 1))
        return cls(queries, rows[order], distances[order], starts)

    def kth(self, k: int) -> NDArray[np.float32]:
        """The k-th distance of each query, NaN where it has fewer: (nq,)."""
        at = self.starts[:-1] + (k - 1)
        held = at < self.starts[1:]
        out = np.full(len(at), np.nan, np.float32)
        out[held] = self.distances[at[held]]
        return out

    def settle(self, k: int, keys_of: KeysOf) -> None:
        """Order ties that reach the first k places of a query by primary key."""
        tied = self._ties(k)
        if not len(tied):
            return
        group = np.cumsum(self._leads())[tied]
        order = np.lexsort((_key_ranks(keys_of(self.rows[tied])), group))
        self.rows[tied] = self.rows[tied[order]]

    def top(self, k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The first k of each query: rows (-1 padded) and distances (NaN padded), (nq, k)."""
        at = self.starts[:-1, np.newaxis] + np.arange(k)
        held = at < self.starts[1:, np.newaxis]
        rows = np.full(at.shape, -1, np.int64)
        distances = np.full(at.shape, np.nan, np.float32)
        rows[held] = self.rows[at[held]]
        distances[held] = self.distances[at[held]]
        return rows, distances

    def _leads(self) -> NDArray[np.bool_]:
        """Whether each candidate differs from the one before in query or distance."""
        leads = np.ones(len(self.rows), bool)
        before, after = self.distances[:-1], self.distances[1:]
        same = (before == after) | (np.isnan(before) & np.isnan(after))
        leads[1:] = ~same | (self.queries[1:] != self.queries[:-1])
        return leads

    def _ties(self, k: int) -> NDArray[np.int64]:
        """Places of candidates whose group of equals has several and begins within the first k."""
        leads = self._leads()
        if leads.all():
            return np.empty(0, np.int64)
        begins = np.flatnonzero(leads)
        sizes = np.diff(begins, append=len(leads))
        reaches = begins - self.starts[self.queries[begins]] < k
        return np.flatnonzero(np.repeat((sizes > 1) & reaches, sizes))


def _key_ranks(keys: NDArray[Any] | pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """Places of keys in their sorted order; text by code point."""
    if isinstance(keys, pa.Array) and keys.type in _PLAIN:
        keys = np.from_dlpack(keys)  # Arrow's own kernel takes 100 us to find when it is cold
    if isinstance(keys, pa.Array | pa.ChunkedArray):
        order = pc.sort_indices(keys).to_numpy(zero_copy_only=False)
    else:
        order = np.argsort(keys, kind="stable")
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return ranks
