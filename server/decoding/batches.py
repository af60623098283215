"""What every format decodes to, and the checks that all of them share."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as t

from nearql.engine.errors import InvalidRequest, InvalidValue, TooLarge, UndefinedColumn
from nearql.engine.schema import TableSchema

MERGED_BYTES = 8 << 20  # small batches are stored together up to about this size
ROWS_PER_BYTE = 8  # a row takes a bit at least; more rows are a claim without data


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that are stored together. first: the position of its first row in the body, from 0."""

    first: int
    rows: pa.Table


@dataclass(frozen=True, slots=True)
class Source:
    """A body to decode.

    limit: bytes that the decoded rows may take (`BodyLimit.expanded` of the body).
    """

    body: pa.Buffer
    schema: TableSchema
    limit: int


def corrupt(what: str) -> InvalidRequest:
    """The 400 for a body that is damaged or cut."""
    return InvalidRequest(f"{what} Nothing was stored.", code="invalid_body")


def too_many_bytes(limit: int) -> TooLarge:
    """The 413 for rows that decode to more than the limit."""
    return TooLarge(
        f"The rows expand to more than {limit} bytes (limits.expansion_ratio). Send them in parts.",
        code="expansion_too_large",
    )


def check_row_claim(rows: int, size: int) -> None:
    """Refuse a body that says it has more rows than its bytes can hold."""
    if rows > ROWS_PER_BYTE * max(size, 1):
        raise corrupt(f"The body claims {rows} rows in {size} bytes.")


def check_columns(names: Sequence[str], schema: TableSchema, first: int = 0) -> None:
    """Refuse unknown and repeated columns before anything is stored.

    Raises:
        UndefinedColumn: with the nearest name. InvalidRequest: code `duplicate_column`.
    """
    known = {column.name.lower(): column.name for column in schema.visible}
    seen: set[str] = set()
    where = f" (from row {first})" if first else ""
    for name in names:
        if name.lower() not in known:
            raise UndefinedColumn(
                f"The table has no column {name[:200]!r}{where}{_nearest(name, known)}"
            )
        if name.lower() in seen:
            raise InvalidRequest(
                f"Column {name!r} is in the body twice{where}.", code="duplicate_column",
                sqlstate="42701",
            )  # fmt: skip
        seen.add(name.lower())


def _nearest(name: str, known: dict[str, str]) -> str:
    close = difflib.get_close_matches(name.lower(), list(known), n=1)
    if close:
        return f"; did you mean {known[close[0]]!r}?"
    return f"; it has {', '.join(known.values())}."


def plain(table: pa.Table, limit: int) -> pa.Table:
    """The table with dictionary and view columns written out, and its data checked in full.

    Raises:
        InvalidRequest: broken offsets or text that is not UTF-8.
        TooLarge: written out, it has more than `limit` bytes.
    """
    try:
        table.validate(full=True)
    except pa.ArrowInvalid as error:
        raise corrupt(f"The body is damaged: {error}.") from error
    for index, field in enumerate(table.schema):
        if _needs_plain(field.type, field.name):
            column = _written_out(table.column(index), limit)
            table = table.set_column(index, field.with_type(column.type), column)
    return table


def _needs_plain(kind: pa.DataType, name: str) -> bool:
    if t.is_dictionary(kind) or _is_view(kind):
        return True
    if _is_odd(kind):
        raise InvalidValue(
            f"Column {name!r} has the Arrow type {kind}, which is not taken; "
            "cast it before sending."
        )
    return False


def _is_view(kind: pa.DataType) -> bool:
    return bool(t.is_string_view(kind) or t.is_binary_view(kind))


def _is_odd(kind: pa.DataType) -> bool:
    """Types whose data may repeat itself inside a nesting, or that no column can hold."""
    if t.is_union(kind) or t.is_run_end_encoded(kind) or t.is_list_view(kind):
        return True
    if t.is_large_list_view(kind):
        return True
    children = [kind.field(i).type for i in range(kind.num_fields)]
    return any(t.is_dictionary(c) or _is_view(c) or _is_odd(c) for c in children)


def _written_out(column: pa.ChunkedArray, limit: int) -> pa.ChunkedArray:
    kind = column.type.value_type if t.is_dictionary(column.type) else column.type
    if _written_bytes(column) > limit:
        raise too_many_bytes(limit)
    if t.is_string_view(kind):
        kind = pa.string()
    if t.is_binary_view(kind):
        kind = pa.binary()
    return column.cast(kind)


def _written_bytes(column: pa.ChunkedArray) -> int:
    """Bytes of the column once every value is written out; text counted by its own length."""
    total = 0
    for chunk in column.chunks:
        values = chunk.dictionary if t.is_dictionary(chunk.type) else chunk
        if not _has_length(values.type):
            total += len(chunk) * 16
            continue
        lengths = _view_lengths(values) if _is_view(values.type) else pc.binary_length(values)
        if t.is_dictionary(chunk.type):
            lengths = lengths.take(chunk.indices)
        total += pc.sum(lengths.cast(pa.int64())).as_py() or 0
    return total


def _view_lengths(values: pa.Array) -> pa.Array:
    """A view is 16 bytes, the first four of them its length; Arrow has no kernel that tells it."""
    views = np.frombuffer(values.buffers()[1], np.int32)[4 * values.offset :: 4][: len(values)]
    return pa.array(views, mask=values.is_null().to_numpy(zero_copy_only=False))


def _has_length(kind: pa.DataType) -> bool:
    return bool(
        t.is_string(kind) or t.is_large_string(kind) or t.is_binary(kind)
        or t.is_large_binary(kind) or _is_view(kind)
    )  # fmt: skip


def merged(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[Batch]:
    """Consecutive batches as tables of at least MERGED_BYTES, none empty, without a copy."""
    first, gathered, size = 0, [], 0
    for batch in batches:
        gathered.append(batch)
        size += batch.nbytes
        if size >= MERGED_BYTES:
            table = pa.Table.from_batches(gathered, schema)
            yield Batch(first, table)
            first, gathered, size = first + table.num_rows, [], 0
    if any(batch.num_rows for batch in gathered):
        yield Batch(first, pa.Table.from_batches(gathered, schema))
