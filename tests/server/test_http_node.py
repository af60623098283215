"""The edge over a real node: what HTTP promises about data, end to end in one process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import numpy as np
import orjson
import pyarrow as pa
import pytest

from nearql.server.node import Node
from nearql.server.openapi import document
from nearql.server.routes.all import ROUTES
from support.http_node import Served, make_config, serve
from support.json_schema import problems
from support.waiting import wait_for

ARROW = {"Content-Type": "application/vnd.apache.arrow.stream"}
NDJSON = {"Content-Type": "application/x-ndjson"}
DOCUMENT = document(ROUTES)
SLOW = "SELECT count(*) FROM range(300000) a, range(300000) b WHERE a.range + b.range < 0"
IDENTITY = "6f1c2f0e-6f0c-4c5e-9d0e-2f6a1b3c4d5e"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Served]:
    """A real node with a table `docs`."""
    config = make_config(tmp_path / "data")
    node = Node.open(config)
    try:
        with serve(node, config) as served:
            ok(served, "CREATE TABLE docs (id BIGINT PRIMARY KEY, title TEXT, vec VECTOR(4))")
            yield served
    finally:
        node.close()


def ok(served: Served, text: str, **members: Any) -> dict[str, Any]:
    """The answer of a statement that must succeed and be as OpenAPI describes it."""
    answer = served.sql(text, **members)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    assert problems(body, DOCUMENT["components"]["schemas"]["SqlAnswer"], DOCUMENT) == []
    return body


def rows(first: int, count: int) -> pa.Table:
    """Rows of `docs` with vectors that their ids determine."""
    matrix = np.random.default_rng(first).standard_normal((count, 4)).astype(np.float32)
    return pa.table(
        {
            "id": pa.array(range(first, first + count)),
            "title": [f"title {i}" for i in range(first, first + count)],
            "vec": pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), 4),
        }
    )


def stream(*tables: pa.Table) -> bytes:
    """An Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def load(served: Served, body: bytes, query: str = "", **headers: str) -> httpx.Response:
    """POST an Arrow body to `docs`."""
    sent = {**ARROW, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return served.client.post(f"/v1/tables/docs/rows{query}", content=body, headers=sent)


def count(served: Served) -> int:
    """Rows in `docs`."""
    found: int = ok(served, "SELECT count(*) FROM docs")["rows"][0][0]
    return found


def test_loaded_rows_are_found_by_search(running: Served) -> None:
    table = rows(0, 500)
    assert load(running, stream(table)).json()["inserted"] == 500
    query = table["vec"][123].as_py()
    body = ok(
        running, "SELECT id, vec <-> :q AS d FROM docs ORDER BY d LIMIT 1", params={"q": query}
    )
    assert body["rows"] == [[123, 0.0]]
    assert body["stats"]["strategy"].startswith("exact/")


def test_insert_and_upsert_answer_what_became_of_each_row(running: Served) -> None:
    load(running, stream(rows(0, 3)))
    again = load(running, stream(rows(2, 2))).json()
    assert (again["rows"], again["inserted"], again["updated"]) == (2, 1, 0)
    assert [(f["row"], f["code"]) for f in again["failed"]] == [(0, "duplicate_key")]
    upserted = load(running, stream(rows(2, 3)), "?mode=upsert").json()
    assert (upserted["inserted"], upserted["updated"], upserted["failed"]) == (1, 2, [])
    assert count(running) == 5


def test_a_body_that_is_not_whole_leaves_nothing(running: Served) -> None:
    body = stream(rows(0, 3000), rows(3000, 3000))
    for cut in (1, 8, 9, len(body) // 2, len(body) - 10):
        assert load(running, body[: len(body) - cut]).status_code == 400
    lines = b"".join(orjson.dumps({"id": i}) + b"\n" for i in range(10_000)) + b'{"id": '
    answer = running.client.post("/v1/tables/docs/rows", content=lines, headers=NDJSON)
    assert "Line 10001" in answer.json()["detail"]
    assert count(running) == 0


def test_rows_that_do_not_fit_are_told_and_the_others_stored(running: Served) -> None:
    lines = [
        b'{"id": 1, "vec": [1, 2, 3, 4]}',
        b'{"id": 2, "vec": [1, 2, 3]}',
        b'{"id": "x", "vec": [1, 2, 3, 4]}',
        b'{"id": 4, "vec": [1, 2, 3, 1e39]}',
        b'{"id": null}',
        b'{"id": 6, "vec": "AACAPwAAgD8AAIA/AACAPw=="}',
        b'{"id": 7, "vec": "[1,2,3,4]", "title": 5}',
        b'{"id": 310.5}',
    ]
    body = b"\n".join(lines)
    answer = running.client.post("/v1/tables/docs/rows", content=body, headers=NDJSON).json()
    assert [failed["row"] for failed in answer["failed"]] == [1, 2, 3, 4, 7]
    assert all(failed["detail"] for failed in answer["failed"])
    assert answer["inserted"] == 3
    found = ok(running, "SELECT id, title, vec FROM docs ORDER BY id")["rows"]
    assert found == [
        [1, None, [1.0, 2.0, 3.0, 4.0]],
        [6, None, [1.0, 1.0, 1.0, 1.0]],
        [7, "5", [1.0, 2.0, 3.0, 4.0]],
    ]


def test_a_load_repeated_with_its_request_id_is_done_once(running: Served) -> None:
    body = stream(rows(0, 10))
    identity = {"NearQL_Request_Id": f"{IDENTITY}:1"}
    first = load(running, body, **identity).json()
    second = load(running, body, **identity).json()
    assert first == second
    assert first["inserted"] == 10
    assert load(running, body, NearQL_Request_Id=f"{IDENTITY}:2").json()["inserted"] == 0


def test_a_statement_repeated_with_its_request_id_is_done_once(running: Served) -> None:
    load(running, stream(rows(0, 1)))
    ok(running, "ALTER TABLE docs ADD COLUMN n BIGINT DEFAULT 0")
    headers = {"NearQL-Request-Id": f"{IDENTITY}:3"}
    for _ in range(3):
        body = {"sql": "UPDATE docs SET n = n + 1"}
        assert running.client.post("/v1/sql", json=body, headers=headers).is_success
    assert ok(running, "SELECT n FROM docs")["rows"] == [[1]]


def test_a_request_id_sent_again_with_another_request_is_409_and_does_nothing(
    running: Served,
) -> None:
    identity = f"{IDENTITY}:4"
    assert load(running, stream(rows(0, 3)), NearQL_Request_Id=identity).is_success
    refused = load(running, stream(rows(3, 6)), NearQL_Request_Id=identity)
    assert (refused.status_code, refused.json()["code"]) == (409, "request_id_reused")
    headers = {"NearQL-Request-Id": f"{IDENTITY}:5"}
    for text, status in (("DELETE FROM docs WHERE id = 0", 200), ("DELETE FROM docs", 409)):
        answer = running.client.post("/v1/sql", json={"sql": text}, headers=headers)
        assert answer.status_code == status
    assert ok(running, "SELECT id FROM docs ORDER BY id")["rows"] == [[1], [2]]


def test_the_tables_route_tells_the_table_as_it_is(running: Served) -> None:
    load(running, stream(rows(0, 7)))
    schema = DOCUMENT["components"]["schemas"]["Table"]
    found = running.client.get("/v1/tables/docs").json()
    assert problems(found, schema, DOCUMENT) == []
    assert found["rows"] == 7
    assert [c["name"] for c in found["schema"]["columns"]] == ["id", "title", "vec"]
    assert [c["type"] for c in found["schema"]["columns"]] == ["BIGINT", "TEXT", "VECTOR(4)"]
    assert [c["primary_key"] for c in found["schema"]["columns"]] == [True, False, False]
    assert sum(segment["rows"] for segment in found["segments"]) == 7
    assert len(found["shards"]) == 1
    assert running.client.get("/v1/tables").json() == {"tables": [found]}


def test_a_node_alone_is_its_own_leader(running: Served) -> None:
    load(running, stream(rows(0, 7)))
    found = running.client.get("/v1/cluster").json()
    assert problems(found, DOCUMENT["components"]["schemas"]["Cluster"], DOCUMENT) == []
    assert found["leader"] == "n1"
    (shard,) = found["shards"]
    assert (shard["table"], shard["primary"], shard["in_sync"]) == ("docs", "n1", ["n1"])
    assert shard["copies"][0]["lag_records"] == 0


def test_metrics_show_the_table(running: Served) -> None:
    load(running, stream(rows(0, 7)))
    text = running.client.get("/metrics").text
    assert 'nearql_table_rows{table="docs"} 7.0' in text
    assert "nearql_bulk_rows_total 7.0" in text
    assert 'nearql_wal_bytes{table="docs"}' in text


def test_writers_and_readers_at_once_see_whole_batches(running: Served) -> None:
    def write(batch: int) -> int:
        return int(load(running, stream(rows(batch * 100, 100))).json()["inserted"])

    def read(_: int) -> int:
        found: int = ok(running, "SELECT count(*) FROM docs")["rows"][0][0]
        return found

    with ThreadPoolExecutor(16) as pool:
        written = [pool.submit(write, batch) for batch in range(20)]
        seen = [pool.submit(read, i) for i in range(40)]
        assert [each.result() for each in written] == [100] * 20
        assert all(each.result() % 100 == 0 for each in seen)
    assert count(running) == 2000


def test_a_statement_out_of_time_is_504_and_certain(running: Served) -> None:
    began = time.monotonic()
    answer = running.sql(SLOW, settings={"statement_timeout_ms": 200})
    assert (answer.status_code, answer.json()["code"]) == (504, "statement_timeout")
    assert answer.json()["definite"] is True
    assert time.monotonic() - began < 20


def test_the_thread_of_a_client_that_goes_away_is_free_again(running: Served) -> None:
    edge = running.server.config.app.state.edge  # type: ignore[union-attr]
    with pytest.raises(httpx.ReadTimeout):
        running.client.post("/v1/sql", json={"sql": SLOW}, timeout=0.5)
    wait_for(lambda: edge.workers.pending == 0, "the statement was interrupted", 20.0)


def test_arrow_answers_keep_what_json_cannot(running: Served) -> None:
    load(running, stream(rows(0, 5)))
    answer = running.client.post(
        "/v1/sql",
        json={"sql": "SELECT id, vec, 'NaN'::FLOAT AS n FROM docs ORDER BY id"},
        headers={"Accept": "application/vnd.apache.arrow.stream"},
    )
    got = pa.ipc.open_stream(answer.content).read_all()
    assert got.schema.field("vec").type == pa.list_(pa.float32(), 4)
    assert got["vec"].to_pylist() == rows(0, 5)["vec"].to_pylist()
    assert np.isnan(got["n"][0].as_py())
    body = ok(running, "SELECT 'NaN'::FLOAT AS n, 'infinity'::DOUBLE AS i")
    assert body["rows"] == [[None, None]]


def test_a_session_token_of_a_real_node_is_accepted(running: Served) -> None:
    load(running, stream(rows(0, 5)))
    token = ok(running, "SELECT count(*) FROM docs")["stats"]["session"]
    answer = running.client.post(
        "/v1/sql", json={"sql": "SELECT count(*) FROM docs"}, headers={"NearQL-Session": token}
    )
    assert answer.json()["rows"] == [[5]]


@pytest.mark.parametrize(
    ("text", "status", "code", "position"),
    [
        ("SELEC 1", 400, "syntax_error", 1),
        ("SELECT * FROM dcs", 404, "undefined_table", 15),
        ("SELECT * FROM read_csv('/etc/passwd')", 400, None, None),
        ("CREATE TABLE docs (id BIGINT PRIMARY KEY)", 409, "duplicate_table", None),
    ],
)
def test_wrong_sql_is_told_with_its_place(
    running: Served, text: str, status: int, code: str | None, position: int | None
) -> None:
    answer = running.sql(text)
    found = answer.json()
    assert answer.status_code == status, found
    assert answer.headers["content-type"] == "application/problem+json"
    assert code in (None, found["code"])
    assert position in (None, found["position"])


FAR = pa.array([2**31 - 1], pa.int32()).cast(pa.date32())
ODD: list[tuple[pa.Array, Any]] = [
    (pa.array([1.5], pa.float16()), "1.5"),
    (
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"\0" * 16], pa.binary(16))),
        str(UUID(int=0)),
    ),
    (pa.array([Decimal(10) ** 70], pa.decimal256(76, 2)), "1" + "0" * 70 + ".00"),
    (pa.array(["x"], pa.large_string()), "x"),
    (pa.array([b"x"], pa.binary_view()), "x"),
    (FAR, "infinity"),
]


def test_arrow_types_that_are_not_sql_s_own_arrive_as_text(running: Served) -> None:
    for key, (array, _) in enumerate(ODD):
        answer = load(running, stream(pa.table({"id": [key], "title": array})))
        assert answer.json()["failed"] == [], answer.text
    found = ok(running, "SELECT title FROM docs ORDER BY id")["rows"]
    assert found == [[expected] for _, expected in ODD]


def test_any_arrow_type_into_any_column_is_stored_or_told(running: Served) -> None:
    kinds = ("BIGINT", "DATE", "BOOLEAN", "UUID", "TEXT[]", "BLOB", "JSON", "VECTOR(4)")
    columns = ", ".join(f"c{i} {kind}" for i, kind in enumerate(kinds))
    ok(running, f"DROP TABLE docs; CREATE TABLE docs (id BIGINT PRIMARY KEY, {columns})")
    stored = 0
    for key, (array, _) in enumerate(ODD * len(kinds)):
        table = pa.table({"id": [key], f"c{key // len(ODD)}": array})
        answer = load(running, stream(table))
        assert answer.status_code in (200, 400), answer.text
        stored += answer.json()["inserted"] if answer.is_success else 0
    assert ok(running, "SELECT * FROM docs")["row_count"] == stored > len(ODD)
