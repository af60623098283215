"""The k best scores of each query of a batch, kept as more of them come."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Best:
    """The k smallest scores so far of each query, with their positions.

    Invariants: unused places hold inf and -1. threshold: float32, (nq,): the k-th smallest score,
    inf while there are fewer; only smaller scores can enter.
    """

    def __init__(self, query_count: int, k: int) -> None:
        self.k = k
        self.scores = np.empty((query_count, 0), np.float32)
        self.positions = np.empty((query_count, 0), np.int64)
        self.threshold = np.full(query_count, np.inf, np.float32)

    @classmethod
    def merged(cls, parts: Sequence[Best]) -> Best:
        """The best of several, at least one, for the same queries and k."""
        if len(parts) == 1:
            return parts[0]
        best = cls(len(parts[0].scores), parts[0].k)
        scores = np.concatenate([part.scores for part in parts], axis=1)
        best._keep(scores, np.concatenate([part.positions for part in parts], axis=1))
        return best

    def merge(
        self, query: NDArray[np.int64], scores: NDArray[np.float32], positions: NDArray[np.int64]
    ) -> None:
        """Take further scores, all (m,), in any order; no position comes twice for a query."""
        if len(query) > 1 and (query[1:] < query[:-1]).any():
            order = np.argsort(query, kind="stable")
            query, scores, positions = query[order], scores[order], positions[order]
        counts = np.bincount(query, minlength=len(self.scores))
        place = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
        held = self.scores.shape[1]
        shape = (len(self.scores), held + int(counts.max(initial=0)))
        merged, found = np.full(shape, np.inf, np.float32), np.full(shape, -1, np.int64)
        merged[:, :held], found[:, :held] = self.scores, self.positions
        merged[query, held + place] = scores
        found[query, held + place] = positions
        self._keep(merged, found)

    def kth(self, k: int) -> NDArray[np.float32]:
        """The k-th smallest score of each query, inf where there are fewer: (nq,)."""
        if self.scores.shape[1] < k:
            return np.full(len(self.scores), np.inf, np.float32)
        kth: NDArray[np.float32] = np.partition(self.scores, k - 1, axis=1)[:, k - 1]
        return kth

    def drop(self, bound: NDArray[np.float64]) -> None:
        """Forget positions of scores above a bound, (nq,)."""
        self.positions[self.scores > bound[:, np.newaxis]] = -1

    def _keep(self, scores: NDArray[np.float32], positions: NDArray[np.int64]) -> None:
        if scores.shape[1] > self.k:
            order = np.argpartition(scores, self.k - 1, axis=1)[:, : self.k]
            scores = np.take_along_axis(scores, order, axis=1)
            positions = np.take_along_axis(positions, order, axis=1)
        self.scores, self.positions = scores, positions
        if scores.shape[1] == self.k:
            self.threshold = scores.max(axis=1)
