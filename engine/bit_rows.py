"""Bit strings as rows of 64-bit words, and their distances.

A row of n bits is ceil(n / 64) words, zeros behind the last bit, which change no distance. A query
comes as the engine's queries do, float32 (nq, n), of zeros and ones.

    hamming   bits that differ
    jaccard   1 - bits that both have / bits that one has; 1 where they share none

The distances are those of SQL's `<~>` and `<%>`, to the bit. All of them are exact, so that rows
tie often: they are ordered by key then, as everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearql.engine.types import Metric

Words = NDArray[np.uint64]
WORD = 64
_BLOCK_ROWS = 8_192  # whose words stay in a core's cache


def word_count(bits: int) -> int:
    """Words of a row of so many bits."""
    return -(-bits // WORD)


def from_bytes(packed: NDArray[np.uint8]) -> Words:
    """Rows of bytes, the first bit in the highest place, (n, bytes), as words (n, words)."""
    rows, size = packed.shape
    if size % 8:
        wide = np.zeros((rows, word_count(8 * size) * 8), np.uint8)
        wide[:, :size] = packed
        packed = wide
    return np.ascontiguousarray(packed).view(np.uint64)


def from_signs(vectors: NDArray[np.float32] | NDArray[np.float16]) -> Words:
    """A one for each element above zero: (n, d) -> (n, words of d bits)."""
    out = np.empty((len(vectors), word_count(vectors.shape[1])), np.uint64)
    for low in range(0, len(vectors), _BLOCK_ROWS):
        some = slice(low, low + _BLOCK_ROWS)
        out[some] = from_bytes(np.packbits(vectors[some] > 0, axis=1))
    return out


def from_queries(queries: NDArray[np.float32]) -> Words:
    """Queries, float32 (nq, bits), as words."""
    return from_signs(queries)


def distances(rows: Words, query: Words, metric: Metric) -> NDArray[np.float32]:
    """Distance of each row, (n, words), to one query, (words,): float32 (n,)."""
    out = np.empty(len(rows), np.float32)
    for low in range(0, len(rows), _BLOCK_ROWS):
        some = slice(low, low + _BLOCK_ROWS)
        out[some] = _block(rows[some], query, metric)
    return out


def candidate_distances(
    rows: NDArray[Any], positions: NDArray[np.int64], queries: Words, query_of: NDArray[np.int64],
    metric: Metric,
) -> NDArray[np.float32]:  # fmt: skip
    """Distance of row `positions[i]` to `queries[query_of[i]]`: float32 (m,)."""
    return _block(rows[positions], queries[query_of], metric)


def _block(rows: Words, queries: Words, metric: Metric) -> NDArray[np.float32]:
    """queries: (words,), or one for each row."""
    if metric is Metric.HAMMING:
        return _ones(rows ^ queries).astype(np.float32)
    both, either = _ones(rows & queries), _ones(rows | queries)
    shares = np.divide(both, either, out=np.zeros(len(rows)), where=both > 0)
    return (1 - shares).astype(np.float32)


def _ones(words: Words) -> NDArray[np.int64]:
    counts = np.bitwise_count(words)
    total = np.zeros(len(words), np.int64)
    for column in range(counts.shape[1]):
        total += counts[:, column]
    return total
