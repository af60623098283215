"""COPY: rows of a file into a table, as INSERT would put them, and a query's rows into a file.

A file is read batch by batch, so that one that decodes to more than `result_bytes` is refused
before it is in memory whole; then all of its rows are stored, or none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
from pyarrow import types as t

from nearql.engine.errors import Conflict, InvalidRequest, InvalidValue, TooLarge, Unsupported
from nearql.engine.schema import Column, TableDef
from nearql.engine.types import OnConflict
from nearql.query import patience
from nearql.query.casting import cast_column
from nearql.query.dml import counted_from_one
from nearql.query.files import reading, writing
from nearql.query.result import Result, empty
from nearql.query.rows import Filler, violations
from nearql.query.statements import CopyFormat, CopyFrom, CopyTo
from nearql.query.writes import Write, column_of, refuse

_ROWS = 8_192  # of a batch


def run_copy_from(statement: CopyFrom, write: Write) -> Result:
    """COPY FROM. Nothing is written unless every row can be.

    Raises:
        Unsupported, InvalidRequest, NotFound: no such file, or COPY is off; see `files`.
        InvalidValue: code `invalid_file`, or a value that doesn't fit, with its row.
        TooLarge: more than `result_bytes`.
    """
    table = write.target(statement.table)
    write.check_concern(table)
    columns = _named(table, statement.columns)
    if columns is None and statement.form.name == "csv":
        columns = list(table.schema.visible)
    with reading(write.settings.copy_dir, statement.path) as file:
        found = _read(file, statement, columns, write.settings.result_bytes)
    given = _given(found, table, columns)
    rows = Filler(write.database, table).complete(given, found.num_rows)
    refuse(violations(table, rows))
    try:
        outcome = write.database.table(table.uuid).insert(
            rows, OnConflict.ERROR, request_id=write.request_id, timeout_ms=write.timeout_ms(),
            until=write.until(table),
        )  # fmt: skip
    except Conflict as error:
        raise counted_from_one(error) from error.__cause__
    return write.result(table, outcome, outcome.inserted)


def copy_to(statement: CopyTo, rows: Result, copy_dir: str) -> Result:
    """COPY TO: the rows of a query into a file, complete or not at all."""
    table, form = rows.table, statement.form
    if len(set(table.column_names)) < table.num_columns:
        raise InvalidRequest(
            "COPY needs a name of its own for each column of the query.", code="duplicate_column"
        )
    if form.null:
        raise Unsupported("COPY TO writes NULL as nothing between two delimiters; leave NULL out.")
    if form.name == "csv":
        table = pa.table([_as_text(column, name) for name, column in _columns(table)],
                         names=table.column_names)  # fmt: skip
    with writing(copy_dir, statement.path) as file:
        _write(table, file, form)
    return replace(empty("utility", row_count=table.num_rows), stats=rows.stats)


# ---- Reading ---------------------------------------------------------------------------


def _named(table: TableDef, names: tuple[str, ...] | None) -> list[Column] | None:
    if names is None:
        return None
    columns = [column_of(table, name) for name in names]
    if len({column.name for column in columns}) < len(columns):
        raise InvalidRequest("A column is named twice.", code="duplicate_column")
    return columns


def _read(file: BinaryIO, statement: CopyFrom, columns: list[Column] | None, most: int) -> pa.Table:
    readers = {"csv": _csv, "parquet": _parquet, "arrow": _arrow}
    batches: list[pa.RecordBatch] = []
    size, schema = 0, None
    try:
        for batch in readers[statement.form.name](file, statement.form, most):
            patience.check()
            schema = batch.schema
            size += batch.nbytes
            if size > most:
                raise _too_large(statement.path, most)
            batches.append(batch)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        told = str(error).split("\n", 1)[0][:200]
        raise InvalidValue(
            f"{statement.path!r} can't be read as {statement.form.name}: {told}",
            code="invalid_file", sqlstate="22P04",
        ) from error  # fmt: skip
    if schema is None:
        return pa.table({})
    return pa.Table.from_batches(batches, schema)


def _too_large(path: str, most: int) -> TooLarge:
    return TooLarge(
        f"{path!r} holds more than {most} bytes of rows (result_bytes). Cut it, or send it to "
        "POST /v1/tables/{table}/rows.",
        code="file_too_large", setting="result_bytes",
    )  # fmt: skip


def _csv(file: BinaryIO, form: CopyFormat, most: int) -> Iterator[pa.RecordBatch]:
    """Every column as text; what stands for NULL is NULL where it isn't quoted."""
    del most
    parse = csv.ParseOptions(delimiter=form.delimiter, newlines_in_values=True)
    if not file.read(1):
        return
    file.seek(0)
    by_place = csv.ReadOptions(autogenerate_column_names=True)
    count = len(csv.open_csv(file, read_options=by_place, parse_options=parse).schema)
    file.seek(0)
    names = [f"c{at}" for at in range(count)]
    reader = csv.open_csv(
        file,
        read_options=csv.ReadOptions(column_names=names, skip_rows=int(form.header)),
        parse_options=parse,
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True,
            null_values=[form.null], quoted_strings_can_be_null=False,
        ),
    )  # fmt: skip
    yield from reader


def _parquet(file: BinaryIO, form: CopyFormat, most: int) -> Iterator[pa.RecordBatch]:
    del form
    parquet = pq.ParquetFile(file)
    groups = (parquet.metadata.row_group(at) for at in range(parquet.metadata.num_row_groups))
    if sum(group.total_byte_size for group in groups) > most:
        raise _too_large("the file", most)
    yield from parquet.iter_batches(_ROWS)


def _arrow(file: BinaryIO, form: CopyFormat, most: int) -> Iterator[pa.RecordBatch]:
    """The file format of Arrow IPC, or its stream."""
    del form, most
    magic = file.read(6)
    file.seek(0)
    if magic == b"ARROW1":
        reader = pa.ipc.open_file(file)
        yield from (reader.get_batch(at) for at in range(reader.num_record_batches))
    else:
        yield from pa.ipc.open_stream(file)


def _given(found: pa.Table, table: TableDef, columns: list[Column] | None) -> dict[str, pa.Array]:
    """Columns in storage types."""
    named = columns or _columns_of(found, table)
    if found.num_columns != len(named):
        if not found.num_columns:
            return {}
        raise InvalidValue(
            f"The file has {found.num_columns} columns; {len(named)} are wanted: "
            f"{', '.join(column.name for column in named)}.",
            code="invalid_file", sqlstate="22P04",
        )  # fmt: skip
    given = {}
    for column, array in zip(named, found.columns, strict=True):
        cast = cast_column(array, column)
        refuse(cast.failures, column.name)
        given[column.name] = cast.array
    return given


def _columns_of(found: pa.Table, table: TableDef) -> list[Column]:
    """By their names."""
    columns = [column_of(table, name) for name in found.column_names]
    if len({column.name for column in columns}) < len(columns):
        raise InvalidRequest("The file has a column twice.", code="duplicate_column")
    return columns


# ---- Writing ---------------------------------------------------------------------------


def _write(table: pa.Table, file: BinaryIO, form: CopyFormat) -> None:
    if form.name == "parquet":
        pq.write_table(table, file, compression="zstd")
    elif form.name == "arrow":
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    else:
        options = csv.WriteOptions(include_header=form.header, delimiter=form.delimiter)
        csv.write_csv(table, file, options)


def _columns(table: pa.Table) -> Iterable[tuple[str, pa.ChunkedArray]]:
    return zip(table.column_names, table.columns, strict=True)


def _as_text(column: pa.ChunkedArray, name: str) -> Any:
    """What CSV can hold: lists of numbers as vectors are written."""
    kind = column.type
    if t.is_list(kind) or t.is_fixed_size_list(kind) or t.is_large_list(kind):
        return pa.array([_vector_text(one) for one in column], pa.string())
    if t.is_nested(kind) or t.is_binary(kind) or isinstance(kind, pa.BaseExtensionType):
        raise Unsupported(f"Column {name!r} can't be written as csv; cast it to TEXT.")
    return column


def _vector_text(scalar: Any) -> str | None:
    if not scalar.is_valid:
        return None
    values = scalar.values.to_numpy(zero_copy_only=False)
    return "[" + ",".join(np.asarray(values).astype(str)) + "]"
