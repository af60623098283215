"""Searches in which indexes name the candidates of some segments, and the others are read.

    segment 0  indexed  -> named by its index --+
               rows that the index doesn't cover +--> canonical distances -> k nearest
    segment 1  growing  -> read exactly --------+

An index is asked for the nearest rows whether or not they qualify, and those that don't are left
out; where fewer than k of the nearest qualified it is asked for more, and at last the rows are read
(`costs`). So an answer has LIMIT rows whenever so many qualify, and a filter costs no recall, even
one that leaves no row near the query. Every row's distance is the canonical one, so an answer is
wrong only by rows that are missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from nearql.engine.backends.base import is_tame as are_tame
from nearql.engine.backends.base import lengths
from nearql.engine.costs import BITS_COST, CODE_COST, LOCAL, Best, SearchPlan, Sizes, choose, widen
from nearql.engine.distance import candidate_distances
from nearql.engine.index.base import VectorIndex
from nearql.engine.index.plan import Indexed, best_of
from nearql.engine.index.single import Ready, few_rows, strategy_of
from nearql.engine.ranking import KeysOf, Ranking
from nearql.engine.search import Masks, Searcher, VectorSlice
from nearql.engine.types import Metric, SearchHits, SearchRequest, SearchStats

_TAME_SQUARE = (1e-20, 1e20)  # of a query's length, that needs no closer look
_PLANS = 64  # of searches without a filter, kept with a slice
_BATCH = 16  # queries that one thread takes at once


@dataclass(eq=False)
class Segment:
    """One slice of a search. mask: rows that qualify, bool (n,), None = all.

    qualifying: how many those are. sizes: where there is an index, of the rows that it covers.
    best: how the index may be asked; without one, plan reads. tally: of the filter's rows by list.
    """

    slice: VectorSlice
    mask: NDArray[np.bool_] | None
    qualifying: int
    sizes: Sizes
    plan: SearchPlan = field(default_factory=lambda: SearchPlan("exact"))
    index: VectorIndex | None = None
    best: Best | None = None
    tally: NDArray[np.int64] | None = None

    def sure(self, queries: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Of each query, whether a bitmap finds what it should: (nq,); see `costs`."""
        assert self.index is not None
        assert self.tally is not None
        shares = self.index.shares(queries, self.plan.nearest, self.tally)
        return shares >= LOCAL * self.sizes.share


@dataclass(frozen=True, slots=True)
class _Named:
    """Candidates, all (m,): index of the query, row number, canonical distance.

    named: how many an index named, qualifying or not. attempts: how often it was asked.
    """

    queries: NDArray[np.int64]
    rows: NDArray[np.int64]
    distances: NDArray[np.float32]
    named: int = 0
    attempts: int = 1


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
    if not any(indexes) or not is_tame(request):
        return searcher.search(slices, request, masks=masks, keys_of=keys_of)
    given = masks if masks is not None else [None] * len(slices)
    segments = [
        _segment(searcher, one, mask, found, request)
        for one, mask, found in zip(slices, given, indexes, strict=True)
    ]
    if not any(segment.plan.effort for segment in segments):
        return searcher.search(slices, request, masks=masks, keys_of=keys_of)
    return _Run(searcher, segments, request, keys_of, masks is not None).answer()


def ready(
    searcher: Searcher,
    slices: Sequence[VectorSlice],
    indexes: Sequence[Indexed | None],
    request: SearchRequest,
    masks: Masks | None,
) -> Ready | None:
    """What answers searches that differ in their one query alone, if that is tame, for as long as
    these are the indexes; None = they take the long way.
    """
    given = masks if masks is not None else [None] * len(slices)
    segments = [
        _segment(searcher, one, mask, found, request)
        for one, mask, found in zip(slices, given, indexes, strict=True)
    ]
    return _ready(searcher, segments, request, masks)


def _ready(
    searcher: Searcher, segments: Sequence[Segment], request: SearchRequest, masks: Masks | None
) -> Ready | None:
    if request.metric.is_of_bits:
        return None
    asked = [segment for segment in segments if segment.qualifying]
    named, reads = [], []
    for segment in asked:
        if _is_named_whole(segment, request.metric):
            named.append(segment)
        elif (read := few_rows(searcher, segment, request)) is not None:
            reads.append(read)
        else:
            return None
    if not asked:
        return None
    return Ready(
        segments, named, reads, request, filtered=masks is not None, backend=searcher.backend
    )


def is_tame(request: SearchRequest) -> bool:
    """Whether float32 kernels neither overflow nor lose digits on the queries."""
    if len(request.queries) == 1:
        square = float(np.vecdot(request.queries[0], request.queries[0]))
        if _TAME_SQUARE[0] < square < _TAME_SQUARE[1]:
            return True
    return bool(are_tame(request.metric, lengths(request.queries)).all())


def _is_named_whole(segment: Segment, metric: Metric) -> bool:
    """Whether the index may name all of the segment's rows that qualify."""
    if not segment.plan.effort or segment.index is None:
        return False
    if segment.index.covered is None:
        return True
    rest = _rest_of(segment, metric)
    return not len(rest) or (segment.mask is not None and not (rest & segment.mask).any())


def _segment(
    searcher: Searcher,
    one: VectorSlice,
    mask: NDArray[np.bool_] | None,
    found: Indexed | None,
    request: SearchRequest,
) -> Segment:
    if mask is not None:
        return _planned(searcher, one, mask, found, request)
    key = found, request.metric, request.k, request.tuning, len(request.queries)
    kept = one.plans.get(key)
    if kept is None:
        if len(one.plans) >= _PLANS:
            one.plans.clear()
        kept = one.plans[key] = _planned(searcher, one, None, found, request)
    return kept


def _planned(
    searcher: Searcher,
    one: VectorSlice,
    mask: NDArray[np.bool_] | None,
    found: Indexed | None,
    request: SearchRequest,
) -> Segment:
    qualifying, given = one.live, mask
    if mask is None:
        mask = one.valid
    else:
        mask = mask if one.valid is None else mask & one.valid
        qualifying = int(np.count_nonzero(mask))
    rows, dimensions = one.vectors.shape
    row_bytes = one.vectors.itemsize * dimensions
    count = len(request.queries)
    coded = one.codes is not None and searcher.backend.codes(request.metric, request.k, count)
    scanned = CODE_COST * dimensions if coded else row_bytes
    if request.metric.is_of_bits:
        scanned = BITS_COST * row_bytes
    sizes = Sizes(rows, qualifying, request.k, row_bytes, scanned)
    if found is None:
        return Segment(one, mask, qualifying, sizes)
    covered = found.index.covered
    if covered is not None:
        nameable = covered if mask is None else covered & mask
        sizes = replace(
            sizes, rows=int(np.count_nonzero(covered)), qualifying=int(np.count_nonzero(nameable))
        )
    best = best_of(found, request.tuning, request.k)
    index = found.index
    listed = index.candidates(request.k) if index.listed and mask is not None else 0
    plan = choose(sizes, searcher.machine, best, listed=listed)
    tally = None
    if plan.strategy == "bitmap":
        assert mask is not None
        tally = index.tally(mask if given is None else given)
    return Segment(one, mask, qualifying, sizes, plan, index, best, tally)


@dataclass
class _Run:
    """One search under way."""

    searcher: Searcher
    segments: list[Segment]
    request: SearchRequest
    keys_of: KeysOf
    filtered: bool
    candidates: int = 0
    reranked: int = 0
    widened: bool = False
    threads: int = 1  # of the machine, for one piece of work

    def answer(self) -> SearchHits:
        request = self.request
        ranking = self._ranked(request.queries)
        ranking.settle(request.k, self.keys_of)
        rows, distances = ranking.top(request.k)
        wanted = min(request.k, sum(segment.qualifying for segment in self.segments))
        short = np.flatnonzero((rows >= 0).sum(axis=1) < wanted)
        if len(short):  # under cosine zero vectors come last, and no index has them
            hits = self._exact(
                np.ascontiguousarray(request.queries[short]),
                [segment.mask for segment in self.segments],
            )
            rows[short], distances[short] = hits.rows, hits.distances
        return SearchHits(rows, distances, self._stats())

    # ---- Candidates ------------------------------------------------------------------------

    def _ranked(self, queries: NDArray[np.float32]) -> Ranking:
        work = [
            (segment, low)
            for segment in self.segments
            if segment.plan.effort
            for low in range(0, len(queries), _BATCH)
        ]
        if len(work) == 1:
            self.threads = self.searcher.team.threads
            found = [self._named(queries, work[0])]
        else:
            patience = self.request.patience
            team = self.searcher.team.checking(patience.check if patience else None)
            found = team.map(lambda item: self._named(queries, item), work)
        self.widened = any(part.attempts > 1 for part in found)
        self.candidates += sum(part.named for part in found)
        self.reranked += sum(part.named for part in found)
        read = self._read(queries)
        if read is not None:
            found.append(read)
        if len(found) == 1:
            one = found[0]
            return Ranking.of(one.queries, one.rows, one.distances, len(queries))
        return Ranking.of(*_joined(found), len(queries))

    def _named(self, queries: NDArray[np.float32], item: tuple[Segment, int]) -> _Named:
        """The candidates of one segment for some queries, after as many attempts as they need."""
        segment, low = item
        attempt = _Attempt(self, segment, queries[low : low + _BATCH])
        plan, attempts = segment.plan, 0
        while plan.effort and len(attempt.pending):
            attempts += 1
            plan = attempt.ask(plan)
        if len(attempt.pending):
            attempts += 1
            attempt.read()
        queries_of, rows, distances = _joined(attempt.parts)
        return _Named(queries_of + low, rows, distances, attempt.named, attempts)

    def _read(self, queries: NDArray[np.float32]) -> _Named | None:
        """What is read rather than named: un-indexed segments, and rows that an index leaves out.

        The k nearest of them; None where there are none.
        """
        masks = [_unnamed(segment, self.request.metric) for segment in self.segments]
        if all(mask is not None and not mask.any() for mask in masks):
            return None
        return _found(self._exact(queries, masks))

    def _exact(
        self, queries: NDArray[np.float32], masks: Sequence[NDArray[np.bool_] | None]
    ) -> SearchHits:
        """The k nearest rows among these of each segment."""
        chosen = [at for at, mask in enumerate(masks) if mask is None or mask.any()]
        hits = self.read_rows(
            [self.segments[at].slice for at in chosen], queries, [masks[at] for at in chosen]
        )
        self.candidates += hits.stats.candidates
        self.reranked += hits.stats.reranked
        return hits

    def read_rows(
        self, slices: Sequence[VectorSlice], queries: NDArray[np.float32], masks: Masks
    ) -> SearchHits:
        """An exact search of these rows; from any thread."""
        request = replace(self.request, queries=queries)
        return self.searcher.search(slices, request, masks=masks, keys_of=self.keys_of)

    # ---- Statistics ------------------------------------------------------------------------

    def _stats(self) -> SearchStats:
        rows = sum(segment.slice.live for segment in self.segments)
        qualifying = sum(segment.qualifying for segment in self.segments)
        kinds = dict.fromkeys(s.index.kind for s in self.segments if s.index and s.plan.effort)
        return SearchStats(
            strategy=strategy_of(self.segments, filtered=self.filtered, widened=self.widened),
            backend="+".join(kinds),
            device="cpu",
            candidates=self.candidates,
            reranked=self.reranked,
            selectivity=qualifying / rows if rows else 1.0,
            batch=len(self.request.queries),
        )


class _Attempt:
    """The candidates of one segment for a few queries, attempt after attempt.

    pending: the queries, by index, of which too few rows were found so far.
    """

    def __init__(self, run: _Run, segment: Segment, queries: NDArray[np.float32]) -> None:
        self._run = run
        self._segment = segment
        self._queries = queries
        self._enough = min(segment.sizes.k, segment.sizes.qualifying)
        self.pending = np.arange(len(queries))
        self.parts: list[_Named] = []
        self.named = 0

    def ask(self, plan: SearchPlan) -> SearchPlan:
        """Ask the index; what to do next for the queries that it leaves pending."""
        segment = self._segment
        index, mask = segment.index, segment.mask
        assert index is not None
        queries = np.ascontiguousarray(self._queries[self.pending])
        bitmap = plan.strategy == "bitmap"
        positions = index.search(
            queries, plan.count, effort=plan.effort, mask=mask if bitmap else None,
            threads=self._run.threads,
        )  # fmt: skip
        query_of, column = np.nonzero(positions >= 0)
        positions = positions[query_of, column]
        one, metric = self._segment.slice, self._run.request.metric
        distances = candidate_distances(one.vectors, positions, queries, query_of, metric)
        self.named += len(positions)
        if mask is None or bitmap:
            qualifies = np.ones(len(positions), np.bool_)
            relied = qualifies
        else:
            qualifies = mask[positions]
            relied = qualifies & _nearest(query_of, distances, len(queries), plan.nearest)
        counts = np.bincount(query_of[relied], minlength=len(queries))
        short = counts < self._enough
        if bitmap:
            short |= ~segment.sure(queries)
        kept = qualifies & ~short[query_of]
        self.parts.append(
            _Named(self.pending[query_of[kept]], positions[kept] + one.first_row, distances[kept])
        )
        self.pending = self.pending[short]
        if not len(self.pending):
            return plan
        assert segment.best is not None
        machine = self._run.searcher.machine
        if bitmap:
            return choose(segment.sizes, machine, segment.best)
        return widen(segment.sizes, machine, segment.best, asked=plan.nearest)

    def read(self) -> None:
        """Read the rows that the index would name, for the queries still pending."""
        segment = self._segment
        assert segment.index is not None
        mask, covered = segment.mask, segment.index.covered
        if covered is not None:
            mask = covered if mask is None else mask & covered
        queries = np.ascontiguousarray(self._queries[self.pending])
        hits = self._run.read_rows([segment.slice], queries, [mask])
        found = _found(hits)
        self.named += hits.stats.candidates
        self.parts.append(replace(found, queries=self.pending[found.queries]))
        self.pending = self.pending[:0]


def _nearest(
    query_of: NDArray[np.int64], distances: NDArray[np.float32], query_count: int, nearest: int
) -> NDArray[np.bool_]:
    """Whether each candidate, sorted by query, is among the so many nearest of its query."""
    order = np.lexsort((distances, query_of))
    starts = np.searchsorted(query_of, np.arange(query_count))
    near = np.empty(len(order), np.bool_)
    near[order] = np.arange(len(order)) - starts[query_of] < nearest
    return near


def _found(hits: SearchHits) -> _Named:
    query_of, column = np.nonzero(hits.rows >= 0)
    return _Named(query_of, hits.rows[query_of, column], hits.distances[query_of, column])


def _joined(
    parts: Sequence[_Named],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    return (
        np.concatenate([part.queries for part in parts]),
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.distances for part in parts]),
    )


def _unnamed(segment: Segment, metric: Metric) -> NDArray[np.bool_] | None:
    """Rows of a segment that are to be read: bool (n,), None = all. Under cosine zero vectors are
    left to the last resort: they have no distance and come after every row that has one.
    """
    if not segment.plan.effort or segment.index is None:
        return segment.mask
    rest = _rest_of(segment, metric)
    return rest if segment.mask is None or not len(rest) else rest & segment.mask


def _rest_of(segment: Segment, metric: Metric) -> NDArray[np.bool_]:
    assert segment.index is not None
    rest = segment.slice.rests.get(segment.index)
    if rest is None:
        rest = segment.slice.rests[segment.index] = _rest(segment, metric)
    return rest


_NONE = np.empty(0, np.bool_)


def _rest(segment: Segment, metric: Metric) -> NDArray[np.bool_]:
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
