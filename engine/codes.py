"""8-bit codes beside the raw vectors, so that an exact search reads a quarter of the bytes.

A *tile* is a run of a segment's rows, coded once: the rows of a segment never change. It knows its
`loss`, the greatest Euclidean distance between a row and what its code says, so a scan of codes can
prove which rows may belong to an answer; only their raw vectors are read then.

    rows    0 .......... 8191 | 8192 ....... 16383 | 16384 .... 18901 | 18902 .. 19400
    tiles   [     tile 0      |       tile 1       | tile 2, growing  |  not coded yet: raw

Searches never wait for codes: they use the tiles that there are and ask for the others, which one
thread makes. Codes live in memory alone, within `scan_codes_bytes`, and go with their segment.

Invariants: tiles of a column and metric are gapless from row 0; each but the last has TILE_ROWS.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nearql.engine.types import Metric

if TYPE_CHECKING:
    from nearql.engine.distance import Vectors

logger = logging.getLogger(__name__)

TILE_ROWS = 8_192
LEAST_ELEMENTS = 1 << 21  # a smaller segment is scanned in less than a millisecond as it is
LEAST_GROWTH = 2_048  # rows beyond the last tile before they are coded too


@dataclass(frozen=True)
class Tile:
    """Rows `low` to `high` - 1 of a segment's vector column, coded for one metric.

    index: what the backend searches; None where these rows can't be coded.
    loss: how far a row, as the metric takes it, and its code are apart at most (Euclidean).
    longest: at least the length of every row as its code says it.
    nbytes: memory of the codes.
    """

    low: int
    high: int
    index: Any
    loss: float
    longest: float
    nbytes: int


@dataclass(frozen=True)
class Tiling:
    """How a backend wants tiles. rows: of a tile, None = TILE_ROWS. limit: bytes of all of them,
    None = as the settings say. shared: whether one serves every metric.
    """

    rows: int | None = None
    limit: int | None = None
    shared: bool = False


Encode = Callable[["Vectors", "NDArray[np.bool_] | None", Metric, int], Tile]


class Codes:
    """What is coded of one vector column of one segment; empty at first. Safe in many threads."""

    def __init__(self) -> None:
        self._tiles: dict[Metric, tuple[Tile, ...]] = {}
        self.held = [0]  # bytes; a list, so that the budget can read it when this object is gone
        self.asked: set[Metric] = set()  # under way or impossible; under the coder's lock

    def tiles(self, metric: Metric) -> tuple[Tile, ...]:
        """The tiles so far."""
        return self._tiles.get(metric, ())

    def put(self, metric: Metric, tile: Tile) -> int:
        """Add a tile, in the place of one that began at the same row; bytes that it adds."""
        before = self.tiles(metric)
        kept = tuple(one for one in before if one.low < tile.low)
        grown = tile.nbytes - sum(one.nbytes for one in before[len(kept) :])
        self._tiles[metric] = (*kept, tile)
        self.held[0] += grown
        return grown


@dataclass(frozen=True)
class Rows:
    """Rows of a column as a search sees them.

    vectors: float32 or float16, (n, d); valid: bool (n,), rows that can match, or None for all.
    """

    vectors: Vectors
    valid: NDArray[np.bool_] | None
    codes: Codes


class Coder:
    """Makes codes in a thread of its own, within a memory bound."""

    def __init__(self, encode: Encode, limit_bytes: int, tiling: Tiling | None = None) -> None:
        self._encode = encode
        self._tiling = tiling or Tiling()
        self._limit = limit_bytes if self._tiling.limit is None else self._tiling.limit
        self._bytes = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, "nearql-codes")

    @property
    def bytes(self) -> int:
        """Memory that codes take now."""
        return self._bytes

    def tiles(self, rows: Rows, metric: Metric) -> tuple[Tile, ...]:
        """The tiles that a search of these rows can use; those that it lacks are made meanwhile."""
        if rows.vectors.size < LEAST_ELEMENTS:
            return ()
        if self._tiling.shared:
            metric = Metric.L2
        found = [tile for tile in rows.codes.tiles(metric) if tile.high <= len(rows.vectors)]
        covered = found[-1].high if found else 0
        if len(rows.vectors) - covered >= LEAST_GROWTH:
            self._ask(rows, metric)
        return tuple(found)

    def settle(self) -> None:
        """Wait until everything that was asked for so far is made."""
        self._pool.submit(lambda: None).result()

    def close(self) -> None:
        """Make no more; searches must have ended."""
        self._pool.shutdown(cancel_futures=True)

    def _ask(self, rows: Rows, metric: Metric) -> None:
        asked = rows.codes.asked
        with self._lock:
            if metric in asked or self._room() <= 0:
                return
            asked.add(metric)
        try:
            self._pool.submit(self._make, rows, metric)
        except RuntimeError:  # closed meanwhile, or the interpreter ends: nobody needs codes now
            asked.discard(metric)

    def _room(self) -> int:
        return self._limit - self._bytes

    def _make(self, rows: Rows, metric: Metric) -> None:
        try:
            while self._make_one(rows, metric):
                pass
        except Exception:  # searches go on without; asked for once, so it is told once
            logger.exception("a segment's vectors can't be coded; they are scanned as they are")
            return
        with self._lock:
            rows.codes.asked.discard(metric)

    def _make_one(self, rows: Rows, metric: Metric) -> bool:
        """Code the next tile; whether there was one to code, and room for it."""
        full = self._tiling.rows or TILE_ROWS
        low = _next_row(rows.codes.tiles(metric), full)
        high = min(low + full, len(rows.vectors))
        done = rows.codes.tiles(metric)
        covered = done[-1].high if done else 0
        size = self._size(rows, high - low)
        if len(rows.vectors) - covered < LEAST_GROWTH or size > self._room():
            return False
        valid = None if rows.valid is None else rows.valid[low:high]
        tile = self._encode(rows.vectors[low:high], valid, metric, low)
        self._account(rows.codes, rows.codes.put(metric, tile))
        return True

    def _size(self, rows: Rows, count: int) -> int:
        """At least what a tile of so many rows takes: shared ones hold the rows as they are."""
        element = rows.vectors.itemsize if self._tiling.shared else 1
        return int(count * (rows.vectors.shape[1] * element + 16))

    def _account(self, codes: Codes, grown: int) -> None:
        with self._lock:
            self._bytes += grown
        if codes.held[0] == grown:
            weakref.finalize(codes, self._release, codes.held)

    def _release(self, held: list[int]) -> None:
        with self._lock:
            self._bytes -= held[0]


def _next_row(tiles: tuple[Tile, ...], full: int) -> int:
    """Where the next tile begins; a last one that is not full is made again."""
    if not tiles:
        return 0
    last = tiles[-1]
    return last.high if last.high - last.low == full else last.low
