"""What a copy holds at an LSN, as numbers that are equal on all copies that hold the same.

    row     blake2b-16 of (each column: is it there, length, bytes), in the order that was asked for
    bucket  one of 256, by the key's crc32c; the sum mod 2^128 of its rows' hashes
    copy    256 buckets: sums don't depend on the order of rows, nor on segments

A column that a segment lacks, as it was added later, counts with its fill.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
from crc32c import crc32c

from nearql.engine.segment.damage import damage_of
from nearql.engine.segment.view import SegmentView
from nearql.engine.shard.copy import ContentHashes
from nearql.engine.shard.state import ShardView

BUCKETS = 256
_SUM_MASK = (1 << 128) - 1
_BATCH_ROWS = 4_096  # hashed at a time: what is in memory twice
_NULL = b"\0"


class Holds:
    """Views that somebody wants at an LSN that is not applied yet. The shard's lock guards it."""

    def __init__(self) -> None:
        self._wanted: list[Hold] = []

    def want(self, lsn: int) -> Hold:
        """The view of exactly that LSN, when it is there."""
        hold = Hold(lsn)
        self._wanted.append(hold)
        return hold

    def forget(self, hold: Hold) -> None:
        """It is not wanted any more."""
        if hold in self._wanted:
            self._wanted.remove(hold)

    def settle(self, up_to_lsn: int, view: Callable[[], ShardView]) -> None:
        """Everything up to there is applied and nothing above: views of such LSNs are as now."""
        for hold in [hold for hold in self._wanted if hold.lsn <= up_to_lsn]:
            hold.view = view()
            hold.there.set()
            self._wanted.remove(hold)


class Hold:
    """One of them. there: set when `view` is."""

    def __init__(self, lsn: int) -> None:
        self.lsn = lsn
        self.there = threading.Event()
        self.view: ShardView | None = None


def content_hashes(
    view: ShardView, lsn: int, key_number: int, columns: Sequence[int],
    between: Callable[[], None] = lambda: None,
) -> ContentHashes:  # fmt: skip
    """See `ShardCopy.content_hashes`; `view` shows the rows of that LSN.

    Raises:
        Corruption: a segment was set aside: what it held is not known.
    """
    sums = [0] * BUCKETS
    for segment in view.segments:
        damage = damage_of(segment.data)
        if damage is not None:
            raise damage.error()
        for key, row in _rows(segment, view, (key_number, columns), between):
            digest = blake2b(row, digest_size=16).digest()
            sums[crc32c(key) % BUCKETS] += int.from_bytes(digest, "little")
    buckets = tuple(total & _SUM_MASK for total in sums)
    return ContentHashes(lsn, view.live, buckets, tuple(columns))


def _rows(
    segment: SegmentView, view: ShardView, wanted: tuple[int, Sequence[int]],
    between: Callable[[], None],
) -> Iterator[tuple[bytes, bytes]]:  # fmt: skip
    """(key, row) of each live row, as bytes. wanted: numbers of the key and of the columns."""
    key_number, columns = wanted
    live = segment.live_offsets
    for first in range(0, len(live), _BATCH_ROWS):
        between()
        offsets = live[first : first + _BATCH_ROWS]
        keys = _column(segment, view, key_number, offsets)
        parts = [_column(segment, view, number, offsets) for number in columns]
        for key, *row in zip(keys, *parts, strict=True):
            yield key, b"".join(row)


def _column(
    segment: SegmentView, view: ShardView, number: int, offsets: np.ndarray[Any, Any]
) -> list[bytes]:
    """One column's bytes, row by row."""
    data = segment.data
    if number in data.vectors:
        block = data.vectors[number]
        there = [True] * len(offsets) if block.valid is None else block.valid[offsets].tolist()
        taken = block.data[offsets]
        return [
            _framed(taken[row].tobytes()) if valid else _NULL for row, valid in enumerate(there)
        ]
    if not data.has(number):
        fill = view.fills.get(number)
        return [_fill_bytes(fill)] * len(offsets)
    return [_value_bytes(value) for value in _plain(data.column(number).take(pa.array(offsets)))]


def _plain(values: pa.ChunkedArray) -> list[Any]:
    """As Python values that don't depend on which libraries are installed: times as integers."""
    if pa.types.is_temporal(values.type) and not pa.types.is_interval(values.type):
        width = pa.int32() if values.type.bit_width == 32 else pa.int64()
        values = values.cast(width)
    found: list[Any] = values.to_pylist()
    return found


def _fill_bytes(fill: pa.Scalar | None) -> bytes:
    if fill is None or not fill.is_valid:
        return _NULL
    if pa.types.is_list(fill.type) or pa.types.is_fixed_size_list(fill.type):
        value_type = fill.type.value_type
        if pa.types.is_floating(value_type):
            return _framed(np.array(fill.as_py(), value_type.to_pandas_dtype()).tobytes())
    return _value_bytes(_plain(pa.chunked_array([pa.array([fill.as_py()], fill.type)]))[0])


def _value_bytes(value: Any) -> bytes:
    if value is None:
        return _NULL
    if isinstance(value, str):
        return _framed(value.encode())
    return _framed(value if isinstance(value, bytes) else repr(value).encode())


def _framed(data: bytes) -> bytes:
    return b"\1" + len(data).to_bytes(4, "little") + data
