"""The segment that takes writes: vectors in arrays with room, scalars as a few record batches.

A read view holds slices of the vector arrays up to the length that was published to it. Appending
writes beyond that length, so no view notices; when an array is full, its rows move to a larger one
and old views keep the old one. A small array doubles; beyond `_SMALL` rows the next one has room
for a whole segment, which costs address space, but no memory before rows come.

Scalar batches of similar size are merged as in a log-structured tree (`_FAN_IN` at a time), so that
n single-row inserts leave O(log n) batches and copy each row O(log n) times.

    1 1 1 1 1 1 1 1  ->  8          8 8 8 8 8 8 8 8  ->  64
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nearql.engine.codes import Codes
from nearql.engine.segment.data import SegmentData, VectorBlock
from nearql.engine.segment.rows import Rows
from nearql.engine.settings import EngineSettings

_FAN_IN = 8
_FIRST_CAPACITY = 64
_SMALL = 4096


class GrowingSegment:
    """Rows from position `base` on. Not thread-safe: the shard's lock guards it.

    Invariant: rows already published by `data` never change.
    """

    def __init__(self, base: int, settings: EngineSettings) -> None:
        self.base = base
        self._settings = settings
        self.rows = 0
        self.nbytes = 0  # of vectors and scalars, as given
        self._chunks: list[pa.RecordBatch] = []
        self._vectors: dict[int, _VectorBuffer] = {}

    def append(self, rows: Rows) -> None:
        """Add rows, which must have the columns of those before."""
        if rows.count == 0:
            return
        for number, block in rows.vectors.items():
            self._buffer(number, block).append(self.rows, block)
        self._chunks.append(rows.scalars)
        self._merge()
        self.rows += rows.count
        self.nbytes += rows.nbytes

    def data(self) -> SegmentData:
        """The rows so far; no copy."""
        vectors = {number: buffer.block(self.rows) for number, buffer in self._vectors.items()}
        return SegmentData(self.base, self.rows, tuple(self._chunks), vectors)

    def _buffer(self, number: int, block: VectorBlock) -> _VectorBuffer:
        found = self._vectors.get(number)
        if found is None:
            full = self._settings.seal_bytes // block.data.strides[0]
            found = _VectorBuffer(block, min(full, self._settings.seal_rows))
            self._vectors[number] = found
        return found

    def _merge(self) -> None:
        """Merge the last `_FAN_IN` batches while they are of similar size."""
        chunks = self._chunks
        while len(chunks) >= _FAN_IN and chunks[-_FAN_IN].num_rows < _FAN_IN * chunks[-1].num_rows:
            chunks[-_FAN_IN:] = [pa.concat_batches(chunks[-_FAN_IN:])]

    def check_invariants(self) -> None:
        """Raise AssertionError where state contradicts itself."""
        self.data().check_invariants()


class _VectorBuffer:
    """One vector column's arrays. full: rows that a whole segment has at most."""

    def __init__(self, like: VectorBlock, full: int) -> None:
        self._full = full
        capacity = self._room(like.data.shape[0])
        self._data = np.empty((capacity, like.data.shape[1]), like.data.dtype)
        self._norms = np.empty(capacity, np.float32)
        self._valid: NDArray[np.bool_] | None = None  # made by the first NULL
        self._codes = Codes()

    def _room(self, rows: int) -> int:
        return max(2 * rows, _FIRST_CAPACITY) if rows <= _SMALL else max(rows, self._full)

    def append(self, at: int, block: VectorBlock) -> None:
        end = at + block.data.shape[0]
        if end > self._data.shape[0]:
            self._grow(at, self._room(end))
        self._data[at:end] = block.data
        self._norms[at:end] = block.norms
        if block.valid is not None and self._valid is None:
            self._valid = np.ones(self._data.shape[0], np.bool_)
        if block.valid is not None and self._valid is not None:
            self._valid[at:end] = block.valid

    def block(self, rows: int) -> VectorBlock:
        valid = None if self._valid is None else self._valid[:rows]
        return VectorBlock(self._data[:rows], valid, self._norms[:rows], self._codes)

    def _grow(self, used: int, capacity: int) -> None:
        data = np.empty((capacity, self._data.shape[1]), self._data.dtype)
        norms = np.empty(capacity, np.float32)
        data[:used], norms[:used] = self._data[:used], self._norms[:used]
        if self._valid is not None:
            valid = np.ones(capacity, np.bool_)
            valid[:used] = self._valid[:used]
            self._valid = valid
        self._data, self._norms = data, norms
