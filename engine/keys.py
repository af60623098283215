"""Primary keys: canonical form, and the shard that a key belongs to.

Canonical forms: int for the integer types, str for TEXT, lower-case hyphenated str for UUID.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Key = int | str
NOWHERE = -1  # the position of a key that the index does not hold


def keys_of(array: pa.Array | pa.ChunkedArray) -> list[Key]:
    """Canonical keys of a key column without NULLs."""
    if pa.types.is_integer(array.type):
        chunks = array.chunks if isinstance(array, pa.ChunkedArray) else [array]
        # Not to_numpy: where pandas is installed that imports it, half a second of every start.
        return [key for chunk in chunks for key in np.from_dlpack(chunk).tolist()]
    texts: list[Key] = array.to_pylist()
    return texts


def keys_array(keys: Sequence[Key], kind: pa.DataType) -> pa.Array:
    """The keys as Arrow data of the key column's type."""
    return pa.array(keys, kind)


def shard_of(array: pa.Array, shards: int) -> NDArray[np.int64]:
    """The shard of each key, int64: a hash that never changes, whatever the process or version.

    Integers: splitmix64's finaliser over the two's complement. Text: the first 8 bytes of blake2b.
    """
    if shards == 1:
        return np.zeros(len(array), np.int64)
    if pa.types.is_integer(array.type):
        hashes = _mix(array.to_numpy(zero_copy_only=False))
    else:
        hashes = np.fromiter(map(_text_hash, array.to_pylist()), np.uint64, len(array))
    return (hashes % np.uint64(shards)).astype(np.int64)


def _text_hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _mix(keys: NDArray[np.integer]) -> NDArray[np.uint64]:
    """splitmix64's finaliser (Steele, Lea, Flood 2014: Fast splittable generators)."""
    wide = keys.astype(np.uint64 if keys.dtype.kind == "u" else np.int64)
    x = wide.view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
