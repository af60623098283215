"""Values -> columns in storage types, strictly: what doesn't fit is told by column, row, value and
type.

Arrow casts what it can cast without a doubt; everything else goes to DuckDB, whose rules for
implicit casts are SQL's here (text to numbers and dates, 1.6 into BIGINT rounds). Vectors never go
through DuckDB.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types as t

from nearql.engine.errors import InvalidValue, NearQLError
from nearql.engine.schema import Column
from nearql.query import duck
from nearql.query.bits import pack
from nearql.query.parameters import scalar, vector

_SHOWN = 80  # characters of a value in a message


@dataclass(frozen=True, slots=True)
class RowFailure:
    """Why a row can't be stored. row: 0-based position among the rows given."""

    row: int
    code: str
    detail: str
    sqlstate: str = "22000"

    def error(self, column: str | None = None) -> InvalidValue:
        """As the error of a statement that is refused because of it."""
        extra: dict[str, Any] = {"row": self.row} | ({"column": column} if column else {})
        return InvalidValue(self.detail, code=self.code, sqlstate=self.sqlstate, **extra)


@dataclass(frozen=True, slots=True)
class Cast:
    """A column in its storage type, NULL where the cast failed, and what failed, in row order."""

    array: pa.Array
    failures: list[RowFailure]


def cast_column(given: pa.Array | pa.ChunkedArray, column: Column) -> Cast:
    """Cast an Arrow column to a table column's storage type.

    Raises:
        InvalidValue: no value of the given type can ever be cast (a list into BIGINT, say).
    """
    array = plain(given)
    if column.type.is_vector:
        return _cast_vectors(array, column)
    if column.type.bits is not None:
        return _cast_bits(array, column)
    if array.type == column.type.storage and column.type.name not in ("UUID", "JSON"):
        return Cast(array, [])
    if _is_safe(array.type, column):
        try:
            return Cast(array.cast(column.type.storage), [])
        except pa.ArrowInvalid:
            pass  # some value doesn't fit exactly: DuckDB rounds it or says which
    return _duck_cast(array, column)


def cast_values(values: list[Any], column: Column) -> Cast:
    """Cast Python values to a table column's storage type; None is NULL."""
    if column.type.is_vector:
        return _cast_vector_values(values, column)
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1 or kinds <= {int, float}:
        return cast_column(_inferred(values, column), column)
    return _cast_mixed(values, sorted(kinds, key=str), column)


def plain(given: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The same values as one array without dictionaries, extensions, views and half floats."""
    array = given.combine_chunks() if isinstance(given, pa.ChunkedArray) else given
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if isinstance(array.type, pa.BaseExtensionType):
        uuids = array.type.extension_name == "arrow.uuid"
        array = _uuid_texts(array.storage) if uuids else array.storage
    if t.is_dictionary(array.type):  # Arrow decodes none of views
        array = plain(array.dictionary).take(array.indices)
    if t.is_large_string(array.type) or t.is_string_view(array.type):
        return array.cast(pa.string())
    if (
        t.is_large_binary(array.type)
        or t.is_binary_view(array.type)
        or t.is_fixed_size_binary(array.type)
    ):
        return array.cast(pa.binary())
    if t.is_float16(array.type):
        return array.cast(pa.float32())
    if t.is_decimal256(array.type):
        return array.cast(pa.string())  # DuckDB has no number as long, and reads its digits
    return array


def _uuid_texts(array: pa.Array) -> pa.Array:
    """Sixteen bytes each as SQL spells a UUID."""
    texts = [None if raw is None else str(UUID(bytes=raw)) for raw in array.to_pylist()]
    return pa.array(texts, pa.string())


def _is_safe(kind: pa.DataType, column: Column) -> bool:
    """Whether Arrow's checked cast means the same as SQL's, as long as it succeeds."""
    target = column.type.storage
    if t.is_null(kind):
        return True
    if t.is_integer(kind):
        return bool(t.is_integer(target) or target == pa.float64())
    if t.is_floating(kind):
        return bool(target == pa.float64() or t.is_integer(target))
    if t.is_timestamp(kind):
        return bool(t.is_timestamp(target) and (kind.tz is None) == (target.tz is None))
    return bool(t.is_date(kind) and t.is_date32(target))


def _cast_bits(array: pa.Array, column: Column) -> Cast:
    packed = pack(array, column)
    if packed is None:
        raise _wrong_type(array, column)
    failures = [
        RowFailure(row, code, f"Column {column.name!r}: {why}.", "22P02")
        for row, (code, why) in sorted(packed.wrong.items())
    ]
    return Cast(packed.array, failures)


# ---- scalars --------------------------------------------------------------------------


def _inferred(values: list[Any], column: Column) -> pa.Array:
    try:
        if column.type.name == "JSON":
            return pa.array([_json_text(value) for value in values], pa.string())
        if any(type(value).__name__ == "UUID" for value in values):
            return pa.array(
                [None if value is None else str(value) for value in values], pa.string()
            )
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        shown = _shown(next(value for value in values if value is not None))
        raise InvalidValue(
            f"Column {column.name!r}: {shown} is no {column.type.display}.", column=column.name
        ) from error


def _json_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _cast_mixed(values: list[Any], kinds: list[type], column: Column) -> Cast:
    """Values of several Python types: each type's on its own, put together again."""
    parts, rows, failures = [], [], []
    for kind in [*kinds, type(None)]:
        mine = [row for row, value in enumerate(values) if type(value) is kind]
        if not mine:
            continue
        cast = cast_values([values[row] for row in mine], column)
        parts.append(cast.array)
        rows.extend(mine)
        failures += [RowFailure(mine[f.row], f.code, f.detail, f.sqlstate) for f in cast.failures]
    order = np.argsort(np.array(rows), kind="stable")
    whole = pa.concat_arrays(parts).take(pa.array(order))
    return Cast(whole, sorted(failures, key=lambda failure: failure.row))


def _duck_cast(array: pa.Array, column: Column) -> Cast:
    with duck.shared().cursor() as cursor:
        try:
            cursor.register("nq0_given", pa.table({"v": array}))
            answer = cursor.query(f"SELECT TRY_CAST(v AS {column.type.duck}) AS v FROM nq0_given")
        except NearQLError as error:
            raise InvalidValue(
                f"Column {column.name!r} is {column.type.display}; values of type {array.type} "
                "can't be stored in it.",
                code="wrong_type", sqlstate="42804", column=column.name,
            ) from error  # fmt: skip
    made = plain(answer.table.column(0))
    if made.type != column.type.storage:
        made = made.cast(column.type.storage)
    failed = pc.and_(array.is_valid(), made.is_null()).to_numpy(zero_copy_only=False)
    return Cast(made, [_failure(array, column, int(row)) for row in np.flatnonzero(failed)])


def _failure(array: pa.Array, column: Column, row: int) -> RowFailure:
    shown = _shown_at(array, row)
    detail = f"Column {column.name!r}: {shown} is no {column.type.display}."
    number = t.is_integer(array.type) or t.is_floating(array.type) or t.is_decimal(array.type)
    if number:
        detail = f"Column {column.name!r}: {shown} is out of range of {column.type.display}."
    return RowFailure(
        row, "out_of_range" if number else "invalid_value", detail, "22003" if number else "22P02"
    )


def _shown_at(array: pa.Array, row: int) -> str:
    try:
        return _shown(array[row].as_py())
    except (OverflowError, ValueError):  # Python's dates end with the year 9999
        return f"a {array.type} beyond the year 9999"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


# ---- vectors --------------------------------------------------------------------------


def _cast_vector_values(values: list[Any], column: Column) -> Cast:
    dimensions = column.type.dimensions or 0
    vectors = np.zeros((len(values), dimensions), np.float32)
    valid = np.ones(len(values), np.bool_)
    failures: list[RowFailure] = []
    for row, value in enumerate(values):
        try:
            made = vector(
                scalar_or_array(value), dimensions=dimensions, where=f"Column {column.name!r}"
            )
        except InvalidValue as error:
            failures.append(RowFailure(row, error.code, error.detail, error.sql_state))
            made = None
        if made is None:
            valid[row] = False
        else:
            vectors[row] = made
    return _stored(vectors, valid, column, failures)


def scalar_or_array(value: Any) -> Any:
    """A parameter's value as `parameters.vector` takes it."""
    return (
        value if isinstance(value, np.ndarray | str | bytes | list) else scalar(value, "a vector")
    )


def _cast_vectors(array: pa.Array, column: Column) -> Cast:
    kind, dimensions = array.type, column.type.dimensions or 0
    if not (t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind)):
        if t.is_string(kind) or t.is_binary(kind) or t.is_null(kind):
            return _cast_vector_values(array.to_pylist(), column)
        raise _wrong_type(array, column)
    if not (
        t.is_floating(kind.value_type)
        or t.is_integer(kind.value_type)
        or t.is_decimal(kind.value_type)
    ):
        raise _wrong_type(array, column)
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    failures: list[RowFailure] = []
    _wrong_lengths(array, valid, column, failures)
    vectors = _numbers(array, valid, dimensions)
    _not_finite(array, vectors, valid, column, failures)
    return _stored(vectors, valid, column, failures)


def _wrong_type(array: pa.Array, column: Column) -> InvalidValue:
    return InvalidValue(
        f"Column {column.name!r} is {column.type.display}; values of type {array.type} "
        "can't be stored in it.",
        code="wrong_type", sqlstate="42804", column=column.name,
    )  # fmt: skip


def _wrong_lengths(
    array: pa.Array, valid: NDArray[np.bool_], column: Column, failures: list[RowFailure]
) -> None:
    """Mark vectors of another dimension as not valid, and say so."""
    dimensions = column.type.dimensions or 0
    if t.is_fixed_size_list(array.type):
        lengths = np.full(len(array), array.type.list_size)
    else:
        lengths = pc.list_value_length(array).fill_null(dimensions).to_numpy(zero_copy_only=False)
    for row in np.flatnonzero(valid & (lengths != dimensions)).tolist():
        detail = f"Column {column.name!r}: expected {dimensions} dimensions, got {lengths[row]}."
        failures.append(RowFailure(row, "wrong_dimensions", detail))
        valid[row] = False


def _numbers(array: pa.Array, valid: NDArray[np.bool_], dimensions: int) -> NDArray[np.float32]:
    """Shape (n, d) float32; zeros where not valid. No copy where the column is valid float32
    throughout.
    """
    whole = bool(valid.all())
    flat = (array if whole else array.filter(pa.array(valid))).flatten()
    if t.is_decimal(flat.type):
        flat = flat.cast(pa.float64())
    given = flat.to_numpy(zero_copy_only=False)  # NULL elements become NaN, refused below
    with np.errstate(over="ignore"):
        numbers: NDArray[np.float32] = given.astype(np.float32, copy=False)
    numbers = numbers.reshape(-1, dimensions)
    if whole:
        return numbers
    vectors = np.zeros((len(array), dimensions), np.float32)
    vectors[valid] = numbers
    return vectors


def _not_finite(
    array: pa.Array, vectors: NDArray[np.float32], valid: NDArray[np.bool_], column: Column,
    failures: list[RowFailure],
) -> None:  # fmt: skip
    # A vector's sum is finite unless an element is not, or it overflows: only then look closer.
    with np.errstate(over="ignore", invalid="ignore"):
        suspects = np.flatnonzero(~np.isfinite(vectors.sum(axis=1)))
    for row in suspects.tolist():
        wrong = np.flatnonzero(~np.isfinite(vectors[row]))
        if not len(wrong):
            continue
        at = int(wrong[0])
        given = array[row].as_py()[at]
        reason = "NULL" if given is None else f"{given}, which is not finite as a float32"
        detail = f"Column {column.name!r}: element {at + 1} is {reason}."
        failures.append(RowFailure(row, "invalid_vector", detail, "22P02"))
        valid[row] = False


def _stored(
    vectors: NDArray[np.float32],
    valid: NDArray[np.bool_],
    column: Column,
    failures: list[RowFailure],
) -> Cast:
    flat: NDArray[Any] = vectors
    if column.type.element == "float16":
        with np.errstate(over="ignore"):
            flat = vectors.astype(np.float16)
        for row in np.flatnonzero(valid & np.isinf(flat).any(axis=1)).tolist():
            detail = (
                f"Column {column.name!r}: an element is beyond the range of {column.type.display}."
            )
            failures.append(RowFailure(row, "invalid_vector", detail, "22003"))
            valid[row] = False
    mask = None if valid.all() else pa.array(~valid)
    values = pa.array(np.ascontiguousarray(flat).reshape(-1))
    array = pa.FixedSizeListArray.from_arrays(values, column.type.dimensions, mask=mask)
    return Cast(array.cast(column.type.storage), sorted(failures, key=lambda failure: failure.row))
