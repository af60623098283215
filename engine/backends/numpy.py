"""The specification: searches with NumPy alone, block by block in bounded memory.

l2 is expanded to |x|^2 - 2 x.q + |q|^2 here, because BLAS multiplies matrices many times quicker than
NumPy subtracts them; the price is cancellation between long, close vectors. `nearest` says so in its
floor, and `contenders` then takes differences, whose error is relative to the distance itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nearql.engine.backends.base import (
    Block,
    Candidates,
    gamma,
    is_safe,
    loss,
    query_length,
    query_lengths,
    split,
)
from nearql.engine.types import Metric

_SCORES = 1 << 20  # scores of a chunk of rows to all queries: 4 MiB
_CHUNK_ELEMENTS = 1 << 22  # raw elements of a chunk: 16 MiB of float32
_DIFFERENCES = 1 << 17  # elements of a chunk whose differences are taken: stays in cache


@dataclass(frozen=True)
class _Chunk:
    """Some rows of a block: float32 (r, d), their lengths, and where row i of the chunk lies."""

    vectors: NDArray[np.float32]
    norms: NDArray[np.float32]
    mask: NDArray[np.bool_] | None
    first: int
    positions: NDArray[np.int64] | None

    def locate(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions in the block of rows of the chunk."""
        return rows + self.first if self.positions is None else self.positions[rows]


def chunks(block: Block, step: int) -> Iterator[_Chunk]:
    """Cut a block into chunks of at most `step` rows; only the positions, where it has some."""
    if block.positions is not None:
        for low, high in split(len(block.positions), step):
            at = block.positions[low:high]
            vectors = block.vectors[at].astype(np.float32, copy=False)
            yield _Chunk(vectors, block.norms[at], None, 0, at)
        return
    for low, high in split(len(block.vectors), step):
        vectors = block.vectors[low:high].astype(np.float32, copy=False)
        mask = None if block.mask is None else block.mask[low:high]
        yield _Chunk(vectors, block.norms[low:high], mask, low, None)


class NumpyBackend:
    """Searches with NumPy and its BLAS."""

    name = "numpy"
    device = "cpu"

    def splits(self, query_count: int) -> bool:
        """BLAS uses every core by itself."""
        del query_count
        return False

    def nearest(
        self, block: Block, queries: NDArray[np.float32], metric: Metric, k: int
    ) -> Candidates:
        """See `Backend.nearest`; unsafe queries get no candidates and a floor of -inf."""
        best = _Best(len(queries), k)
        safe = np.array([is_safe(block, query, metric) for query in queries], bool)
        if block.count and safe.any():
            with np.errstate(all="ignore"):  # rows outside the mask may hold anything
                _scan(block, queries, metric, best)
        lengths = query_lengths(queries)
        floor = best.worst() - _expanded_error(block, metric, lengths)
        if metric is Metric.L2:
            floor += lengths * lengths
        floor[~safe] = -np.inf
        return Candidates(best.positions, floor)

    def contenders(
        self, block: Block, query: NDArray[np.float32], metric: Metric, *, k: int | None, limit: float
    ) -> NDArray[np.int64]:  # fmt: skip
        """See `Backend.contenders`."""
        if not is_safe(block, query, metric):
            return block.matching
        with np.errstate(all="ignore"):
            positions, scores, errors = _score_all(block, query, metric)
        return within(positions, scores, errors, k=k, limit=limit)


def within(
    positions: NDArray[np.int64],
    scores: NDArray[np.float64],
    errors: NDArray[np.float64],
    *,
    k: int | None,
    limit: float,
) -> NDArray[np.int64]:
    """Positions whose score less its error is at most `limit`, and at most the k-th score plus error."""
    if k is not None and k < len(scores):
        limit = min(limit, float(np.partition(scores + errors, k - 1)[k - 1]))
    return positions[~(scores - errors > limit)]  # NaN (a zero vector) stays in


def _scan(block: Block, queries: NDArray[np.float32], metric: Metric, best: _Best) -> None:
    left = _prepared(queries, metric)
    step = max(1, min(_SCORES // len(queries), _CHUNK_ELEMENTS // block.dimensions))
    if metric is Metric.L1:
        step = max(1, _DIFFERENCES // block.dimensions)
    for chunk in chunks(block, step):
        scores = _scores(chunk, left, metric)
        if chunk.mask is not None:
            scores[:, ~chunk.mask] = np.inf
        best.add(scores, chunk)


def _prepared(queries: NDArray[np.float32], metric: Metric) -> NDArray[np.float32]:
    """The queries scaled so that one product gives the score."""
    if metric is Metric.L1:
        return queries
    if metric is Metric.COSINE:
        return (-queries / query_lengths(queries)[:, np.newaxis]).astype(np.float32)
    return queries * np.float32(-2 if metric is Metric.L2 else -1)


def _scores(chunk: _Chunk, left: NDArray[np.float32], metric: Metric) -> NDArray[np.float32]:
    """Scores of the chunk's rows to all queries, (nq, r); for l2 without the query's square."""
    if metric is Metric.L1:
        return np.stack([np.abs(chunk.vectors - query).sum(axis=1) for query in left])
    scores: NDArray[np.float32] = left @ chunk.vectors.T
    if metric is Metric.L2:
        scores += chunk.norms * chunk.norms
    elif metric is Metric.COSINE:
        scores /= chunk.norms
        scores[:, chunk.norms == 0] = np.inf
    return scores


def _expanded_error(
    block: Block, metric: Metric, lengths: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How far a score of `_scores` may be off, at most, for any row: (nq,)."""
    share = gamma(block.dimensions)
    lost = loss(block.dimensions, block.longest, float(lengths.max(initial=0)))
    if metric is Metric.L2:
        return share * (block.longest + lengths) ** 2 + lost
    if metric is Metric.INNER_PRODUCT:
        return share * block.longest * lengths + lost
    if metric is Metric.COSINE:
        return np.full(len(lengths), share + lost / max(block.shortest, FLOAT32_LEAST))
    # A sum of d distances: relative to the sum, which is at most sqrt(d) times the lengths' sum.
    return share * np.sqrt(block.dimensions) * (block.longest + lengths) + lost


FLOAT32_LEAST = 1e-45


def _score_all(
    block: Block, query: NDArray[np.float32], metric: Metric
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Positions, scores and error bounds of every matching row, all of shape (count,)."""
    left = _prepared(query[np.newaxis, :], metric)
    found = [
        (chunk, _row_scores(chunk, left[0], query, metric))
        for chunk in chunks(block, max(1, _DIFFERENCES // block.dimensions))
    ]
    scores = np.concatenate([scores for _, scores in found]).astype(np.float64)
    norms = np.concatenate([chunk.norms for chunk, _ in found]).astype(np.float64)
    if block.mask is not None and block.positions is None:
        scores, norms = scores[block.mask], norms[block.mask]
    return block.matching, scores, row_errors(block, query, metric, scores=scores, norms=norms)


def _row_scores(
    chunk: _Chunk, left: NDArray[np.float32], query: NDArray[np.float32], metric: Metric
) -> NDArray[np.float32]:
    if metric is Metric.L2:
        differences = chunk.vectors - query
        differences *= differences
        return np.add.reduce(differences, axis=1)
    return _scores(chunk, left[np.newaxis, :], metric)[0]


def row_errors(
    block: Block,
    query: NDArray[np.float32],
    metric: Metric,
    *,
    scores: NDArray[np.float64],
    norms: NDArray[np.float64],
) -> NDArray[np.float64]:
    """How far each row's score may be off: relative where differences were taken (l2, l1)."""
    share = gamma(block.dimensions)
    length = query_length(query)
    lost = loss(block.dimensions, block.longest, length)
    if metric is Metric.INNER_PRODUCT:
        return share * length * norms + lost
    if metric is Metric.COSINE:
        return share + lost / np.maximum(norms, FLOAT32_LEAST)
    return share * scores + lost


class _Best:
    """The c smallest scores so far per query. Invariant: unused places hold inf and -1."""

    def __init__(self, query_count: int, k: int) -> None:
        self.k = k
        self.scores = np.full((query_count, 0), np.inf, np.float32)
        self.positions = np.full((query_count, 0), -1, np.int64)

    def add(self, scores: NDArray[np.float32], chunk: _Chunk) -> None:
        """Merge the scores of a chunk, (nq, r)."""
        scores, rows = self._smallest(scores)
        found = np.where(scores == np.inf, -1, chunk.locate(rows))
        self.scores, order = self._smallest(np.concatenate([self.scores, scores], axis=1))
        both = np.concatenate([self.positions, found], axis=1)
        self.positions = np.take_along_axis(both, order, axis=1)

    def worst(self) -> NDArray[np.float64]:
        """The largest score kept, per query: (nq,)."""
        if self.scores.shape[1] == 0:
            return np.full(len(self.scores), -np.inf)
        worst: NDArray[np.float64] = self.scores.max(axis=1).astype(np.float64)
        return worst

    def _smallest(
        self, scores: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        if scores.shape[1] <= self.k:
            return scores, np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
        order = np.argpartition(scores, self.k - 1, axis=1)[:, : self.k]
        return np.take_along_axis(scores, order, axis=1), order
