"""A column of Python values as Arrow has it.

Values of one kind become that kind. Values of several kinds become text, as SQL reads it: the node
then stores the rows that fit and names those that don't. Dicts become JSON text, each as it is;
Arrow's own form of them, a struct, would give every row the keys of all.
"""

from __future__ import annotations

import datetime as dt
import decimal
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nearql.client.checks import is_unicode
from nearql.client.errors import UsageError
from nearql.client.parameters import blob_text

if TYPE_CHECKING:
    import pyarrow as pa


def from_values(
    name: str, values: Sequence[Any], first: int = 0, *, missing_nan: bool = False
) -> pa.Array:
    """The column.

    Args:
        first: position of values[0] in all the data, for messages.
        missing_nan: NaN stands for NULL, as in pandas.

    Raises:
        UsageError: a value that has no text, or one that is no Unicode, with its row.
    """
    import pyarrow as pa

    try:
        array = pa.array(values, from_pandas=missing_nan)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        array = None
    except UnicodeEncodeError:  # told below, with its row
        array = None
    if array is not None and not _has_dicts(array.type):
        return array
    texts = [_text(value, name, row) for row, value in enumerate(values, first)]
    for row, text in enumerate(texts, first):
        if text is not None and not is_unicode(text):
            raise UsageError(
                f"Row {row}: column {name!r} holds text that is no Unicode: half a character (a "
                "surrogate)."
            )
    return pa.array(texts, pa.string())


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """One table of several; a column that has several kinds becomes text, as in `from_values`."""
    import pyarrow as pa

    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        kinds: dict[str, set[pa.DataType]] = {}
        for field in (field for table in tables for field in table.schema):
            kinds.setdefault(field.name, set()).add(field.type)
        several = {name for name, found in kinds.items() if len(found - {pa.null()}) > 1}
        return pa.concat_tables(
            [_as_text(table, several) for table in tables], promote_options="permissive"
        )


def _as_text(table: pa.Table, names: set[str]) -> pa.Table:
    import pyarrow as pa

    for at, name in enumerate(table.column_names):
        if name in names:
            texts = [_text(value, name, row) for row, value in enumerate(table[at].to_pylist())]
            table = table.set_column(at, name, pa.array(texts, pa.string()))
    return table


def _has_dicts(kind: pa.DataType) -> bool:
    import pyarrow as pa

    while pa.types.is_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_struct(kind))


def _text(value: Any, name: str, row: int) -> str | None:
    """A value as SQL reads it from text; None for NULL."""
    if hasattr(value, "tolist"):  # NumPy's arrays and numbers
        value = value.tolist()
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | decimal.Decimal | uuid.UUID):
        return None if value != value else str(value)
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        return blob_text(value)
    if isinstance(value, Mapping | list | tuple):
        return _json(value, name, row)
    raise _no_text(value, name, row)


def _json(value: Any, name: str, row: int) -> str:
    """Also how vectors and lists are written."""

    def other(part: Any) -> Any:
        if hasattr(part, "tolist"):
            return part.tolist()
        if isinstance(part, dt.date | dt.time):
            return part.isoformat()
        if isinstance(part, decimal.Decimal | uuid.UUID):
            return str(part)
        raise _no_text(part, name, row)

    try:  # a vector's NaN is the node's to refuse, row by row; JSON has none
        return json.dumps(
            value, default=other, ensure_ascii=False, allow_nan=not isinstance(value, Mapping)
        )
    except ValueError as error:
        raise UsageError(f"Row {row}: column {name!r} is no JSON: {error}.") from error


def _no_text(value: Any, name: str, row: int) -> UsageError:
    return UsageError(
        f"Row {row}: column {name!r} holds a value of type {type(value).__name__}, which can't be "
        "stored; give numbers, text, dates, lists, dicts or arrays."
    )
