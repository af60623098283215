"""Which media type is which format."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from nearql.engine.errors import UnsupportedMediaType
from nearql.server.decoding import arrow, ndjson, parquet
from nearql.server.decoding.batches import Batch, Source

Decode = Callable[[Source], Iterator[Batch]]

ARROW_STREAM = "application/vnd.apache.arrow.stream"
ARROW_FILE = "application/vnd.apache.arrow.file"
PARQUET = "application/vnd.apache.parquet"
NDJSON = "application/x-ndjson"

FORMATS: dict[str, Decode] = {
    ARROW_STREAM: arrow.decode_stream,
    ARROW_FILE: arrow.decode_file,
    PARQUET: parquet.decode,
    "application/x-parquet": parquet.decode,
    "application/parquet": parquet.decode,
    NDJSON: ndjson.decode,
    "application/ndjson": ndjson.decode,
    "application/jsonl": ndjson.decode,
    "application/x-jsonlines": ndjson.decode,
}


def format_of(media_type: str) -> Decode:
    """The format's decoder.

    Raises:
        UnsupportedMediaType: names those that are taken.
    """
    found = FORMATS.get(media_type)
    if found is None:
        raise UnsupportedMediaType(
            f"Rows come as {ARROW_STREAM}, {ARROW_FILE}, {PARQUET} or {NDJSON} in Content-Type, "
            f"not {media_type[:100] or 'without one'}."
        )
    return found
