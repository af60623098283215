"""What a backend is: a quick kernel that names candidates and proves that it missed none.

A backend computes *scores* in float32 (l2: squared distance; inner_product: negative product;
cosine: negative similarity; l1: distance), which differ a little from the canonical float64 score.
It names rows by either of two questions, and proves the answer with an error bound:

- `contenders`, one query: every row that may belong to the answer, and few others.
- `nearest`, many queries at once: about k rows each, and a floor below which no other row lies.

    scores (float32)   -0.90  -0.89  -0.88 | -0.86  ...   k and some more | the rest
    floor                                 -0.86003          no row of the rest has a lower score

`search.py` computes canonical distances of what was named. If the k-th is below the floor, the
answer is final; otherwise (ties at the boundary, cancellation) it asks for the contenders.

The bounds are the textbook ones (Higham, Accuracy and Stability of Numerical Algorithms, 3.1): a
sum of d products, in any order, fused or not, is off by at most gamma(d) * sum |x_i y_i|.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nearql.engine.codes import Tile, Tiling
from nearql.engine.distance import Vectors
from nearql.engine.team import Team
from nearql.engine.types import Metric

FLOAT32_UNIT = 2.0**-24
FLOAT32_TINY = 2.0**-126  # what one operation may lose where a device flushes denormals to zero
FLOAT32_LEAST = 2.0**-149
LENGTH_MAX = 1e15  # longer vectors could overflow float32 when squared and summed
LENGTH_MIN = 1e-15  # shorter ones lose digits when multiplied


@dataclass(frozen=True)
class Block:
    """Rows that one kernel call looks at.

    vectors: float32 or float16, shape (n, d), C-contiguous.
    norms: float32, shape (n,), the rows' lengths.
    longest: at least the length of every row that may match; 0 where all are zero vectors.
    tame: every row that may match is a zero vector or LENGTH_MIN to LENGTH_MAX long.
    mask: bool, shape (n,): the rows that may match; None = all.
    positions: int64, ascending: the same rows, where visiting only them pays; None otherwise.
    tiles: codes of all its rows, in order, where a scan of codes pays; empty otherwise.
    """

    vectors: Vectors
    norms: NDArray[np.float32]
    longest: float
    tame: bool = True
    mask: NDArray[np.bool_] | None = None
    positions: NDArray[np.int64] | None = None
    tiles: Sequence[Tile] = ()

    @property
    def dimensions(self) -> int:
        """d."""
        return int(self.vectors.shape[1])

    @cached_property
    def count(self) -> int:
        """How many rows may match."""
        if self.positions is not None:
            return len(self.positions)
        return len(self.vectors) if self.mask is None else int(np.count_nonzero(self.mask))

    @cached_property
    def matching(self) -> NDArray[np.int64]:
        """Positions of all rows that may match, ascending."""
        if self.positions is not None:
            return self.positions
        return np.arange(len(self.vectors)) if self.mask is None else np.flatnonzero(self.mask)


@dataclass(frozen=True)
class Candidates:
    """The nearest rows to each query by a backend's own reckoning.

    positions: int64, shape (nq, c), in any order, -1 where there are fewer.
    floor: float64, shape (nq,): a lower bound of the canonical score of every matching row that is
        not among `positions`, rows without a score (zero vectors under cosine) left aside.
    """

    positions: NDArray[np.int64]
    floor: NDArray[np.float64]

    @classmethod
    def stacked(cls, parts: Sequence[Candidates]) -> Candidates:
        """Those of all queries, from those of some each."""
        if len(parts) == 1:
            return parts[0]
        shape = sum(len(one.floor) for one in parts), max(one.positions.shape[1] for one in parts)
        positions, low = np.full(shape, -1, np.int64), 0
        for one in parts:
            count, width = one.positions.shape
            positions[low : low + count, :width] = one.positions
            low += count
        return cls(positions, np.concatenate([one.floor for one in parts]))


class Backend(Protocol):
    """One device path. Safe for use from several threads at once; keeps no state of a table."""

    @property
    def name(self) -> str:
        """As in `stats.strategy`: numpy, faiss_cpu."""

    @property
    def device(self) -> str:
        """cpu or gpu."""

    @property
    def copies_rows(self) -> bool:
        """Whether visiting scattered rows copies them."""

    def batches(self, metric: Metric, query_count: int) -> bool:
        """Whether to ask `nearest` for so many queries rather than `contenders` for each."""

    @property
    def tiling(self) -> Tiling:
        """How it wants tiles."""

    def codes(self, metric: Metric, k: int, query_count: int) -> bool:
        """Whether it searches tiles in such a search; `encode` makes them then."""

    def encode(
        self, vectors: Vectors, valid: NDArray[np.bool_] | None, metric: Metric, low: int
    ) -> Tile:
        """Code the rows of a tile, (n, d), of which `valid` can match, from row `low` on."""

    def nearest(
        self, block: Block, queries: NDArray[np.float32], metric: Metric, k: int, *, team: Team
    ) -> Candidates:
        """The k nearest rows to each query, and some more for safety; not for l1.

        queries: float32, shape (nq, d), C-contiguous; k >= 1. team: threads to share the work with.
        """

    def contenders(
        self,
        block: Block,
        query: NDArray[np.float32],
        metric: Metric,
        *,
        k: int | None,
        limit: float,
        team: Team,
    ) -> NDArray[np.int64]:
        """Positions of every matching row whose canonical score may be <= `limit` (float64).

        With k, rows that are certainly not among the k nearest may be left out. Rows without a
        score (zero vectors under cosine) are named where the limit is inf and fewer than k rows
        have one.
        query: float32, shape (d,). team: threads to share the work with.
        """


@dataclass(frozen=True)
class ErrorBound:
    """How far a float32 score may be off: relative * |score| + per_length * row length + constant.

    Invariant: where `relative` is not 0, scores are at least 0.
    """

    relative: float
    per_length: float
    constant: float

    def of(self, scores: NDArray[np.float32], norms: NDArray[np.float32]) -> NDArray[np.float64]:
        """The bound of each row, (m,) -> (m,)."""
        wide = np.abs(scores.astype(np.float64))
        return self.relative * wide + self.per_length * norms.astype(np.float64) + self.constant

    def reach(self, limit: float, longest: float) -> float:
        """The largest score shown by a row of canonical score <= limit and length <= longest."""
        return (limit + self.per_length * longest + self.constant) / (1 - self.relative)


def gamma(terms: int) -> float:
    """Relative error of a float32 sum of `terms` products in any order; up to 10**5 terms."""
    # 8 more roundings, for scaling and for adding norms; 1.01 covers float64 and second order.
    return (terms + 8) * FLOAT32_UNIT * 1.01


def loss(dimensions: int, longest: float, length: float) -> float:
    """Absolute error of a sum of products where denormals may be flushed to zero."""
    return (dimensions + 8) * FLOAT32_TINY * (1 + longest + length)


def direct_bound(block: Block, metric: Metric, length: float) -> ErrorBound:
    """Bound of scores by differences (l2, l1) or products. length: the query's (float64).

    Under cosine the query was scaled to length 1 and products divided by row lengths.
    """
    share = gamma(block.dimensions)
    lost = loss(block.dimensions, block.longest, length)
    if metric is Metric.INNER_PRODUCT:
        return ErrorBound(0.0, share * length, lost)
    if metric is Metric.COSINE:
        return ErrorBound(0.0, 0.0, share + loss(block.dimensions, block.longest, 1) / LENGTH_MIN)
    return ErrorBound(share, 0.0, lost)


def lengths(queries: NDArray[np.float32]) -> NDArray[np.float64]:
    """Euclidean lengths in float64: (nq, d) -> (nq,)."""
    wide = queries.astype(np.float64)
    out: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    return out


def is_tame(metric: Metric, length: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether float32 kernels neither overflow nor lose digits on queries of these lengths."""
    return length > 0 if metric is Metric.COSINE else length < LENGTH_MAX


def scaled(
    queries: NDArray[np.float32], metric: Metric, length: NDArray[np.float64]
) -> NDArray[np.float32]:
    """The queries as their products with rows give scores; untouched for l2 and l1."""
    if metric is Metric.COSINE:
        return (-queries / length[:, np.newaxis]).astype(np.float32)
    return -queries if metric is Metric.INNER_PRODUCT else queries
