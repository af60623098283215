"""Values of parameters as JSON: vectors as base64 of little-endian float32, the rest as they are.

| Python | sent as |
|---|---|
| None, bool, int, float, str, lists and dicts of these | itself |
| one-dimensional array of floats (NumPy, or anything with `__array__`) | base64 |
| array of integers, booleans or text; pyarrow arrays of them | a list |
| NumPy scalar, pyarrow scalar | the Python value |
| datetime, date, time, UUID | ISO text |
| timedelta, and an INTERVAL as results have it | text: `1 days 30.500000 seconds` |
| Decimal | text |
| bytes | `\\x00\\xff`: a BLOB, or the bytes of a vector (float32, little-endian) |

NaN and infinity have no JSON form and are refused by name.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import math
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from nearql.client.checks import check_text
from nearql.client.errors import UsageError

Parameters = dict[str, Any] | list[Any] | None


def encode_parameters(values: Mapping[str, Any] | Sequence[Any] | None) -> Parameters:
    """All parameters of a call, ready for JSON.

    Raises:
        UsageError: a value that can't be sent, with the parameter's name and the remedy.
    """
    if values is None:
        return None
    if isinstance(values, Mapping):
        return (
            None
            if not values
            else {str(name): encode_value(value, f":{name}") for name, value in values.items()}
        )
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise UsageError(
            "Parameters are a dict for :name or a list for $1, $2, not "
            f"of type {type(values).__name__}; a single value goes into a list: [value]."
        )
    return [encode_value(value, f"${i}") for i, value in enumerate(values, 1)] or None


def encode_value(value: Any, name: str) -> Any:
    """One value, ready for JSON; `name` is for messages."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        check_text(f"Parameter {name}", value)
        return value
    if isinstance(value, int):
        return _integer(value, name)
    if isinstance(value, float):
        return _finite(value, name)
    if is_interval(value):
        return interval_text(value)
    if isinstance(value, list | tuple):
        return [encode_value(item, name) for item in value]
    if isinstance(value, Mapping):
        return {str(key): encode_value(item, name) for key, item in value.items()}
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat() if value == value else None  # pandas' NaT
    if isinstance(value, datetime.timedelta):
        return f"{value.days} days {value.seconds}.{value.microseconds:06} seconds"
    if isinstance(value, uuid.UUID | decimal.Decimal):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return blob_text(value)
    return _foreign(value, name)


def blob_text(value: bytes | bytearray | memoryview) -> str:
    """Bytes as SQL reads a BLOB from text: `\\x00\\xff`."""
    return "".join(f"\\x{byte:02x}" for byte in bytes(value))


def is_interval(value: Any) -> bool:
    """Whether it is pyarrow's (months, days, nanoseconds), an INTERVAL."""
    return isinstance(value, tuple) and hasattr(value, "nanoseconds")


def interval_text(value: Any) -> str:
    """As SQL reads it: `14 months -2 days 00:00:03.5`; each part has its own sign."""
    counts = [(value.months, "month"), (value.days, "day")]
    parts = [f"{n} {unit}" + ("" if abs(n) == 1 else "s") for n, unit in counts if n]
    if value.nanoseconds or not parts:
        seconds, rest = divmod(abs(value.nanoseconds), 1_000_000_000)
        clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{rest:09}"
        parts.append(("-" if value.nanoseconds < 0 else "") + clock.rstrip("0").rstrip("."))
    return " ".join(parts)


def _integer(value: int, name: str) -> int:
    if -(2**63) <= value < 2**64:
        return int(value)
    raise UsageError(f"Parameter {name} is {value}, beyond 64 bits; give it as text and CAST it.")


def _finite(value: float, name: str) -> float:
    if math.isfinite(value):
        return float(value)
    raise UsageError(f"Parameter {name} holds {value}, which JSON can't carry.")


def _foreign(value: Any, name: str) -> Any:
    """Values of other libraries: scalars that know their Python value, and arrays."""
    if hasattr(value, "as_py"):  # pyarrow scalars
        return encode_value(value.as_py(), name)
    if hasattr(value, "__array__") and not _is_scalar(value):
        return _array(value, name)
    if hasattr(value, "item"):
        return encode_value(value.item(), name)
    raise UsageError(
        f"Parameter {name} is of type {type(value).__name__}, which can't be sent; give a number, "
        "text, list, NumPy array, date or UUID."
    )


def _is_scalar(value: Any) -> bool:
    return getattr(value, "shape", None) == ()


def _array(value: Any, name: str) -> Any:
    import numpy as np

    array = np.asarray(value)
    if array.ndim != 1:
        raise UsageError(
            f"Parameter {name} has the shape {array.shape}; one vector has one dimension. For "
            "many queries insert them into a table and use a kNN join."
        )
    if array.dtype.kind != "f":
        return encode_value(array.tolist(), name)
    vector = np.ascontiguousarray(array, "<f4")
    if not np.isfinite(vector).all():
        raise UsageError(f"Parameter {name} holds NaN or infinity; a vector's elements are finite.")
    return base64.b64encode(vector.tobytes()).decode()
