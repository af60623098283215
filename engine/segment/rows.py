"""Rows on their way into a segment: columns by number, vectors as arrays, everything checked.

`Rows.of` is the one door through which rows enter a table: what passes it is stored.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nearql.engine.distance import row_norms
from nearql.engine.errors import InvalidValue
from nearql.engine.schema import Column, TableSchema
from nearql.engine.segment.data import VectorBlock

_UUID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"


@dataclass(frozen=True, slots=True)
class Rows:
    """n checked rows.

    scalars: columns named by number, the key included; every one has n values.
    vectors: a block of n rows per vector column number.
    """

    count: int
    scalars: pa.RecordBatch
    vectors: Mapping[int, VectorBlock]

    @classmethod
    def of(cls, schema: TableSchema, table: pa.Table) -> Rows:
        """Check rows given in `schema.storage_schema()`.

        Raises:
            InvalidValue: wrong columns or types, NULL in a NOT NULL column, a vector that is not
                finite; the message names row (position in `table`) and column.
        """
        _check_shape(schema, table)
        scalars: dict[str, pa.Array] = {}
        vectors: dict[int, VectorBlock] = {}
        for column in schema.columns:
            array = _single(table.column(column.name))
            _check_nulls(column, array, column.number == schema.key_number)
            if column.type.is_vector:
                vectors[column.number] = _block(column, array)
            else:
                scalars[str(column.number)] = _scalar(column, array)
        batch = pa.RecordBatch.from_arrays(list(scalars.values()), names=list(scalars))
        return cls(table.num_rows, batch, vectors)

    def key(self, number: int) -> pa.Array:
        """The values of the key column, which has this number."""
        return self.scalars.column(str(number))

    def take(self, offsets: NDArray[np.int64]) -> Rows:
        """These rows in this order, copied."""
        scalars = self.scalars.take(pa.array(offsets))
        return Rows(len(offsets), scalars, {n: b.take(offsets) for n, b in self.vectors.items()})

    def slice(self, start: int, stop: int) -> Rows:
        """Rows `start` to `stop - 1`; no copy."""
        blocks = {n: b.take(slice(start, stop)) for n, b in self.vectors.items()}
        return Rows(stop - start, self.scalars.slice(start, stop - start), blocks)

    @property
    def nbytes(self) -> int:
        """Bytes of values."""
        scalars: int = self.scalars.nbytes
        return scalars + sum(block.nbytes for block in self.vectors.values())


def same_type(given: pa.DataType, stored: pa.DataType) -> bool:
    """Whether two Arrow types differ at most in the names of list items."""
    if pa.types.is_fixed_size_list(stored):
        return (
            pa.types.is_fixed_size_list(given)
            and given.list_size == stored.list_size
            and same_type(given.value_type, stored.value_type)
        )
    if pa.types.is_list(stored):
        return pa.types.is_list(given) and same_type(given.value_type, stored.value_type)
    return bool(given == stored)


def _check_shape(schema: TableSchema, table: pa.Table) -> None:
    expected = [column.name for column in schema.columns]
    if table.schema.names != expected:
        raise InvalidValue(
            f"Rows must have exactly the columns {', '.join(expected)}; "
            f"given {', '.join(table.schema.names) or 'none'}.",
            code="wrong_columns",
        )
    for column in schema.columns:
        given = table.schema.field(column.name).type
        if not same_type(given, column.type.storage):
            raise InvalidValue(
                f"Column {column.name} is {column.type.display}: rows must bring "
                f"{column.type.storage}, not {given}.",
                column=column.name,
            )
    try:
        table.validate(full=True)
    except pa.ArrowInvalid as error:
        raise InvalidValue(f"The rows are not valid Arrow data: {error}.") from error


def _single(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    combined = column.combine_chunks()
    if isinstance(combined, pa.ChunkedArray):
        return pa.concat_arrays(combined.chunks) if combined.num_chunks else _empty(column.type)
    return combined


def _empty(kind: pa.DataType) -> pa.Array:
    return pa.array([], kind)


def _check_nulls(column: Column, array: pa.Array, is_key: bool) -> None:
    if not array.null_count or not (is_key or column.not_null):
        return
    row = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
    what = "the primary key" if is_key else "NOT NULL"
    raise InvalidValue(
        f"Row {row}: column {column.name} is {what} and can't be NULL.",
        code="not_null_violation", sqlstate="23502", row=row, column=column.name,
    )  # fmt: skip


def _scalar(column: Column, array: pa.Array) -> pa.Array:
    if array.type != column.type.storage:
        array = array.cast(column.type.storage)
    return _canonical_uuids(column, array) if column.type.name == "UUID" else array


def _canonical_uuids(column: Column, array: pa.Array) -> pa.Array:
    """The same UUIDs in lower case with hyphens, so that equal ones are equal as text."""
    if pc.all(pc.match_substring_regex(array, _UUID)).as_py() is not False:
        return array
    texts = array.to_pylist()
    return pa.array([_uuid(column, row, text) for row, text in enumerate(texts)], pa.string())


def _uuid(column: Column, row: int, text: str | None) -> str | None:
    if text is None or re.match(_UUID, text):
        return text
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise InvalidValue(
            f"Row {row}: {text!r} in column {column.name} is no UUID.", row=row, column=column.name
        ) from None


def _block(column: Column, array: pa.Array) -> VectorBlock:
    dimensions = array.type.list_size
    values = array.values  # the whole parent's items: an array may be a slice of it
    start = array.offset * dimensions
    values = values.slice(start, len(array) * dimensions)
    valid = array.is_valid().to_numpy(zero_copy_only=False) if array.null_count else None
    _check_elements(column, values, valid, dimensions)
    # A copy: the log takes its time to write these bytes, and the caller's may change meanwhile.
    data = np.array(values.to_numpy(zero_copy_only=False)).reshape(len(array), dimensions)
    if valid is not None:
        data[~valid] = 0
    norms = row_norms(data)
    _check_finite(column, data, norms)
    return VectorBlock(data, valid, norms)


def _check_elements(
    column: Column, values: pa.Array, valid: NDArray[np.bool_] | None, dimensions: int
) -> None:
    if not values.null_count:
        return
    missing = values.is_null().to_numpy(zero_copy_only=False).reshape(-1, dimensions)
    if valid is not None:
        missing = missing & valid[:, None]
    if missing.any():
        row, element = (int(index[0]) for index in np.nonzero(missing))
        raise InvalidValue(
            f"Row {row}: element {element} of the vector in column {column.name} is NULL.",
            row=row, column=column.name,
        )  # fmt: skip


def _check_finite(
    column: Column, data: NDArray[np.float32] | NDArray[np.float16], norms: NDArray[np.float32]
) -> None:
    """A vector that isn't finite has a norm that isn't either: only those rows are looked at."""
    for row in np.flatnonzero(~np.isfinite(norms)):
        broken = np.flatnonzero(~np.isfinite(data[row]))
        if broken.size:
            element = int(broken[0])
            raise InvalidValue(
                f"Row {row}: element {element} of the vector in column {column.name} is "
                f"{data[row, element]}; vectors must be finite.",
                row=int(row), column=column.name,
            )  # fmt: skip
