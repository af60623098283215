"""What a backend is: a quick kernel that names candidates and proves that it missed none.

A backend computes *scores* in float32 (l2: squared distance; inner_product: negative product; cosine:
negative similarity; l1: distance), which differ a little from the canonical float64 score. It may
return any candidates, provided that it states rigorously what it left out:

    scores (float32)   -0.90  -0.89  -0.88 | -0.86  ...          k + slack kept | the rest
    floor                                 -0.86003                no row of the rest is nearer than this

`search.py` computes canonical distances of the candidates; if the k-th is below `floor`, the answer is
final. Otherwise (ties at the boundary, cancellation) it asks for `contenders`: every row that could
belong to the answer under the error bound.

The bounds are the textbook ones (Higham, Accuracy and Stability of Numerical Algorithms, 3.1): a sum of
d products in any order, with or without fused multiply-add, is off by at most gamma(d) * sum |x_i y_i|.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nearql.engine.distance import Vectors
from nearql.engine.types import Metric

FLOAT32_UNIT = 2.0**-24
FLOAT32_TINY = 2.0**-126  # what one operation may lose where a device flushes denormals to zero
SAFE_LENGTH = 1e15  # longer vectors could overflow float32 when squared and summed
SAFE_SHORTNESS = 1e-15  # shorter vectors lose their direction when squared


@dataclass(frozen=True)
class Block:
    """Rows that one kernel call looks at.

    vectors: float32 or float16, shape (n, d), C-contiguous.
    norms: float32, shape (n,), the rows' lengths.
    mask: bool, shape (n,): the rows that may match; None = all.
    positions: int64, ascending: the same rows as `mask`, where few of many qualify; None otherwise.
    longest, shortest: of the rows that may match, shortest without zero vectors; 0 where there are none.
    """

    vectors: Vectors
    norms: NDArray[np.float32]
    longest: float
    shortest: float
    mask: NDArray[np.bool_] | None = None
    positions: NDArray[np.int64] | None = None

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
        if self.mask is None:
            return np.arange(len(self.vectors))
        return np.flatnonzero(self.mask)


@dataclass(frozen=True)
class Candidates:
    """The nearest rows by a backend's own reckoning.

    positions: int64, shape (nq, c), in any order, -1 where there are fewer.
    floor: float64, shape (nq,): a lower bound of the canonical score of every matching row that is not
        among `positions`; inf where there is none.
    """

    positions: NDArray[np.int64]
    floor: NDArray[np.float64]


class Backend(Protocol):
    """One device path. Safe for use from several threads at once; keeps no state of a table."""

    @property
    def name(self) -> str:
        """As in `stats.strategy`: numpy, faiss_cpu."""

    @property
    def device(self) -> str:
        """cpu or gpu."""

    def splits(self, query_count: int) -> bool:
        """Whether one block gains from being cut into pieces for several threads."""

    def nearest(
        self, block: Block, queries: NDArray[np.float32], metric: Metric, k: int
    ) -> Candidates:
        """About the k nearest rows to each query. queries: float32, (nq, d), C-contiguous; k >= 1."""

    def contenders(
        self, block: Block, query: NDArray[np.float32], metric: Metric, *, k: int | None, limit: float
    ) -> NDArray[np.int64]:  # fmt: skip
        """Positions of every matching row whose canonical score may be <= `limit` (float64).

        With k, rows that are certainly not among the k nearest may be left out. query: float32, (d,).
        """


def gamma(terms: int) -> float:
    """Relative error of a float32 sum of `terms` products, in any order. Valid up to 10**5 terms."""
    # 8 more roundings for scaling and adding norms; 1.01 covers the float64 side and second order.
    return (terms + 8) * FLOAT32_UNIT * 1.01


def is_safe(block: Block, query: NDArray[np.float32], metric: Metric) -> bool:
    """Whether float32 kernels neither overflow nor lose all digits on this block and query."""
    length = query_length(query)
    if metric is Metric.COSINE:
        return length > 0 and SAFE_SHORTNESS < block.shortest and block.longest < SAFE_LENGTH
    return length < SAFE_LENGTH and block.longest < SAFE_LENGTH


def query_length(query: NDArray[np.float32]) -> float:
    """Euclidean length in float64."""
    wide = query.astype(np.float64)
    return float(np.sqrt(wide @ wide))


def query_lengths(queries: NDArray[np.float32]) -> NDArray[np.float64]:
    """Euclidean lengths in float64: (nq, d) -> (nq,)."""
    wide = queries.astype(np.float64)
    return np.sqrt(np.einsum("ij,ij->i", wide, wide))


def loss(dimensions: int, longest: float, query_length: float) -> float:
    """Absolute error of a sum of products where denormals may be flushed to zero."""
    return (dimensions + 8) * FLOAT32_TINY * (1 + longest + query_length)


def split(count: int, step: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most `step` that cover range(count)."""
    for low in range(0, count, step):
        yield low, min(low + step, count)
