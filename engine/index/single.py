"""The hot path of indexed searches: one query, every segment indexed, nothing left to read.

It does what `search.py` does, in the order of its steps, without the bookkeeping for many queries;
what is not plain (too few rows found, rows to be read) it leaves to it.
Measured, a graph of 62,816 rows answers in 60 to 150 us, so that here each microsecond counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nearql.engine.backends.base import gamma
from nearql.engine.distance import Vectors, canonical_distances, near_distances, widen
from nearql.engine.ranking import KeysOf, Ranking
from nearql.engine.types import Metric, SearchHits, SearchRequest, SearchStats

if TYPE_CHECKING:
    from nearql.engine.index.search import Segment

_MANY = 3  # candidates for each row wanted: more are compared in float32 first
_FEW = 1 << 16  # elements that are compared at once
_Found = tuple["NDArray[np.int64]", "NDArray[np.float32]", int]  # rows, distances, rows named


def search_single(
    segments: Sequence[Segment], request: SearchRequest, keys_of: KeysOf, *, filtered: bool
) -> SearchHits | None:
    """The hits of a request with one query; None = too few rows found.

    segments: planned; those in which no row qualifies left out.
    """
    found: list[_Found] = []
    for segment in segments:
        named = _named(segment, request)
        if named is None:
            return None
        found.append(named)
    if len(found) == 1:
        rows, distances, _ = found[0]
    else:
        rows = np.concatenate([part[0] for part in found])
        distances = np.concatenate([part[1] for part in found])
    k = request.k
    if len(rows) < k:
        return None
    stats = _stats(segments, sum(part[2] for part in found), filtered)
    order = distances.argsort()
    ordered = distances[order][: k + 1]
    if (ordered[1:] == ordered[:-1]).any():  # keys decide
        ranking = Ranking.of(np.zeros(len(rows), np.int64), rows, distances, 1)
        ranking.settle(k, keys_of)
        return SearchHits(*ranking.top(k), stats)
    return SearchHits(rows[order[:k]][np.newaxis], ordered[np.newaxis, :k], stats)


def _named(segment: Segment, request: SearchRequest) -> _Found | None:
    """What a segment's index names and qualifies; None = too few among those to rely on."""
    index, plan, one = segment.index, segment.plan, segment.slice
    assert index is not None
    positions = index.search(request.queries, plan.count, effort=plan.effort, mask=None)[0]
    if positions.min(initial=0) < 0:
        positions = positions[positions >= 0]
    named = len(positions)
    rows = one.vectors[positions]
    if segment.mask is None and named >= _MANY * request.k and request.metric is not Metric.L1:
        near = _contenders(rows, one.lengths[positions], request)
        rows, positions = rows[near], positions[near]
    compute = near_distances if rows.size <= _FEW else canonical_distances
    distances = compute(rows, request.queries[0], request.metric)
    relied = len(positions)
    if segment.mask is not None:
        qualifies = segment.mask[positions]
        near = qualifies
        if plan.nearest < named:
            near = qualifies & (
                distances <= np.partition(distances, plan.nearest - 1)[plan.nearest - 1]
            )
        relied = int(np.count_nonzero(near))
        positions, distances = positions[qualifies], distances[qualifies]
    if relied < min(segment.sizes.k, segment.sizes.qualifying):
        return None
    return positions + one.first_row, distances, named


def _contenders(
    rows: Vectors, lengths: NDArray[np.float32], request: SearchRequest
) -> NDArray[np.int64]:
    """Which of many candidates may be among the k nearest: by float32 scores and their error bound
    (see `backends.base`), so that only they take the canonical distance's time.
    """
    query = request.queries[0]
    length = float(np.sqrt(np.dot(query, query)))
    scores = -np.dot(widen(rows), query)
    if request.metric is Metric.L2:
        scores = lengths * lengths + 2 * scores
        error = (float(lengths.max()) + length) ** 2
    elif request.metric is Metric.COSINE:
        scores /= lengths
        error = length
    else:
        error = float(lengths.max()) * length
    kth = np.partition(scores, request.k - 1)[request.k - 1]
    return np.flatnonzero(scores <= kth + 3 * gamma(rows.shape[1]) * error)


def _stats(segments: Sequence[Segment], reranked: int, filtered: bool) -> SearchStats:
    live = sum(segment.slice.live for segment in segments)
    qualifying = sum(segment.qualifying for segment in segments)
    kinds = {segment.index.kind for segment in segments if segment.index is not None}
    return SearchStats(
        strategy="widening" if filtered else "index",
        backend=kinds.pop() if len(kinds) == 1 else "+".join(sorted(kinds)),
        candidates=reranked,
        reranked=reranked,
        selectivity=qualifying / live if live else 1.0,
    )
