"""Indexes that outlive their segments: rows moved into another file are found by the old index
until the new one is built, so that joining and compacting never makes a search slow.

    old segments   A: 0 1 2 3 (indexed)      B: 0 1 2 (not)       C: 0 1 2 (indexed, 1 is dead)
    new segment       0 1 2 3                   4 5 6                7   8
    covered           y y y y                   n n n                y   y

Positions are translated, nothing is copied. Rows of parts without an index are not covered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nearql.engine.index.base import Unlisted, VectorIndex
from nearql.engine.types import Metric


@dataclass(frozen=True, eq=False)
class Part:
    """Rows that one old segment gave to a new one.

    start: their first position in the new one. rows: how many they are. index: over the old
    segment, None = it had none. kept: bool over the old segment's rows, None = all.
    """

    start: int
    rows: int
    index: VectorIndex | None
    kept: NDArray[np.bool_] | None = None

    def search(
        self, queries: NDArray[np.float32], count: int, effort: int,
        mask: NDArray[np.bool_] | None, threads: int,
    ) -> NDArray[np.int64]:  # fmt: skip
        """As `VectorIndex.search`, in positions of the new segment."""
        assert self.index is not None
        if mask is not None:
            mask = mask[self.start : self.start + self.rows]
        if self.kept is not None:
            mask = self.kept if mask is None else self._old_mask(mask)
        found = self.index.search(queries, count, effort=effort, mask=mask, threads=threads)
        if self.kept is None:
            return np.where(found < 0, -1, found + self.start)
        return np.where(found < 0, -1, self._places[found])

    def _old_mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        assert self.kept is not None
        old = np.zeros(len(self.kept), np.bool_)
        old[self.kept] = mask
        return old

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        """The new position of each old row that was kept."""
        assert self.kept is not None
        return np.cumsum(self.kept) - 1 + self.start

    def covered(self) -> NDArray[np.bool_]:
        """Which of its rows the old index may name: bool (rows,)."""
        if self.index is None:
            return np.zeros(self.rows, np.bool_)
        covered = self.index.covered
        if covered is None:
            return np.ones(self.rows, np.bool_)
        return covered if self.kept is None else covered[self.kept]


@dataclass(frozen=True, eq=False)
class CarriedIndex(Unlisted):
    """Implements `VectorIndex` over the parts of a new segment; at least one has an index."""

    parts: Sequence[Part]

    @cached_property
    def _indexed(self) -> list[Part]:
        return [part for part in self.parts if part.index is not None]

    @cached_property
    def _first(self) -> VectorIndex:
        index = self._indexed[0].index
        assert index is not None
        return index

    @property
    def kind(self) -> str:
        """See `VectorIndex`."""
        return self._first.kind

    @property
    def metric(self) -> Metric:
        """See `VectorIndex`."""
        return self._first.metric

    @property
    def rows(self) -> int:
        """See `VectorIndex`."""
        return sum(part.rows for part in self.parts)

    @cached_property
    def covered(self) -> NDArray[np.bool_] | None:
        """See `VectorIndex`."""
        covered = np.concatenate([part.covered() for part in self.parts])
        return None if covered.all() else covered

    @property
    def nbytes(self) -> int:
        """See `VectorIndex`."""
        return sum(part.index.nbytes for part in self._indexed if part.index is not None)

    def search(
        self,
        queries: NDArray[np.float32],
        count: int,
        *,
        effort: int,
        mask: NDArray[np.bool_] | None,
        threads: int = 1,
    ) -> NDArray[np.int64]:
        """See `VectorIndex.search`; `count` of each part."""
        found = [part.search(queries, count, effort, mask, threads) for part in self._indexed]
        return np.concatenate(found, axis=1)

    def candidates(self, k: int) -> int:
        """See `VectorIndex.candidates`."""
        return self._first.candidates(k)

    def efforts(self, count: int) -> tuple[int, ...]:
        """See `VectorIndex.efforts`."""
        return self._first.efforts(count)
