"""Vectors that an expression makes of a column's: what an index on `vec::halfvec(n)` is over.

Nothing of them is stored. An index names rows, whose derived vectors are made anew from the
column's; where many rows are read, a segment's derived vectors are made once and kept in the column
cache while they fit there, else they are made piece by piece.

    column     [1.0001 2 3]  [0 0 70000]  NULL        float32, as the segment holds it
    half       [1.0    2 3]  [0 0 inf]    -           float16: a search that meets `inf` is an error
    part 1, 2  [2 3]         [0 70000]    -

Invariants: a derived vector depends on its row alone and is, to the bit, what SQL gives for the
expression; NULL stays NULL.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nearql.engine.bit_rows import from_bytes, from_signs, word_count
from nearql.engine.distance import row_norms

_tokens = itertools.count(1)
_HALF_MAX = 65_504  # the largest float16
_PIECE_ROWS = 4_096  # whose vectors are made at once


@dataclass(frozen=True, slots=True)
class Step:
    """half: rounded to float16. part: `count` dimensions from `first`, 0-based, on. signs: a one
    for each element above zero, as words. stored: bits as a BIT column stores them, as words.
    """

    what: Literal["half", "part", "signs", "stored"]
    first: int = 0
    count: int = 0

    def of(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The step taken with each row: (n, d) -> (n, of what it makes)."""
        if self.what == "half":
            with np.errstate(over="ignore"):
                return rows.astype(np.float16, copy=False)
        if self.what == "signs":
            return from_signs(rows)
        if self.what == "stored":
            return from_bytes(rows)
        return rows[:, self.first : self.first + self.count]


@dataclass(frozen=True, slots=True)
class Derivation:
    """Steps, the first first; at least one. dimensions: of what they make, or its bits."""

    steps: tuple[Step, ...]
    dimensions: int

    def of(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The derived vectors of some rows: (n, d) -> float32 or float16 (n, dimensions), or words
        of bits, C-contiguous. rows: uint8 (n, bytes) of a BIT column.
        """
        for step in self.steps:
            rows = step.of(rows)
        return np.ascontiguousarray(rows)

    @property
    def is_of_bits(self) -> bool:
        """Whether they make bit strings."""
        return self.steps[-1].what in ("signs", "stored")

    @property
    def width(self) -> int:
        """Elements, or words, of what they make."""
        return word_count(self.dimensions) if self.is_of_bits else self.dimensions

    @property
    def element(self) -> str:
        """NumPy's name of what they make of float32."""
        if self.is_of_bits:
            return "uint64"
        return "float16" if any(step.what == "half" for step in self.steps) else "float32"


class DerivedRows:
    """The derived vectors of a segment's rows; a look at some of them makes those.

    Stands where an array of vectors does as far as its shape and rows picked from it are concerned.
    """

    def __init__(self, rows: NDArray[Any], derivation: Derivation) -> None:
        self._rows = rows
        self._derivation = derivation
        self.token = -next(_tokens)  # keys it in the column cache, where views' tokens are positive
        self.is_of_bits = derivation.is_of_bits
        self.shape = (len(rows), derivation.width)
        self.dtype = derivation.of(rows[:1]).dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, where: slice | NDArray[Any]) -> NDArray[Any]:
        return self._derivation.of(self._rows[where])

    def take(self, positions: NDArray[np.int64], axis: int = 0) -> NDArray[Any]:
        """These rows, as `numpy.ndarray.take` along the first axis."""
        return self._derivation.of(self._rows.take(positions, axis=axis))

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return self.dtype.itemsize

    @property
    def size(self) -> int:
        """Elements of all rows."""
        return self.shape[0] * self.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows, were they made."""
        return self.size * self.itemsize

    @property
    def strides(self) -> tuple[int, int]:
        """As of an array of all rows."""
        return self.shape[1] * self.itemsize, self.itemsize

    @cached_property
    def norms(self) -> NDArray[np.float32]:
        """Euclidean lengths: float32, (n,); not finite where an element isn't. One for bits."""
        if self.is_of_bits:
            return np.ones(len(self), np.float32)
        lows = range(0, len(self), _PIECE_ROWS)
        norms = np.concatenate([row_norms(self[low : low + _PIECE_ROWS]) for low in lows])
        doubtful = np.flatnonzero(~(norms < _HALF_MAX))  # there, infinity passes for 65,536
        norms[doubtful[~np.isfinite(self[doubtful]).all(axis=1)]] = np.inf
        return norms

    @cached_property
    def beyond(self) -> NDArray[np.bool_] | None:
        """Rows of which an element is beyond its type's range, bool (n,); None = there is none."""
        found = ~np.isfinite(self.norms)
        found[found] = ~np.isfinite(self[np.flatnonzero(found)]).all(axis=1)
        return found if found.any() else None


Keep = Callable[[tuple[int, int], Callable[[], Any]], Any]  # as `ColumnCache.get`
