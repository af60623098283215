"""The pushed Arrow decoder: the same batches at any split of the bytes, and no broken stream."""

from __future__ import annotations

import struct

import pyarrow as pa
import pytest

from nearql.client.arrow_stream import BadStream, BatchDecoder

TABLE = pa.table(
    {
        "n": [1, 2, 3, 4],
        "kind": pa.array(["x", "y", "x", None]).dictionary_encode(),
        "text": ["a", None, "", "long " * 20],
        "vec": pa.array([[1.0, 2.0]] * 4, pa.list_(pa.float32(), 2)),
    }
).replace_schema_metadata({"nearql": "{}"})


def stream_of(table: pa.Table, rows: int = 2) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)
    return bytes(sink.getvalue())


def decoded(data: bytes, step: int) -> tuple[BatchDecoder, list[pa.RecordBatch]]:
    decoder = BatchDecoder()
    batches = []
    for start in range(0, len(data), step):
        batches += decoder.feed(data[start : start + step])
    return decoder, batches


@pytest.mark.parametrize("step", [1, 7, 64, 100_000])
def test_batches_come_whole_at_any_split(step: int) -> None:
    decoder, batches = decoded(stream_of(TABLE), step)
    decoder.finish()
    assert decoder.ended
    assert pa.Table.from_batches(batches) == TABLE
    assert [batch.num_rows for batch in batches] == [2, 2]
    assert decoder.schema is not None
    assert decoder.schema.metadata == {b"nearql": b"{}"}


def test_a_batch_is_there_as_soon_as_its_last_byte_is() -> None:
    data = stream_of(TABLE, 1)
    decoder = BatchDecoder()
    seen = [len(decoder.feed(data[i : i + 1])) for i in range(len(data))]
    assert sum(seen) == 4
    assert max(seen) == 1


def test_an_answer_without_rows() -> None:
    decoder, batches = decoded(stream_of(TABLE.slice(0, 0)), 5)
    decoder.finish()
    assert not [batch for batch in batches if batch.num_rows]
    assert decoder.schema == TABLE.schema


@pytest.mark.parametrize("kept", [0, 3, 8, 20, 300])
def test_an_end_in_the_middle_is_told(kept: int) -> None:
    decoder, _ = decoded(stream_of(TABLE)[:kept], 50)
    with pytest.raises(BadStream, match="ends in the middle"):
        decoder.finish()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"HTTP/1.1 200 OK", "starts with b'HTTP'"),
        (b"\xff\xff\xff\xff" + struct.pack("<i", -5), "has -5 bytes"),
        (b"\xff\xff\xff\xff" + struct.pack("<i", 1 << 30), "bytes"),
        (b"\xff\xff\xff\xff" + struct.pack("<i", 8) + b"\xff" * 8, "head is broken"),
        (b"\xff\xff\xff\xff" + struct.pack("<i", 8) + b"\0" * 8, "broken"),
        (stream_of(TABLE) + b"x", "bytes follow the end"),
    ],
)
def test_broken_streams_are_named(data: bytes, said: str) -> None:
    with pytest.raises(BadStream, match=said):
        decoded(data, 100_000)[0].finish()


def test_a_damaged_batch_is_no_crash() -> None:
    """Every byte of the heads changed once: batches of the same schema, or BadStream."""
    data = stream_of(TABLE.select(["n", "text"]))
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 0xFF
        try:
            decoded(bytes(damaged), 100_000)[0].finish()
        except BadStream:
            continue
