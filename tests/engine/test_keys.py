"""Keys: their form, and a hash that must never change."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from nearql.engine.keys import keys_of, shard_of


def test_shards_of_keys_never_change() -> None:
    """Rows are found again by this: a changed hash would lose every row of every old table."""
    integers = pa.array([0, 1, -1, 2**63 - 1, -(2**63)], pa.int64())
    assert shard_of(integers, 7).tolist() == INTEGERS
    assert shard_of(pa.array(["", "a", "ä€😀"]), 7).tolist() == TEXTS


INTEGERS = [2, 2, 0, 2, 6]
TEXTS = [5, 4, 6]


def test_every_width_of_integer_hashes_alike() -> None:
    """So that a key may be looked up by a narrower or wider literal."""
    kinds = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint64()]
    assert len({tuple(shard_of(pa.array([0, 1, 100], kind), 5).tolist()) for kind in kinds}) == 1


def test_shards_are_used_evenly() -> None:
    counts = np.bincount(shard_of(pa.array(range(30_000)), 3))
    assert counts.min() > 9_700
    texts = np.bincount(shard_of(pa.array([str(n) for n in range(30_000)]), 3))
    assert texts.min() > 9_700


def test_keys_of_nothing() -> None:
    assert keys_of(pa.array([], pa.int64())) == []
    assert keys_of(pa.chunked_array([], pa.string())) == []
