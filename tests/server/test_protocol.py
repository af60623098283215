"""What a connection may hold: heads, bodies, answers, connections; over real sockets.

Time in these tests is the server's own clock, set forward: nothing waits for a limit to pass.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nearql.server.config import HttpSection
from nearql.server.protocol import make_protocol
from support.http_node import FakeNode, Served, make_config, serve
from support.waiting import wait_for


@contextmanager
def node(tmp_path: Path, **http: Any) -> Iterator[Served]:
    config = make_config(tmp_path)
    config = replace(config, http=replace(config.http, **http))
    with serve(FakeNode(config), config) as running:
        yield running


def talk(served: Served, sent: bytes) -> socket.socket:
    """A connection on which something was sent."""
    connection = socket.create_connection(("127.0.0.1", served.port), 30)
    connection.sendall(sent)
    return connection


def read_all(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    connection.close()
    return b"".join(parts)


def problem(answer: bytes) -> tuple[int, str]:
    """Status and code of a raw problem document."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    found = json.loads(body)
    assert len(found["request_id"]) == 32
    return int(head.split()[1]), found["code"]


@pytest.mark.parametrize(
    "sent",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nbroken header\r\n\r\n",
        b"POST /v1/sql HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    ],
)
def test_what_is_not_http_is_answered_as_a_problem(tmp_path: Path, sent: bytes) -> None:
    with node(tmp_path) as served:
        assert problem(read_all(talk(served, sent))) == (400, "invalid_http")
        assert served.client.get("/livez").status_code == 200


def test_endless_headers_are_cut(tmp_path: Path) -> None:
    with node(tmp_path, max_head=4096) as served:
        connection = talk(served, b"GET / HTTP/1.1\r\nX-A: " + b"a" * 8192)
        assert problem(read_all(connection)) == (431, "head_too_large")


def test_a_head_at_the_limit_passes(tmp_path: Path) -> None:
    with node(tmp_path, max_head=4096) as served:
        head = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-A: "
        sent = head + b"a" * (4096 - len(head) - 4) + b"\r\n\r\n"
        assert read_all(talk(served, sent)).startswith(b"HTTP/1.1 200")


def test_one_connection_too_many_is_told_so(tmp_path: Path) -> None:
    with node(tmp_path, max_connections=2) as served:
        held = [talk(served, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(2)]
        for connection in held:
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        refused = socket.create_connection(("127.0.0.1", served.port), 30)
        assert problem(read_all(refused)) == (503, "too_many_connections")
        held.pop().close()
        wait_for(lambda: served.client.get("/livez").status_code == 200, "room again", 30)
        held.pop().close()


ONE = b'{"sql": "SELECT 1"}'


def posted(*lines: bytes, body: bytes = ONE) -> bytes:
    """A request of `/v1/sql` that closes its connection."""
    fixed = [b"POST /v1/sql HTTP/1.1", b"Host: x", b"Content-Type: application/json"]
    return b"\r\n".join([*fixed, b"Connection: close", *lines, b"", body])


def test_a_head_beyond_the_limit_is_refused_also_in_one_piece(tmp_path: Path) -> None:
    with node(tmp_path, max_head=4096) as served:
        sent = b"GET /livez HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 4096 + b"\r\n\r\n"
        assert problem(read_all(talk(served, sent))) == (431, "head_too_large")
        long_body = posted(b"Content-Length: 9000", body=ONE + b" " * (9000 - len(ONE)))
        assert read_all(talk(served, long_body)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("hosts", [b"", b"Host: a\r\nHost: b\r\n"])
def test_a_request_has_one_host(tmp_path: Path, hosts: bytes) -> None:
    with node(tmp_path) as served:
        sent = b"GET /livez HTTP/1.1\r\n" + hosts + b"\r\n"
        assert problem(read_all(talk(served, sent))) == (400, "invalid_http")
        assert read_all(talk(served, b"GET /livez HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200")


def test_fields_behind_a_body_count_for_nothing(tmp_path: Path) -> None:
    with node(tmp_path) as served:
        chunked = b"%x\r\n%b\r\n0\r\nOrigin: http://evil.example\r\n\r\n" % (len(ONE), ONE)
        answer = read_all(talk(served, posted(b"Transfer-Encoding: chunked", body=chunked)))
        assert answer.startswith(b"HTTP/1.1 200"), answer


@pytest.mark.parametrize("pieces", ["one", "two", "bytes"])
@pytest.mark.parametrize("wish", [b"h2c", b"websocket"])
def test_who_asks_for_another_protocol_is_answered_in_this_one(
    tmp_path: Path, wish: bytes, pieces: str
) -> None:
    """And nothing of its body becomes a request of its own."""
    hidden = b"GET /nosuch HTTP/1.1\r\nHost: x\r\n\r\n"
    body = json.dumps({"sql": "SELECT 1", "settings": {}}).encode() + b" " * 20
    wishes = b"Upgrade: %b\r\nConnection: Upgrade, HTTP2-Settings, close" % wish
    head = posted(wishes, b"Content-Length: %d" % len(body), body=b"")
    head = head.replace(b"Connection: close\r\n", b"", 1)
    with node(tmp_path) as served:
        if pieces == "bytes":
            connection = talk(served, b"")
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in head + body:
                connection.sendall(bytes([byte]))
        else:
            connection = talk(served, head + body if pieces == "one" else head)
            if pieces == "two":
                connection.sendall(body)
        answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 200"), answer
        length = b"Content-Length: %d" % len(hidden)
        smuggled = posted(b"Upgrade: h2c\r\nConnection: Upgrade", length, body=b"")
        connection = talk(served, smuggled.replace(b"Connection: close\r\n", b"", 1))
        connection.sendall(hidden + b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = read_all(connection)
        assert (answer.count(b"HTTP/1.1 400"), answer.count(b"HTTP/1.1 200")) == (1, 1), answer


def test_connect_is_refused(tmp_path: Path) -> None:
    with node(tmp_path) as served:
        sent = b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n"
        assert problem(read_all(talk(served, sent))) == (400, "invalid_http")


# ---- time, by a clock of the test's own ---------------------------------------------------------


class Clock:
    """A loop's time and timers, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.calls: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Callable[..., None], *args: Any) -> Any:
        entry = (self.now + delay, call, args)
        self.calls.append(entry)
        return Handle(self, entry)

    def create_task(self, work: Any, **_: Any) -> Any:
        work.close()
        task: asyncio.Future[None] = asyncio.Future(loop=_LOOP)
        return task

    def move(self, seconds: float) -> None:
        """Let time pass, in steps of half a second."""
        for _ in range(int(seconds * 2)):
            self.now += 0.5
            for entry in [e for e in self.calls if e[0] <= self.now]:
                self.calls.remove(entry)
                entry[1](*entry[2])


class Handle:
    """A timer that can be cancelled."""

    def __init__(self, clock: Clock, entry: Any) -> None:
        self.clock, self.entry = clock, entry

    def cancel(self) -> None:
        if self.entry in self.clock.calls:
            self.clock.calls.remove(self.entry)


class Wire(asyncio.Transport):
    """Remembers what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.ended: str = ""
        self.waiting = 0

    def write(self, data: Any) -> None:
        self.sent += bytes(data)

    def is_closing(self) -> bool:
        return bool(self.ended)

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = "aborted"

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


_LOOP = asyncio.new_event_loop()
BOUNDS = HttpSection(
    head_timeout_ms=10_000, receive_timeout_ms=30_000, receive_rate=1000, send_timeout_ms=30_000
)
HEAD = b"POST /v1/sql HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"


class Connection:
    """A protocol on a clock and a wire of the test's."""

    def __init__(self) -> None:
        import uvicorn
        from uvicorn.server import ServerState

        async def app(scope: Any, receive: Any, send: Any) -> None:
            """Never run: the test's loop makes no tasks."""

        self.codes: list[str] = []
        kind = make_protocol(BOUNDS, self.codes.append)
        config = uvicorn.Config(app, log_config=None, http=kind, ws="none", access_log=False)
        config.load()
        self.clock, self.wire = Clock(), Wire()
        self.protocol = kind(config, ServerState(), {}, self.clock)  # type: ignore[arg-type]
        self.protocol.connection_made(self.wire)

    def receive(self, data: bytes) -> None:
        self.protocol.data_received(data)


@pytest.fixture
def connection() -> Connection:
    return Connection()


def test_a_silent_connection_is_closed(connection: Connection) -> None:
    connection.clock.move(9)
    assert not connection.wire.ended
    connection.clock.move(3)
    assert problem(connection.wire.sent) == (408, "request_timeout")
    assert connection.wire.ended
    assert connection.codes == ["request_timeout"]


def test_a_head_that_drips_is_cut(connection: Connection) -> None:
    for piece in range(30):
        connection.receive(HEAD[piece : piece + 1])
        connection.clock.move(0.5)
        if connection.wire.ended:
            break
    assert problem(connection.wire.sent) == (408, "request_timeout")
    assert 18 <= piece <= 24


def test_a_body_that_stops_is_cut(connection: Connection) -> None:
    connection.receive(HEAD + b"x" * 100)
    connection.clock.move(29)
    assert not connection.wire.ended
    connection.clock.move(3)
    assert problem(connection.wire.sent) == (408, "request_timeout")


def test_a_body_that_drips_is_cut(connection: Connection) -> None:
    connection.receive(HEAD)
    for _ in range(35):
        connection.receive(b"x" * 10)
        connection.clock.move(1)
    assert problem(connection.wire.sent) == (408, "request_timeout")


@pytest.mark.parametrize("endless", [b"0\r\nX-A: ", b"5;"])
def test_endless_trailers_and_chunk_lines_are_cut(connection: Connection, endless: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection.receive(head + b"3\r\nabc\r\n" + endless)
    for _ in range(BOUNDS.max_head // 4096 + 1):
        connection.receive(b"a" * 4096)
    assert problem(connection.wire.sent) == (431, "head_too_large")


def test_many_small_chunks_are_no_reason_to_cut(connection: Connection) -> None:
    connection.receive(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(BOUNDS.max_head):
        connection.receive(b"1\r\na\r\n")
    assert not connection.wire.ended


def test_a_slow_body_above_the_rate_is_awaited(connection: Connection) -> None:
    connection.receive(HEAD)
    for _ in range(60):
        connection.receive(b"x" * 1100)
        connection.clock.move(1)
    assert not connection.wire.ended


def test_time_in_which_the_server_does_not_read_is_not_the_client_s(
    connection: Connection,
) -> None:
    connection.receive(HEAD + b"x" * 100_000)  # beyond uvicorn's mark: reading is paused
    connection.clock.move(300)
    assert not connection.wire.ended


def test_a_whole_request_leaves_no_timer(connection: Connection) -> None:
    connection.receive(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert connection.clock.calls == []


def test_an_answer_that_nobody_reads_is_given_up(connection: Connection) -> None:
    connection.receive(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    connection.wire.waiting = 100
    connection.protocol.pause_writing()
    connection.clock.move(29)
    connection.wire.waiting = 90
    connection.clock.move(30)
    assert connection.wire.ended == ""
    connection.clock.move(2)
    assert connection.wire.ended.startswith("aborted")
    assert connection.codes == ["send_timeout"]


def test_an_answer_that_is_read_at_last_is_sent(connection: Connection) -> None:
    connection.receive(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    connection.protocol.pause_writing()
    connection.protocol.resume_writing()
    assert connection.clock.calls == []


def answered(connection: Connection) -> None:
    """As if the application had answered without waiting for the body."""
    cycle = connection.protocol.cycle
    cycle.response_started = cycle.response_complete = True
    connection.protocol.on_response_complete()


def test_what_comes_after_an_answer_is_thrown_away_for_a_while(connection: Connection) -> None:
    connection.receive(HEAD)
    answered(connection)
    for _ in range(29):
        connection.receive(b"x" * 2000)
        connection.clock.move(1)
    assert len(connection.protocol.cycle.body) == 0
    assert connection.wire.ended == ""
    connection.clock.move(2)
    connection.receive(b"x" * 2000)
    assert connection.wire.ended.startswith("closed")


def test_no_second_answer_to_a_body_that_stops_after_the_first(connection: Connection) -> None:
    connection.receive(HEAD)
    answered(connection)
    connection.clock.move(40)
    assert connection.wire.ended.startswith("closed")
    assert connection.wire.sent == b""
