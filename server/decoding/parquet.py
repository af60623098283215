"""Parquet bodies: decoded a few thousand rows at a time, their size watched as they grow."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from nearql.server.decoding.batches import (
    Batch,
    Source,
    check_columns,
    corrupt,
    merged,
    plain,
    too_many_bytes,
)

ROWS = 2048  # decoded at once: what repeated long text can expand to before it is noticed
_NAME_BYTES = 16 << 20  # of any one text in the file's metadata
_LIST_ITEMS = 1_000_000  # of any one list in it: columns x row groups


def decode(source: Source) -> Iterator[Batch]:
    """The rows of a Parquet file.

    Raises:
        InvalidRequest: it is damaged or cut.
        TooLarge: its rows decode to more than `source.limit` bytes.
    """
    try:
        file = pq.ParquetFile(
            pa.BufferReader(source.body),
            page_checksum_verification=True,
            thrift_string_size_limit=_NAME_BYTES,
            thrift_container_size_limit=_LIST_ITEMS,
        )
        schema = file.schema_arrow
    except (pa.ArrowException, OSError, ValueError) as error:
        raise corrupt(f"The body is no Parquet file, or it is cut: {error}.") from error
    check_columns(schema.names, source.schema)
    for batch in merged(_batches(file, source), schema):
        yield Batch(batch.first, plain(batch.rows, source.limit))


def _batches(file: pq.ParquetFile, source: Source) -> Iterator[pa.RecordBatch]:
    size = 0
    try:
        for batch in file.iter_batches(ROWS):
            size += batch.nbytes
            if size > source.limit:
                raise too_many_bytes(source.limit)
            yield batch
    except (pa.ArrowException, OSError, ValueError) as error:
        raise corrupt(f"The Parquet file is damaged: {error}.") from error
