"""Values of a statement's parameters: who gave what, and how it binds.

Where a vector is expected, a list of numbers, vector text (`[1, 2, 3]`), base64 of little-endian
float32 or the same bytes as BLOB text (`\\x00\\xff`), a NumPy array or an Arrow value binds;
elsewhere a value goes to DuckDB as it is, and a list is a DuckDB list.
"""

from __future__ import annotations

import binascii
import datetime
import decimal
import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sqlglot import exp

from nearql.engine.errors import InvalidValue, SqlError
from nearql.engine.schema import MAX_DIMENSIONS
from nearql.query.dialect import nearest
from nearql.query.trees import all_of

Vector = NDArray[np.float32]
_PLAIN = (
    bool, int, float, str, bytes, decimal.Decimal, uuid.UUID,
    datetime.date, datetime.time, datetime.datetime, datetime.timedelta,
)  # fmt: skip


def parameter_name(node: exp.Expr) -> str | None:
    """The name of a parameter node (`q` for `:q` and `$q`, `1` for `$1` and the first `?`), else
    None."""
    return str(node.this) if isinstance(node, exp.Placeholder) else None


def names_in(trees: Iterable[exp.Expr]) -> list[str]:
    """The parameters that these trees name, each once, in order."""
    found = (parameter_name(node) for tree in trees for node in all_of(tree, exp.Placeholder))
    return list(dict.fromkeys(name for name in found if name is not None))


@dataclass(frozen=True, slots=True)
class Parameters:
    """The values given with a request, by name; positional ones are named "1", "2", ..."""

    values: Mapping[str, Any]
    positional: bool = False

    @classmethod
    def of(cls, params: Mapping[str, Any] | Sequence[Any] | None) -> Parameters:
        """From a mapping of names to values, or a sequence of values for `$1`, `?`.

        Raises:
            InvalidValue: something else, or a name that isn't text.
        """
        if params is None:
            return cls({})
        if isinstance(params, Mapping):
            wrong = next((name for name in params if not isinstance(name, str)), None)
            if wrong is not None:
                raise InvalidValue(f"The name of a parameter must be text, not {wrong!r}.")
            return cls({name.lstrip(":$"): value for name, value in params.items()})
        if isinstance(params, str | bytes) or not isinstance(params, Sequence):
            kind = type(params).__name__
            raise InvalidValue(
                f"Parameters are a list or an object of names and values, not {kind}."
            )
        return cls({str(at): value for at, value in enumerate(params, 1)}, positional=True)

    def value(self, name: str) -> Any:
        """What was given for `name`.

        Raises:
            SqlError: code `missing_parameter`, naming those that were given.
        """
        try:
            return self.values[name]
        except KeyError:
            raise SqlError(
                f"Parameter {_spelled(name)} has no value; {self._given(name)}",
                code="missing_parameter", sqlstate="08P01",
            ) from None  # fmt: skip

    def _given(self, name: str) -> str:
        if not self.values:
            return "no parameters were given."
        if self.positional:
            return f"{len(self.values)} positional values were given."
        near = nearest(name, self.values)
        hint = f" Did you mean {_spelled(near)}?" if near else ""
        return f"given were {', '.join(map(_spelled, sorted(self.values)))}.{hint}"

    def check_used(self, used: Iterable[str]) -> None:
        """Every positional value must be used; named ones may be left over.

        Raises:
            SqlError: code `surplus_parameter`.
        """
        if not self.positional:
            return
        highest = max((int(name) for name in used if name.isdigit()), default=0)
        if len(self.values) > highest:
            raise SqlError(
                f"{len(self.values)} positional values were given, but the statements "
                f"use only {highest}.",
                code="surplus_parameter", sqlstate="08P01",
            )  # fmt: skip

    def scalars(self, names: Iterable[str]) -> dict[str, Any]:
        """The values of these parameters as DuckDB takes them."""
        return {name: scalar(self.value(name), _spelled(name)) for name in names}

    def vector(self, name: str, dimensions: int | None) -> Vector | None:
        """The value of this parameter as a vector; None for NULL."""
        return vector(self.value(name), dimensions=dimensions, where=f"parameter {_spelled(name)}")


def _spelled(name: str) -> str:
    return f"${name}" if name.isdigit() else f":{name}"


def scalar(value: Any, where: str) -> Any:
    """A value as DuckDB takes it: Arrow and NumPy values become Python's, lists are checked within.

    Raises:
        InvalidValue: a kind of value that SQL has no type for.
    """
    if value is None or isinstance(value, _PLAIN):
        return value
    if isinstance(value, pa.Scalar):
        return value.as_py()
    if isinstance(value, pa.Array | pa.ChunkedArray):
        return value.to_pylist()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): scalar(one, where) for key, one in value.items()}
    if isinstance(value, Sequence):
        return [scalar(one, where) for one in value]
    raise InvalidValue(f"{where}: a {type(value).__name__} is no SQL value.")


def vector(value: Any, *, dimensions: int | None, where: str) -> Vector | None:
    """A vector from whatever a user may write for one; None for NULL.

    Args:
        value: a list of numbers, `[..]` text, base64 of little-endian float32, bytes of the same,
        a NumPy
            array or an Arrow value.
        dimensions: how many it must have; None = any.
        where: names the place in errors, as in "parameter :q" or "column 'vec', row 3".

    Returns:
        float32, shape (d,), C-contiguous, finite, owned by the caller.

    Raises:
        InvalidValue: with code `wrong_dimensions` or `invalid_vector`.
    """
    if value is None or (isinstance(value, pa.Scalar) and not value.is_valid):
        return None
    made = _checked_elements(_numbers(value, where), where)
    if dimensions is not None and len(made) != dimensions:
        raise InvalidValue(
            f"{where}: expected {dimensions} dimensions, got {len(made)}.",
            code="wrong_dimensions", expected=dimensions, got=len(made),
        )  # fmt: skip
    return made


def _numbers(value: Any, where: str) -> NDArray[Any]:
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("\\x"):
            return _from_blob_text(text, where)
        return _from_text(text, where) if text.startswith("[") else _from_base64(text, where)
    if isinstance(value, bytes | bytearray | memoryview):
        return _from_bytes(bytes(value), where)
    if isinstance(value, pa.Scalar):
        return _numbers(value.as_py(), where)
    if isinstance(value, pa.Array | pa.ChunkedArray):
        return _from_list(value.to_pylist(), where)
    if isinstance(value, np.ndarray):
        return _from_array(value, where)
    if isinstance(value, Sequence):
        return _from_list(value, where)
    raise _invalid(f"{where}: a vector is expected, got {_kind(value)}")


def _invalid(detail: str, **extra: Any) -> InvalidValue:
    return InvalidValue(f"{detail}.", code="invalid_vector", sqlstate="22P02", **extra)


def _kind(value: Any) -> str:
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        dict: "an object",
        type(None): "NULL",
    }
    return names.get(type(value), f"a {type(value).__name__}")


def _from_text(text: str, where: str) -> NDArray[Any]:
    if not text.endswith("]"):
        raise _invalid(f"{where}: vector text must end with ']', as in [1, 2, 3]")
    body = text[1:-1].strip()
    if not body:
        raise _invalid(f"{where}: a vector has at least one dimension")
    parts = body.split(",")
    try:
        if "_" in body:
            raise ValueError  # Python's digit separators are no vector text
        return np.array(list(map(float, parts)), dtype=np.float64)
    except ValueError:
        at = next(at for at, part in enumerate(parts) if not _is_number(part))
        shown = parts[at].strip()[:40]
        raise _invalid(
            f"{where}: element {at + 1} is {shown!r}, not a number", element=at + 1
        ) from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _from_base64(text: str, where: str) -> NDArray[Any]:
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:  # binascii.Error is one
        raise _invalid(
            f"{where}: a vector is expected, as a list, as text in square brackets or as base64 of "
            f"little-endian float32; {text[:40]!r} is none of them"
        ) from error
    return _from_bytes(data, where)


def _from_blob_text(text: str, where: str) -> NDArray[Any]:
    """`\\x00\\xff`, as DuckDB writes a BLOB: how a client sends bytes that may be either."""
    try:
        return _from_bytes(bytes.fromhex(text.replace("\\x", "")), where)
    except ValueError as error:
        raise _invalid(f"{where}: {text[:40]!r} is no vector and no BLOB in hexadecimal") from error


def _from_bytes(data: bytes, where: str) -> NDArray[Any]:
    if len(data) % 4 or not data:
        raise _invalid(f"{where}: {len(data)} bytes are not a whole number of float32 values")
    return np.frombuffer(data, dtype="<f4")


def _from_list(values: Sequence[Any], where: str) -> NDArray[Any]:
    if not len(values):
        raise _invalid(f"{where}: a vector has at least one dimension")
    if not set(map(type, values)) <= {int, float}:
        _check_types(values, where)
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:
        raise _invalid(f"{where}: an element is too large for float32") from None


def _check_types(values: Sequence[Any], where: str) -> None:
    for at, element in enumerate(values, 1):
        number = isinstance(element, int | float | decimal.Decimal | np.integer | np.floating)
        if not number or isinstance(element, bool):
            raise _invalid(f"{where}: element {at} is {_kind(element)}, not a number", element=at)


def _from_array(array: NDArray[Any], where: str) -> NDArray[Any]:
    if array.ndim != 1 or not len(array):
        raise _invalid(f"{where}: a vector is a one-dimensional array, got shape {array.shape}")
    if array.dtype == object:
        return _from_list(list(array), where)
    if array.dtype.kind not in "iuf":
        raise _invalid(f"{where}: a vector holds numbers, got an array of {array.dtype}")
    return array


def _checked_elements(numbers: NDArray[Any], where: str) -> Vector:
    if len(numbers) > MAX_DIMENSIONS:
        raise InvalidValue(
            f"{where}: {len(numbers)} dimensions; a vector has at most {MAX_DIMENSIONS}.",
            code="wrong_dimensions", expected=MAX_DIMENSIONS, got=len(numbers),
        )  # fmt: skip
    if numbers.dtype == np.float32:
        made: Vector = np.array(numbers, dtype=np.float32, order="C")
    else:
        with np.errstate(over="ignore"):
            made = np.array(numbers, dtype=np.float32, order="C")
    finite = np.isfinite(made)
    if finite.all():
        return made
    at = int(np.flatnonzero(~finite)[0])
    given = float(numbers[at])
    reason = "which is too large for float32" if math.isfinite(given) else "which is not finite"
    raise _invalid(f"{where}: element {at + 1} is {given}, {reason}", element=at + 1)
