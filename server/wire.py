"""Answers of statements on the wire: JSON, or an Arrow stream.

JSON is written in pieces of about PIECE_VALUES values. Each piece is one call into orjson, which
holds the interpreter lock while it runs; between pieces the event loop gets its turn, so that an
answer of 16,384 rows x 384 dimensions delays other requests by milliseconds, not by its whole
length.

An Arrow answer carries the same `row_count`, `stats` and `notices` as JSON in the schema's metadata
under `nearql`, and each field's SQL type under `nearql.type`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa
from pyarrow import types as t

from nearql.engine.errors import TooLarge
from nearql.server.ports import ResultPort
from nearql.server.wire_values import json_values

JSON = "application/json"
ARROW_STREAM = "application/vnd.apache.arrow.stream"
PIECE_VALUES = 32_768
ARROW_BATCH_BYTES = 8 << 20

_REFUSED = re.compile(r"q\s*=\s*0(\.0*)?")  # a weight of zero in Accept
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY


def wants_arrow(accept: str) -> bool:
    """Whether an Accept header asks for Arrow; JSON is for everything else."""
    for part in accept.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        if name == ARROW_STREAM:
            return not any(_REFUSED.fullmatch(parameter) for parameter in parameters)
    return False


def summary(result: ResultPort, stats: Mapping[str, Any]) -> dict[str, Any]:
    """What an answer says beside its rows; `notices` only where there are any."""
    members: dict[str, Any] = {"row_count": result.row_count, "stats": stats}
    if result.notices:
        members["notices"] = list(result.notices)
    return members


def json_answer(result: ResultPort, stats: Mapping[str, Any], limit_bytes: int) -> list[bytes]:
    """The JSON answer in pieces that together are one document.

    Raises:
        TooLarge: it has more than `limit_bytes` bytes (limits.result_bytes).
    """
    columns = [{"name": column.name, "type": column.type} for column in result.columns]
    pieces = [b'{"columns":', orjson.dumps(columns), b',"rows":[']
    size = 0
    values = result.values
    for rows in row_pieces(result.table) if values is None else _few_rows(values):
        separator = b"," if size else b""
        pieces.append(separator + rows)
        size += len(rows)
        if size > limit_bytes:
            raise _too_large(limit_bytes)
    tail = orjson.dumps(summary(result, stats), default=str, option=_OPTIONS)
    pieces.append(b"]," + tail[1:])
    return pieces if size > PIECE_VALUES else [b"".join(pieces)]


def row_pieces(table: pa.Table) -> Iterator[bytes]:
    """The rows as JSON lists separated by commas, without the outer brackets."""
    if not table.num_columns:
        return
    step = max(1, PIECE_VALUES // values_per_row(table.schema))
    for batch in table.to_batches(max_chunksize=step):
        if batch.num_rows:
            rows = list(zip(*map(json_values, batch.columns), strict=True))
            yield orjson.dumps(rows, default=str, option=_OPTIONS)[1:-1]


def _few_rows(values: Sequence[Sequence[Any]]) -> Iterator[bytes]:
    """As `row_pieces`, of columns whose elements are what JSON is written from."""
    rows = list(zip(*values, strict=True))
    if rows:
        yield orjson.dumps(rows, option=_OPTIONS)[1:-1]


def values_per_row(schema: pa.Schema) -> int:
    """Numbers in one row, a vector counted by its length."""
    return sum(f.type.list_size if t.is_fixed_size_list(f.type) else 1 for f in schema) or 1


def arrow_answer(result: ResultPort, stats: Mapping[str, Any], limit_bytes: int) -> list[Any]:
    """The Arrow stream, end marker included, as buffers to send one after the other.

    Raises:
        TooLarge: it has more than `limit_bytes` bytes (limits.result_bytes).
    """
    if result.table.nbytes > limit_bytes:
        raise _too_large(limit_bytes)
    table = described(result, stats)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        rows = max(1, ARROW_BATCH_BYTES * max(1, table.num_rows) // max(1, table.nbytes))
        writer.write_table(table, max_chunksize=rows)
    return [sink.getvalue()]


def described(result: ResultPort, stats: Mapping[str, Any]) -> pa.Table:
    """The rows with SQL types in the fields' metadata and the summary in the schema's."""
    fields = [
        field.with_metadata({**(field.metadata or {}), b"nearql.type": column.type.encode()})
        for field, column in zip(result.table.schema, result.columns, strict=True)
    ]
    note = orjson.dumps(summary(result, stats), default=str, option=_OPTIONS)
    return pa.Table.from_arrays(result.table.columns, schema=pa.schema(fields, {"nearql": note}))


def statistics(
    node: str, elapsed_ms: float, result_stats: Mapping[str, Any], extra: Mapping[str, Any]
) -> dict[str, Any]:
    """`stats` of an answer: how long, where, how; `write` only for writes."""
    kept = {name: value for name, value in result_stats.items() if value is not None}
    return {"elapsed_ms": round(elapsed_ms, 3), "node": node, **kept, **extra}


def _too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(
        f"The answer has more than {limit_bytes} bytes (limits.result_bytes). Use a smaller LIMIT "
        "or fewer columns.",
        code="result_too_large",
    )
