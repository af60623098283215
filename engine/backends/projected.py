"""Large batches: most rows are ruled out for most queries by a few coordinates of both.

Every query against every row is a matrix product. It is taken here over w << d coordinates, those
in which the rows lie most (their principal components), and over the lengths of what is left. With
an orthonormal basis V of w directions, a = V'x, b = V'q, and remainders of lengths r and s,

    q.x  <=  a.b + r s                         (Cauchy and Schwarz on the remainders)

so one product of (w + 2)-vectors bounds each score from below:

    l2              |x|^2 - 2 q.x     >=   [a, r, |x|^2] . [-2b, -2s, 1]
    inner_product   -q.x              >=   [a, r] . [-b, -s]        cosine: the same, of unit rows

A row whose bound is beyond T, the k-th smallest score found so far, is none of the k nearest. The
others, a few hundred of 62,816, get a float32 score from the whole vectors, which lowers T.
Algorithm: partial distances with a bound of the remainder, as in FAISS's "Panorama" (2025), but for
batches.

Nothing is assumed of V: how far it is from orthonormal is measured, and all rounding is in the
bound's slack (`_Sketch.slack`), so the promise of `Backend.nearest` holds on any data. How many
coordinates pay, if any, is estimated from some rows and queries before each block.

Example (62,816 x 384, 10,000 queries, k = 5): w = 168, and 300 rows a query get a score.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from nearql.engine import strategy
from nearql.engine.backends.base import (
    FLOAT32_UNIT,
    LENGTH_MIN,
    Block,
    Candidates,
    gamma,
    is_tame,
    lengths,
    loss,
    scaled,
)
from nearql.engine.backends.best import Best
from nearql.engine.distance import Vectors, widen
from nearql.engine.team import Team
from nearql.engine.types import Metric

LEAST_QUERIES = 512
LEAST_ROWS = 8_192
MOST_NEIGHBOURS = 128
LEAST_DIMENSIONS = 48
_TILE = 1_024  # queries that one thread takes through a stretch of rows
_STRETCH = 16_384  # rows that are projected at once
_ROWS = 1_024  # of a product: its scores, 4 MiB, stay in a cache
_SAMPLE = 8_192  # rows from which the directions are learned
_PROBES = 48  # queries by which the number of directions is chosen
_STEPS = range(2, 11)  # of sixteen: numbers of directions that are tried
_SCORE_COST = 40.0  # of a row that gets its score, in products of as many coordinates
_GATHERED = 1 << 20  # elements of rows that are copied at once


@dataclass(frozen=True)
class _Sketch:
    """How rows and queries are projected. basis: float32 (d, w). skew: how far it is from
    orthonormal (Frobenius norm of V'V - 1).
    """

    basis: NDArray[np.float32]
    skew: float
    metric: Metric

    @property
    def share(self) -> float:
        """Rounding of all coordinates of a vector, relative to its length."""
        dimensions, width = self.basis.shape
        return gamma(dimensions) * float(np.sqrt(width)) * (1 + self.skew)

    def remainders(
        self, coordinates: NDArray[np.float32], length: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """Upper bounds of what is left of vectors of these lengths, (n, w), (n,) -> (n,)."""
        square = length * length
        held = np.einsum("ij,ij->i", coordinates, coordinates, dtype=np.float64)
        spare = square * ((2 * self.share + self.skew) * 1.01 + 4 * FLOAT32_UNIT)
        wide = np.sqrt(np.maximum(square - held, 0) + spare) * (1 + 2 * FLOAT32_UNIT)
        left: NDArray[np.float32] = wide.astype(np.float32)
        return left

    def slack(self, block: Block, length: NDArray[np.float64]) -> NDArray[np.float64]:
        """How far above the score a bound may lie by rounding. length: of the scaled queries."""
        width = self.basis.shape[1]
        longest = 1.0 if self.metric is Metric.COSINE else block.longest
        product = 1.05 * gamma(width + 2) + 8 * FLOAT32_UNIT
        of_pair = (3 * self.skew + 2 * self.share) * 1.01 + product
        # A zero query has no length here; what it lacks must not spread to the others.
        furthest = float(np.max(length, initial=0.0, where=np.isfinite(length)))
        lost = 2 * loss(block.dimensions, longest, furthest)
        own = product * longest**2 if self.metric is Metric.L2 else 0.0
        return of_pair * length * longest + own + lost

    def rows(
        self, coordinates: NDArray[np.float32], norms: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """What stands for rows in the product: (n, w) -> (n, w + 1 or 2)."""
        length = norms.astype(np.float64)
        extra = 2 if self.metric is Metric.L2 else 1
        width = coordinates.shape[1]
        out = np.empty((len(coordinates), width + extra), np.float32)
        out[:, :width] = coordinates
        out[:, width] = self.remainders(coordinates, length)
        if self.metric is Metric.L2:
            out[:, width + 1] = length * length
        elif self.metric is Metric.COSINE:
            out /= norms[:, np.newaxis]
        return out

    def queries(
        self, coordinates: NDArray[np.float32], length: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """What stands for scaled queries: (nq, w) -> (w + 1 or 2, nq), C-contiguous."""
        further = [-self.remainders(coordinates, length)]
        if self.metric is Metric.L2:
            further.append(np.ones(len(coordinates), np.float32))
        return np.ascontiguousarray(np.vstack([coordinates.T, *further]))


def nearest(
    block: Block, queries: NDArray[np.float32], metric: Metric, k: int, *, team: Team
) -> Candidates | None:
    """See `Backend.nearest`, of a tame block; None where all coordinates cost no more."""
    if not _is_large(block, len(queries), k):
        return None
    length = lengths(queries)
    with np.errstate(all="ignore"):
        left = queries * -2 if metric is Metric.L2 else scaled(queries, metric, length)
    positions = block.matching
    if metric is Metric.COSINE:
        positions = positions[block.norms[positions] > 0]  # the others have no score
    sketch = _learned(block, positions, left[is_tame(metric, length)], metric, k)
    if sketch is None:
        return None
    asked = _Queries(queries, left, length)
    with np.errstate(all="ignore"):
        tiles = [
            _Tile(asked.part(low, low + _TILE), sketch, block, k)
            for low in range(0, len(queries), _TILE)
        ]
    for low in range(0, len(positions), _STRETCH):
        stretch = _projected(sketch, block, positions[low : low + _STRETCH], team)
        team.map(partial(_quietly, stretch=stretch), tiles)
    return Candidates.stacked(team.map(_Tile.candidates, tiles))


def _is_large(block: Block, query_count: int, k: int) -> bool:
    return (
        query_count >= LEAST_QUERIES
        and block.count >= LEAST_ROWS
        and k <= MOST_NEIGHBOURS
        and block.dimensions >= LEAST_DIMENSIONS
    )


# ---- Directions ------------------------------------------------------------------------


def _learned(
    block: Block,
    positions: NDArray[np.int64],
    left: NDArray[np.float32],
    metric: Metric,
    k: int,
) -> _Sketch | None:
    """The sketch by which most is saved; None where none saves a third."""
    if len(positions) < LEAST_ROWS or not len(left):
        return None
    chosen = positions[:: -(-len(positions) // _SAMPLE)]
    sample, norms = widen(block.vectors[chosen]), block.norms[chosen]
    with np.errstate(all="ignore"):
        unit = sample / norms[:, np.newaxis] if metric is Metric.COSINE else sample
        moments = (unit.T @ unit).astype(np.float64)
        if not np.isfinite(moments).all():
            return None
        axes = np.linalg.eigh(moments)[1][:, ::-1]
        probes = left[:: -(-len(left) // _PROBES)]
        width = _width(axes, sample, norms, probes, _Asked(metric, k, len(positions)))
    return None if width is None else _sketch(axes[:, :width], metric)


def _sketch(axes: NDArray[np.float64], metric: Metric) -> _Sketch:
    basis = np.ascontiguousarray(axes, np.float32)
    wide = basis.astype(np.float64)
    skew = float(np.linalg.norm(wide.T @ wide - np.eye(wide.shape[1])))
    return _Sketch(basis, skew + 1e-12, metric)


@dataclass(frozen=True)
class _Asked:
    """What a batch asks of a block. rows: how many may match."""

    metric: Metric
    k: int
    rows: int


def _width(
    axes: NDArray[np.float64],
    sample: NDArray[np.float32],
    norms: NDArray[np.float32],
    probes: NDArray[np.float32],
    asked: _Asked,
) -> int | None:
    """The number of directions that costs least, by what some queries meet in some rows."""
    dimensions = len(axes)
    scores = sample @ probes.T
    if asked.metric is Metric.L2:
        scores += (norms * norms)[:, np.newaxis]
    elif asked.metric is Metric.COSINE:
        scores /= norms[:, np.newaxis]
    # One more than its share of the k nearest: a query may be a row of the sample itself.
    rank = 1 + max(1, round(asked.k * len(sample) / asked.rows))
    nearest = np.partition(scores, rank - 1, axis=0)[rank - 1]
    length = lengths(probes)
    whole = _sketch(axes[:, : dimensions * _STEPS[-1] // 16], asked.metric)
    mine, theirs = sample @ whole.basis, probes @ whole.basis
    best, least = None, 2 / 3 * dimensions
    for step in _STEPS:
        width = dimensions * step // 16
        sketch = _Sketch(whole.basis[:, :width], whole.skew, asked.metric)
        bounds = sketch.rows(mine[:, :width], norms) @ sketch.queries(theirs[:, :width], length)
        hits = float(np.mean(bounds <= nearest))
        cost = width + hits * _SCORE_COST * dimensions
        if cost < least:
            best, least = width, cost
    return best


# ---- Rows and queries ------------------------------------------------------------------


@dataclass(frozen=True)
class _Stretch:
    """Some rows of a block. sketched: float32 (n, w + 1 or 2); positions: int64 (n,)."""

    sketched: NDArray[np.float32]
    positions: NDArray[np.int64]


def _projected(sketch: _Sketch, block: Block, positions: NDArray[np.int64], team: Team) -> _Stretch:
    def some(part: NDArray[np.int64]) -> NDArray[np.float32]:
        with np.errstate(all="ignore"):
            return sketch.rows(_vectors(block, part) @ sketch.basis, block.norms[part])

    step = -(-len(positions) // (2 * team.threads))
    parts = [positions[low : low + step] for low in range(0, len(positions), step)]
    return _Stretch(np.concatenate(team.map(some, parts)), positions)


def _vectors(block: Block, positions: NDArray[np.int64]) -> NDArray[np.float32]:
    """float32 rows at ascending positions; no copy where they have no gaps."""
    low, high = int(positions[0]), int(positions[-1]) + 1
    whole = high - low == len(positions)
    rows: Vectors = block.vectors[low:high] if whole else block.vectors[positions]
    return widen(rows)


@dataclass(frozen=True)
class _Queries:
    """Queries as they were asked, scaled for products, and their lengths before that."""

    asked: NDArray[np.float32]
    left: NDArray[np.float32]
    length: NDArray[np.float64]

    def part(self, low: int, high: int) -> _Queries:
        """Those from `low` to before `high`."""
        return _Queries(self.asked[low:high], self.left[low:high], self.length[low:high])


@dataclass(frozen=True)
class _Errors:
    """How far a float32 score may be off: share * |score| + rest, per query; see `direct_bound`."""

    share: float
    rest: NDArray[np.float64]

    @classmethod
    def of(cls, block: Block, metric: Metric, length: NDArray[np.float64]) -> _Errors:
        """length: of the queries as asked."""
        share = gamma(block.dimensions)
        lost = (
            loss(block.dimensions, block.longest, 1.0) + loss(block.dimensions, 0.0, 1.0) * length
        )
        if metric is Metric.INNER_PRODUCT:
            return cls(0.0, share * length * block.longest + lost)
        if metric is Metric.COSINE:
            lost = np.full(len(length), loss(block.dimensions, block.longest, 1) / LENGTH_MIN)
            return cls(0.0, share + lost)
        return cls(share, lost)

    def above(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """The largest score that a row has which is shown so."""
        return scores + 3 * (self.share * np.abs(scores) + self.rest)

    def below(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """The smallest one."""
        return scores * (1 - self.share) - self.rest

    def shown(self, limit: NDArray[np.float64]) -> NDArray[np.float64]:
        """The largest score that is shown for a row whose own is at most `limit`."""
        return (limit + self.rest) / (1 - self.share)


def _quietly(tile: _Tile, stretch: _Stretch) -> None:
    with np.errstate(all="ignore"):  # which a thread doesn't inherit
        tile.look(stretch)


class _Tile:
    """Some queries on their way through the rows.

    limit: float64 (nq,), at least the k-th smallest score of each query so far, rounding included.
    seen: rows looked at.
    """

    def __init__(self, queries: _Queries, sketch: _Sketch, block: Block, k: int) -> None:
        self.queries, self.sketch, self.block, self.k = queries, sketch, block, k
        self.best = Best(len(queries.asked), strategy.overfetch(k))
        self.limit = np.full(len(queries.asked), np.inf)
        self.seen = 0
        length = lengths(queries.left)
        self._tame = is_tame(sketch.metric, queries.length)
        self._slack = sketch.slack(block, length)
        if sketch.metric is Metric.L2:
            self._slack -= queries.length**2  # which the product leaves out
        self._right = sketch.queries(queries.left @ sketch.basis, length)
        self._errors = _Errors.of(block, sketch.metric, queries.length)
        self._pending: list[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]] = []

    def look(self, stretch: _Stretch) -> None:
        """Find what of these rows may be among the nearest."""
        if not self.seen:
            self._begin(stretch)
        reach, due = self._reach(), 2 * self.seen
        for low in range(0, len(stretch.positions), _ROWS):
            part = slice(low, low + _ROWS)
            bounds = stretch.sketched[part] @ self._right
            hits = np.flatnonzero(bounds <= reach)
            row, query = np.divmod(hits, len(reach))
            self._score(query, stretch.positions[part][row])
            self.seen += len(bounds)
            if self.seen >= due:
                self._merge()
                reach, due = self._reach(), 2 * self.seen
        self._merge()

    def candidates(self) -> Candidates:
        """After all rows: what may be among the nearest."""
        full = self.best.threshold.astype(np.float64)
        with np.errstate(all="ignore"):
            beyond = np.where(np.isinf(full), np.inf, self._errors.below(full))
            self.best.drop(self._errors.shown(self.limit))
            floor = np.where(self._tame, np.fmin(self.limit, beyond), -np.inf)
        return Candidates(self.best.positions, floor)

    def _reach(self) -> NDArray[np.float32]:
        """The largest bound that a row has whose score is within the limit."""
        wide = np.where(self._tame, self.limit + self._slack, -np.inf).astype(np.float32)
        return np.nextafter(wide, np.float32(np.inf))

    def _begin(self, stretch: _Stretch) -> None:
        """A first limit: the scores of those that seem nearest of a few rows."""
        few = slice(0, None, -(-len(stretch.positions) // max(_ROWS, 8 * self.k)))
        bounds = np.ascontiguousarray((stretch.sketched[few] @ self._right).T)
        count = min(2 * self.k + 8, bounds.shape[1])
        if count < self.k:
            return
        seeds = np.argpartition(bounds, count - 1, axis=1)[:, :count]
        query = np.repeat(np.arange(len(bounds)), count)
        scores = self._scores(query, stretch.positions[few][seeds.reshape(-1)])
        self._lower(np.partition(scores.reshape(-1, count), self.k - 1, axis=1)[:, self.k - 1])

    def _lower(self, kth: NDArray[np.float32]) -> None:
        self.limit = np.fmin(self.limit, self._errors.above(kth.astype(np.float64)))

    def _score(self, query: NDArray[np.int64], positions: NDArray[np.int64]) -> None:
        """Keep those of these pairs that their score leaves in reach."""
        scores = self._scores(query, positions)
        near = scores <= self._errors.shown(self.limit)[query]
        self._pending.append((query[near], scores[near], positions[near]))

    def _scores(
        self, query: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Float32 scores of pairs, from the whole vectors: (m,), (m,) -> (m,)."""
        out = np.empty(len(query), np.float32)
        step = max(1, _GATHERED // self.block.dimensions)
        for low in range(0, len(query), step):
            part = slice(low, low + step)
            rows = widen(self.block.vectors[positions[part]])
            if self.sketch.metric is Metric.L2:
                rows = np.subtract(rows, self.queries.asked[query[part]], out=rows)
                out[part] = np.einsum("ij,ij->i", rows, rows)
            else:
                out[part] = np.einsum("ij,ij->i", rows, self.queries.left[query[part]])
        if self.sketch.metric is Metric.COSINE:
            out /= self.block.norms[positions]
        return out

    def _merge(self) -> None:
        pending, self._pending = self._pending, []
        if not pending:
            return
        query, scores, positions = (np.concatenate(parts) for parts in zip(*pending, strict=True))
        self.best.merge(query, scores, positions)
        self._lower(self.best.kth(self.k))
