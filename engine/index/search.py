"""Searches in which indexes name the candidates of some segments, and the others are read.

    segment 0  indexed  -> named by its index --+
               rows that the index doesn't cover +--> canonical distances -> k nearest
    segment 1  growing  -> read exactly --------+

A search answers LIMIT rows whenever so many qualify: where an index named too few (a filter that
its lists or its graph hardly meet), it is asked again with more effort, and at last rows are read.
Every row's distance is the canonical one, so an answer is wrong only by rows that are missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from nearql.engine.backends.base import is_tame, lengths
from nearql.engine.distance import candidate_distances
from nearql.engine.index.base import VectorIndex
from nearql.engine.index.plan import SearchPlan, plan_segment, widened
from nearql.engine.ranking import KeysOf, Ranking
from nearql.engine.schema import IndexDef
from nearql.engine.search import Masks, Searcher, VectorSlice
from nearql.engine.types import Metric, SearchHits, SearchRequest, SearchStats

_BATCH = 16  # queries that one thread takes at once


@dataclass(frozen=True, slots=True)
class Indexed:
    """The index that a slice has, as declared."""

    index: VectorIndex
    definition: IndexDef


@dataclass(eq=False)
class _Segment:
    """One slice of a search. mask: rows that qualify, bool (n,), None = all."""

    slice: VectorSlice
    mask: NDArray[np.bool_] | None
    qualifying: int
    index: VectorIndex | None = None
    plan: SearchPlan = field(default_factory=lambda: SearchPlan("exact"))


@dataclass(frozen=True, slots=True)
class _Named:
    """Candidates, all (m,): index of the query, row number, canonical distance."""

    queries: NDArray[np.int64]
    rows: NDArray[np.int64]
    distances: NDArray[np.float32]


def search_indexed(
    searcher: Searcher,
    slices: Sequence[VectorSlice],
    indexes: Sequence[Indexed | None],
    request: SearchRequest,
    *,
    masks: Masks | None,
    keys_of: KeysOf,
) -> SearchHits:
    """The k nearest rows to each query, as `Searcher.search`, but for what indexes miss.

    indexes: per slice, None = its rows are read.
    """
    given = masks if masks is not None else [None] * len(slices)
    segments = [
        _segment(one, mask, found, request)
        for one, mask, found in zip(slices, given, indexes, strict=True)
    ]
    named = any(segment.plan.effort for segment in segments)
    if not named or not is_tame(request.metric, lengths(request.queries)).all():
        return searcher.search(slices, request, masks=masks, keys_of=keys_of)
    return _Run(searcher, segments, request, keys_of, masks is not None).answer()


def _segment(
    one: VectorSlice,
    mask: NDArray[np.bool_] | None,
    found: Indexed | None,
    request: SearchRequest,
) -> _Segment:
    qualifying = one.live
    if mask is None:
        mask = one.valid
    else:
        mask = mask if one.valid is None else mask & one.valid
        qualifying = int(np.count_nonzero(mask))
    if found is None:
        return _Segment(one, mask, qualifying)
    rows = len(one.vectors)
    plan = plan_segment(
        found.index, found.definition, request.tuning,
        k=request.k, qualifying=qualifying, rows=rows,
    )  # fmt: skip
    return _Segment(one, mask, qualifying, found.index, plan)


@dataclass
class _Run:
    """One search under way."""

    searcher: Searcher
    segments: list[_Segment]
    request: SearchRequest
    keys_of: KeysOf
    filtered: bool
    reranked: int = 0

    def answer(self) -> SearchHits:
        request = self.request
        ranking = self._ranked(request.queries, self.segments)
        wanted = min(request.k, sum(segment.qualifying for segment in self.segments))
        rows, distances = self._top(ranking)
        short = np.flatnonzero((rows >= 0).sum(axis=1) < wanted)
        strategy = self._strategy()
        if len(short):
            strategy = "widening"
            rows[short], distances[short] = self._again(short, wanted)
        return SearchHits(rows, distances, self._stats(strategy))

    def _top(self, ranking: Ranking) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        ranking.settle(self.request.k, self.keys_of)
        return ranking.top(self.request.k)

    def _again(
        self, short: NDArray[np.int64], wanted: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """These queries with more effort, until they have so many rows."""
        queries = np.ascontiguousarray(self.request.queries[short])
        segments = self.segments
        while True:
            segments = [_widened(segment) for segment in segments]
            if not any(segment.plan.effort for segment in segments):
                break
            rows, distances = self._top(self._ranked(queries, segments))
            if ((rows >= 0).sum(axis=1) >= wanted).all():
                return rows, distances
        hits = self._exact(queries, [segment.mask for segment in segments], segments)
        return hits.rows, hits.distances

    # ---- Candidates ------------------------------------------------------------------------

    def _ranked(self, queries: NDArray[np.float32], segments: list[_Segment]) -> Ranking:
        work = [
            (segment, low)
            for segment in segments
            if segment.plan.effort
            for low in range(0, len(queries), _BATCH)
        ]
        team = self.searcher.team
        if len(work) == 1:
            found = [self._named(queries, work[0])]
        else:
            found = team.map(lambda item: self._named(queries, item), work)
        read = self._read(queries, segments)
        if read is not None:
            found.append(read)
        self.reranked += sum(len(part.rows) for part in found)
        if len(found) == 1:
            one = found[0]
            return Ranking.of(one.queries, one.rows, one.distances, len(queries))
        return Ranking.of(
            np.concatenate([part.queries for part in found]),
            np.concatenate([part.rows for part in found]),
            np.concatenate([part.distances for part in found]),
            len(queries),
        )

    def _named(self, queries: NDArray[np.float32], item: tuple[_Segment, int]) -> _Named:
        segment, low = item
        assert segment.index is not None
        mine = queries[low : low + _BATCH]
        positions = segment.index.search(
            mine, segment.plan.count, effort=segment.plan.effort, mask=segment.mask
        )
        query_of, column = np.nonzero(positions >= 0)
        positions = positions[query_of, column]
        one = segment.slice
        distances = candidate_distances(one.vectors, positions, mine, query_of, self.request.metric)
        return _Named(query_of + low, positions + one.first_row, distances)

    def _read(self, queries: NDArray[np.float32], segments: list[_Segment]) -> _Named | None:
        """What is read rather than named: un-indexed segments, and rows that an index leaves out.

        The k nearest of them; None where there are none.
        """
        masks = [_unnamed(segment, self.request.metric) for segment in segments]
        if all(mask is not None and not mask.any() for mask in masks):
            return None
        hits = self._exact(queries, masks, segments)
        query_of, column = np.nonzero(hits.rows >= 0)
        return _Named(query_of, hits.rows[query_of, column], hits.distances[query_of, column])

    def _exact(
        self,
        queries: NDArray[np.float32],
        masks: list[NDArray[np.bool_] | None],
        segments: list[_Segment],
    ) -> SearchHits:
        chosen = [at for at, mask in enumerate(masks) if mask is None or mask.any()]
        hits = self.searcher.search(
            [segments[at].slice for at in chosen],
            replace(self.request, queries=queries),
            masks=[masks[at] for at in chosen],
            keys_of=self.keys_of,
        )
        self.reranked += hits.stats.reranked
        return hits

    # ---- Statistics ------------------------------------------------------------------------

    def _strategy(self) -> str:
        return "index_filtered" if self.filtered else "index"

    def _stats(self, strategy: str) -> SearchStats:
        live = sum(segment.slice.live for segment in self.segments)
        qualifying = sum(segment.qualifying for segment in self.segments)
        kinds = dict.fromkeys(s.index.kind for s in self.segments if s.index and s.plan.effort)
        return SearchStats(
            strategy=strategy,
            backend="+".join(kinds),
            device="cpu",
            candidates=self.reranked,
            reranked=self.reranked,
            selectivity=qualifying / live if live else 1.0,
            batch=len(self.request.queries),
        )


def _unnamed(segment: _Segment, metric: Metric) -> NDArray[np.bool_] | None:
    """Rows of a segment that are to be read: bool (n,), None = all. Under cosine zero vectors are
    left to the last resort: they have no distance and come after every row that has one.
    """
    if not segment.plan.effort or segment.index is None:
        return segment.mask
    rest = segment.slice.rests.get(segment.index)
    if rest is None:
        rest = segment.slice.rests[segment.index] = _rest(segment, metric)
    return rest if segment.mask is None or not len(rest) else rest & segment.mask


_NONE = np.empty(0, np.bool_)


def _rest(segment: _Segment, metric: Metric) -> NDArray[np.bool_]:
    """Rows that can match and that the index doesn't cover; empty where there are none."""
    one, index = segment.slice, segment.index
    if index is None or index.covered is None:
        return _NONE
    rest = ~index.covered
    if one.valid is not None:
        rest &= one.valid
    if metric is Metric.COSINE:
        rest &= one.lengths > 0
    return rest if rest.any() else _NONE


def _widened(segment: _Segment) -> _Segment:
    if not segment.plan.effort or segment.index is None:
        return segment
    plan = widened(segment.index, segment.plan) or SearchPlan("exact")
    return replace(segment, plan=plan)
