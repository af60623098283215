"""Values of a few rows as Python objects, read from Arrow's buffers.

A kernel of Arrow takes 15 us to find ten strings, most of it on the way there; a loop over ten rows
takes 5. So the rows of one answer are read like this, and long lists by the kernels.

    numbers without NULLs               one element of a NumPy view of the buffer; float32 stays it
    texts                               offsets[i]:offsets[i + 1] of the data, decoded
    both with NULLs, booleans           the array's own scalars

What has no such form (vectors, times, decimals, nested values) has no reader.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import types as t

_PLAIN = frozenset(
    kind.id for kind in (pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64())
)
FEW_ROWS = 128  # whose values are read one by one
Reader = Callable[[int], Any]  # position in the array -> value; None = NULL


class Readers:
    """Of the chunks of a read view, made when first needed; safe in many threads."""

    def __init__(self, chunks: Sequence[tuple[Mapping[int, int], pa.RecordBatch]]) -> None:
        """chunks: with the place of each column's number."""
        self._chunks = chunks
        self._made: dict[int, Sequence[Reader] | None] = {}

    def values(
        self, numbers: Sequence[int], places: NDArray[np.int64], offsets: NDArray[np.int64]
    ) -> list[list[Any]] | None:
        """Of columns by number, the values of rows given by chunk and offset in it; None where one
        of the columns has no plain form everywhere.
        """
        at = list(zip(places.tolist(), offsets.tolist(), strict=True))
        found: list[list[Any]] = []
        for number in numbers:
            readers = self._of(number)
            if readers is None:
                return None
            found.append([readers[place](offset) for place, offset in at])
        return found

    def _of(self, number: int) -> Sequence[Reader] | None:
        if number not in self._made:
            made = [_of_chunk(number, *chunk) for chunk in self._chunks]
            whole = [reader for reader in made if reader is not None]
            self._made[number] = whole if len(whole) == len(made) else None
        return self._made[number]


def _of_chunk(number: int, columns: Mapping[int, int], chunk: pa.RecordBatch) -> Reader | None:
    place = columns.get(number)
    return None if place is None else reader_of(chunk.column(place))


def reader_of(array: pa.Array) -> Reader | None:
    """Reads single elements of an array; None where its type has no plain form.

    The reader keeps the array alive.
    """
    kind = array.type
    if t.is_string(kind) and not array.null_count:
        return _texts(array)
    if t.is_float32(kind) and not array.null_count:
        element: Reader = array.to_numpy().__getitem__
        return element
    if (t.is_integer(kind) or t.is_float64(kind)) and not array.null_count:
        item: Reader = array.to_numpy().item
        return item
    if t.is_string(kind) or t.is_integer(kind) or t.is_float64(kind) or t.is_boolean(kind):
        return lambda position: array[position].as_py()
    return None


def _texts(array: pa.StringArray) -> Reader:
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1].item
    view = memoryview(data if data is not None else b"")

    def text(position: int) -> str:
        return str(view[ends(position) : ends(position + 1)], "utf-8")

    return text


def take(array: pa.Array, offsets: NDArray[np.int64]) -> pa.Array:
    """These elements. Plain numbers by NumPy: Arrow's kernels take 100 us to find when cold."""
    if array.type.id in _PLAIN and array.null_count == 0:
        return pa.array(array.to_numpy()[offsets], array.type)
    return array.take(pa.array(offsets))
