"""Bit strings on their way into storage: text of 0 and 1, or bytes, or lists -> bytes of bits.

A BIT(n) value is stored as ceil(n / 8) bytes, the first bit in the highest place of the first byte,
zeros behind the last. DuckDB knows BIT itself, so SQL sees `stored_bits(column)`, and answers show
bits as text (`duck.Cursor.query` sees to that).

Example: BIT(10) '1000000011' is stored as 0x80 0xC0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types as t

from nearql.engine.errors import InvalidValue
from nearql.engine.schema import Column
from nearql.query.plan import Value

_SHOWN = 40  # characters of a value in a message
_ZERO, _ONE = ord("0"), ord("1")


@dataclass(frozen=True, slots=True)
class Packed:
    """A BIT column in storage, NULL where a value doesn't fit; what is wrong with it, by row."""

    array: pa.Array
    wrong: dict[int, tuple[str, str]]  # row -> (code, why)


def stored_bits(name: str, bits: int) -> str:
    """SQL for a stored column (`name` is quoted) as DuckDB's BIT of `bits` bits."""
    if bits % 8 == 0:
        return f"CAST({name} AS BIT)"
    return f"CAST(left(CAST(CAST({name} AS BIT) AS VARCHAR), {bits}) AS BIT)"


def is_bit_text(given: object, bits: int) -> bool:
    """Whether a value is text of so many zeros and ones."""
    return isinstance(given, str) and len(given) == bits and not given.strip("01")


def bits_of(text: str | None, bits: int) -> NDArray[np.float32] | None:
    """A bit string as a query is given to the engine: float32 (bits,) of zeros and ones.

    Raises:
        InvalidValue: another length.
    """
    if text is None:
        return None
    if len(text) != bits:
        raise InvalidValue(
            f"The bit strings have different lengths: {bits} and {len(text)}.",
            code="different_dimensions",
        )
    found: NDArray[np.float32] = (np.frombuffer(text.encode(), np.uint8) == _ONE).astype("f4")
    return found


def signs_of(vector: NDArray[np.float32] | None, value: Value) -> NDArray[np.float32] | None:
    """The vector, or what `binary_quantize` makes of it where the value is meant to be bits."""
    if vector is None or not value.signs:
        return vector
    return (vector > 0).astype(np.float32)


def pack(given: pa.Array, column: Column) -> Packed | None:
    """Values in storage form; None where no value of the given type is a bit string.

    Args:
        given: text of 0 and 1; bytes of exactly the stored form; lists of booleans or of 0 and 1.
    """
    bits = column.type.bits or 0
    if t.is_null(given.type):
        return Packed(pa.nulls(len(given), column.type.storage), {})
    if t.is_binary(given.type) or t.is_fixed_size_binary(given.type):
        return _packed_bytes(given.cast(pa.binary()), bits)
    if t.is_list(given.type) or t.is_large_list(given.type) or t.is_fixed_size_list(given.type):
        return _packed_lists(given, bits)
    return _packed_texts(given, bits) if t.is_string(given.type) else None


def _packed_texts(given: pa.Array, bits: int) -> Packed:
    lengths = pc.binary_length(given).fill_null(bits).to_numpy(zero_copy_only=False)
    wrong = _wrong_lengths(lengths, bits)
    taken = _without(given, wrong)
    flat = np.frombuffer(b"".join(taken.drop_null().cast(pa.binary()).to_pylist()), np.uint8)
    rows = np.flatnonzero(taken.is_valid().to_numpy(zero_copy_only=False))
    strange = np.flatnonzero(((flat != _ZERO) & (flat != _ONE)).reshape(-1, bits).any(axis=1))
    for at in strange.tolist():
        shown = given[int(rows[at])].as_py()[:_SHOWN]
        wrong[int(rows[at])] = "invalid_value", f"{shown!r} is no text of 0 and 1"
    return _stored(flat.reshape(-1, bits) == _ONE, rows, len(given), wrong)


def _packed_bytes(given: pa.Array, bits: int) -> Packed:
    size = (bits + 7) // 8
    lengths = pc.binary_length(given).fill_null(size).to_numpy(zero_copy_only=False)
    wrong = {
        int(row): ("wrong_dimensions", f"expected {size} bytes for {bits} bits, got {lengths[row]}")
        for row in np.flatnonzero(lengths != size)
    }
    taken = _without(given, wrong)
    rows = np.flatnonzero(taken.is_valid().to_numpy(zero_copy_only=False))
    flat = np.frombuffer(b"".join(taken.drop_null().to_pylist()), np.uint8).reshape(-1, size)
    unpacked = np.unpackbits(flat, axis=1)
    for at in np.flatnonzero(unpacked[:, bits:].any(axis=1)).tolist():
        wrong[int(rows[at])] = "invalid_value", f"a bit behind the last of {bits} is set"
    return _stored(unpacked[:, :bits], rows, len(given), wrong)


def _packed_lists(given: pa.Array, bits: int) -> Packed | None:
    kind = given.type.value_type
    if not (t.is_boolean(kind) or t.is_integer(kind)):
        return None
    if t.is_fixed_size_list(given.type):
        lengths = np.full(len(given), given.type.list_size)
    else:
        lengths = pc.list_value_length(given).fill_null(bits).to_numpy(zero_copy_only=False)
    valid = given.is_valid().to_numpy(zero_copy_only=False)
    wrong = _wrong_lengths(np.where(valid, lengths, bits), bits)
    kept = np.flatnonzero(valid & ~np.isin(np.arange(len(given)), list(wrong)))
    flat = given.take(pa.array(kept)).flatten().cast(pa.int64())
    numbers = flat.fill_null(-1).to_numpy(zero_copy_only=False).reshape(-1, bits)
    for at in np.flatnonzero(((numbers != 0) & (numbers != 1)).any(axis=1)).tolist():
        wrong[int(kept[at])] = "invalid_value", "a list of bits holds 0 and 1 only"
    return _stored(numbers == 1, kept, len(given), wrong)


def _wrong_lengths(lengths: NDArray[np.int64], bits: int) -> dict[int, tuple[str, str]]:
    return {
        int(row): ("wrong_dimensions", f"expected {bits} bits, got {lengths[row]}")
        for row in np.flatnonzero(lengths != bits)
    }


def _without(given: pa.Array, wrong: dict[int, tuple[str, str]]) -> pa.Array:
    if not wrong:
        return given
    keep = ~np.isin(np.arange(len(given)), list(wrong))
    return pc.if_else(pa.array(keep), given, pa.scalar(None, given.type))


def _stored(
    values: NDArray[np.bool_] | NDArray[np.uint8],
    rows: NDArray[np.int64],
    count: int,
    wrong: dict[int, tuple[str, str]],
) -> Packed:
    """`values` (m, n) of these rows among `count`, packed."""
    size = (values.shape[1] + 7) // 8
    packed = np.zeros((count, size), np.uint8)
    packed[rows] = np.packbits(values, axis=1)
    valid = np.zeros(count, np.bool_)
    valid[rows] = True
    valid[list(wrong)] = False
    mask = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little").tobytes())
    kind = pa.binary(size)
    array = pa.Array.from_buffers(kind, count, [mask, pa.py_buffer(packed.tobytes())])
    return Packed(array, wrong)
