"""Searches on a GPU with CuPy: rows stay on the device, the answer is proven and finished here.

Tiles of each segment's raw vectors are copied to the device once, as long as its memory allows
(`Coder`); a search multiplies them with the queries and selects there. Only row numbers come back:
as on every backend they are candidates under an error bound, and their distances are computed again
from the raw vectors in float64, so a GPU and a CPU give the same answer, bit for bit, ties too.
Rows that are not on the device, and any search after the device failed, are the host backend's.

    tile on device (r, d) --GEMM--> scores (nq, r) --select--> row numbers --> canonical distances

CuPy multiplies in plain float32 (no TF32 unless CUPY_TF32 is set, which is refused at start);
float16 rows are widened tile by tile on the device.

**Untested on a device**: this file's logic runs in the tests with NumPy in CuPy's place. At start
the self-test compares the device with float64 on this machine, and refuses it where they disagree.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nearql.engine import strategy
from nearql.engine.backends.base import (
    Backend,
    Block,
    Candidates,
    ErrorBound,
    direct_bound,
    gamma,
    is_tame,
    lengths,
    loss,
    scaled,
)
from nearql.engine.codes import Tile, Tiling
from nearql.engine.distance import Vectors
from nearql.engine.errors import Unavailable
from nearql.engine.team import Team
from nearql.engine.types import Metric

log = logging.getLogger(__name__)

T = TypeVar("T")
TILE_ROWS = 65_536
RETRY_S = 30.0  # after a failure, until the device is tried again
_SCRATCH = 0.1  # of the allowed memory is left to searches: scores and widened tiles
_BATCH_QUERIES = 2
_QUERIES_AT_ONCE = 256


@dataclass(frozen=True)
class _Resident:
    """A tile on the device. vectors: (r, d), as stored; norms: float32, (r,)."""

    vectors: Any
    norms: Any


class CupyBackend:
    """Implements `Backend`. Safe for use from several threads: one is on the device at a time."""

    def __init__(self, host: Backend, arrays: Any, limit_bytes: int) -> None:
        """arrays: CuPy, or in tests NumPy. limit_bytes: device memory that may be used."""
        self._host = host
        self._xp = arrays
        self.tiling = Tiling(TILE_ROWS, int(limit_bytes * (1 - _SCRATCH)), shared=True)
        self._lock = threading.Lock()
        self._lost_until = 0.0
        self._trusted = False

    def trust(self) -> None:
        """From now on the host answers where the device fails; before, a failure is raised."""
        self._trusted = True

    # ---- What it is ------------------------------------------------------------------------

    @property
    def degraded(self) -> bool:
        """Whether the host answers because the device failed."""
        return self._lost_until > 0

    @property
    def name(self) -> str:
        """cupy; the host's while degraded."""
        return self._host.name if self.degraded else "cupy"

    @property
    def device(self) -> str:
        """gpu; the host's while degraded."""
        return self._host.device if self.degraded else "gpu"

    @property
    def copies_rows(self) -> bool:
        """As the host, which visits scattered rows."""
        return self._host.copies_rows

    def batches(self, metric: Metric, query_count: int) -> bool:
        """From two queries on a GEMM is as quick as a scan."""
        if self.degraded:
            return self._host.batches(metric, query_count)
        return metric is not Metric.L1 and query_count >= _BATCH_QUERIES

    def codes(self, metric: Metric, k: int, query_count: int) -> bool:
        """Every search, while the device works."""
        del metric, k, query_count
        return not self.degraded or time.monotonic() >= self._lost_until

    # ---- Rows on the device ----------------------------------------------------------------

    def encode(
        self, vectors: Vectors, valid: NDArray[np.bool_] | None, metric: Metric, low: int
    ) -> Tile:
        """Copy the rows of a tile to the device; without an index where that fails."""
        del valid, metric
        high = low + len(vectors)
        size = vectors.nbytes + 4 * len(vectors)

        def copy() -> _Resident:
            on_device = self._xp.asarray(vectors)
            wide = on_device.astype(np.float64)
            norms = self._xp.sqrt((wide * wide).sum(axis=1)).astype(np.float32)
            return _Resident(on_device, norms)

        found = self._on_device(copy)
        return Tile(low, high, found, 0.0, 0.0, size if found is not None else 0)

    # ---- Searches --------------------------------------------------------------------------

    def contenders(
        self,
        block: Block,
        query: NDArray[np.float32],
        metric: Metric,
        *,
        k: int | None,
        limit: float,
        team: Team,
    ) -> NDArray[np.int64]:
        """See `Backend.contenders`."""
        length = lengths(query[np.newaxis, :])
        if block.tiles and not (block.tame and is_tame(metric, length)[0]):
            return block.matching
        if block.tiles:
            with np.errstate(all="ignore"):
                left = scaled(query[np.newaxis, :], metric, length)
            found = self._on_device(lambda: self._contenders(block, left, metric, k, limit))
            if found is not None:
                return found.rows if found.limited else block.matching
        plain = replace(block, tiles=())
        return self._host.contenders(plain, query, metric, k=k, limit=limit, team=team)

    def nearest(
        self, block: Block, queries: NDArray[np.float32], metric: Metric, k: int, *, team: Team
    ) -> Candidates:
        """See `Backend.nearest`."""
        if block.tiles and block.tame:
            found = self._on_device(lambda: self._nearest(block, queries, metric, k))
            if found is not None:
                return found
        plain = replace(block, tiles=())
        return self._host.nearest(plain, queries, metric, k, team=team)

    # ---- On the device ---------------------------------------------------------------------

    def _contenders(
        self, block: Block, left: NDArray[np.float32], metric: Metric, k: int | None, limit: float
    ) -> _Contenders:
        xp = self._xp
        length = float(lengths(left)[0])
        bound = _bound(block, metric, length)
        query = xp.asarray(left)
        scores = xp.concatenate(
            [self._scores(tile, block, query, metric)[0] for tile in block.tiles]
        )
        if metric is Metric.L2:
            scores += np.float32(length * length)
        norms = xp.concatenate([tile.index.norms for tile in block.tiles])
        errors = bound.per_length * norms.astype(np.float64) + bound.constant
        errors += bound.relative * xp.abs(scores).astype(np.float64)
        if k is not None and k < len(scores):
            upper = xp.where(xp.isfinite(scores), scores + errors, np.inf)
            limit = min(limit, float(xp.partition(upper, k - 1)[k - 1]))
        if limit == np.inf:
            return _Contenders(np.empty(0, np.int64), limited=False)
        rows = xp.flatnonzero(scores.astype(np.float64) - errors <= limit)
        return _Contenders(self._to_host(rows).astype(np.int64), limited=True)

    def _nearest(
        self, block: Block, queries: NDArray[np.float32], metric: Metric, k: int
    ) -> Candidates:
        parts = [
            self._nearest_of(block, queries[low : low + _QUERIES_AT_ONCE], metric, k)
            for low in range(0, len(queries), _QUERIES_AT_ONCE)
        ]
        return Candidates(
            np.concatenate([part.positions for part in parts]),
            np.concatenate([part.floor for part in parts]),
        )

    def _nearest_of(
        self, block: Block, queries: NDArray[np.float32], metric: Metric, k: int
    ) -> Candidates:
        xp, kept = self._xp, min(strategy.overfetch(k), len(block.vectors))
        length = lengths(queries)
        with np.errstate(all="ignore"):
            left = xp.asarray(scaled(queries, metric, length))
        best = xp.full((len(queries), 0), np.inf, np.float32)
        rows = xp.full((len(queries), 0), -1, np.int64)
        for tile in block.tiles:
            scores = self._scores(tile, block, left, metric)
            first = tile.low - block.tiles[0].low
            numbers = xp.arange(first, first + scores.shape[1], dtype=np.int64)
            best = xp.concatenate([best, scores], axis=1)
            rows = xp.concatenate([rows, xp.broadcast_to(numbers, scores.shape)], axis=1)
            if best.shape[1] > kept:
                order = xp.argpartition(best, kept - 1, axis=1)[:, :kept]
                best = xp.take_along_axis(best, order, axis=1)
                rows = xp.take_along_axis(rows, order, axis=1)
        found, positions = self._to_host(best), self._to_host(rows).astype(np.int64)
        positions[~np.isfinite(found)] = -1
        return Candidates(positions, _floor(found, block, metric, length, kept))

    def _scores(self, tile: Tile, block: Block, left: Any, metric: Metric) -> Any:
        """Scores of a tile's rows to queries scaled for products, (nq, r); inf = doesn't match.

        l2 scores lack the square of the query.
        """
        xp, resident = self._xp, tile.index
        vectors = resident.vectors.astype(np.float32, copy=False)
        if metric is Metric.L1:
            scores = xp.abs(vectors - left).sum(axis=1)[np.newaxis, :]
        elif metric is Metric.L2:
            scores = (left * np.float32(-2)) @ vectors.T
            scores += resident.norms * resident.norms
        else:
            scores = left @ vectors.T
        if metric is Metric.COSINE:
            scores = xp.where(resident.norms > 0, scores / resident.norms, np.float32(np.inf))
        if block.mask is not None:
            low = tile.low - block.tiles[0].low
            mask = xp.asarray(block.mask[low : low + tile.high - tile.low])
            scores = xp.where(mask, scores, np.float32(np.inf))
        return scores

    def _to_host(self, array: Any) -> NDArray[Any]:
        found: NDArray[Any] = array.get() if hasattr(array, "get") else np.array(array)
        return found

    def _on_device(self, work: Callable[[], T]) -> T | None:
        """What `work` gives; None where the device fails, and for RETRY_S after that."""
        if self.degraded and time.monotonic() < self._lost_until:
            return None
        try:
            with self._lock, np.errstate(all="ignore"):
                found = work()
        except MemoryError as error:
            log.warning("No room on the GPU (%s); the CPU answers this once.", error)
            return None
        except Exception as error:
            if not self._trusted:
                raise
            self._lose(error)
            return None
        if self.degraded:
            self._lost_until = 0.0
            log.warning("The GPU works again; searches run on it.")
        return found

    def _lose(self, error: Exception) -> None:
        if not self.degraded:
            log.error("The GPU failed (%s: %s); the CPU answers.", type(error).__name__, error)
        self._lost_until = time.monotonic() + RETRY_S


@dataclass(frozen=True)
class _Contenders:
    """Rows named; limited: False where every matching row may belong to the answer."""

    rows: NDArray[np.int64]
    limited: bool


def _bound(block: Block, metric: Metric, length: float) -> ErrorBound:
    """As `direct_bound`; l2 is expanded here, so the bound is that of its parts."""
    if metric is Metric.L2:
        lost = loss(block.dimensions, block.longest, length)
        return ErrorBound(
            0.0, 0.0, 2 * gamma(block.dimensions) * (block.longest + length) ** 2 + lost
        )
    return direct_bound(block, metric, length)


def _floor(
    found: NDArray[np.float32],
    block: Block,
    metric: Metric,
    length: NDArray[np.float64],
    kept: int,
) -> NDArray[np.float64]:
    """A lower bound of the canonical scores of rows that were not kept; see `Candidates`."""
    if found.shape[1] < kept or kept == len(block.vectors):
        floor = np.full(len(found), np.inf)
    else:
        floor = found.max(axis=1).astype(np.float64)
    bounds = [_bound(block, metric, float(one)) for one in length]
    floor -= np.array([bound.per_length * block.longest + bound.constant for bound in bounds])
    if metric is Metric.L2:
        floor += length * length
    floor[~is_tame(metric, length)] = -np.inf
    return floor


def open_device(host: Backend, share: float, limit_bytes: int | None) -> CupyBackend:
    """The backend on the first GPU.

    Args:
        share: of the device's memory that may be used, 0 to 1, where limit_bytes is None.

    Raises:
        Unavailable: there is no device that works, or TF32 is on.
        ImportError: CuPy isn't installed.
    """
    import cupy  # type: ignore[import-not-found, import-untyped, unused-ignore]

    if os.environ.get("CUPY_TF32", "0") not in ("", "0"):
        raise Unavailable("CUPY_TF32 is set: it rounds products to 10 bits. Unset it.")
    devices = cupy.cuda.runtime.getDeviceCount()
    if devices < 1:
        raise Unavailable("CuPy finds no GPU.")
    _, total = cupy.cuda.runtime.memGetInfo()
    return CupyBackend(host, cupy, limit_bytes or int(total * share))
