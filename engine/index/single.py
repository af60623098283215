"""The hot path of searches: one query, each segment indexed or with few rows to be read.

It does what `search.py` does, in the order of its steps, without the bookkeeping for many queries;
what is not plain (too few rows found, many to be read, zero vectors under cosine) it leaves to it.
Measured, a graph of 62,816 rows answers in 60 to 150 us, so that here each microsecond counts.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nearql.engine import strategy
from nearql.engine.backends.base import Backend, Block, gamma
from nearql.engine.distance import Vectors, canonical_distances, near_distances, widen
from nearql.engine.keys import keys_of as listed
from nearql.engine.ranking import KeysOf
from nearql.engine.search import ALONE, Searcher, VectorSlice
from nearql.engine.types import Metric, SearchHits, SearchRequest, SearchStats

if TYPE_CHECKING:
    from nearql.engine.index.search import Segment

_MANY = 3  # candidates for each row wanted: more are compared in float32 first
_FEW = 1 << 16  # elements that are compared at once
_KEPT = 64  # statistics that are kept
_Found = tuple["NDArray[np.int64]", "NDArray[np.float32]", int]  # rows, distances, rows named


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """Rows of a segment that are read for each query, none of them odd or without a distance.

    positions: int64, ascending. block: the same rows, for a backend.
    """

    slice: VectorSlice
    positions: NDArray[np.int64]
    block: Block


def few_rows(searcher: Searcher, segment: Segment, request: SearchRequest) -> Read | None:
    """The rows of a segment that qualify, where one thread reads them soon."""
    one = segment.slice
    blocks = searcher.blocks(one, segment.mask, request)
    if len(blocks) != 1 or not blocks[0].tame or searcher.backend.device != "cpu":
        return None
    block, dimensions = blocks[0], one.vectors.shape[1]
    passed = len(one.vectors) if block.positions is None else len(block.positions)
    if passed * dimensions > strategy.PIECE_ELEMENTS:
        return None
    positions = block.matching
    if request.metric is Metric.COSINE and not one.lengths[positions].all():
        return None
    return Read(one, positions, block)


class Ready:
    """A search of one query, planned for all that differ in the query alone; safe in many threads.

    segments: planned. named: those whose index names what there is. reads: rows of the others. One
    in which no row qualifies is in neither.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        named: Sequence[Segment],
        reads: Sequence[Read],
        request: SearchRequest,
        *,
        filtered: bool,
        backend: Backend,
    ) -> None:
        self._segments = segments
        self._named = named
        self._reads = reads
        self._k = request.k
        self._wanted = min(request.k, sum(segment.qualifying for segment in segments))
        self._read = sum(len(read.positions) for read in reads)
        self._metric = request.metric
        self._filtered = filtered
        self._backend = backend
        self._stats: dict[tuple[int, int], SearchStats] = {}  # by counts, nearly always the same

    def answer(self, queries: NDArray[np.float32], keys_of: KeysOf) -> SearchHits | None:
        """The hits of a query, float32 (1, d), tame; None = too few rows found."""
        found: list[_Found] = []
        for segment in self._named:
            named = _named(segment, queries, self._k, self._metric)
            if named is None:
                return None
            found.append(named)
        named_count = sum(part[2] for part in found)
        for read in self._reads:
            found.append(_read(read, queries[0], self._k, self._metric, self._backend))
        if len(found) == 1:
            rows, distances, reranked = found[0]
        else:
            rows = np.concatenate([part[0] for part in found])
            distances = np.concatenate([part[1] for part in found])
            reranked = sum(part[2] for part in found)
        k = self._k
        if len(rows) < self._wanted:
            return None
        if len(rows) > _MANY * k or not _ascends(distances.tolist()):
            order = distances.argsort()
            rows, distances = rows[order], distances[order]
            first = distances[: k + 1].tolist()
            if len(set(first)) < len(first):
                _settle(rows, distances, min(k, len(rows)), keys_of)
        stats = self._counted(named_count, reranked)
        if len(rows) < k:
            rows = np.pad(rows, (0, k - len(rows)), constant_values=-1)
            distances = np.pad(distances, (0, k - len(distances)), constant_values=np.nan)
        return SearchHits(rows[np.newaxis, :k], distances[np.newaxis, :k], stats)

    def _counted(self, named: int, reranked: int) -> SearchStats:
        stats = self._stats.get((named, reranked))
        if stats is None:
            if len(self._stats) >= _KEPT:
                self._stats.clear()
            stats = self._stats[named, reranked] = self._stats_of(named, reranked)
        return stats

    def _stats_of(self, named: int, reranked: int) -> SearchStats:
        live = sum(segment.slice.live for segment in self._segments)
        qualifying = sum(segment.qualifying for segment in self._segments)
        kinds = sorted({one.index.kind for one in self._named if one.index is not None})
        plan = strategy_of(self._named, filtered=self._filtered)
        return SearchStats(
            strategy=plan if self._named else "exact_filtered" if self._filtered else "exact",
            backend="+".join(kinds) if kinds else self._backend.name,
            candidates=named + self._read,
            reranked=reranked,
            selectivity=qualifying / live if live else 1.0,
        )


def _ascends(values: list[float]) -> bool:
    """Whether each is greater than the one before, as a graph's candidates nearly always are."""
    return all(map(operator.lt, values, values[1:]))


def _settle(
    rows: NDArray[np.int64], distances: NDArray[np.float32], k: int, keys_of: KeysOf
) -> None:
    """Order rows, sorted by distance, by key where distances among the first k are equal."""
    values = distances.tolist()
    counts, last = Counter(values), values[k - 1]
    tied = [at for at, value in enumerate(values) if counts[value] > 1 and value <= last]
    found = keys_of(rows[tied])
    keys = found.tolist() if isinstance(found, np.ndarray) else listed(found)
    order = sorted(range(len(tied)), key=lambda at: (values[tied[at]], keys[at]))
    rows[tied] = rows[[tied[at] for at in order]]


def _named(segment: Segment, queries: NDArray[np.float32], k: int, metric: Metric) -> _Found | None:
    """What a segment's index names and qualifies; None = too few among those to rely on."""
    index, plan, one = segment.index, segment.plan, segment.slice
    assert index is not None
    bitmap = plan.strategy == "bitmap"
    if bitmap and not segment.sure(queries).all():
        return None
    mask = None if bitmap else segment.mask  # what is left to be checked
    positions = index.search(
        queries, plan.count, effort=plan.effort, mask=segment.mask if bitmap else None
    )[0]
    if np.minimum.reduce(positions, initial=0) < 0:
        positions = positions[positions >= 0]
    named, query = len(positions), queries[0]
    rows = one.vectors.take(positions, axis=0)
    if mask is None and named >= _MANY * k and metric is not Metric.L1:
        near = _contenders(rows, one.lengths[positions], query, k, metric)
        rows, positions = rows[near], positions[near]
    distances = _distances(one, positions, rows, query, metric)
    relied = len(positions)
    if mask is not None:
        qualifies = mask[positions]
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


def _read(
    read: Read, query: NDArray[np.float32], k: int, metric: Metric, backend: Backend
) -> _Found:
    """The rows of those read that may be among the k nearest."""
    one, positions = read.slice, read.positions
    if len(positions) * one.vectors.shape[1] > _FEW or metric is Metric.L1:
        positions = backend.contenders(read.block, query, metric, k=k, limit=np.inf, team=ALONE)
        rows = one.vectors.take(positions, axis=0)
    else:
        rows = one.vectors.take(positions, axis=0)
        if len(positions) >= _MANY * k:
            near = _contenders(rows, one.lengths[positions], query, k, metric)
            rows, positions = rows[near], positions[near]
    distances = _distances(one, positions, rows, query, metric)
    return positions + one.first_row, distances, len(positions)


def _distances(
    one: VectorSlice,
    positions: NDArray[np.int64],
    rows: Vectors,
    query: NDArray[np.float32],
    metric: Metric,
) -> NDArray[np.float32]:
    """The canonical distances of rows, taken from these positions."""
    if rows.size > _FEW:
        return canonical_distances(rows, query, metric)
    squares = one.squares(positions, rows) if metric is Metric.COSINE else None
    return near_distances(rows, query, metric, squares)


def _contenders(
    rows: Vectors,
    lengths: NDArray[np.float32],
    query: NDArray[np.float32],
    k: int,
    metric: Metric,
) -> NDArray[np.int64]:
    """Which of many candidates may be among the k nearest: by float32 scores and their error bound
    (see `backends.base`), so that only they take the canonical distance's time.
    """
    length = float(np.sqrt(np.dot(query, query)))
    scores = -np.dot(widen(rows), query)
    if metric is Metric.L2:
        scores = lengths * lengths + 2 * scores
        error = (float(lengths.max()) + length) ** 2
    elif metric is Metric.COSINE:
        scores /= lengths
        error = length
    else:
        error = float(lengths.max()) * length
    kth = np.partition(scores, k - 1)[k - 1]
    return np.flatnonzero(scores <= kth + 3 * gamma(rows.shape[1]) * error)


def strategy_of(segments: Sequence[Segment], *, filtered: bool, widened: bool = False) -> str:
    """How a search is said to have been answered."""
    plans = {segment.plan.strategy for segment in segments if segment.plan.effort}
    if plans in ({"bitmap"}, {"index"}) and not widened:
        return plans.pop()
    return "widening" if filtered or widened else "index"
