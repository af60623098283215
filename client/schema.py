"""SQL column types from Arrow data, for `nearql load --create`."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from nearql.client.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

SAMPLE_ROWS = 1_000  # rows that decide whether lists have one length, and text holds vectors
_SIMPLE = re.compile(r"[a-z_][a-z0-9_]*")
_VECTOR_TEXT = re.compile(r"\s*\[[-+0-9.eE,\s]+\]\s*")
_TYPES = {
    "bool": "BOOLEAN", "int8": "TINYINT", "int16": "SMALLINT", "int32": "INTEGER",
    "int64": "BIGINT", "uint8": "UTINYINT", "uint16": "USMALLINT", "uint32": "UINTEGER",
    "uint64": "UBIGINT", "halffloat": "FLOAT", "float": "FLOAT", "double": "DOUBLE",
    "string": "TEXT", "large_string": "TEXT", "string_view": "TEXT", "binary": "BLOB",
    "large_binary": "BLOB", "binary_view": "BLOB", "date32[day]": "DATE", "date64[ms]": "DATE",
    "null": "TEXT", "timestamp[s]": "TIMESTAMP_S", "timestamp[ms]": "TIMESTAMP_MS",
    "timestamp[us]": "TIMESTAMP", "timestamp[ns]": "TIMESTAMP_NS",
}  # fmt: skip


def create_table(name: str, sample: pa.Table, key: str | None, *, typed: bool = True) -> str:
    """CREATE TABLE IF NOT EXISTS for data like `sample`; `key` is its primary key, None for none.

    Args:
        typed: the data says what are integers. JSON doesn't: its [1, 0] may be a vector, and is
            taken for one where all rows have as many numbers, two or more.

    Raises:
        UsageError: no such key column, or a type that no column can have.
    """
    if key is not None and key not in sample.column_names:
        raise UsageError(f"--key {key}: the columns are {', '.join(sample.column_names)}.")
    columns = [
        f"{quoted(field.name)} {sql_type(field.name, sample[field.name], typed=typed)}"
        + (" PRIMARY KEY" if field.name == key else "")
        for field in sample.schema
    ]
    return f"CREATE TABLE IF NOT EXISTS {quoted(name)} ({', '.join(columns)})"


def quoted(name: str) -> str:
    """A name as SQL text; in quotes where it needs them."""
    return name if _SIMPLE.fullmatch(name) else '"' + name.replace('"', '""') + '"'


def sql_type(name: str, values: pa.ChunkedArray, *, typed: bool = True) -> str:
    """The type of a column that holds these values; `typed` as in `create_table`."""
    import pyarrow as pa

    kind: Any = values.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_decimal(kind):
        return f"DECIMAL({kind.precision},{kind.scale})"
    if pa.types.is_timestamp(kind) and kind.tz:
        return "TIMESTAMP WITH TIME ZONE"
    if pa.types.is_time(kind):
        return "TIME"
    if pa.types.is_fixed_size_list(kind) and _is_numeric(kind.value_type):
        return _vector(kind.value_type, kind.list_size)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_list_view(kind):
        return _list(name, kind, values, typed)
    if _TYPES.get(str(kind)) == "TEXT":
        return _text(values)
    if str(kind) not in _TYPES:
        raise UsageError(
            f"Column {name!r} has the type {kind}, which no column of a table can have; leave it "
            "out, or create the table yourself and give it JSON text."
        )
    return _TYPES[str(kind)]


def _is_numeric(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _vector(element: Any, dimensions: int) -> str:
    return f"{'HALFVEC' if str(element) == 'halffloat' else 'VECTOR'}({dimensions})"


def _list(name: str, kind: Any, values: pa.ChunkedArray, typed: bool) -> str:
    """Floating lists of one length are vectors, and of untyped data whole numbers too."""
    import pyarrow as pa
    import pyarrow.compute as pc

    shortest = 1 if pa.types.is_floating(kind.value_type) else 2
    if shortest == 1 or (not typed and pa.types.is_integer(kind.value_type)):
        lengths = pc.unique(pc.list_value_length(values.slice(0, SAMPLE_ROWS)).drop_null())
        if len(lengths) == 1 and lengths[0].as_py() >= shortest:
            return _vector(kind.value_type, lengths[0].as_py())
    return sql_type(name, pa.chunked_array([], kind.value_type)) + "[]"


def _is_object(text: str) -> bool:
    try:
        return text.lstrip().startswith("{") and isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _text(values: pa.ChunkedArray) -> str:
    """Text that is `[1,2,3]` in every row, with one length, is a vector; `{...}` in every, JSON."""
    texts = [text for text in values.slice(0, SAMPLE_ROWS).to_pylist() if text]
    if texts and all(map(_is_object, texts)):
        return "JSON"
    if not texts or not all(_VECTOR_TEXT.fullmatch(text) for text in texts):
        return "TEXT"
    lengths = {text.count(",") + 1 for text in texts}
    return f"VECTOR({lengths.pop()})" if len(lengths) == 1 else "TEXT"
