"""NDJSON bodies: one JSON object per line, its members the row's columns.

A line that is not a JSON object makes the whole body wrong (400, with the line). A value that
does not fit its column is the row's own failure, and the session finds it: what JSON holds is
passed on in the simplest Arrow type that holds it, and where a column's values have no common
type, as their JSON text.

A member that is left out means the column's DEFAULT. Rows of one batch must leave out the same
columns where that differs from NULL, so a batch ends where the set of such columns changes.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import types as t

from nearql.engine.errors import InvalidValue
from nearql.engine.schema import Column, TableSchema
from nearql.server.decoding.batches import Batch, Source, check_columns, corrupt

ROWS = 4096  # lines that become one batch
BYTES = 8 << 20  # or fewer, where they are long
WINDOW_BYTES = 1 << 20
LINE_BYTES = 16 << 20  # a row of 16,384 dimensions has some 300 KiB

Row = dict[str, Any]


def decode(source: Source) -> Iterator[Batch]:
    """The rows of an NDJSON body.

    Raises:
        InvalidRequest: a line is not a JSON object.
    """
    first = 0
    for rows in _groups(source):
        yield Batch(first, _table(rows, source.schema, first))
        first += len(rows)


def _groups(source: Source) -> Iterator[list[Row]]:
    """Runs of rows that leave out the same columns with a default."""
    defaults = {c.name.lower() for c in source.schema.columns if c.default or c.identity}
    rows: list[Row] = []
    size, present = 0, None
    for line, row in _lines(source.body):
        having = frozenset(name.lower() for name in row) & defaults if defaults else None
        if rows and (having != present or len(rows) >= ROWS or size >= BYTES):
            yield rows
            rows, size = [], 0
        rows.append(row)
        size += line
        present = having
    if rows:
        yield rows


def _lines(body: pa.Buffer) -> Iterator[tuple[int, Row]]:
    """(bytes, object) of each line that is not blank."""
    for number, line in enumerate(_split(memoryview(body)), 1):
        if line.strip():
            yield len(line), _object(line, number)


def _split(data: memoryview) -> Iterator[bytes]:
    """The lines, read a window at a time, so that a mapped file never is in memory whole."""
    rest = b""
    for start in range(0, len(data), WINDOW_BYTES):
        *lines, rest = (rest + bytes(data[start : start + WINDOW_BYTES])).split(b"\n")
        yield from lines
        if len(rest) > LINE_BYTES:
            raise corrupt(f"A line is longer than {LINE_BYTES} bytes.")
    yield rest


def _object(line: bytes, number: int) -> Row:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise corrupt(
            f"Line {number} is not valid JSON: {error.msg} at character {error.pos}."
        ) from None
    if not isinstance(row, dict):
        raise corrupt(f"Line {number} is not a JSON object.")
    return row


def _table(rows: list[Row], schema: TableSchema, first: int) -> pa.Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    check_columns(names, schema, first)
    arrays = [_array([row.get(name) for row in rows], schema.column(name), first) for name in names]
    if not names:
        return pa.table({"": pa.nulls(len(rows))}).select([])
    return pa.Table.from_arrays(arrays, names)


def _array(values: list[Any], column: Column, first: int) -> pa.Array:
    if column.type.dimensions is not None:
        return _vectors(values, column.type.dimensions)
    if column.type.name == "JSON":
        return pa.array([_json_text(v) for v in values], pa.string())
    if column.type.name == "BLOB":
        return _blobs(values, column.name, first)
    try:
        array = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, TypeError):
        return _texts(values)
    fits = t.is_list(array.type) == column.type.name.endswith("[]") or t.is_null(array.type)
    return array if fits and not t.is_struct(array.type) else _texts(values)


def _vectors(values: list[Any], dimensions: int) -> pa.Array:
    """A fixed-size list where every vector is a list of numbers of the right length."""
    missing = np.array([v is None for v in values])
    if missing.any():
        blank = [0.0] * dimensions
        values = [blank if v is None else v for v in values]
    matrix = _matrix(values, dimensions)
    if matrix is None:
        return _texts([None if gone else v for v, gone in zip(values, missing, strict=True)])
    flat = pa.array(matrix.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, dimensions, mask=pa.array(missing))


def _matrix(values: list[Any], dimensions: int) -> NDArray[np.float32] | None:
    """float32, shape (n, dimensions); None where a value is not a list of that many numbers."""
    try:
        matrix = np.array(values)
    except ValueError:  # lists of different lengths
        return None
    if matrix.shape != (len(values), dimensions) or matrix.dtype.kind not in "fiu":
        return None
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which is refused
        return matrix.astype(np.float32)


def _texts(values: list[Any]) -> pa.Array:
    """Values without a common type, each as JSON text; text stays as it is."""
    return pa.array(
        [v if v is None or isinstance(v, str) else orjson.dumps(v).decode() for v in values],
        pa.string(),
    )


def _json_text(value: Any) -> str | None:
    """A JSON column takes any value; text is taken as JSON text, as answers give it."""
    return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()


def _blobs(values: list[Any], name: str, first: int) -> pa.Array:
    try:
        decoded = [None if v is None else base64.b64decode(v, validate=True) for v in values]
    except (binascii.Error, TypeError, ValueError):
        raise InvalidValue(
            f"Column {name!r} is a BLOB and takes base64 in JSON; a value from row {first} on is "
            "not. Nothing was stored."
        ) from None
    return pa.array(decoded, pa.binary())
