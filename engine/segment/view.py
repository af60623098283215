"""A segment at one instant: its rows and which of them are dead. Immutable; read views list these.

Offsets count from the segment's first row: position in the shard = data.base + offset.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nearql.engine.derived import Derivation
from nearql.engine.search import VectorSlice
from nearql.engine.segment.data import SegmentData
from nearql.engine.segment.rows import Rows

_tokens = itertools.count()


@dataclass(frozen=True, eq=False)
class SegmentView:
    """Rows with their tombstones.

    live: bool, shape (data.rows,), False where a tombstone is; None if there is none.
    dead: how many tombstones there are.
    token: unlike that of any other segment view of this process; keys the column cache.
    """

    data: SegmentData
    live: NDArray[np.bool_] | None = None
    dead: int = 0
    sealed: bool = False
    token: int = field(default_factory=lambda: next(_tokens))
    _slices: dict[tuple[int, int, Derivation | None], VectorSlice] = field(
        default_factory=dict, repr=False
    )

    @property
    def end(self) -> int:
        """The position after the last row."""
        return self.data.base + self.data.rows

    @cached_property
    def live_offsets(self) -> NDArray[np.int64]:
        """Offsets of live rows, int64, ascending."""
        if self.live is None:
            return np.arange(self.data.rows, dtype=np.int64)
        return np.flatnonzero(self.live)

    def live_rows(self) -> Iterator[Rows]:
        """Copies of the live rows, chunk by chunk."""
        ends = np.append(self.data.starts[1:], self.data.rows)
        for chunk, start, end in zip(self.data.chunks, self.data.starts, ends, strict=True):
            offsets = self.live_offsets
            offsets = offsets[(offsets >= start) & (offsets < end)]
            if offsets.size:
                scalars = chunk.take(pa.array(offsets - start))
                vectors = {n: block.take(offsets) for n, block in self.data.vectors.items()}
                yield Rows(len(offsets), scalars, vectors)

    def searchable(self, number: int) -> NDArray[np.bool_] | None:
        """bool (rows,): live and not NULL in this vector column; None if every row is."""
        valid = self.data.vectors[number].valid
        if self.live is None or valid is None:
            return self.live if valid is None else valid
        return self.live & valid

    def vector_slice(
        self, number: int, first_row: int, derivation: Derivation | None = None
    ) -> VectorSlice:
        """What a search needs of a vector column, or of what an expression makes of it; kept, as
        searches note statistics in it."""
        key = number, first_row, derivation
        found = self._slices.get(key)
        if found is None:
            found = self._slices[key] = self._sliced(number, first_row, derivation)
        return found

    def _sliced(self, number: int, first_row: int, derivation: Derivation | None) -> VectorSlice:
        if derivation is None:
            block, valid = self.data.vectors[number], self.searchable(number)
            return VectorSlice(block.data, first_row, valid, block.norms, block.codes)
        rows: Any = self.data.derived(number, derivation)
        valid = self.data.raw(number)[1]
        if self.live is not None:
            valid = self.live if valid is None else self.live & valid
        return VectorSlice(rows, first_row, valid, rows.norms)

    def forget_plans(self) -> None:
        """Let go of what searches noted of the segment's indexes: one has come or gone."""
        for one in list(self._slices.values()):
            one.rests.clear()
            one.plans.clear()

    def check_invariants(self) -> None:
        """Raise AssertionError where state contradicts itself."""
        self.data.check_invariants()
        if self.live is None:
            assert self.dead == 0
        else:
            assert self.live.shape == (self.data.rows,)
            assert self.dead == self.data.rows - int(np.count_nonzero(self.live))
