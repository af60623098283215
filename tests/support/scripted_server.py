"""A scripted HTTP server for tests of the client: answers what the test says, records what came."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
import pyarrow as pa

ARROW = "application/vnd.apache.arrow.stream"
PROBLEM = "application/problem+json"


@dataclass(frozen=True)
class Received:
    """A request as it arrived. headers: lower-case names; connection: its number, from 0."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return orjson.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """What to answer: raw bytes; then close the connection, or keep it."""

    raw: bytes
    close: bool = False


Script = Callable[[Received], Reply]


def http(
    status: int, body: bytes = b"", kind: str = "application/json", close: bool = False,
    **headers: str,
) -> Reply:  # fmt: skip
    """A complete HTTP answer; header names with _ for -."""
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", f"content-type: {kind}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return Reply("\r\n".join([*lines, "", ""]).encode() + body, close)


def rows(table: pa.Table | None = None, close: bool = False, **body: Any) -> Reply:
    """A successful answer of /v1/sql."""
    table = pa.table({"n": [1]}) if table is None else table
    note = orjson.dumps({"row_count": table.num_rows, "stats": {"node": "fake"}, **body})
    sink = pa.BufferOutputStream()
    described = table.replace_schema_metadata({"nearql": note})
    with pa.ipc.new_stream(sink, described.schema) as writer:
        writer.write_table(described)
    return http(200, sink.getvalue().to_pybytes(), ARROW, close)


def stored(received: Received, **counts: Any) -> Reply:
    """A successful answer of the bulk route."""
    count = pa.ipc.open_stream(received.body).read_all().num_rows
    body = {"rows": count, "inserted": count, "updated": 0, "failed": [], **counts}
    return http(200, orjson.dumps(body))


def problem(status: int, code: str, **members: Any) -> Reply:
    """A problem document."""
    headers = {k: v for k, v in members.items() if k == "retry_after"}
    body = {"status": status, "code": code, "detail": f"{code} happened.", **members}
    return http(status, orjson.dumps(body), PROBLEM, **headers)


HANG_UP = Reply(b"", close=True)


@dataclass
class ScriptedServer:
    """Listens on a free port of 127.0.0.1 while it is entered; each connection has its thread."""

    script: Script
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    url: str = ""  # its address, once it is entered
    tls: ssl.SSLContext | None = None

    def __enter__(self) -> ScriptedServer:
        self._listener = socket.create_server(("127.0.0.1", 0))
        scheme = "http" if self.tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for connection in self._open:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed: the test is over
                return
            self._open.append(connection)
            number, self.connections = self.connections, self.connections + 1
            threading.Thread(target=self._serve, args=(connection, number), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        if self.tls is not None:
            try:
                connection = self.tls.wrap_socket(connection, server_side=True)
            except OSError:  # the client does not trust us
                return
        with connection, connection.makefile("rb") as stream:
            try:
                while (request := read_request(stream, number)) is not None:
                    self.received.append(request)
                    reply = self.script(request)
                    connection.sendall(reply.raw)
                    if reply.close:
                        connection.shutdown(socket.SHUT_RDWR)
                        return
            except OSError:  # the client went away, or the test is over
                return


def read_request(stream: Any, connection: int) -> Received | None:
    """The next request of a connection; None at its end."""
    line = stream.readline().decode()
    if not line:
        return None
    method, target, _ = line.split(" ")
    headers = {}
    while (header := stream.readline().decode().strip()) != "":
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    body = stream.read(int(headers.get("content-length", 0)))
    return Received(method, target, headers, body, connection)


def in_turn(*replies: Reply) -> Script:
    """A script that answers these one after the other, the last one for ever."""
    remaining: list[Reply] = list(replies)
    return lambda _: remaining.pop(0) if len(remaining) > 1 else remaining[0]


def targets(server: ScriptedServer) -> list[str]:
    """What was asked for, in order."""
    return [request.target for request in server.received]
