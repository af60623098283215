"""Searches answered from the connection: the same answers, and nothing else gets through."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import orjson
import pyarrow as pa
import pytest

from nearql.query.plan_cache import Pace
from nearql.server import shortcut as module
from nearql.server.access.quota import Quotas
from nearql.server.app import create_app
from nearql.server.inline import Inline
from nearql.server.routes import sql as route
from nearql.server.shortcut import Shortcut
from nearql.server.wire import ARROW_STREAM
from support.http_node import FakeNode, Served, make_config
from support.secured import Secured, secured
from support.waiting import wait_for

SEARCH = "SELECT id FROM docs ORDER BY vec <-> :q LIMIT 3"
ASKED = {"sql": SEARCH, "params": {"q": [7, 0]}}
BODY = orjson.dumps(ASKED)


def shortcut_of(served: Served) -> Shortcut:
    found: Shortcut = served.server.config.app.state.shortcut  # type: ignore[union-attr]
    return found


def answered(served: Served) -> int:
    return shortcut_of(served).answered


@pytest.fixture
def known(real: Served) -> Served:
    """The node knows SEARCH, and that it is short."""
    for _ in range(Pace.RUNS + 2):
        assert real.client.post("/v1/sql", json=ASKED).is_success
    assert answered(real) == 1
    return real


def ask(served: Served, **more: Any) -> httpx.Response:
    more.setdefault("content", BODY)
    headers = {"content-type": "application/json", **more.pop("headers", {})}
    answer: httpx.Response = served.client.post("/v1/sql", headers=headers, **more)
    return answer


def rows(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()["rows"]


def test_the_answer_is_that_of_the_application(known: Served) -> None:
    before = answered(known)
    quick, slow = ask(known), ask(known, headers={"origin": known.url})
    assert answered(known) == before + 1
    assert {**quick.headers, "x-request-id": "", "content-length": "", "date": ""} == {
        **slow.headers, "x-request-id": "", "content-length": "", "date": "",
    }  # fmt: skip
    told = [answer.json() for answer in (quick, slow)]
    for one in told:
        one["stats"]["elapsed_ms"] = one["stats"]["search_ms"] = 0
    assert told[0] == told[1]
    assert told[0]["rows"] == [[7], [6], [8]]


def test_arrow_is_answered_as_json_is(known: Served) -> None:
    before = answered(known)
    answer = ask(known, headers={"accept": ARROW_STREAM})
    assert answer.headers["content-type"] == ARROW_STREAM
    assert pa.ipc.open_stream(answer.content).read_all().to_pydict() == {"id": [7, 6, 8]}
    assert answered(known) == before + 1


def test_the_clients_id_is_echoed_and_an_unsafe_one_is_not(known: Served) -> None:
    assert ask(known, headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    made = ask(known, headers={"x-request-id": "not this"}).headers["x-request-id"]
    assert len(made) == 32
    assert answered(known) == 3


def test_each_request_is_counted_once(known: Served) -> None:
    def counted() -> float:
        text = known.client.get("/metrics").text
        start = 'nearql_http_requests_total{method="POST",route="/v1/sql",status="200"} '
        return next(float(row[len(start) :]) for row in text.splitlines() if row.startswith(start))

    before = counted(), answered(known)
    ask(known)
    ask(known, headers={"origin": known.url})
    assert (counted(), answered(known)) == (before[0] + 2, before[1] + 1)


@pytest.mark.parametrize(
    ("header", "value"),
    [("sec-fetch-site", "same-origin"), ("cookie", "a=b"), ("content-encoding", "identity"),
     ("expect", "100-continue")],
)  # fmt: skip
def test_what_says_something_unusual_goes_the_usual_way(
    known: Served, header: str, value: str
) -> None:
    before = answered(known)
    assert rows(ask(known, headers={header: value})) == [[7], [6], [8]]
    assert answered(known) == before


def test_another_sites_page_is_refused_as_ever(known: Served) -> None:
    answer = ask(known, headers={"origin": "https://elsewhere.example"})
    assert (answer.status_code, answer.json()["code"]) == (403, "cross_origin")


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"content": b'{"sql": 1}'}, "invalid_sql_member"),
        ({"content": BODY[:-1]}, "invalid_json"),
        ({"content": b""}, "invalid_json"),
        ({"headers": {"content-type": "text/plain"}}, "unsupported_media_type"),
        ({"headers": {"nearql-request-id": "wrong"}}, "invalid_request_id"),
        ({"headers": {"nearql-session": "wrong"}}, "invalid_session"),
        ({"content": BODY.replace(b"[7,0]", b"[7,0,1]")}, "wrong_dimensions"),
        ({"content": BODY.replace(b"[7,0]", b"[7,null]")}, "invalid_vector"),
    ],
)
def test_errors_are_those_of_the_application(
    known: Served, changed: dict[str, Any], code: str
) -> None:
    answer = ask(known, **changed)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == code
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert rows(ask(known)) == [[7], [6], [8]]


def test_a_read_may_carry_a_request_id_and_a_session(known: Served) -> None:
    before = answered(known)
    token = ask(known).json()["stats"]["session"]
    number = "6f1c2f0e-6f0c-4c5e-9d0e-2f6a1b3c4d5e:1"
    answer = ask(known, headers={"nearql-session": token, "nearql-request-id": number})
    assert rows(answer) == [[7], [6], [8]]
    assert answered(known) == before + 2


# ---- what comes over the connection -----------------------------------------------------------


def request(*more: str, body: bytes = BODY, version: str = "1.1") -> bytes:
    lines = [f"POST /v1/sql HTTP/{version}", "Host: here", f"Content-Length: {len(body)}", *more]
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.fixture
def connection(known: Served) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", known.port), timeout=60) as made:
        yield made


def read_answers(connection: socket.socket, count: int) -> list[Any]:
    """The rows of so many answers, in the order they came; None where one is a problem."""
    found: list[Any] = []
    got = b""
    while len(found) < count:
        head, end, rest = got.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
        if end and len(rest) >= length:
            found.append(orjson.loads(rest[:length]).get("rows"))
            got = rest[length:]
        else:
            piece = connection.recv(1 << 16)
            assert piece, "the connection was closed"
            got += piece
    assert not got
    return found


def of(n: int) -> bytes:
    return BODY.replace(b"[7,0]", b"[%d,0]" % n)


def test_requests_sent_in_a_row_are_answered_in_a_row(
    known: Served, connection: socket.socket
) -> None:
    before = answered(known)
    connection.sendall(b"".join(request(body=of(n)) for n in (0, 20, 40)))
    assert read_answers(connection, 3) == [
        [[0], [1], [2]], [[20], [19], [21]], [[40], [39], [41]],
    ]  # fmt: skip
    assert answered(known) > before


@pytest.mark.parametrize("first", [BODY, b"{}"])
def test_one_that_waited_is_answered_while_the_next_begins(
    known: Served, connection: socket.socket, first: bytes
) -> None:
    """B is whole when A is answered, but the parser is in C's head: B was held for ever."""
    whole = request(body=of(40))
    connection.sendall(request(body=first) + request(body=of(20)) + whole[:1])
    told, second = read_answers(connection, 2)
    assert told == ([[7], [6], [8]] if first is BODY else None)
    assert second == [[20], [19], [21]]
    connection.sendall(whole[1:-5])
    connection.sendall(whole[-5:])
    assert read_answers(connection, 1) == [[[40], [39], [41]]]


def test_an_idle_connection_keeps_nothing_of_its_last_request(known: Served) -> None:
    for headers in ({}, {"nearql-session": "wrong"}, {"content-type": "text/plain"}):
        ask(known, headers=headers)
        (protocol,) = known.server.server_state.connections
        cycle: Any = protocol.cycle  # type: ignore[union-attr]
        wait_for(partial(lambda held: not held.body, cycle), "the answer is complete")
        assert "nearql.tried" not in cycle.scope


def test_a_body_that_comes_later_is_waited_for(known: Served, connection: socket.socket) -> None:
    before, whole = answered(known), request()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for piece in (whole[:30], whole[30 : -len(BODY)], whole[-len(BODY) : -5], whole[-5:]):
        connection.sendall(piece)
    assert read_answers(connection, 1) == [[[7], [6], [8]]]
    assert answered(known) == before + 1


def test_a_body_that_never_ends_is_cut_short(
    known: Served, connection: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol: Any = known.server.config.http_protocol_class
    monkeypatch.setattr(protocol, "bounds", replace(protocol.bounds, receive_timeout_ms=1))
    connection.sendall(request()[:-1])
    with connection.makefile("rb") as stream:
        assert stream.readline().startswith(b"HTTP/1.1 408")


def test_a_body_in_chunks_goes_the_usual_way(known: Served) -> None:
    before = answered(known)
    assert rows(ask(known, content=iter([BODY[:9], BODY[9:]]))) == [[7], [6], [8]]
    assert answered(known) == before


@pytest.mark.parametrize("asked", [("1.1", ["Connection: close"]), ("1.0", [])])
def test_a_connection_that_is_not_kept_is_closed_after_the_answer(
    connection: socket.socket, asked: tuple[str, list[str]]
) -> None:
    version, more = asked
    connection.sendall(request(*more, version=version))
    told = b""
    while piece := connection.recv(1 << 16):
        told += piece
    assert b"\r\nconnection: close\r\n" in told
    assert orjson.loads(told.partition(b"\r\n\r\n")[2])["rows"] == [[7], [6], [8]]


def test_a_client_that_goes_during_its_search_leaves_nothing(
    known: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop is held inside the search until the client's end of the connection is closed."""
    began, gone = threading.Event(), threading.Event()
    usual = route.answers_of

    def held(*arguments: Any) -> Any:
        began.set()
        assert gone.wait(60)
        return usual(*arguments)

    monkeypatch.setattr(module, "answers_of", held)
    with socket.create_connection(("127.0.0.1", known.port), timeout=60) as made:
        made.sendall(request())
        assert began.wait(60)
    monkeypatch.undo()
    gone.set()
    assert rows(ask(known)) == [[7], [6], [8]]
    state = known.server.server_state
    wait_for(lambda: len(state.connections) == 1, "its connection is forgotten")
    assert not state.tasks


def test_who_is_known_to_have_gone_is_not_answered(known: Served) -> None:
    found, before = shortcut_of(known), answered(known)
    cycle: Any = SimpleNamespace(
        disconnected=True, body=bytearray(BODY), scope={"nearql.tried": None}, on_response=None
    )
    found._tell(cycle, pytest.fail, None, None, ValueError())  # type: ignore[arg-type]
    assert not cycle.body
    assert not cycle.scope
    assert answered(known) == before


def test_a_large_answer_is_counted_while_it_is_sent(
    known: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(route, "SHORT_BYTES", 10)
    taken: list[int] = []
    memory = known.server.config.app.state.edge.answer_memory  # type: ignore[union-attr]
    usual = memory.take

    def take(size: int) -> bool:
        taken.append(size)
        return bool(usual(size))

    monkeypatch.setattr(memory, "take", take)
    before, runs = answered(known), known.server.config.app.state.edge.inline.runs  # type: ignore[union-attr]
    answer = ask(known)
    assert rows(answer) == [[7], [6], [8]]
    assert taken == [len(answer.content)]
    assert answered(known) == before
    assert known.server.config.app.state.edge.inline.runs == runs + 1  # type: ignore[union-attr]


def test_what_became_too_much_goes_to_a_thread(known: Served) -> None:
    """A filter that is not kept: the loop finds out, and a thread evaluates it."""
    text = "SELECT id FROM docs WHERE id >= :least ORDER BY vec <-> :q LIMIT 1"
    for _ in range(Pace.RUNS + 2):
        assert rows(known.sql(text, params={"q": [0, 0], "least": 4})) == [[4]]
    before = answered(known)
    assert rows(known.sql(text, params={"q": [0, 0], "least": 9})) == [[9]]
    assert answered(known) == before
    assert rows(known.sql(text, params={"q": [0, 0], "least": 9})) == [[9]]
    assert answered(known) == before + 1


def test_a_stop_waits_for_it(known: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop that begins while the search runs lets its answer out."""
    usual = route.answers_of

    def stopping(*arguments: Any) -> Any:
        known.server.should_exit = True
        return usual(*arguments)

    monkeypatch.setattr(module, "answers_of", stopping)
    assert rows(ask(known)) == [[7], [6], [8]]
    known.thread.join(60)
    assert not known.thread.is_alive()


def test_there_is_none_where_each_request_is_logged(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    assert create_app(FakeNode(config), config).state.shortcut is not None
    config = replace(config, log=replace(config.log, requests="all"))
    assert create_app(FakeNode(config), config).state.shortcut is None


# ---- who may ask ------------------------------------------------------------------------------


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Secured]:
    with secured(tmp_path) as running:
        edge = running.served.server.config.app.state.edge  # type: ignore[union-attr]
        edge.inline = Inline(3_600_000, running.node.has_room)
        running.done("CREATE TABLE docs (id BIGINT PRIMARY KEY, vec VECTOR(2))")
        running.done("INSERT INTO docs VALUES (6, '[6,0]'), (7, '[7,0]'), (8, '[8.5,0]')")
        yield running


def learn(guarded: Secured, key: str) -> None:
    """Ask until the node knows that the search is short."""
    for _ in range(Pace.RUNS + 2):
        assert guarded.sql(SEARCH, key, params={"q": [7, 0]}).status_code == 200


def test_a_key_is_checked_each_time(guarded: Secured) -> None:
    reader = guarded.new_key("reader", role="reader")
    learn(guarded, reader)
    before = answered(guarded.served)
    assert guarded.done(SEARCH, reader, params={"q": [7, 0]}) == [[7], [6], [8]]
    assert answered(guarded.served) == before + 1
    for key, status in ((None, 401), (reader + "x", 401)):
        assert guarded.sql(SEARCH, key, params={"q": [7, 0]}).status_code == status
    guarded.done("DROP USER reader")
    assert guarded.sql(SEARCH, reader, params={"q": [7, 0]}).status_code == 401
    assert answered(guarded.served) == before + 1


def test_a_right_that_was_taken_away_is_gone_at_once(guarded: Secured) -> None:
    ann = guarded.new_key("ann")
    guarded.done("GRANT SELECT ON docs TO ann")
    learn(guarded, ann)
    before = answered(guarded.served)
    guarded.done("REVOKE SELECT ON docs FROM ann")
    assert guarded.sql(SEARCH, ann, params={"q": [7, 0]}).status_code in (403, 404)
    assert answered(guarded.served) == before


def test_a_key_with_a_limit_is_counted_by_the_application(guarded: Secured) -> None:
    reader = guarded.new_key("reader", role="reader")
    learn(guarded, reader)
    before = answered(guarded.served)
    guarded.served.server.config.app.state.edge.quotas = Quotas(2, 0, lambda: 1000.0)  # type: ignore[union-attr]
    statuses = [guarded.sql(SEARCH, reader, params={"q": [7, 0]}).status_code for _ in range(4)]
    assert statuses == [200, 200, 429, 429]
    assert answered(guarded.served) == before
