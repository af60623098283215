"""k-means over the vectors of a table: Lloyd's algorithm (1957), made to give the same every time.

As in FAISS's `Clustering`: centroids begin as k random rows, at most 256 rows a centroid are looked
at while they move, and a centroid that loses all its rows takes half of the largest cluster. Then
every row gets the centroid nearest to it. Chance is seeded, and rows come in the order of their
keys, so the same rows give the same clusters. Under cosine, rows and centroids have length 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nearql.engine.distance import pairwise_distances
from nearql.engine.types import Metric

METRICS = (Metric.L2, Metric.COSINE)
_SEED = 1957
_ROUNDS = 20
_LEARNED_FROM = 256  # rows a centroid
_PRODUCTS = 1 << 22  # of rows and centroids at once: 16 MiB
_APART = np.float32(1 / 1024)  # of the halves of a cluster that is cut in two


@dataclass(frozen=True)
class Clusters:
    """number: int64 (n,), 1 for the largest cluster. distances: float32 (n,), to its centroid."""

    number: NDArray[np.int64]
    distances: NDArray[np.float32]


def kmeans(
    vectors: NDArray[np.float32], k: int, metric: Metric, check: Callable[[], None]
) -> Clusters:
    """Cut rows into at most k clusters.

    Args:
        vectors: float32 (n, d), finite; under cosine none of them zero.
        k: at least 1; no more clusters than rows are made.
        metric: one of METRICS.
        check: called often; raises where the statement should end.
    """
    if not len(vectors):
        return Clusters(np.empty(0, np.int64), np.empty(0, np.float32))
    rows = _unit(vectors) if metric is Metric.COSINE else vectors
    k = min(k, len(rows))
    random = np.random.default_rng(_SEED)
    learned = rows
    if len(rows) > k * _LEARNED_FROM:
        learned = rows[np.sort(random.choice(len(rows), k * _LEARNED_FROM, replace=False))]
    centroids = _learned(learned, k, metric, random, check)
    number = _nearest(rows, centroids, check)
    distances = np.empty(len(rows), np.float32)
    step = max(1, _PRODUCTS // rows.shape[1])
    for low in range(0, len(rows), step):
        check()
        part = slice(low, low + step)
        distances[part] = pairwise_distances(vectors[part], centroids[number[part]], metric)
    return Clusters(_by_size(number, k), distances)


def _learned(
    rows: NDArray[np.float32],
    k: int,
    metric: Metric,
    random: np.random.Generator,
    check: Callable[[], None],
) -> NDArray[np.float32]:
    """Centroids, (k, d)."""
    centroids = rows[np.sort(random.choice(len(rows), k, replace=False))].copy()
    number = np.full(len(rows), -1, np.int64)
    for _ in range(_ROUNDS):
        moved = _nearest(rows, centroids, check)
        if (moved == number).all():
            break
        number = moved
        centroids = _means(rows, number, centroids)
        if metric is Metric.COSINE:
            centroids = _unit(centroids)
    return centroids


def _means(
    rows: NDArray[np.float32], number: NDArray[np.int64], centroids: NDArray[np.float32]
) -> NDArray[np.float32]:
    counts = np.bincount(number, minlength=len(centroids))
    order = np.argsort(number, kind="stable")
    held = np.flatnonzero(counts)
    starts = (np.cumsum(counts) - counts)[held]
    out = centroids.copy()
    sums = np.add.reduceat(rows[order], starts, axis=0, dtype=np.float64)
    out[held] = sums / counts[held, np.newaxis]
    for empty in np.flatnonzero(counts == 0):
        largest = int(np.argmax(counts))
        out[empty] = out[largest] * (1 + _APART)
        out[largest] *= 1 - _APART
        counts[empty] = counts[largest] // 2
        counts[largest] -= counts[empty]
    return out


def _nearest(
    rows: NDArray[np.float32], centroids: NDArray[np.float32], check: Callable[[], None]
) -> NDArray[np.int64]:
    """The nearest centroid of each row, (n,); the first among equals."""
    out = np.empty(len(rows), np.int64)
    with np.errstate(over="ignore", invalid="ignore"):
        half = np.einsum("ij,ij->i", centroids, centroids) / 2
        step = max(1, _PRODUCTS // len(centroids))
        for low in range(0, len(rows), step):
            check()
            out[low : low + step] = np.argmin(half - rows[low : low + step] @ centroids.T, axis=1)
    return out


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of length 1; a zero vector stays as it is."""
    wide = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    unit: NDArray[np.float32] = (vectors / np.where(wide > 0, wide, 1)[:, np.newaxis]).astype(
        np.float32
    )
    return unit


def _by_size(number: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Clusters numbered from 1, the largest first; among equals the one whose first row is first.

    Clusters without a row have no number.
    """
    counts = np.bincount(number, minlength=k)
    first = np.full(k, len(number))
    held, where = np.unique(number, return_index=True)
    first[held] = where
    place = np.empty(k, np.int64)
    place[np.lexsort((first, -counts))] = np.arange(1, k + 1)
    return place[number]
