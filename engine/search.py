"""Exact search: rows named by a backend, canonical distances, ties by primary key.

The result is the first k rows by (canonical float32 distance, primary key), whatever the backend,
the batch or the number of threads. Backends compute in float32, so this is how it is assured:

    one query:   each block names every row that may belong to the answer, under its error bound.
    many:        1. each block names the k best and a few more, and a floor for all others;
                 2. they get canonical distances; the k-th, T, bounds the true k-th from above;
                 3. a query of which some floor is not above T is answered alone, as above.

Example: 5,000 copies of one vector, k = 10, 64 queries. For a query near the copies the 64 rows
named all lie at T, the floor is not above T, so all 5,000 are named and the smallest keys win.

Rows so long or short that float32 fails them, the odd ones, are kept apart and always named.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from os import cpu_count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearql.engine import strategy
from nearql.engine.backends.base import LENGTH_MAX, LENGTH_MIN, Backend, Block, Candidates
from nearql.engine.backends.traced import traced
from nearql.engine.codes import Coder, Codes, Rows, Tile
from nearql.engine.costs import Machine
from nearql.engine.distance import (
    Vectors,
    candidate_distances,
    canonical_distances,
    row_norms,
    row_squares,
    score_limit,
    score_limits,
)
from nearql.engine.index.base import VectorIndex
from nearql.engine.ranking import KeysOf, Ranking
from nearql.engine.settings import EngineSettings
from nearql.engine.team import Team
from nearql.engine.types import Metric, SearchHits, SearchRequest, SearchStats

__all__ = ["Searcher", "VectorSlice", "row_norms"]

Masks = Sequence["NDArray[np.bool_] | None"]
ALONE = Team(1)  # for searches too small to share
_RANKED = 4_096  # candidates whose distance one thread computes at once


@dataclass(frozen=True)
class VectorSlice:
    """The vectors of one segment, and which of them can match; keep it, it caches what it learns.

    vectors: float32 or float16, shape (n, d), C-contiguous; zero-copy.
    first_row: the row number of position 0; row number = first_row + position.
    valid: bool, shape (n,): live and not NULL; None = all.
    norms: float32, shape (n,), by `row_norms`; None = computed when first needed.
    codes: of these rows; None = none are made.
    rests: by index over these rows, which it leaves to be read. plans: of searches without a
    filter, see `index.search`.
    """

    vectors: Vectors
    first_row: int
    valid: NDArray[np.bool_] | None = None
    norms: NDArray[np.float32] | None = None
    codes: Codes | None = None
    rests: dict[VectorIndex, NDArray[np.bool_]] = field(default_factory=dict, repr=False)
    plans: dict[Any, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def lengths(self) -> NDArray[np.float32]:
        """The rows' Euclidean lengths: float32, shape (n,)."""
        return row_norms(self.vectors) if self.norms is None else self.norms

    @cached_property
    def _squares(self) -> NDArray[np.float64]:
        """`row_squares` of rows that were looked at, 0 of others; memory comes as it is written."""
        return np.zeros(len(self.vectors))

    def squares(self, positions: NDArray[np.int64], rows: Vectors) -> NDArray[np.float64]:
        """`row_squares` of these rows, at these positions: remembered, float64, (m,)."""
        found: NDArray[np.float64] = self._squares[positions]
        if not np.minimum.reduce(found, initial=1) > 0:
            found = self._squares[positions] = row_squares(rows)
        return found

    @cached_property
    def live(self) -> int:
        """How many rows can match."""
        return len(self.vectors) if self.valid is None else int(np.count_nonzero(self.valid))

    @cached_property
    def longest(self) -> float:
        """At least the length of every tame row that can match."""
        where = self.lengths <= LENGTH_MAX
        if self.valid is not None:
            where &= self.valid
        return float(np.max(self.lengths, where=where, initial=0))

    @cached_property
    def odd(self) -> NDArray[np.bool_] | None:
        """Rows on which float32 kernels fail, bool (n,); None = there are none."""
        short = (self.lengths < LENGTH_MIN) & (self.lengths > 0)
        odd = short | ~(self.lengths <= LENGTH_MAX)
        if self.valid is not None:
            odd &= self.valid
        return odd if odd.any() else None


@dataclass(frozen=True)
class _Unit:
    """Rows of one slice that a backend is asked about together."""

    block: Block
    first_row: int


class Searcher:
    """Answers searches over vector slices. Safe for use from several threads at once."""

    def __init__(self, backend: Backend, settings: EngineSettings) -> None:
        self.backend = traced(backend)
        self.team = Team(settings.search_threads or cpu_count() or 1)
        self.machine = Machine()
        self.coder = Coder(backend.encode, settings.scan_codes_bytes, backend.tiling)

    def search(
        self,
        slices: Sequence[VectorSlice],
        request: SearchRequest,
        *,
        masks: Masks | None,
        keys_of: KeysOf,
    ) -> SearchHits:
        """The k nearest rows to each query, exactly; see the module's text.

        Args:
            masks: per slice, bool of shape (n,) or None for all; masks=None: no filter.
            keys_of: primary keys of row numbers (int64, any order), as an array of the same length.
        """
        units = self._units(slices, masks, request.metric, len(request.queries), request.k)
        check = request.patience.check if request.patience is not None else None
        run = _Run(self, units, request.metric, request.k, keys_of, self.team.checking(check))
        rows, distances = run.answer(request.queries)
        return SearchHits(rows, distances, self._stats(slices, masks, run, len(request.queries)))

    def search_range(
        self,
        slices: Sequence[VectorSlice],
        *,
        metric: Metric,
        query: NDArray[np.float32],
        radius: float,
        inclusive: bool,
        masks: Masks | None,
        keys_of: KeysOf,
    ) -> SearchHits:
        """Every row whose canonical distance is < radius (<= where inclusive): shape (1, matches).

        NaN is greater than every number and equal to itself, as in SQL.
        """
        units = self._units(slices, masks, metric, 1, 0)
        run = _Run(self, units, metric, 0, keys_of, self.team)
        rows, distances = run.within(query, radius, inclusive)
        return SearchHits(rows, distances, self._stats(slices, masks, run, 1))

    def close(self) -> None:
        """Let the threads go; searches must have ended."""
        self.team.close()
        self.coder.close()

    def blocks(
        self, one: VectorSlice, mask: NDArray[np.bool_] | None, request: SearchRequest
    ) -> list[Block]:
        """What a backend would be asked of these rows of a slice for the request."""
        units = self._units([one], [mask], request.metric, len(request.queries), request.k)
        return [unit.block for unit in units]

    def _units(
        self,
        slices: Sequence[VectorSlice],
        masks: Masks | None,
        metric: Metric,
        query_count: int,
        k: int,
    ) -> list[_Unit]:
        alone = not self.backend.batches(metric, query_count)
        copies = not alone or self.backend.copies_rows
        given = masks if masks is not None else [None] * len(slices)
        units = [
            unit
            for one, mask in zip(slices, given, strict=True)
            for unit in _slice_units(one, mask, copies, self._tiles(one, metric, k, query_count))
        ]
        return [unit for unit in units if unit.block.count]

    def _tiles(
        self, one: VectorSlice, metric: Metric, k: int, query_count: int
    ) -> tuple[Tile, ...]:
        """Tiles to search instead of the slice's vectors; rows in none are scanned themselves."""
        if one.codes is None or not self.backend.codes(metric, k, query_count):
            return ()
        return self.coder.tiles(Rows(one.vectors, one.valid, one.codes), metric)

    def _stats(
        self, slices: Sequence[VectorSlice], masks: Masks | None, run: _Run, query_count: int
    ) -> SearchStats:
        live = sum(one.live for one in slices)
        qualifying = sum(unit.block.count for unit in run.units)
        return SearchStats(
            strategy="exact" if masks is None else "exact_filtered",
            backend=self.backend.name,
            device=self.backend.device,
            candidates=qualifying * query_count,
            reranked=run.reranked,
            selectivity=qualifying / live if live else 1.0,
            batch=query_count,
        )


def _slice_units(
    one: VectorSlice, mask: NDArray[np.bool_] | None, copies: bool, tiles: tuple[Tile, ...]
) -> Iterator[_Unit]:
    if mask is None:
        mask = one.valid
    elif one.valid is not None:
        mask = mask & one.valid
    if one.odd is not None:
        odd = one.odd if mask is None else one.odd & mask
        mask = ~one.odd if mask is None else mask & ~one.odd
        block = Block(one.vectors, one.lengths, np.inf, False, odd, np.flatnonzero(odd))
        yield _Unit(block, one.first_row)
    for low, high, coded in _runs(tiles, len(one.vectors)):
        yield _unit(one, mask, copies, (low, high, coded))


_Range = tuple[int, int, tuple[Tile, ...]]  # rows from, to, and their tiles where all are coded


def _runs(tiles: tuple[Tile, ...], rows: int) -> Iterator[_Range]:
    """Cut a slice's rows into runs of coded and of other rows."""
    low = 0
    for coded, group in itertools.groupby(tiles, lambda tile: tile.index is not None):
        found = tuple(group)
        yield low, found[-1].high, found if coded else ()
        low = found[-1].high
    if low < rows:
        yield low, rows, ()


def _unit(one: VectorSlice, mask: NDArray[np.bool_] | None, copies: bool, part: _Range) -> _Unit:
    low, high, tiles = part
    vectors, positions = one.vectors[low:high], None
    if mask is not None:
        mask = mask[low:high]
        rows, dimensions = vectors.shape
        row_bytes = vectors.itemsize * dimensions
        copies = copies or vectors.dtype != np.float32
        scanned = strategy.CODE_COST * dimensions if tiles else row_bytes
        qualifying = int(np.count_nonzero(mask))
        if strategy.visits(qualifying, rows, row_bytes, scanned=scanned, copies=copies):
            positions, tiles = np.flatnonzero(mask), ()
    lengths = one.lengths[low:high]
    block = Block(vectors, lengths, one.longest, True, mask, positions, tiles)
    return _Unit(block, one.first_row + low)


@dataclass
class _Run:
    """One search under way."""

    searcher: Searcher
    units: list[_Unit]
    metric: Metric
    k: int
    keys_of: KeysOf
    team: Team
    reranked: int = 0

    def answer(self, queries: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows and distances, (nq, k) each."""
        rows = np.full((len(queries), self.k), -1, np.int64)
        distances = np.full((len(queries), self.k), np.nan, np.float32)
        if not self.units:
            return rows, distances
        if not self.searcher.backend.batches(self.metric, len(queries)):
            for at, query in enumerate(queries):
                self.team.check()
                rows[at], distances[at] = self._alone(query, float("inf"))
            return rows, distances
        step = strategy.batch_queries(strategy.overfetch(self.k) * len(self.units))
        for low in range(0, len(queries), step):
            high = low + step
            rows[low:high], distances[low:high] = self._batch(queries[low:high])
        return rows, distances

    def within(
        self, query: NDArray[np.float32], radius: float, inclusive: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows and distances within a radius, (1, matches) each."""
        limit = score_limit(self.metric, radius)
        ranking = self._rank_one(query, limit)
        keep = _inside(ranking.distances, radius, inclusive)
        ranking = Ranking.of(ranking.queries[keep], ranking.rows[keep], ranking.distances[keep], 1)
        matches = len(ranking.rows)
        ranking.settle(matches, self.keys_of)
        return ranking.top(matches)

    def _batch(self, queries: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        found = [self._nearest(unit, queries) for unit in self.units]
        ranking = _ranked([part for _, part in found], len(queries))
        self.reranked += len(ranking.rows)
        limits = score_limits(self.metric, ranking.kth(self.k))
        hidden = self._hidden([candidates for candidates, _ in found], limits)
        ranking.settle(self.k, self.keys_of)
        rows, distances = ranking.top(self.k)
        for at in hidden:
            self.team.check()
            rows[at], distances[at] = self._alone(queries[at], float(limits[at]))
        return rows, distances

    def _nearest(self, unit: _Unit, queries: NDArray[np.float32]) -> tuple[Candidates, _Part]:
        candidates = self.searcher.backend.nearest(
            unit.block, queries, self.metric, self.k, team=self.team
        )
        query_of, column = np.nonzero(candidates.positions >= 0)
        positions = candidates.positions[query_of, column]

        def some(part: slice) -> NDArray[np.float32]:
            return candidate_distances(
                unit.block.vectors, positions[part], queries, query_of[part], self.metric
            )

        parts = [slice(at, at + _RANKED) for at in range(0, len(positions), _RANKED)]
        distances = np.concatenate([np.empty(0, np.float32), *self.team.map(some, parts)])
        return candidates, _Part(query_of, positions + unit.first_row, distances)

    def _hidden(self, found: list[Candidates], limits: NDArray[np.float64]) -> NDArray[np.int64]:
        """Queries of which some block may still hide one of the k nearest."""
        hidden = np.zeros(len(limits), bool)
        for unit, candidates in zip(self.units, found, strict=True):
            named = np.count_nonzero(candidates.positions >= 0, axis=1)
            # No floor is above an infinite limit, which asks for rows without a score too.
            hidden |= (named < unit.block.count) & ~(candidates.floor > limits)
        return np.flatnonzero(hidden)

    def _alone(
        self, query: NDArray[np.float32], limit: float
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The k nearest to one query, (k,) each; limit: a score that the k-th doesn't exceed."""
        ranking = self._rank_one(query, limit)
        ranking.settle(self.k, self.keys_of)
        rows, distances = ranking.top(self.k)
        return rows[0], distances[0]

    def _rank_one(self, query: NDArray[np.float32], limit: float) -> Ranking:
        named = partial(self._named, query=query, limit=limit)
        elements = sum(unit.block.vectors.size for unit in self.units)
        team = self.team if elements > strategy.PIECE_ELEMENTS else ALONE
        parts = team.map(named, self.units)
        self.reranked += sum(len(part.rows) for part in parts)
        return _ranked(parts, 1)

    def _named(self, unit: _Unit, *, query: NDArray[np.float32], limit: float) -> _Part:
        positions = self.searcher.backend.contenders(
            unit.block, query, self.metric, k=self.k or None, limit=limit, team=self.team
        )
        return _part(unit, positions, query, self.metric)


@dataclass(frozen=True)
class _Part:
    """Candidates of one unit, all (m,): index of the query, row number, canonical distance."""

    queries: NDArray[np.int64]
    rows: NDArray[np.int64]
    distances: NDArray[np.float32]


def _part(
    unit: _Unit, positions: NDArray[np.int64], query: NDArray[np.float32], metric: Metric
) -> _Part:
    nothing = np.zeros(len(positions), np.int64)
    if len(positions) == len(unit.block.vectors):
        distances = canonical_distances(unit.block.vectors, query, metric)
    else:
        distances = candidate_distances(
            unit.block.vectors, positions, query[np.newaxis, :], nothing, metric
        )
    return _Part(nothing, positions + unit.first_row, distances)


def _ranked(parts: list[_Part], query_count: int) -> Ranking:
    if not parts:
        return Ranking.of(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), 1)
    return Ranking.of(
        np.concatenate([part.queries for part in parts]),
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.distances for part in parts]),
        query_count,
    )


def _inside(distances: NDArray[np.float32], radius: float, inclusive: bool) -> NDArray[np.bool_]:
    if np.isnan(radius):
        return np.ones(len(distances), bool) if inclusive else ~np.isnan(distances)
    wide = distances.astype(np.float64)
    return wide <= radius if inclusive else wide < radius
