"""What the client sends, follows, repeats and refuses, against a scripted server."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import nearql
from nearql.client import errors
from nearql.client.http import Failure, HttpTransport, Limits
from nearql.client.network import Link
from nearql.client.transport import Call
from support.clients import Connect
from support.scripted_server import (
    HANG_UP,
    Received,
    Reply,
    ScriptedServer,
    http,
    in_turn,
    problem,
    rows,
    stored,
    targets,
)


def test_a_statement_is_one_request(connect: Connect) -> None:
    with ScriptedServer(in_turn(rows())) as node, connect(node.url, token="secret") as db:
        assert db.execute("SELECT $1", [7], {"target_recall": 0.9}).fetchall() == [(1,)]
        (request,) = node.received
        assert (request.method, request.target) == ("POST", "/v1/sql")
        assert request.json == {
            "sql": "SELECT $1",
            "params": [7],
            "settings": {"target_recall": 0.9},
        }
        assert request.headers["authorization"] == "Bearer secret"
        assert request.headers["host"] == node.url.removeprefix("http://")


def test_connections_are_kept_alive(connect: Connect) -> None:
    with ScriptedServer(in_turn(rows())) as node, connect(node.url) as db:
        for _ in range(20):
            db.sql("SELECT 1")
        assert node.connections == 1


def test_request_ids_count_up_and_never_repeat(connect: Connect) -> None:
    with (
        ScriptedServer(in_turn(rows())) as node,
        connect(node.url) as one,
        connect(node.url) as other,
    ):
        for db in (one, other, one):
            db.sql("SELECT 1")
        ids = [request.headers["nearql-request-id"] for request in node.received]
        assert len(set(ids)) == 3
        assert [i.split(":")[1] for i in ids] == ["1", "1", "2"]


def test_the_session_token_comes_back(connect: Connect) -> None:
    answers = rows(stats={"session": "tok"}), rows(stats={"session": None}), rows()
    with ScriptedServer(in_turn(*answers)) as node, connect(node.url) as db:
        for _ in range(3):
            db.sql("SELECT 1")
        sent = [request.headers.get("nearql-session") for request in node.received]
        assert sent == [None, "tok", "tok"]


def test_a_url_may_have_a_prefix(connect: Connect) -> None:
    with ScriptedServer(in_turn(rows())) as node, connect(node.url + "/db/") as db:
        db.sql("SELECT 1")
        assert targets(node) == ["/db/v1/sql"]


# ---- redirects ------------------------------------------------------------------------------


def redirect_to(leader: ScriptedServer) -> Callable[[Received], Reply]:
    """A follower: every write goes to the leader, which is one of the cluster's nodes."""
    return lambda request: http(
        307, location=leader.url + request.target, NearQL_Leader="n2", NearQL_Nodes=leader.url
    )


def test_a_write_follows_the_redirect_with_its_token_and_body(connect: Connect) -> None:
    with (
        ScriptedServer(in_turn(rows())) as leader,
        ScriptedServer(redirect_to(leader)) as follower,
        connect(follower.url, token="secret") as db,
    ):
        db.sql("INSERT INTO t VALUES ($1)", 5)
        (first,), (second,) = follower.received, leader.received
        assert second.headers["authorization"] == "Bearer secret"
        assert second.headers["host"] == leader.url.removeprefix("http://")
        assert second.headers["nearql-request-id"] == first.headers["nearql-request-id"]
        assert second.body == first.body


def test_the_leader_is_remembered_for_writes_only(connect: Connect) -> None:
    with (
        ScriptedServer(in_turn(rows())) as leader,
        ScriptedServer(lambda r: redirect_to(leader)(r) if b"INSERT" in r.body else rows()) as node,
        connect(node.url) as db,
    ):
        for _ in range(3):
            db.sql("INSERT INTO t VALUES (1)")
            db.sql("SELECT 1")
        assert len(leader.received) == 3
        assert len(node.received) == 1 + 3


def test_a_leader_that_is_gone_is_forgotten(connect: Connect) -> None:
    with ScriptedServer(in_turn(rows())) as node, connect(node.url) as db:
        with ScriptedServer(in_turn(rows())) as leader:
            node.script = redirect_to(leader)
            db.sql("INSERT INTO t VALUES (1)")
            leader.script = in_turn(HANG_UP)
            node.script = in_turn(rows())
            db.sql("INSERT INTO t VALUES (2)")
        assert len(node.received) == 2


def test_a_redirect_in_a_circle_ends(connect: Connect) -> None:
    with ScriptedServer(lambda r: http(307, location=r.target)) as node, connect(node.url) as db:
        with pytest.raises(errors.ProtocolError, match="in a circle"):
            db.sql("INSERT INTO t VALUES (1)")
        assert len(node.received) == 6


@pytest.mark.parametrize("location", ["", "/elsewhere", "ftp://h/v1/sql"])
def test_a_redirect_to_nowhere_is_named(connect: Connect, location: str) -> None:
    with (
        ScriptedServer(in_turn(http(307, location=location))) as node,
        connect(node.url) as db,
        pytest.raises((errors.ProtocolError, errors.UsageError), match="redirects|ftp"),
    ):
        db.sql("INSERT INTO t VALUES (1)")


def test_no_token_goes_to_a_node_of_nobodys(connect: Connect) -> None:
    with ScriptedServer(in_turn(rows())) as thief, ScriptedServer(in_turn(rows())) as node:
        told: dict[str, Any] = {
            "location": f"{thief.url}/v1/sql", "NearQL_Nodes": f"{node.url}, http://n2.example"
        }  # fmt: skip
        node.script = in_turn(http(307, **told))
        with (
            connect(node.url, token="secret") as db,
            pytest.raises(errors.ProtocolError, match=r"none of the cluster's nodes.*advertise"),
        ):
            db.sql("INSERT INTO t VALUES (1)")
        assert thief.received == []


# ---- repeating ------------------------------------------------------------------------------

READ = "SELECT 1"
WRITE = "INSERT INTO t VALUES (1)"
DDL = "CREATE TABLE t (id BIGINT PRIMARY KEY)"


@pytest.mark.parametrize("text", [READ, WRITE])
def test_a_lost_answer_is_asked_for_again(connect: Connect, text: str) -> None:
    with ScriptedServer(in_turn(HANG_UP, HANG_UP, rows())) as node, connect(node.url) as db:
        db.sql(text)
        ids = {request.headers["nearql-request-id"] for request in node.received}
        assert (len(node.received), len(ids)) == (3, 1)


def test_ddl_whose_answer_is_lost_has_an_unknown_outcome(connect: Connect) -> None:
    with ScriptedServer(in_turn(HANG_UP)) as node, connect(node.url) as db:
        with pytest.raises(errors.OutcomeUnknown) as caught:
            db.sql(DDL)
        assert len(node.received) == 1
        assert caught.value.request_id == node.received[0].headers["nearql-request-id"]
        assert str(caught.value.request_id) in str(caught.value)
        assert not caught.value.definite


def test_a_write_that_never_gets_its_answer_has_an_unknown_outcome(connect: Connect) -> None:
    with ScriptedServer(in_turn(HANG_UP)) as node, connect(node.url, retries=2) as db:
        with pytest.raises(errors.OutcomeUnknown, match="tried 3 times") as caught:
            db.sql(WRITE)
        assert len(node.received) == 3
        assert caught.value.request_id == node.received[0].headers["nearql-request-id"]


def test_a_read_that_never_gets_its_answer_is_a_connection_failure(connect: Connect) -> None:
    with (
        ScriptedServer(in_turn(HANG_UP)) as node,
        connect(node.url, retries=1) as db,
        pytest.raises(errors.ConnectionFailed, match="did not answer"),
    ):
        db.sql(READ)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("text", [READ, WRITE, DDL])
def test_a_refusal_is_tried_again(connect: Connect, status: int, text: str) -> None:
    refused = problem(status, "overloaded", retryable=True, definite=True)
    with ScriptedServer(in_turn(refused, refused, rows())) as node, connect(node.url) as db:
        db.sql(text)
        assert len(node.received) == 3


@pytest.mark.parametrize(
    "refused",
    [
        problem(503, "unavailable", retryable=False),
        problem(503, "unavailable", retryable=True, definite=False),
        problem(504, "statement_timeout", retryable=True),
        problem(507, "storage_full", retryable=True),
        problem(400, "syntax_error"),
        problem(500, "internal_error", definite=False),
    ],
)
def test_other_problems_are_told_at_once(connect: Connect, refused: Reply) -> None:
    with ScriptedServer(in_turn(refused)) as node, connect(node.url) as db:
        with pytest.raises(errors.ServerError):
            db.sql(WRITE)
        assert len(node.received) == 1


def test_refusals_end_after_the_retries(connect: Connect) -> None:
    refused = problem(429, "overloaded", retryable=True)
    with ScriptedServer(in_turn(refused)) as node, connect(node.url, retries=2) as db:
        with pytest.raises(errors.Overloaded, match="overloaded happened"):
            db.sql(READ)
        assert len(node.received) == 3


def test_a_connection_closed_while_idle_is_replaced(connect: Connect) -> None:
    """The node closes after each answer without saying so, as after a restart."""
    with ScriptedServer(in_turn(rows(close=True))) as node, connect(node.url, retries=1) as db:
        for _ in range(5):
            db.sql("SELECT 1")
            db.sql(WRITE)
        assert len(node.received) == 10


def test_pauses_double_and_are_jittered() -> None:
    for share in (0.0, 1.0):
        transport = HttpTransport("http://h", jitter=partial(float, share))
        pauses = [transport._pause(attempt, 0.0) for attempt in range(1, 9)]
        whole = [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
        assert pauses == pytest.approx([p / 2 + p / 2 * share for p in whole])


def test_retry_after_is_the_least_pause() -> None:
    transport = HttpTransport("http://h", jitter=lambda: 1.0)
    assert transport._pause(1, 3.0) == 3.0


# ---- unreachable, silent, foreign ------------------------------------------------------------


def test_nobody_at_the_address(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with (
        connect(f"http://127.0.0.1:{port}", retries=1) as db,
        pytest.raises(errors.ConnectionFailed) as caught,
    ):
        db.sql(WRITE)
    told = str(caught.value)
    assert f"http://127.0.0.1:{port}" in told
    assert "refused" in told
    assert "tried 2 times" in told
    assert "nearql serve" in told
    assert caught.value.definite
    assert isinstance(caught.value, ConnectionError)


def test_a_host_that_has_no_address(connect: Connect) -> None:
    with (
        connect("http://nobody.invalid:8470", retries=0) as db,
        pytest.raises(errors.ConnectionFailed, match=r"nobody\.invalid.*not known"),
    ):
        db.sql(READ)


@pytest.mark.parametrize(
    ("text", "error"), [(READ, errors.ConnectionFailed), (WRITE, errors.OutcomeUnknown)]
)
def test_silence_ends_after_the_timeout(
    connect: Connect, text: str, error: type[Exception]
) -> None:
    done = threading.Event()

    def silent(request: Received) -> Reply:
        done.wait(30)
        return HANG_UP

    try:
        with (
            ScriptedServer(silent) as node,
            connect(node.url, timeout=0.2) as db,
            pytest.raises(error, match=r"no answer for 0\.2 s"),
        ):
            db.sql(text)
        assert len(node.received) == 1
    finally:
        done.set()


@pytest.mark.parametrize(
    "foreign",
    [
        http(200, b"<html>", "text/html"),
        http(404, b"not here", "text/plain"),
        http(200, b'{"a": 1}'),
        http(404, b'{"error": "x"}'),
        http(200, b"not arrow", "application/vnd.apache.arrow.stream"),
        Reply(b"SSH-2.0-OpenSSH_9.2\r\n", close=True),
    ],
)
def test_something_else_at_the_address(connect: Connect, foreign: Reply) -> None:
    with (
        ScriptedServer(in_turn(foreign)) as node,
        connect(node.url) as db,
        pytest.raises(errors.ProtocolError, match="does not talk like a NearQL node") as caught,
    ):
        db.sql(READ)
    assert node.url in str(caught.value)


def test_another_version_is_named(connect: Connect) -> None:
    answer = http(200, b'{"a": 1}', "application/x-future", NearQL_Version="9.1.0")
    with (
        ScriptedServer(in_turn(answer)) as node,
        connect(node.url) as db,
        pytest.raises(errors.VersionMismatch, match=r"is NearQL 9\.1\.0, this client is 0\."),
    ):
        db.sql(READ)


def test_a_refused_body_is_told_though_it_was_not_read(connect: Connect) -> None:
    """413 comes while the body is still on its way: the answer counts, not the broken pipe."""
    refusal = problem(413, "body_too_large").raw

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1024)
            connection.sendall(refusal)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 20):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        with (
            connect(f"http://127.0.0.1:{listener.getsockname()[1]}") as db,
            pytest.raises(errors.TooLarge),
        ):
            db.insert("t", {"vec": np.zeros((20_000, 100), "f4")}, batch_bytes=1 << 30)


@pytest.mark.parametrize(
    "target",
    ["http://", "http://h:x", "http://u:p@h", "http://h?x=1", "localhost:8470", "postgres://h/d"],
)
def test_a_target_that_is_no_address(connect: Connect, target: str) -> None:
    with pytest.raises(errors.UsageError, match=r"address|user|http://host:8470"):
        connect(target)


@pytest.mark.parametrize("token", ["", "a\nb", "schlüssel"])
def test_a_token_that_is_none(connect: Connect, token: str) -> None:
    with pytest.raises(errors.UsageError, match="token"):
        connect("http://h", token=token)


def test_a_token_never_shows() -> None:
    assert "secret" not in repr(HttpTransport("http://h", token="secret"))


def test_a_closed_connection_says_so(connect: Connect) -> None:
    with ScriptedServer(in_turn(rows())) as node, connect(node.url) as db:
        db.close()
        db.close()
        for use in (lambda: db.sql("SELECT 1"), db.tables, lambda: db.insert("t", {"a": [1]})):
            with pytest.raises(errors.UsageError, match="closed"):
                use()
        assert not node.received


def test_a_cancelled_call_leaves_no_half_read_connection() -> None:
    """Its answer must never be taken for the next call's."""
    gate = threading.Event()

    def late(request: Received) -> Reply:
        if b"slow" in request.body:
            gate.wait(20)
            return rows(pa.table({"n": [666]}))
        return rows()

    async def main() -> None:
        async with await nearql.aconnect(node.url) as db:
            await db.sql("SELECT 1")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(db.sql("SELECT 'slow'"), 0.1)
            gate.set()
            for _ in range(3):
                assert (await db.sql("SELECT 1")).fetchall() == [(1,)]

    with ScriptedServer(late) as node:
        asyncio.run(main())
        assert node.connections == 2


def test_an_interrupted_call_leaves_no_half_read_connection() -> None:
    with ScriptedServer(in_turn(rows())) as node, nearql.connect(node.url) as db:
        db.sql("SELECT 1")
        transport = db.transport
        assert isinstance(transport, HttpTransport)
        receive = transport._blocking.receive

        def interrupted(link: Link) -> bytes:
            raise KeyboardInterrupt

        transport._blocking.receive = interrupted  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            db.sql("SELECT 2")
        transport._blocking.receive = receive  # type: ignore[method-assign]
        assert db.sql("SELECT 3").fetchall() == [(1,)]
        assert node.connections == 2


# ---- bulk -----------------------------------------------------------------------------------


def test_insert_cuts_into_batches_with_an_id_each(connect: Connect) -> None:
    vectors = np.arange(4000, dtype="f4").reshape(1000, 4)
    with ScriptedServer(stored) as node, connect(node.url) as db:
        report = db.insert("my docs", {"id": range_column(1000), "vec": vectors}, batch_bytes=6000)
        assert (report.rows, report.inserted, report.failed) == (1000, 1000, [])
        assert report.batches == len(node.received) == 4
        assert len({r.headers["nearql-request-id"] for r in node.received}) == 4
        assert set(targets(node)) == {"/v1/tables/my%20docs/rows?mode=insert"}


def range_column(count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """0, 1, 2, ..."""
    return np.arange(count)


def test_failed_rows_are_numbered_in_the_data(connect: Connect) -> None:
    failed = [{"row": 1, "code": "duplicate_key", "detail": "key 11 exists."}]
    with (
        ScriptedServer(lambda r: stored(r, inserted=9, failed=failed)) as node,
        connect(node.url) as db,
    ):
        data = {"id": range_column(20)}
        report = db.insert("t", data, batch_bytes=80, errors="report", write_concern="all")
        assert [(f.row, f.code) for f in report.failed] == [
            (1, "duplicate_key"),
            (11, "duplicate_key"),
        ]
        assert targets(node)[0].endswith("?mode=insert&write_concern=all")
        with pytest.raises(errors.RowsFailed, match=r"2 of 20 rows.*row 1: key 11 exists") as told:
            db.insert("t", data, batch_bytes=80)
        assert told.value.report.inserted == 18


def test_a_lost_bulk_answer_is_sent_again_under_its_id(connect: Connect) -> None:
    replies = [HANG_UP, None, HANG_UP, None]
    with (
        ScriptedServer(lambda r: replies.pop(0) or stored(r)) as node,
        connect(node.url) as db,
    ):
        report = db.insert("t", {"id": range_column(20)}, batch_bytes=80, in_flight=1)
        ids = [r.headers["nearql-request-id"] for r in node.received]
        assert ids[0] == ids[1] != ids[2] == ids[3]
        assert report.rows == 20


def test_calls_are_values() -> None:
    """A failure says whether the request left; a call is what transports get."""
    assert Call(kind="sql").repeatable
    transport = HttpTransport("http://h:1", limits=Limits(timeout=1.0))
    assert not Failure(transport.nodes.addresses[0], "x", sent=False).final
