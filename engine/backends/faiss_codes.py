"""Exact searches over 8-bit codes: FAISS scans the codes, their loss proves who may be nearest.

Each metric has a *cost*, lower is nearer, by which FAISS compares a query with what a code says:

    inner_product   -<q, x>           rows as they are      off by at most |q| * loss
    cosine          -<q, x> / |q|     rows scaled to 1      off by at most loss
    l2              |q - x|           rows as they are      off by at most loss

With E the bound, rounding included, and T the k-th smallest cost seen, every one of the k nearest
has a cost of at most T + 2E: its true cost is not above that of the k rows seen, T + E. A tile
returns a few rows more than k; where even the last of them is within reach, `_DEEP` are asked for,
and where that is not enough either, all rows within reach, by a range search. One column of zeros
more or less changes no cost, so rows are padded to whole SIMD registers; FAISS's kernels are many
times slower without.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from nearql.engine.backends.base import FLOAT32_UNIT, LENGTH_MAX, LENGTH_MIN, Block, gamma, lengths
from nearql.engine.backends.base import loss as lost_digits
from nearql.engine.backends.openmp import one_thread
from nearql.engine.codes import Tile
from nearql.engine.distance import Vectors, widen
from nearql.engine.team import Team
from nearql.engine.types import Metric

METRICS = (Metric.L2, Metric.INNER_PRODUCT, Metric.COSINE)
MOST_NEIGHBOURS = 256  # beyond it, keeping the best of every tile costs more than the scan
_LANES = 16
_SPARE = 1.3  # a filter's rows lie unevenly
# Rows of a tile that are looked at before all within reach are asked for: FAISS's range search
# takes ten times as long as its search for the nearest, and mostly fewer are within reach.
_DEEP = 512


def encode(vectors: Vectors, valid: NDArray[np.bool_] | None, metric: Metric, low: int) -> Tile:
    """Code rows for a metric.

    Args:
        vectors: float32 or float16, (n, d). valid: bool (n,), rows that can match; None = all.
        low: the first row's place in its segment.
    """
    rows = _padded(widen(vectors))
    with np.errstate(all="ignore"):  # rows that can't match may hold anything
        high, length = low + len(rows), lengths(rows)
    usable = _usable(length, metric)
    if not (usable if valid is None else usable | ~valid).all():
        return Tile(low, high, None, 0.0, 0.0, 0)
    rows[~usable] = 0  # they never match, and must not stretch the range of the codes
    if metric is Metric.COSINE:
        scale = np.divide(1, length, out=np.zeros(len(length)), where=usable)
        rows *= scale[:, np.newaxis].astype(np.float32)
    kind = faiss.METRIC_L2 if metric is Metric.L2 else faiss.METRIC_INNER_PRODUCT
    quantizer = faiss.ScalarQuantizer.QT_8bit_uniform
    index = faiss.IndexScalarQuantizer(rows.shape[1], quantizer, kind)
    with one_thread():  # a background thread leaves the other cores to searches
        index.train(rows)
        index.add(rows)
    said = index.reconstruct_n(0, len(rows))
    largest = float(np.abs(said).max(initial=0.0))
    # A kernel may round each element as it decodes it, and a row as it is scaled to length 1.
    rounding = 8 * FLOAT32_UNIT * largest * rows.shape[1] ** 0.5 + 4 * FLOAT32_UNIT
    loss = float(lengths(said - rows).max(initial=0.0)) * (1 + 4 * FLOAT32_UNIT) + rounding
    longest = float(lengths(said).max(initial=0.0)) + loss
    return Tile(low, high, index, loss, longest, rows.size)


def contenders(
    block: Block,
    query: NDArray[np.float32],
    metric: Metric,
    *,
    k: int | None,
    limit: float,
    team: Team,
) -> NDArray[np.int64]:
    """See `Backend.contenders`, of a block with tiles; the query is tame and scaled."""
    length = float(lengths(query[np.newaxis, :])[0])
    asked = query if metric is Metric.L2 else -query
    search = _Search(_padded(asked[np.newaxis, :]), metric, block)
    error = max(_error(tile, metric, length) for tile in block.tiles)
    reach = _cost_limit(metric, limit) + error
    nearest: list[_Found] = []
    if k is not None:
        nearest = _nearest(search, k, team)
        costs = np.concatenate([found.costs for found in nearest])
        if len(costs) >= k:
            reach = min(reach, float(np.partition(costs, k - 1)[k - 1]) + 2 * error)
    if reach == np.inf:
        return block.matching
    if k is None:
        nearest = [_Found(tile, _NO_COSTS, _NO_ROWS, -np.inf) for tile in block.tiles]
    nearest = team.map(partial(_deeper, search, reach), nearest)
    open_ = [found.tile for found in nearest if found.floor <= reach]
    within = team.map(partial(search.within, reach=reach), open_)
    closed = [found.rows[found.costs <= reach] for found in nearest if found.floor > reach]
    return np.sort(np.concatenate([_NO_ROWS, *within, *closed]))


def _nearest(search: _Search, k: int, team: Team) -> list[_Found]:
    """A few more than k rows of each tile; fewer than k in all only where no more match."""
    block = search.block
    count = k + max(22, k // 4)
    if block.mask is None:
        return team.map(partial(search.nearest, count=count), block.tiles)
    # To test each row against the mask costs FAISS more than to find some rows in vain.
    more = math.ceil(_SPARE * count * len(block.mask) / max(1, block.count))
    found = team.map(partial(search.nearest, count=more), block.tiles)
    if sum(len(one.rows) for one in found) >= k:
        return found
    return team.map(partial(search.nearest, count=count, selected=True), block.tiles)


def _deeper(search: _Search, reach: float, found: _Found) -> _Found:
    """More of a tile's rows, where those found are all within reach: see `_DEEP`."""
    if found.floor > reach:
        return found
    return search.nearest(found.tile, _DEEP)


_NO_ROWS: NDArray[np.int64] = np.empty(0, np.int64)
_NO_COSTS: NDArray[np.float64] = np.empty(0, np.float64)


@dataclass(frozen=True)
class _Found:
    """Rows of a tile. floor: a lower bound of the costs of all its others; inf = there are none."""

    tile: Tile
    costs: NDArray[np.float64]
    rows: NDArray[np.int64]
    floor: float


@dataclass(frozen=True)
class _Search:
    """One query against the tiles of a block. asked: float32, (1, padded d)."""

    asked: NDArray[np.float32]
    metric: Metric
    block: Block

    def nearest(self, tile: Tile, count: int, *, selected: bool = False) -> _Found:
        """Rows that match among those of the `count` least costs; selected: `count` that match."""
        count = min(count, tile.high - tile.low)
        similar, labels = np.empty(count, np.float32), np.empty(count, np.int64)
        parameters = _Parameters(self._mask(tile) if selected else None)
        with one_thread():
            tile.index.search_c(
                1, faiss.swig_ptr(self.asked), count, faiss.swig_ptr(similar),
                faiss.swig_ptr(labels), parameters.given,
            )  # fmt: skip
        rows = labels[labels >= 0]
        costs = self._costs(similar[: len(rows)])
        all_seen = len(rows) < count or count == tile.high - tile.low
        floor = np.inf if all_seen else float(costs[-1])
        match = self._matching(tile, rows)
        return _Found(tile, costs[match], rows[match] + self._offset(tile), floor)

    def within(self, tile: Tile, reach: float) -> NDArray[np.int64]:
        """Every row that matches of at most this cost."""
        radius = -reach
        if self.metric is Metric.L2:
            radius = max(reach, 0.0) ** 2
        outward = np.inf if self.metric is Metric.L2 else -np.inf
        threshold = float(np.nextafter(np.float32(radius), np.float32(outward)))
        result = faiss.RangeSearchResult(1)
        with one_thread():
            tile.index.range_search_c(1, faiss.swig_ptr(self.asked), threshold, result, None)
        count = int(faiss.rev_swig_ptr(result.lims, 2)[1])
        rows: NDArray[np.int64] = faiss.rev_swig_ptr(result.labels, count).copy()
        return rows[self._matching(tile, rows)] + self._offset(tile)

    def _costs(self, similar: NDArray[np.float32]) -> NDArray[np.float64]:
        wide = similar.astype(np.float64)
        if self.metric is Metric.L2:
            return np.sqrt(np.maximum(wide, 0))
        return -wide

    def _offset(self, tile: Tile) -> int:
        return tile.low - self.block.tiles[0].low

    def _mask(self, tile: Tile) -> NDArray[np.bool_] | None:
        low = self._offset(tile)
        mask = self.block.mask
        return None if mask is None else mask[low : low + tile.high - tile.low]

    def _matching(self, tile: Tile, rows: NDArray[np.int64]) -> NDArray[np.bool_] | slice:
        mask = self._mask(tile)
        return slice(None) if mask is None else mask[rows]


class _Parameters:
    """FAISS's search parameters for a mask; holds what they point to."""

    def __init__(self, mask: NDArray[np.bool_] | None) -> None:
        self.given: Any = None
        if mask is not None:
            self._bits = np.packbits(mask, bitorder="little")
            self._selector = faiss.IDSelectorBitmap(len(self._bits), faiss.swig_ptr(self._bits))
            self.given = faiss.SearchParameters()
            self.given.sel = self._selector


def _usable(length: NDArray[np.float64], metric: Metric) -> NDArray[np.bool_]:
    """Rows that codes can stand for; a zero row has no direction."""
    usable = (length >= LENGTH_MIN) & (length <= LENGTH_MAX)
    return usable if metric is Metric.COSINE else usable | (length == 0)


def _error(tile: Tile, metric: Metric, length: float) -> float:
    """How far a cost of FAISS's may be from the row's. length: of the query as asked."""
    rounded = 1 + 1e-6
    digits = gamma(tile.index.d)
    if metric is Metric.L2:
        spread = length + tile.longest  # differences are taken before squaring: g is relative
        return (tile.loss + digits * spread) * rounded + 2 * LENGTH_MIN
    share = digits * length * tile.longest
    return (length * tile.loss + share) * rounded + lost_digits(tile.index.d, tile.longest, length)


def _cost_limit(metric: Metric, limit: float) -> float:
    """The largest cost of a row whose canonical score is at most `limit`."""
    if metric is Metric.L2:
        return float(np.sqrt(limit)) if limit >= 0 else -np.inf
    return limit


def _padded(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """A copy with columns of zeros up to a whole number of SIMD registers."""
    count, dimensions = rows.shape
    out = np.zeros((count, -(-dimensions // _LANES) * _LANES), np.float32)
    out[:, :dimensions] = rows
    return out
