"""What one search costs the client: NearQL's against bare HTTP libraries doing the same exchange.

    python benchmarks/client_cpu.py

A process of its own answers every request at once with the same ten rows, so that what is measured
is the client: CPU of this process per call, and the time of a call. Everyone sends the same JSON
body with a vector of 384 dimensions as base64 over one kept-alive connection, and reads the answer
into Python rows. `raw` is the least that is possible: sends and receives, no checks.
"""

from __future__ import annotations

import base64
import http.client
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import orjson
import pyarrow as pa
from provenance import commit, machine

import nearql

CALLS = 2_000
ROUNDS = 5
SQL = "SELECT id, name, embedding <-> :q AS d FROM packages ORDER BY d LIMIT 10"
VECTOR = np.random.default_rng(1).standard_normal(384).astype("<f4")
HEADERS = {"Content-Type": "application/json", "Accept": "application/vnd.apache.arrow.stream"}

SERVER = """
import sys, uvicorn
BODY = sys.stdin.buffer.read()
HEAD = [(b"content-type", b"application/vnd.apache.arrow.stream"),
        (b"content-length", str(len(BODY)).encode())]
async def app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEAD})
    await send({"type": "http.response.body", "body": BODY})
if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="error", access_log=False, lifespan="off",
                timeout_keep_alive=600)
"""


def answer() -> bytes:
    """Ten rows as a node would send them."""
    note = {"row_count": 10, "stats": {"elapsed_ms": 1.8, "strategy": "exact/faiss_cpu"}}
    table = pa.table(
        {
            "id": range(10),
            "name": [f"package-{i}" for i in range(10)],
            "d": pa.array([0.1 * i for i in range(10)], pa.float32()),
        }
    ).replace_schema_metadata({"nearql": orjson.dumps(note)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def body() -> bytes:
    """The request's body, made anew each time as a client must."""
    vector = base64.b64encode(VECTOR.tobytes()).decode()
    return orjson.dumps({"sql": SQL, "params": {"q": vector}})


def rows_of(data: bytes) -> list[Any]:
    """The answer as Python rows."""
    table = pa.ipc.open_stream(data).read_all()
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def contenders(port: int, length: int) -> dict[str, Callable[[], Any]]:
    """One call of each client, its connection open; answers have bodies of `length` bytes."""
    db = nearql.connect(f"http://127.0.0.1:{port}")
    over_httpx = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=HEADERS)
    standard = http.client.HTTPConnection("127.0.0.1", port)
    plain = socket.create_connection(("127.0.0.1", port))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def by_standard() -> list[Any]:
        standard.request("POST", "/v1/sql", body(), HEADERS)
        return rows_of(standard.getresponse().read())

    def raw() -> list[Any]:
        data = body()
        head = f"POST /v1/sql HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n"
        plain.sendall(head.encode() + data)
        got = plain.recv(65536)
        while len(got) < got.find(b"\r\n\r\n") + 4 + length:
            got += plain.recv(65536)
        return rows_of(got[-length:])

    return {
        "nearql": lambda: db.sql(SQL, q=VECTOR).fetchall(),
        "httpx": lambda: rows_of(over_httpx.post("/v1/sql", content=body()).content),
        "http.client": by_standard,
        "raw": raw,
    }


def measure(call: Callable[[], Any]) -> tuple[float, float]:
    """CPU and wall time of one call, microseconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(CALLS):
        call()
    used = (time.process_time() - cpu, time.perf_counter() - wall)
    return used[0] / CALLS * 1e6, used[1] / CALLS * 1e6


def main() -> None:
    """Measure in turns, so that a disturbance hits everyone; print medians."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", SERVER, str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as server:
        assert server.stdin is not None
        server.stdin.write(answer())
        server.stdin.close()
        try:
            wait_until_open(port)
            report(contenders(port, len(answer())))
        finally:
            server.terminate()


def wait_until_open(port: int) -> None:
    """Return once the server listens."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.02)
    raise TimeoutError("the server does not listen")


def report(calls: dict[str, Callable[[], Any]]) -> None:
    """A line per client: CPU, wall time, CPU relative to httpx."""
    for call in calls.values():
        assert len(call()) == 10
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            taken[name].append(measure(call))
    medians = {
        n: [statistics.median(each) for each in zip(*t, strict=True)] for n, t in taken.items()
    }
    for name, (cpu, wall) in medians.items():
        ratio = cpu / medians["httpx"][0]
        print(f"{name:12} {cpu:6.0f} us CPU  {wall:6.0f} us  {ratio:5.2f} x httpx")
    print(f"{machine()}, commit {commit()}; wanted: nearql at most 1.3 x httpx")


if __name__ == "__main__":
    main()
