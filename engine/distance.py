"""The one canonical distance: every distance that a user sees is computed here.

What: float64 accumulation, row by row, over the raw vectors, rounded once to float32. Backends find
candidates with whatever kernel is quick; their distances are thrown away and computed again here.

Invariants:
- A row's distance depends on its vector and the query alone, never on the other rows of the call:
  the sum runs along the contiguous axis of a float64 block, so its order is fixed by d.
- Never -0.0; l2, l1 and cosine never negative; two equal vectors are exactly 0 apart.
- float32 inputs up to the largest finite value overflow nothing in float64; a distance beyond
  float32 is inf. Cosine is NaN where a vector is zero.

Example: rows [[3, 4], [0, 0]] to the query [6, 8] are l2 [5, 10], inner_product [-50, 0],
cosine [0, NaN] and l1 [7, 14] apart.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nearql.engine import bit_rows
from nearql.engine.types import Metric

Vectors = NDArray[np.float32] | NDArray[np.float16]
_SIGN_AND_VALUE = np.int32(0x8FFFE000 - (1 << 32))  # bit 31 and bits 27 to 13
_ONE, _ZERO = np.float64(1), np.float64(0)
_BLOCK_ELEMENTS = 1 << 16  # 512 KiB of float64: three such buffers stay in a core's cache


def canonical_distances(
    vectors: Vectors, query: NDArray[np.float32], metric: Metric
) -> NDArray[np.float32]:
    """Distance of every row to one query.

    Args:
        vectors: float32 or float16, shape (n, d).
        query: float32, shape (d,).

    Returns:
        float32, shape (n,).
    """
    return _blockwise(
        vectors.shape, metric, lambda low, high: (vectors[low:high], query[np.newaxis, :])
    )


def near_distances(
    rows: Vectors,
    query: NDArray[np.float32],
    metric: Metric,
    squares: NDArray[np.float64] | None = None,
) -> NDArray[np.float32]:
    """`canonical_distances` of a few tame rows, without what only many or odd ones need.

    Each call of NumPy over more than 500 numbers lets go of Python and asks for it again, which
    takes longer than the numbers do where other threads want it; so they are few.

    rows: float32 or float16, (m, d), m d small; under cosine neither they nor the query are zero.
    squares: `row_squares` of the rows, (m,), for cosine; None = computed.
    """
    wide = query.astype(np.float64)
    if metric is not Metric.COSINE:
        left = rows.astype(np.float64)
        return _KERNELS[metric](left, wide[np.newaxis]).astype(np.float32) + np.float32(0)
    if squares is None:
        squares = row_squares(rows)
    lengths = np.sqrt(squares * np.add.reduce(wide * wide))
    near = np.add.reduce(np.multiply(rows, wide, dtype=np.float64), axis=1)
    near /= lengths
    # Rounding to float32 brings what is above 2 back, and 1 - 1 is no -0.0.
    rounded: NDArray[np.float32] = np.maximum(_ONE - near, _ZERO).astype(np.float32)
    return rounded


def row_squares(rows: Vectors) -> NDArray[np.float64]:
    """What the canonical cosine distance takes for each row's squared length: float64, (m,)."""
    wide = rows.astype(np.float64)
    wide *= wide
    return _sum(wide)


def pairwise_distances(left: Vectors, right: Vectors, metric: Metric) -> NDArray[np.float32]:
    """Distance of each row of `left` to the same row of `right`; both of shape (n, d) -> (n,)."""
    return _blockwise(left.shape, metric, lambda low, high: (left[low:high], right[low:high]))


def candidate_distances(
    vectors: Vectors,
    positions: NDArray[np.int64],
    queries: NDArray[np.float32],
    query_of: NDArray[np.int64],
    metric: Metric,
) -> NDArray[np.float32]:
    """Distance of row `positions[i]` of `vectors` to `queries[query_of[i]]`, shape (m,).

    Rows are gathered block by block, so memory stays bounded whatever m is. By a metric of bit
    strings, vectors are their words and queries zeros and ones, see `bit_rows`.
    """
    if metric.is_of_bits:
        words = bit_rows.from_queries(queries)
        return bit_rows.candidate_distances(vectors, positions, words, query_of, metric)
    return _blockwise(
        (len(positions), vectors.shape[1]),
        metric,
        lambda low, high: (vectors[positions[low:high]], queries[query_of[low:high]]),
    )


def row_norms(vectors: Vectors) -> NDArray[np.float32]:
    """Euclidean length of every row, float64 accumulated: float32, shape (n,)."""
    out = np.empty(len(vectors), np.float32)
    for low, high in blocks(vectors.shape):
        wide = widen(vectors[low:high]).astype(np.float64)
        with np.errstate(over="ignore", under="ignore"):
            out[low:high] = np.sqrt(_dot(wide, wide))
    return out


def widen(vectors: Vectors, scratch: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """float32 values of the vectors, exactly; themselves if they are float32 already.

    scratch: memory for the result, of at least as many rows.

    NumPy converts a float16 in 3 ns. Moving its bits into a float32's places and multiplying by
    2^112 (the difference of the exponent biases) takes 0.3 ns, exact for every finite value.
    """
    if vectors.dtype == np.float32:
        return vectors.astype(np.float32, copy=False)
    out = np.empty(vectors.shape, np.float32) if scratch is None else scratch[: len(vectors)]
    bits = out.view(np.int32)
    np.copyto(bits, vectors.view(np.int16))  # the sign is extended over the upper half
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, _SIGN_AND_VALUE, out=bits)
    return np.multiply(out, np.float32(2.0**112), out=out)


def score_limit(metric: Metric, distance: float) -> float:
    """The largest float64 score of a row that may be shown at most `distance` (float32) away.

    A score orders rows as the distance does and is what backends compute: l2 squared distance,
    inner_product the same, cosine the negative similarity, l1 the same. NaN means no limit.

    The next larger float32 is taken as the limit, twice the rounding of the canonical result.
    """
    if np.isnan(distance):
        return float("inf")
    with np.errstate(over="ignore", under="ignore"):
        limit = float(np.nextafter(np.float32(distance), np.float32(np.inf)))
    if metric is Metric.L2:
        return -1.0 if limit < 0 else limit * limit
    return limit - 1.0 if metric is Metric.COSINE else limit


def score_limits(metric: Metric, distances: NDArray[np.float32]) -> NDArray[np.float64]:
    """`score_limit` of each: (m,) -> (m,)."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        limits = np.nextafter(distances, np.float32(np.inf)).astype(np.float64)
        if metric is Metric.L2:
            limits = np.where(limits < 0, -1.0, limits * limits)
        elif metric is Metric.COSINE:
            limits = limits - 1.0
    return np.where(np.isnan(distances), np.inf, limits)


def blocks(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Row ranges of a (n, d) array that are worked on at once."""
    count, dimensions = shape
    step = max(1, _BLOCK_ELEMENTS // max(1, dimensions))
    return [(low, min(low + step, count)) for low in range(0, count, step)]


def _blockwise(
    shape: tuple[int, ...],
    metric: Metric,
    rows: Callable[[int, int], tuple[Vectors, Vectors]],
) -> NDArray[np.float32]:
    kernel = _KERNELS[metric]
    out = np.empty(shape[0], np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        for low, high in blocks(shape):
            left, right = rows(low, high)
            out[low:high] = kernel(widen(left).astype(np.float64), widen(right).astype(np.float64))
    out += np.float32(0)  # -0.0 (also of a rounded tiny negative) becomes 0.0
    return out


def _sum(block: NDArray[np.float64]) -> NDArray[np.float64]:
    out: NDArray[np.float64] = np.add.reduce(block, axis=1)
    return out


def _dot(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    return _sum(left * right)


def _l2(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    left -= right
    left *= left
    return np.sqrt(_sum(left))


def _l1(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    left -= right
    return _sum(np.abs(left, out=left))


def _inner_product(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    left *= right
    return -_sum(left)


def _cosine(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    # One square root of the product: sqrt(s * s) is exactly s, so equal vectors are 0 apart.
    lengths = np.sqrt(_dot(left, left) * _dot(right, right))
    left *= right
    similarity = _sum(left) / lengths  # 0 / 0 = NaN where a vector is zero
    return np.clip(1.0 - similarity, 0.0, 2.0)


_KERNELS: dict[
    Metric, Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
] = {
    Metric.L2: _l2,
    Metric.L1: _l1,
    Metric.INNER_PRODUCT: _inner_product,
    Metric.COSINE: _cosine,
}
