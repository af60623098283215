"""Arrow framing read from bytes that anybody may have sent."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearql.engine.errors import InvalidRequest
from nearql.server.decoding.frames import read_frames


def stream(table: pa.Table, compression: str | None = None) -> bytes:
    """An Arrow stream with its marker."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=100)
    body: bytes = sink.getvalue().to_pybytes()
    return body


TABLE = pa.table(
    {
        "id": range(250),
        "text": pa.array(["abc", None] * 125).dictionary_encode(),
        "vec": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(1000, np.float32)), 4),
    }
)
BODIES = [stream(TABLE), stream(TABLE, "zstd"), stream(TABLE, "lz4")]


@pytest.mark.parametrize("body", BODIES)
def test_the_claims_of_a_whole_stream(body: bytes) -> None:
    frames = read_frames(pa.py_buffer(body))
    assert frames.rows == 250
    assert frames.messages == 5  # schema, dictionary, three batches


def test_compressed_buffers_are_counted_by_what_they_become() -> None:
    zeros = pa.table({"x": np.zeros(1_000_000)})
    body = stream(zeros, "zstd")
    assert len(body) < 4_000_000
    assert read_frames(pa.py_buffer(body)).expanded >= 8_000_000


def test_the_marker_of_old_writers_is_taken() -> None:
    options = pa.ipc.IpcWriteOptions(use_legacy_format=True)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, TABLE.schema, options=options) as writer:
        writer.write_table(TABLE)
    body = sink.getvalue()
    assert read_frames(body).rows == 250
    with pytest.raises(InvalidRequest, match="end-of-stream"):
        read_frames(body.slice(0, body.size - 4))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_stream_or_an_error(body: bytes) -> None:
    try:
        read_frames(pa.py_buffer(body))
    except InvalidRequest as error:
        assert "Nothing was stored" in error.detail  # noqa: PT017 - both outcomes are right


@given(st.sampled_from(BODIES), st.data())
def test_any_damage_is_a_stream_or_an_error(body: bytes, data: st.DataObject) -> None:
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    size = data.draw(st.sampled_from([len(body), len(body) - 8, len(body) // 2]))
    try:
        frames = read_frames(pa.py_buffer(bytes(damaged[:size])))
    except InvalidRequest as error:
        assert error.code == "invalid_body"  # noqa: PT017 - both outcomes are right
    else:
        assert frames.rows >= 0
        assert frames.expanded >= 0
