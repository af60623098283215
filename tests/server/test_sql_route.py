"""`POST /v1/sql` over a real socket: the shape of answers, and every way to ask wrongly."""

from __future__ import annotations

import base64
import contextlib
import gzip
import math
from functools import partial
from types import SimpleNamespace
from typing import Any, NoReturn

import httpx
import msgpack
import orjson
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from nearql.engine.errors import (
    Corruption,
    InvalidRequest,
    InvalidValue,
    NearQLError,
    NotFound,
    SqlError,
)
from nearql.server.config import Config
from nearql.server.request import SqlRequest
from nearql.server.routes.sql import _timeout_ms
from nearql.server.session_token import _decode, _encode, token_after
from support.http_node import DOCS, Call, FakeResult, Served, rows_result

SHARD = {"table": "docs", "shard": 0, "epoch": 1, "lsn": 7}
JSON = {"Content-Type": "application/json"}


def hits() -> FakeResult:
    """Two rows as a search answers them."""
    table = pa.table({"id": pa.array([17, 3]), "d": pa.array([0.2134, 0.5], pa.float32())})
    shards = [{"table": "docs", "shard": 0, "epoch": 1, "lsn": 7}]
    return rows_result(table, "BIGINT", "FLOAT", shards=shards)


def test_the_answer_has_the_shape_of_the_contract(served: Served) -> None:
    served.session.answers["SELECT 1"] = lambda call: hits()
    answer = served.sql("SELECT 1")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body["columns"] == [{"name": "id", "type": "BIGINT"}, {"name": "d", "type": "FLOAT"}]
    assert body["rows"] == [[17, 0.2134], [3, 0.5]]
    assert body["row_count"] == 2
    stats = body["stats"]
    assert stats["elapsed_ms"] >= 0
    assert stats["node"] == "n1"
    assert stats["strategy"] == "exact/numpy"
    assert stats["shards"] == [{"table": "docs", "shard": 0, "epoch": 1, "lsn": 7}]
    assert isinstance(stats["session"], str)
    assert "write" not in stats
    assert "notices" not in body


def test_a_statement_without_rows_answers_empty_columns_and_rows(served: Served) -> None:
    write = {"concern": "majority", "committed": True, "copies": 1}
    served.session.answers["DELETE"] = lambda call: FakeResult(
        row_count=4, stats={"write": write}, notices=("be careful",)
    )
    body = served.sql("DELETE").json()
    assert (body["columns"], body["rows"], body["row_count"]) == ([], [], 4)
    assert body["stats"]["write"] == write
    assert body["notices"] == ["be careful"]


def test_params_and_settings_reach_the_session_as_sent(served: Served) -> None:
    served.sql("SELECT 1", params={"q": [0.5, 1]}, settings={"target_recall": 0.9})
    served.sql("SELECT 1", params=[1, "two", None])
    first, second = served.session.calls
    assert (first.params, first.settings) == ({"q": [0.5, 1]}, {"target_recall": 0.9})
    assert second.params == [1, "two", None]


def test_arrow_is_answered_where_it_is_asked_for(served: Served) -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array([1, 2, 3, 4], pa.float32()), 2)
    table = pa.table({"id": pa.array([1, 2]), "vec": vectors})
    served.session.answers["SELECT 1"] = lambda call: rows_result(table, "BIGINT", "VECTOR(2)")
    answer = served.client.post(
        "/v1/sql",
        json={"sql": "SELECT 1"},
        headers={"Accept": "application/vnd.apache.arrow.stream, application/json;q=0.5"},
    )
    assert answer.headers["content-type"] == "application/vnd.apache.arrow.stream"
    got = pa.ipc.open_stream(answer.content).read_all()
    assert got.schema.field("vec").type == pa.list_(pa.float32(), 2)
    assert got.schema.field("id").metadata[b"nearql.type"] == b"BIGINT"
    note = orjson.loads(got.schema.metadata[b"nearql"])
    assert note["row_count"] == 2
    assert note["stats"]["strategy"] == "exact/numpy"
    assert got.replace_schema_metadata(None).equals(table)


def test_arrow_of_a_statement_without_rows_still_tells_its_stats(served: Served) -> None:
    answer = served.client.post(
        "/v1/sql", json={"sql": "X"}, headers={"Accept": "application/vnd.apache.arrow.stream"}
    )
    got = pa.ipc.open_stream(answer.content).read_all()
    assert got.num_columns == 0
    assert orjson.loads(got.schema.metadata[b"nearql"])["row_count"] == 0


WRONG: list[tuple[bytes, str, str]] = [
    (b"", "invalid_json", "empty"),
    (b"  \n", "invalid_json", "empty"),
    (b'{"sql": "\xc3\xa9", x}', "invalid_json", "byte offset 14"),
    (b'{"sql": "SELECT 1"', "invalid_json", "byte offset 18"),
    (b'{"sql": "\xff"}', "invalid_json", "0xff at offset 9"),
    (b'{"sql": NaN}', "invalid_json", "byte offset 8"),
    (b"[" * 3000, "invalid_json", "depth"),
    (b"[1]", "invalid_request", "a list"),
    (b'"SELECT 1"', "invalid_request", "a string"),
    (b"null", "invalid_request", "null"),
    (b"{}", "invalid_sql_member", "missing"),
    (b'{"sql": 5}', "invalid_sql_member", "a number"),
    (b'{"sql": null}', "invalid_sql_member", "null"),
    (b'{"sql": "S", "parms": {}}', "unknown_member", 'did you mean "params"'),
    (b'{"sql": "S", "zzzzzz": {}}', "unknown_member", "known are sql, params, settings"),
    (b'{"sql": "S", "params": "x"}', "invalid_params_member", "a string"),
    (b'{"sql": "S", "params": 1}', "invalid_params_member", "a number"),
    (b'{"sql": "S", "settings": []}', "invalid_settings_member", "a list"),
    (b'{"sql": "S", "settings": {"a": {}}}', "invalid_value", '"a"'),
]


@pytest.mark.parametrize(("body", "code", "words"), WRONG)
def test_a_wrong_body_is_refused_by_name(
    served: Served, body: bytes, code: str, words: str
) -> None:
    answer = served.client.post("/v1/sql", content=body, headers=JSON)
    problem = answer.json()
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["code"] == code
    assert words in problem["detail"]
    assert not served.session.calls


def test_a_problem_has_every_member_of_the_contract(served: Served) -> None:
    def refuse(call: Any) -> Any:
        raise SqlError("no such thing as SELEC", position=1, hint="SELECT")

    served.session.answers["SELEC 1"] = refuse
    answer = served.client.post(
        "/v1/sql", json={"sql": "SELEC 1"}, headers={"X-Request-Id": "abc-1"}
    )
    assert answer.status_code == 400
    assert answer.headers["x-request-id"] == "abc-1"
    assert answer.json() == {
        "title": "SQL error",
        "status": 400,
        "detail": "no such thing as SELEC",
        "code": "syntax_error",
        "sqlstate": "42601",
        "position": 1,
        "request_id": "abc-1",
        "definite": True,
        "retryable": False,
        "hint": "SELECT",
    }


def test_a_body_in_another_format_is_415(served: Served) -> None:
    answer = served.client.post("/v1/sql", data={"sql": "SELECT 1"})
    assert answer.status_code == 415
    assert "Content-Type: application/json" in answer.json()["detail"]


def test_a_charset_and_a_missing_content_type_are_accepted(served: Served) -> None:
    body = b'{"sql": "SELECT 1"}'
    typed = {"Content-Type": "application/json; charset=utf-8"}
    assert served.client.post("/v1/sql", content=body, headers=typed).status_code == 200
    assert served.client.post("/v1/sql", content=body).status_code == 200


def sized(size: int) -> bytes:
    """A valid body of exactly `size` bytes."""
    frame = len(b'{"sql": ""}')
    return b'{"sql": "' + b"x" * (size - frame) + b'"}'


@pytest.mark.parametrize("chunked", [False, True])
def test_the_body_limit_is_exact(served: Served, chunked: bool) -> None:
    def send(size: int) -> Any:
        body = sized(size)
        content: Any = iter([body[:1000], body[1000:]]) if chunked else body
        return served.client.post("/v1/sql", content=content, headers=JSON)

    assert send(4096).status_code == 200
    refused = send(4097)
    assert refused.status_code == 413
    assert refused.json()["code"] == "body_too_large"
    assert "limits.json_body" in refused.json()["detail"]
    assert send(10).status_code in (200, 400)  # the connection is still good


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_compressed_bodies_are_read_and_their_decoded_size_is_limited(
    served: Served, encoding: str
) -> None:
    def send(body: bytes) -> Any:
        packed = gzip.compress(body) if encoding == "gzip" else zstandard.compress(body)
        headers = {**JSON, "Content-Encoding": encoding}
        return served.client.post("/v1/sql", content=packed, headers=headers)

    assert send(sized(4096)).status_code == 200
    assert send(sized(4097)).status_code == 413
    assert send(sized(400_000)).status_code == 413


@pytest.mark.parametrize(("encoding", "body"), [("gzip", b"plain"), ("zstd", b"plain")])
def test_a_damaged_encoding_is_400(served: Served, encoding: str, body: bytes) -> None:
    headers = {**JSON, "Content-Encoding": encoding}
    answer = served.client.post("/v1/sql", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_encoding")


def test_a_cut_gzip_body_is_400(served: Served) -> None:
    headers = {**JSON, "Content-Encoding": "gzip"}
    body = gzip.compress(sized(100))[:-3]
    answer = served.client.post("/v1/sql", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_encoding")
    assert "end marker" in answer.json()["detail"]


def test_an_unknown_encoding_is_415(served: Served) -> None:
    headers = {**JSON, "Content-Encoding": "br"}
    assert served.client.post("/v1/sql", content=b"x", headers=headers).status_code == 415


UUID = "6f1c2f0e-6f0c-4c5e-9d0e-2f6a1b3c4d5e"


def test_a_request_id_is_passed_on_as_16_bytes_that_depend_on_both_parts(served: Served) -> None:
    for value in (f"{UUID}:1", f"{UUID.upper()}:01", f"{UUID}:2", None):
        headers = {} if value is None else {"NearQL-Request-Id": value}
        assert served.client.post("/v1/sql", json={"sql": "X"}, headers=headers).is_success
    first, same, other, none = (call.request_id for call in served.session.calls)
    assert first == same
    assert first != other
    assert none is None
    assert first is not None
    assert len(first) == 16


@pytest.mark.parametrize("value", [UUID, f"{UUID}:", f"{UUID}:x", "7:7", "", f"{UUID}:-1"])
def test_a_malformed_request_id_is_400(served: Served, value: str) -> None:
    headers = {"NearQL-Request-Id": value}
    answer = served.client.post("/v1/sql", json={"sql": "X"}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request_id")
    assert not served.session.calls


def test_a_session_token_comes_back_grown(served: Served) -> None:
    def touch(call: Call) -> FakeResult:
        shard, lsn = map(int, call.text.split())
        return FakeResult(stats={"shards": [{**SHARD, "shard": shard, "lsn": lsn}]})

    for text in ("0 7", "1 2", "0 5"):
        served.session.answers[text] = touch
    served.node.reached = {0: (1, 9), 1: (1, 9)}
    token = ""
    for text in ("0 7", "1 2", "0 5", "SET x = 1"):
        headers = {"NearQL-Session": token}
        answer = served.client.post("/v1/sql", json={"sql": text}, headers=headers)
        token = answer.json()["stats"]["session"]
    assert _decode(token) == {(DOCS.uuid, 0): (1, 7), (DOCS.uuid, 1): (1, 2)}


def _given(result: FakeResult, _: Call) -> FakeResult:
    return result


def test_several_session_tokens_are_taken_together(served: Served) -> None:
    """Of requests that overlapped: neither token knows of the other."""
    tokens = []
    served.node.reached = {0: (1, 9), 1: (1, 9)}
    for shard, lsn in [(0, 7), (1, 2), (0, 5)]:
        touched = FakeResult(stats={"shards": [{**SHARD, "shard": shard, "lsn": lsn}]})
        served.session.answers["X"] = partial(_given, touched)
        tokens.append(served.sql("X").json()["stats"]["session"])
    headers = {"NearQL-Session": ", ".join(tokens)}
    answer = served.client.post("/v1/sql", json={"sql": "Y"}, headers=headers)
    joined = answer.json()["stats"]["session"]
    assert _decode(joined) == {(DOCS.uuid, 0): (1, 7), (DOCS.uuid, 1): (1, 2)}
    served.node.reached = {0: (1, 9), 1: (1, 1)}
    answer = served.client.post("/v1/sql", json={"sql": "Y"}, headers=headers)
    assert answer.json()["code"] == "rolled_back_session"


def test_a_token_of_many_shards_is_short(served: Served) -> None:
    """Those of 33 overlapping requests, sent together, fit into the head of the next one."""
    shards = [{**SHARD, "shard": shard, "lsn": 70_000 + shard} for shard in range(64)]
    served.session.answers["X"] = partial(_given, FakeResult(stats={"shards": shards}))
    token = served.sql("X").json()["stats"]["session"]
    assert len(_decode(token)) == 64
    assert 33 * len(token) < 64 << 10  # http.max_head


def test_a_token_of_thousands_of_shards_is_not_kept() -> None:
    """Each would be a megabyte, and what is remembered of tokens is counted nowhere."""
    few, many = ({(DOCS.uuid, n): (1, n) for n in range(count)} for count in (3, 5_000))
    token_after(few, DOCS.uuid, [])
    before = _encode.cache_info().currsize
    assert _decode(token_after(many, DOCS.uuid, [])) == many
    assert _encode.cache_info().currsize == before
    assert token_after(few, DOCS.uuid, []) == token_after(few, DOCS.uuid, [])


def test_a_session_that_saw_more_than_the_node_has_is_told_so(served: Served) -> None:
    served.session.answers["X"] = lambda call: FakeResult(stats={"shards": [SHARD]})
    served.node.reached = {0: (1, 7)}
    token = served.sql("X").json()["stats"]["session"]
    headers = {"NearQL-Session": token}
    assert served.client.post("/v1/sql", json={"sql": "X"}, headers=headers).is_success
    served.node.reached = {0: (1, 6)}
    answer = served.client.post("/v1/sql", json={"sql": "X"}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (409, "rolled_back_session")
    served.node.tables = {}  # dropped: nothing to compare with
    assert served.client.post("/v1/sql", json={"sql": "X"}, headers=headers).is_success


@pytest.mark.parametrize("error", [Corruption("damaged"), NotFound("dropped a moment ago")])
def test_a_table_that_can_not_be_opened_holds_up_no_session(
    served: Served, monkeypatch: pytest.MonkeyPatch, error: NearQLError
) -> None:
    def fail(uuid: str) -> NoReturn:
        raise error

    token = token_after({(DOCS.uuid, 0): (1, 7)}, DOCS.uuid, [])
    monkeypatch.setattr(served.node, "table", fail)
    answer = served.client.post("/v1/sql", json={"sql": "X"}, headers={"NearQL-Session": token})
    assert answer.is_success
    assert answer.json()["stats"]["session"] == token


def written(*numbers: Any) -> str:
    """A token with these as shard, epoch and LSN."""
    return base64.urlsafe_b64encode(msgpack.packb([["t", [numbers]]])).decode().rstrip("=")


@pytest.mark.parametrize(
    "token",
    ["%%", "AAAA", "gA", "kZMBAg", "kA,%%", ",", "x" * 70_000, "\u00e9",
     written(math.inf, 1, 1), written(0, "9" * 30, 1), written(0, 1, -1)],
)  # fmt: skip
def test_a_malformed_session_token_is_400(served: Served, token: str) -> None:
    headers = httpx.Headers(
        [("NearQL-Session", token.encode("latin-1").decode("latin-1"))], "latin-1"
    )
    answer = served.client.post("/v1/sql", json={"sql": "X"}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_session")


@given(st.binary(max_size=40))
def test_no_token_crashes_the_decoder(raw: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        _decode(base64.urlsafe_b64encode(raw).decode().rstrip("="))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (None, 30_000),
        ({"statement_timeout_ms": 90_000}, 90_000),
        ({"statement_timeout_ms": "90000"}, 90_000),
        ({"Statement_Timeout_MS": 90_000.0}, 90_000),
        ({"statement_timeout_ms": None, "target_recall": 0.9}, 30_000),
    ],
)
def test_another_node_has_the_time_that_the_statement_has(settings: Any, expected: int) -> None:
    edge: Any = SimpleNamespace(config=Config())
    assert _timeout_ms(edge, SqlRequest("SELECT 1", None, settings)) == expected


def test_a_time_that_is_none_is_refused_before_it_is_forwarded() -> None:
    edge: Any = SimpleNamespace(config=Config())
    with pytest.raises(InvalidValue, match="statement_timeout_ms"):
        _timeout_ms(edge, SqlRequest("SELECT 1", None, {"statement_timeout_ms": 0}))
