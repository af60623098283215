"""The immutable picture of a segment's rows, which read views hold for as long as they like.

    position   base        base+1      ...            base+rows-1
    chunks     [ RecordBatch 0      | RecordBatch 1 | ...       ]   scalars, columns named by number
    vectors    {number: VectorBlock (rows, d)}                      one contiguous array per column

A growing segment publishes a new picture after each write (cheap: nothing is copied), a sealed one
has exactly one. Columns are known by number; one that a segment lacks was added later and reads as
its fill.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nearql.engine.codes import Codes
from nearql.engine.derived import Derivation, DerivedRows
from nearql.engine.index.base import VectorIndex


@dataclass(frozen=True, slots=True)
class VectorBlock:
    """Vectors of n rows.

    data: float32 or float16, shape (n, d), C-contiguous; zeros where the vector is NULL.
    valid: bool, shape (n,), False where the vector is NULL; None if none is.
    norms: float32, shape (n,), L2 norms.
    codes: of the rows, whatever the length of this view of them.
    """

    data: NDArray[np.float32] | NDArray[np.float16]
    valid: NDArray[np.bool_] | None
    norms: NDArray[np.float32]
    codes: Codes = field(default_factory=Codes, compare=False, repr=False)

    def take(self, offsets: NDArray[np.int64] | slice) -> VectorBlock:
        """These rows; a slice copies nothing."""
        valid = None if self.valid is None else self.valid[offsets]
        return VectorBlock(self.data[offsets], valid, self.norms[offsets])

    @property
    def nbytes(self) -> int:
        """Bytes of vectors and norms."""
        return self.data.nbytes + self.norms.nbytes


@dataclass(frozen=True, eq=False)
class SegmentData:
    """Rows at positions `base` to `base + rows - 1` of a shard.

    Invariant: chunks have the same columns, none is empty, and their rows add up to `rows`; each
    block in `vectors` has `rows` rows.

    indexes: those built over these rows so far, by uuid of their definition.
    made: what expressions make of vector columns, by column and expression.
    """

    base: int
    rows: int
    chunks: tuple[pa.RecordBatch, ...]
    vectors: Mapping[int, VectorBlock]
    indexes: dict[str, VectorIndex] = field(default_factory=dict, compare=False, repr=False)
    made: dict[tuple[int, Derivation], DerivedRows] = field(
        default_factory=dict, compare=False, repr=False
    )

    @cached_property
    def columns(self) -> Mapping[int, int]:
        """Scalar column number -> its place in each chunk."""
        names = self.chunks[0].schema.names if self.chunks else []
        return {int(name): place for place, name in enumerate(names)}

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Offset of each chunk's first row, int64."""
        sizes = [chunk.num_rows for chunk in self.chunks]
        return np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64) if sizes else _NONE

    def has(self, number: int) -> bool:
        """Whether the segment stores this column."""
        return number in self.columns or number in self.vectors

    def derived(self, number: int, derivation: Derivation) -> DerivedRows:
        """What an expression makes of a vector column; kept, as it learns the rows' lengths."""
        found = self.made.get((number, derivation))
        if found is None:
            found = DerivedRows(self.raw(number)[0], derivation)
            self.made[number, derivation] = found
        return found

    def raw(self, number: int) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """What expressions over a column are made of: a vector column's rows, or the bytes of a BIT
        column, (n, bytes); and which are not NULL, None = all.
        """
        if number in self.vectors:
            block = self.vectors[number]
            return block.data, block.valid
        chunks = self.column(number).chunks
        valid = None
        if any(chunk.null_count for chunk in chunks):
            valid = np.concatenate([c.is_valid().to_numpy(zero_copy_only=False) for c in chunks])
        rows = [_bytes_of(chunk) for chunk in chunks]
        return (rows[0] if len(rows) == 1 else np.concatenate(rows)), valid

    def column(self, number: int) -> pa.ChunkedArray:
        """A scalar column of every row; no copy."""
        place = self.columns[number]
        return pa.chunked_array([chunk.column(place) for chunk in self.chunks])

    @property
    def nbytes(self) -> int:
        """Bytes of columns, vectors and norms."""
        scalars: int = sum(chunk.nbytes for chunk in self.chunks)
        return scalars + sum(block.nbytes for block in self.vectors.values())

    def check_invariants(self) -> None:
        """Raise AssertionError where the picture contradicts itself."""
        assert sum(chunk.num_rows for chunk in self.chunks) == self.rows
        assert all(chunk.num_rows > 0 for chunk in self.chunks)
        assert all(chunk.schema == self.chunks[0].schema for chunk in self.chunks)
        for block in self.vectors.values():
            assert block.data.shape[0] == block.norms.shape[0] == self.rows
            assert block.data.flags.c_contiguous
            assert block.valid is None or block.valid.shape == (self.rows,)


def _bytes_of(array: pa.Array) -> NDArray[np.uint8]:
    """Fixed-size binaries as bytes, (n, size), whatever where they are NULL; no copy."""
    size = array.type.byte_width
    flat = np.frombuffer(array.buffers()[1], np.uint8)
    return flat[array.offset * size : (array.offset + len(array)) * size].reshape(-1, size)


_NONE: NDArray[np.int64] = np.empty(0, np.int64)
