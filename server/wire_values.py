"""Arrow columns as JSON values: one list per column, its values in the form orjson writes.

| SQL type | JSON |
|---|---|
| BOOLEAN, integers up to 64 bit | `true`, `17` |
| HUGEINT, DECIMAL | a number with every digit: `12.30` |
| FLOAT, DOUBLE | the shortest number that reads back equal; NaN and infinity are `null` |
| VECTOR, HALFVEC, lists, arrays | a list |
| TEXT, JSON, ENUM, UUID | a string (JSON as its text) |
| BLOB | base64 |
| DATE, TIME | `"2026-11-23"`, `"06:15:00.5"` |
| TIMESTAMP | `"2026-11-23T06:15:00.5"`; WITH TIME ZONE in UTC, with `+00:00` |
| INTERVAL | ISO 8601: `"P1M2DT3.5S"` |
| STRUCT | an object; MAP an object whose keys are strings |

Values are made per column, not per cell, so that ten rows cost microseconds. FLOAT and vectors stay
NumPy values, which orjson writes natively and in float32's own shortest digits.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import time
from typing import Any
from uuid import UUID

import numpy as np
import orjson
import pyarrow as pa
from pyarrow import types as t

_INFINITE = (1 << 63) - 1  # DuckDB's 'infinity'; '-infinity' is its negative


def json_values(array: pa.Array) -> list[Any]:
    """The column's values, in the forms of the table above; NULL is None."""
    if isinstance(array, pa.ExtensionArray):
        return _extension(array)
    kind = array.type
    if t.is_float32(kind) or t.is_float16(kind):
        return _floats(array)
    if t.is_fixed_size_list(kind):
        return _vectors(array)
    if t.is_timestamp(kind):
        return _timestamps(array)
    for test, convert in _CONVERTERS:
        if test(kind):
            return convert(array)
    values: list[Any] = array.to_pylist()
    return values


def _plain(array: pa.Array) -> list[Any]:
    values: list[Any] = array.to_pylist()
    return values


def _extension(array: pa.ExtensionArray) -> list[Any]:
    if array.type.extension_name == "arrow.uuid":
        return [None if v is None else str(UUID(bytes=v)) for v in array.storage.to_pylist()]
    return json_values(array.storage)


def _floats(array: pa.Array) -> list[Any]:
    # NULL becomes NaN here; JSON shows both as null.
    return list(array.to_numpy(zero_copy_only=False))


def _vectors(array: pa.FixedSizeListArray) -> list[Any]:
    """Rows of a 2-D NumPy view where the elements are numbers without NULLs; else lists."""
    width = array.type.list_size
    child = array.values.slice(array.offset * width, len(array) * width)
    if t.is_floating(child.type) and not child.null_count:
        rows = list(child.to_numpy().reshape(len(array), width))
    else:
        flat = json_values(child)
        rows = [flat[i : i + width] for i in range(0, len(array) * width, width)]
    return _with_nulls(array, rows)


def _with_nulls(array: pa.Array, rows: list[Any]) -> list[Any]:
    if array.null_count:
        for i in np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False)):
            rows[i] = None
    return rows


def _lists(array: pa.ListArray) -> list[Any]:
    offsets = array.offsets.to_pylist()
    first = offsets[0] if offsets else 0
    last = offsets[-1] if offsets else 0
    flat = json_values(array.values.slice(first, last - first))
    pairs = zip(offsets, offsets[1:], strict=False)
    return _with_nulls(array, [flat[a - first : b - first] for a, b in pairs])


def _structs(array: pa.StructArray) -> list[Any]:
    names = [field.name for field in array.type]
    columns = [json_values(child) for child in array.flatten()]
    rows: list[Any] = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    return _with_nulls(array, rows or [{} for _ in range(len(array))])


def _maps(array: pa.MapArray) -> list[Any]:
    offsets = array.offsets.to_pylist()
    keys, items = json_values(array.keys), json_values(array.items)
    names = [key if isinstance(key, str) else _text(key) for key in keys]
    pairs = zip(offsets, offsets[1:], strict=False)
    return _with_nulls(array, [dict(zip(names[a:b], items[a:b], strict=True)) for a, b in pairs])


def _text(value: Any) -> str:
    return orjson.dumps(value, default=str, option=orjson.OPT_SERIALIZE_NUMPY).decode()


def _decimals(array: pa.Array) -> list[Any]:
    # str() of a Decimal may use an exponent, which JSON allows, but people do not expect.
    return [None if v is None else orjson.Fragment(f"{v:f}") for v in array.to_pylist()]


def _timestamps(array: pa.Array) -> list[Any]:
    """ISO 8601 text; NumPy's range, so that years beyond 9999 and infinity are shown too."""
    unit, zone = array.type.unit, "+00:00" if array.type.tz else ""
    ticks = array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    texts = np.datetime_as_string(ticks.view(f"datetime64[{unit}]"))
    rows: list[Any] = [
        _special(tick) or _trim(text) + zone
        for tick, text in zip(ticks.tolist(), texts.tolist(), strict=True)
    ]
    return _with_nulls(array, rows)


def _special(tick: int) -> str | None:
    if tick == _INFINITE:
        return "infinity"
    return "-infinity" if tick == -_INFINITE else None


def _trim(text: str) -> str:
    """Without zeros that say nothing: `06:15:00.500000` is `06:15:00.5`."""
    return text.rstrip("0").rstrip(".") if "." in text else text


def _dates(array: pa.Array) -> list[Any]:
    days = array.cast(pa.date32()).cast(pa.int32()).fill_null(0).to_numpy(zero_copy_only=False)
    texts = np.datetime_as_string(days.astype("int64").view("datetime64[D]"))
    special = {2**31 - 1: "infinity", -(2**31 - 1): "-infinity"}
    rows: list[Any] = [
        special.get(day, text) for day, text in zip(days.tolist(), texts.tolist(), strict=True)
    ]
    return _with_nulls(array, rows)


def _times(array: pa.Array) -> list[Any]:
    return [_trim(v.isoformat()) if isinstance(v, time) else v for v in array.to_pylist()]


def _durations(array: pa.Array) -> list[Any]:
    micros = array.cast(pa.duration("us")).cast(pa.int64()).to_pylist()
    return [None if v is None else iso_interval(0, 0, v * 1000) for v in micros]


def _intervals(array: pa.Array) -> list[Any]:
    return [
        None if v is None else iso_interval(v.months, v.days, v.nanoseconds)
        for v in array.to_pylist()
    ]


def iso_interval(months: int, days: int, nanoseconds: int) -> str:
    """ISO 8601 duration; each part has its own sign, as in SQL: `P-1M2DT3.5S`."""
    date = (f"{months}M" if months else "") + (f"{days}D" if days else "")
    if nanoseconds or not date:
        whole, rest = divmod(abs(nanoseconds), 1_000_000_000)
        sign = "-" if nanoseconds < 0 else ""
        date += f"T{sign}{_trim(f'{whole}.{rest:09d}')}S"
    return "P" + date


def _blobs(array: pa.Array) -> list[Any]:
    return [None if v is None else base64.b64encode(v).decode() for v in array.to_pylist()]


def _dictionary(array: pa.DictionaryArray) -> list[Any]:
    return json_values(array.dictionary_decode())


_CONVERTERS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[Any], list[Any]]], ...] = (
    (t.is_integer, _plain),
    (t.is_string, _plain),
    (t.is_float64, _plain),
    (t.is_boolean, _plain),
    (t.is_decimal, _decimals),
    (lambda kind: t.is_list(kind) or t.is_large_list(kind), _lists),
    (t.is_date, _dates),
    (t.is_time, _times),
    (t.is_interval, _intervals),
    (t.is_duration, _durations),
    (
        lambda kind: t.is_binary(kind) or t.is_large_binary(kind) or t.is_fixed_size_binary(kind)
        or t.is_binary_view(kind),
        _blobs,
    ),
    (t.is_dictionary, _dictionary),
    (t.is_struct, _structs),
    (t.is_map, _maps),
)  # fmt: skip
