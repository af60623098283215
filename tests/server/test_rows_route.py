"""`POST /v1/tables/{t}/rows` over a real socket: formats, limits, and bodies that are cut.

What a table makes of the rows is tested elsewhere; here `insert_rows` is scripted, and the
question is which rows reach it, in which form, and that none does where the body is not whole.
"""

from __future__ import annotations

import gzip
import http.client
import io
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
import zstandard

from nearql.engine.errors import Conflict
from nearql.engine.types import OnConflict, ShardPosition
from nearql.server.session_token import _decode
from support.http_node import DOCS, FakeOutcome, Served
from support.waiting import wait_for

ARROW = "application/vnd.apache.arrow.stream"
ARROW_FILE = "application/vnd.apache.arrow.file"
PARQUET = "application/vnd.apache.parquet"
NDJSON = "application/x-ndjson"


def rows(count: int, first: int = 0) -> pa.Table:
    """Rows of `docs`: id, title, vec of 4."""
    values = np.arange(first * 4, (first + count) * 4, dtype=np.float32)
    return pa.table(
        {
            "id": pa.array(range(first, first + count), pa.int64()),
            "title": [f"title {i}" for i in range(first, first + count)],
            "vec": pa.FixedSizeListArray.from_arrays(pa.array(values), 4),
        }
    )


def arrow_stream(*tables: pa.Table, compression: str | None = None, close: bool = True) -> bytes:
    """An Arrow stream with one batch per table."""
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    writer = pa.ipc.new_stream(sink, tables[0].schema, options=options)
    for table in tables:
        writer.write_table(table)
    if close:
        writer.close()
    return sink.getvalue()


def arrow_file(table: pa.Table, compression: str = "uncompressed") -> bytes:
    """An Arrow file, which is Feather's second version."""
    sink = io.BytesIO()
    feather.write_feather(table, sink, compression=compression)
    return sink.getvalue()


def parquet(table: pa.Table, **options: Any) -> bytes:
    """A Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def ndjson(table: pa.Table) -> bytes:
    """One JSON object per line."""
    import orjson

    return b"".join(orjson.dumps(row) + b"\n" for row in table.to_pylist())


def send(served: Served, body: bytes, kind: str = ARROW, query: str = "", **headers: str) -> Any:
    """POST the rows."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return served.client.post(
        f"/v1/tables/docs/rows{query}", content=body, headers={"Content-Type": kind, **names}
    )


def stored(served: Served) -> pa.Table:
    """Every row that reached the session, in order."""
    return pa.concat_tables([c.rows for c in served.session.calls if c.rows is not None])


def refused(served: Served, answer: Any, code: str = "invalid_body", status: int = 400) -> str:
    """The detail of a refusal that stored nothing."""
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), problem
    assert served.session.stored == 0
    detail: str = problem["detail"]
    return detail


ENCODERS: list[tuple[str, Callable[[pa.Table], bytes]]] = [
    (ARROW, arrow_stream),
    (ARROW, lambda t: arrow_stream(t.slice(0, 3), t.slice(3))),
    (ARROW, lambda t: arrow_stream(t, compression="zstd")),
    (ARROW, lambda t: arrow_stream(t, compression="lz4")),
    (ARROW_FILE, arrow_file),
    (ARROW_FILE, lambda t: arrow_file(t, "lz4")),
    (PARQUET, parquet),
    (PARQUET, lambda t: parquet(t, compression="zstd", row_group_size=3)),
    (NDJSON, ndjson),
    (NDJSON, lambda t: ndjson(t).rstrip(b"\n")),
    (NDJSON, lambda t: ndjson(t).replace(b"\n", b"\r\n\r\n")),
]


def test_the_answer_carries_the_session(served: Served) -> None:
    """Its own rows, and what the session had seen before."""
    at = iter([(ShardPosition(0, 1, 7), ShardPosition(1, 1, 3)), (ShardPosition(0, 1, 8),)])
    served.session.on_insert = lambda call: FakeOutcome(inserted=10, positions=next(at))
    body = arrow_stream(rows(10))
    first = send(served, body).headers["NearQL-Session"]
    assert _decode(first) == {(DOCS.uuid, 0): (1, 7), (DOCS.uuid, 1): (1, 3)}
    second = send(served, body, NearQL_Session=first).headers["NearQL-Session"]
    assert _decode(second) == {(DOCS.uuid, 0): (1, 8), (DOCS.uuid, 1): (1, 3)}
    refusal = send(served, body, NearQL_Session="%%")
    assert (refusal.status_code, refusal.json()["code"]) == (400, "invalid_session")
    assert len(served.session.calls) == 2


@pytest.mark.parametrize(("kind", "encode"), ENCODERS)
def test_every_format_arrives_as_the_same_rows(
    served: Served, kind: str, encode: Callable[[pa.Table], bytes]
) -> None:
    table = rows(10)
    answer = send(served, encode(table), kind)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"rows": 10, "inserted": 10, "updated": 0, "failed": []}
    assert stored(served).to_pylist() == table.to_pylist()


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_compressed_body_is_read_as_it_arrives(served: Served, encoding: str) -> None:
    body = arrow_stream(rows(50))
    packed = gzip.compress(body) if encoding == "gzip" else zstandard.compress(body)
    assert send(served, packed, Content_Encoding=encoding).json()["inserted"] == 50


def test_gzip_members_one_after_the_other_are_one_body(served: Served) -> None:
    body = arrow_stream(rows(50))
    packed = gzip.compress(body[:100]) + gzip.compress(body[100:])
    assert send(served, packed, Content_Encoding="gzip").json()["inserted"] == 50


def test_zstd_frames_one_after_the_other_are_one_body(served: Served) -> None:
    body = arrow_stream(rows(50))
    packed = zstandard.compress(body[:100]) + zstandard.compress(body[100:])
    assert send(served, packed, Content_Encoding="zstd").json()["inserted"] == 50


def test_mode_and_write_concern_reach_the_session(served: Served) -> None:
    send(served, arrow_stream(rows(1)))
    send(served, arrow_stream(rows(1)), query="?mode=upsert&write_concern=all")
    first, second = served.session.calls
    assert (first.on_conflict, first.settings) == (OnConflict.ERROR, {})
    assert (second.on_conflict, second.settings) == (OnConflict.REPLACE, {"write_concern": "all"})


def test_every_cut_of_an_arrow_stream_stores_nothing(served: Served) -> None:
    body = arrow_stream(rows(3), rows(2, first=3))
    for size in range(0, len(body), 7):
        assert send(served, body[:size]).status_code == 400, size
    assert send(served, body[:-1]).status_code == 400
    assert served.session.stored == 0


def test_a_stream_cut_exactly_between_batches_is_told_by_its_missing_marker(
    served: Served,
) -> None:
    body = arrow_stream(rows(3), rows(2, first=3), close=False)
    detail = refused(served, send(served, body))
    assert "end-of-stream marker" in detail
    assert "3 messages" in detail


def test_a_batch_that_ends_like_a_marker_does_not_pass_for_one(served: Served) -> None:
    # The last 8 bytes of the body are those of the end marker, as data.
    table = pa.table({"id": pa.array([0xFFFFFFFF], pa.int64())})
    detail = refused(served, send(served, arrow_stream(table, close=False)))
    assert "end-of-stream marker" in detail


def test_bytes_after_the_marker_are_refused(served: Served) -> None:
    detail = refused(served, send(served, arrow_stream(rows(1)) + b"\0" * 5))
    assert "5 bytes follow" in detail


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_no_single_flipped_byte_of_the_framing_crashes_the_server(
    served: Served, compression: str | None
) -> None:
    body = arrow_stream(rows(3), compression=compression)
    for position in range(0, len(body), 5):
        damaged = bytearray(body)
        damaged[position] ^= 0xFF
        answer = send(served, bytes(damaged))
        assert answer.status_code in (200, 400, 413), (position, answer.text)


def test_damaged_text_is_refused(served: Served) -> None:
    raw = pa.array([b"ok", b"\xff\xfe"], pa.binary())
    title = pa.StringArray.from_buffers(2, raw.buffers()[1], raw.buffers()[2])
    table = pa.table({"id": pa.array([1, 2]), "title": title})
    assert "UTF8" in refused(served, send(served, arrow_stream(table)))


@pytest.mark.parametrize("size", [0, 3, 100, -1, -9])
def test_a_cut_arrow_file_stores_nothing(served: Served, size: int) -> None:
    refused(served, send(served, arrow_file(rows(5))[:size], ARROW_FILE))


@pytest.mark.parametrize("size", [0, 3, 100, -1, -9])
def test_a_cut_parquet_file_stores_nothing(served: Served, size: int) -> None:
    refused(served, send(served, parquet(rows(5))[:size], PARQUET))


def test_a_parquet_page_with_a_wrong_checksum_stores_nothing(served: Served) -> None:
    body = bytearray(parquet(rows(500), write_page_checksum=True, compression="none"))
    at = body.find(b"title 499")
    body[at] ^= 1
    refused(served, send(served, bytes(body), PARQUET))


WRONG_LINES = [
    (b'{"id": 1}\n{"id": 2', "Line 2", "invalid_body"),
    (b'{"id": 1}\n\n[1]\n', "Line 3 is not a JSON object", "invalid_body"),
    (b'{"id": 1}\n{"id": \xff}\n', "Line 2", "invalid_body"),
    (b'{"id": 1}\n{"id": 2, "titel": "x"}\n', "did you mean 'title'", "undefined_column"),
    (b'{"id": 1, "ID": 2}\n', "twice", "duplicate_column"),
]


@pytest.mark.parametrize(("body", "words", "code"), WRONG_LINES)
def test_a_wrong_line_stores_nothing(served: Served, body: bytes, words: str, code: str) -> None:
    assert words in refused(served, send(served, body, NDJSON), code)


def test_a_wrong_line_far_behind_stores_nothing(served: Served) -> None:
    body = ndjson(rows(700)).rstrip(b"\n") + b"\n{"
    assert "Line 701" in refused(served, send(served, body, NDJSON))


def test_ndjson_values_that_do_not_fit_are_left_to_the_row(served: Served) -> None:
    lines = [
        b'{"id": 1, "vec": [1, 2, 3, 4]}',
        b'{"id": "x", "vec": [1, 2]}',
        b'{"id": null, "vec": "[4,3,2,1]"}',
    ]
    assert send(served, b"\n".join(lines), NDJSON).is_success
    assert stored(served).to_pydict() == {
        "id": ["1", "x", None],
        "vec": ["[1,2,3,4]", "[1,2]", "[4,3,2,1]"],
    }


def test_an_object_or_list_for_a_plain_column_is_left_to_the_row(served: Served) -> None:
    assert send(served, b'{"id": [1], "title": {"a": 1}}\n{"id": null}', NDJSON).is_success
    assert stored(served).to_pydict() == {"id": ["[1]", None], "title": ['{"a":1}', None]}


def test_ndjson_vectors_become_fixed_size_lists_with_nulls(served: Served) -> None:
    lines = b'{"id": 1, "vec": [1, 2, 3, 4.5]}\n{"id": 2, "vec": null}\n{"id": 3}\n'
    assert send(served, lines, NDJSON).is_success
    got = stored(served)
    assert got.schema.field("vec").type == pa.list_(pa.float32(), 4)
    assert got["vec"].to_pylist() == [[1, 2, 3, 4.5], None, None]


def test_strings_in_an_ndjson_vector_are_not_taken_for_numbers(served: Served) -> None:
    assert send(served, b'{"id": 1, "vec": ["1", "2", "3", "4"]}', NDJSON).is_success
    assert stored(served)["vec"].to_pylist() == ['["1","2","3","4"]']


@pytest.mark.parametrize(
    ("table", "code", "words"),
    [
        (pa.table({"id": [1], "titel": ["x"]}), "undefined_column", "did you mean 'title'"),
        (pa.table({"id": [1], "zzz": ["x"]}), "undefined_column", "id, title, vec"),
        (pa.table([[1], [2]], names=["id", "id"]), "duplicate_column", "twice"),
    ],
)
def test_wrong_columns_are_named(served: Served, table: pa.Table, code: str, words: str) -> None:
    assert words in refused(served, send(served, arrow_stream(table)), code)
    assert words in refused(served, send(served, arrow_file(table), ARROW_FILE), code)


def test_dictionary_and_view_columns_arrive_written_out(served: Served) -> None:
    title = pa.array(["a", "b", "a"]).dictionary_encode()
    table = pa.table({"id": [1, 2, 3], "title": title})
    view = pa.table({"id": [4], "title": pa.array(["v"], pa.string_view())})
    assert send(served, arrow_stream(table)).is_success
    assert send(served, arrow_stream(view)).is_success
    got = stored(served)["title"]
    assert got.to_pylist() == ["a", "b", "a", "v"]
    assert got.type == pa.string()


def test_a_dictionary_that_explodes_is_413(served: Served) -> None:
    text = "x" * 40_000
    indices = pa.array(np.zeros(20_000, dtype=np.int8))
    title = pa.DictionaryArray.from_arrays(indices, pa.array([text]))
    table = pa.table({"title": title})
    refused(served, send(served, arrow_stream(table)[:]), "expansion_too_large", 413)


def test_a_parquet_file_that_explodes_is_413(served: Served) -> None:
    table = pa.table({"title": pa.array(["x" * 10_000] * 20_000)})
    body = parquet(table, compression="zstd")
    assert len(body) < 65536
    refused(served, send(served, body, PARQUET), "expansion_too_large", 413)


def test_a_gzip_body_that_explodes_is_413(served: Served) -> None:
    body = gzip.compress(b"\0" * 10_000_000)
    assert len(body) < 65536
    refused(served, send(served, body, Content_Encoding="gzip"), "body_too_large", 413)


def test_rows_without_data_are_refused(served: Served) -> None:
    table = pa.table({"title": pa.nulls(1_000_000)})
    assert "claims 1000000 rows" in refused(served, send(served, arrow_stream(table)))


@pytest.mark.parametrize("chunked", [False, True])
def test_the_stream_limit_is_exact(served: Served, chunked: bool) -> None:
    line = b'{"id": 1}\n'
    body = line * 100 + b" " * (65536 - 100 * len(line))

    def post(content: bytes) -> Any:
        parts: Any = iter([content[:9000], content[9000:]]) if chunked else content
        return send(served, parts, NDJSON)

    assert post(body).json()["rows"] == 100
    answer = post(body + b" ")
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert "limits.stream_body" in answer.json()["detail"]
    assert served.session.stored == 100


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_far_beyond_the_limit_is_answered_and_the_connection_lives(
    served: Served, chunked: bool
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    body: Any = iter([b" " * 100_000] * 50) if chunked else b" " * 5_000_000
    headers = {"Content-Type": NDJSON}
    connection.request("POST", "/v1/tables/docs/rows", body, headers, encode_chunked=chunked)
    answer = connection.getresponse()
    assert answer.status == 413
    answer.read()
    connection.request("GET", "/livez")
    assert connection.getresponse().status == 200
    connection.close()


def test_a_body_longer_than_its_content_length_is_refused(served: Served) -> None:
    body = arrow_stream(rows(10))
    head = (
        f"POST /v1/tables/docs/rows HTTP/1.1\r\nHost: x\r\nContent-Type: {ARROW}\r\n"
        f"Content-Length: {len(body) - 8}\r\n\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        connection.sendall(head + body)
        assert b" 400 " in connection.recv(4096).split(b"\r\n")[0]
    assert served.session.stored == 0


def test_unknown_table_format_mode_and_parameter_are_named(served: Served) -> None:
    body = arrow_stream(rows(1))
    headers = {"Content-Type": ARROW}
    lost = served.client.post("/v1/tables/dosc/rows", content=body, headers=headers)
    assert (lost.status_code, lost.json()["code"]) == (404, "undefined_table")
    assert "did you mean 'docs'" in lost.json()["detail"]
    assert send(served, body, "text/csv").status_code == 415
    assert "insert or upsert" in refused(
        served, send(served, body, query="?mode=merge"), "invalid_value"
    )
    assert "'mood'" in refused(served, send(served, body, query="?mood=1"), "invalid_request")


def test_no_rows_are_no_error(served: Served) -> None:
    empty = {"rows": 0, "inserted": 0, "updated": 0, "failed": []}
    assert send(served, arrow_stream(rows(0))).json() == empty
    assert send(served, b"\n", NDJSON).json() == empty


def test_failed_rows_are_numbered_from_the_start_of_the_body(served: Served) -> None:
    fail = SimpleNamespace(row=1, code="duplicate_key", detail="id 5 exists")
    served.session.on_insert = lambda call: FakeOutcome(inserted=4095, failed=(fail,))
    body = b'{"id": 1}\n' * 5000  # two batches of 4096 and 904
    answer = send(served, body, NDJSON).json()
    assert [row["row"] for row in answer["failed"]] == [1, 4097]
    assert answer["failed"][0]["code"] == "duplicate_key"
    assert answer["failed"][0]["detail"] == "id 5 exists"


def test_the_list_of_failed_rows_is_capped_and_counted(served: Served) -> None:
    fails = tuple(SimpleNamespace(row=i, code="x", detail="y") for i in range(1500))
    served.session.on_insert = lambda call: FakeOutcome(failed=fails)
    answer = send(served, b'{"id": 1}\n' * 1500, NDJSON).json()
    assert len(answer["failed"]) == 1000
    assert answer["failed_count"] == 1500


def test_an_error_after_stored_batches_says_what_was_stored(served: Served) -> None:
    def second_fails(call: Any) -> FakeOutcome:
        if len(served.session.calls) == 2:
            raise Conflict("full", row=3)
        return FakeOutcome(inserted=call.rows.num_rows)

    served.session.on_insert = second_fails
    problem = send(served, b'{"id": 1}\n' * 5000, NDJSON).json()
    assert problem["status"] == 409
    assert problem["rows_stored"] == 4096
    assert problem["first_row_not_stored"] == 4096
    assert problem["row"] == 4099
    assert problem["definite"] is False


def test_each_batch_has_its_own_request_id_and_a_retry_has_the_same(served: Served) -> None:
    identity = "6f1c2f0e-6f0c-4c5e-9d0e-2f6a1b3c4d5e:9"
    for _ in range(2):
        send(served, b'{"id": 1}\n' * 5000, NDJSON, NearQL_Request_Id=identity)
    ids = [call.request_id for call in served.session.calls]
    assert len(ids) == 4
    assert ids[:2] == ids[2:]
    assert len({ids[0], ids[1]}) == 2
    assert all(found is not None and len(found) == 16 for found in ids)


def test_a_client_that_goes_away_in_the_middle_stores_nothing(served: Served) -> None:
    body = arrow_stream(rows(100))
    head = (
        f"POST /v1/tables/docs/rows HTTP/1.1\r\nHost: x\r\nContent-Type: {ARROW}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(head + body[:-100])
    label = {"method": "POST", "route": "/v1/tables/{table}/rows", "status": "0"}

    def told() -> bool:
        registry = served.server.config.app.state.edge.metrics.registry  # type: ignore[union-attr]
        return any(
            registry.get_sample_value("nearql_http_requests_total", {**label, "status": s})
            for s in ("0", "400")
        )

    wait_for(told, "the server saw the connection end", 10.0)
    assert served.session.stored == 0


def test_a_body_larger_than_the_spool_memory_goes_through_a_file(served: Served) -> None:
    edge = served.server.config.app.state.edge  # type: ignore[union-attr]
    free = edge.spool_memory._free
    assert edge.spool_memory.take(free)  # as if other requests held it all
    table = rows(500)
    for kind, body in ((ARROW, arrow_stream(table)), (NDJSON, ndjson(table))):
        served.session.calls.clear()
        assert send(served, body, kind).json()["inserted"] == 500
        assert stored(served).to_pylist() == table.to_pylist()
    edge.spool_memory.give(free)
    assert edge.spool_memory._free == free
    assert not list(served.node.config.node.data_dir.iterdir())


def test_spool_memory_comes_back_after_failures(served: Served) -> None:
    edge = served.server.config.app.state.edge  # type: ignore[union-attr]
    free = edge.spool_memory._free
    send(served, arrow_stream(rows(10))[:-20])
    send(served, b'{"id": 1}\n{', NDJSON)
    send(served, b"x" * 70_000, NDJSON)
    assert edge.spool_memory._free == free
