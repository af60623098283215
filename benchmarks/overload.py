"""A node under more than it can do: 200 connections that search, load and send garbage.

    python3 dev.py bench overload [--seconds 300] [--rows 20000] [--joins] [--out FILE]
        [--searches 120] [--loads 60] [--garbage 20]

A server of its own, in a process of its own, with keys required. First searches alone, to know
their time when it is quiet; then for --seconds, each over a connection that is kept where the
server keeps it:

    searches   120 connections, each a search about every four seconds
    loads       60 connections, each an upsert of 200 rows (keys drawn from 20,000, so that the
               table stays as large) as soon as the last was answered; a refusal is waited out as
               its Retry-After says
    garbage     20 connections: what is no HTTP, broken JSON, wrong SQL, wrong keys, bodies that
               stop half-way, gzip bombs, and clients that go away

Asked for at the end: no answer of 500 and no fault in the server's log; the p99 of searches below
10 times their quiet p50; the process's memory (without mapped files, which the kernel may drop)
flat over the last two thirds. The tables stay as large as they are, so nothing is to be subtracted;
but each join that has no end gathers up to limits.result_bytes before it is refused, so memory is
told as its median and as what is left between such statements, its lowest tenth, which is compared.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

KEY = "overload-benchmark-key-0123456789abcdef"
SEARCHERS, LOADERS, GARBAGE = 120, 60, 20
LOAD_ROWS, LOAD_KEYS = 200, 20_000
FACTOR, GROWTH = 10.0, 1.10


@dataclass
class Seen:
    """What the clients saw. times: seconds of searches that were answered; inside: those that the
    server took by its own account; lag: how late this process was itself.
    """

    times: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)
    lag: list[float] = field(default_factory=list)
    searches: Counter[str] = field(default_factory=Counter)
    loads: Counter[str] = field(default_factory=Counter)
    garbage: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[float, int]] = field(default_factory=list)


class Client:
    """One connection, opened again when the server closed it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body) of an answer; OSError where there is none."""
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        assert self.reader is not None
        try:
            self.writer.write(request)
            await self.writer.drain()
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            pairs = (line.split(": ", 1) for line in head[1:] if ": " in line)
            headers = {name.lower(): value for name, value in pairs}
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        except (OSError, asyncio.IncompleteReadError) as error:
            self.close()
            raise OSError(str(error)) from error
        if headers.get("connection") == "close":
            self.close()
        return int(head[0].split()[1]), headers, body

    def close(self) -> None:
        """Without waiting for the other side."""
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


def http(path: str, body: bytes, kind: str = "application/json", *, more: str = "") -> bytes:
    """A POST as bytes."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    )
    return head.encode() + body


def search_request(rng: np.random.Generator, dimensions: int) -> bytes:
    """The nearest ten of a random vector."""
    vector = rng.standard_normal(dimensions).astype(np.float32).round(4).tolist()
    sql = "SELECT id, vec <-> :q AS d FROM docs ORDER BY d LIMIT 10"
    return http("/v1/sql", json.dumps({"sql": sql, "params": {"q": vector}}).encode())


def arrow_rows(rng: np.random.Generator, ids: Any, dimensions: int) -> bytes:
    """Rows as an Arrow stream."""
    flat = pa.array(rng.standard_normal(len(ids) * dimensions).astype(np.float32))
    vectors = pa.FixedSizeListArray.from_arrays(flat, dimensions)
    table = pa.table({"id": pa.array(ids, pa.int64()), "vec": vectors})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


# ---- the three kinds of clients -----------------------------------------------------------------


async def search(client: Client, request: bytes, seen: Seen) -> None:
    """One search, timed."""
    started = time.perf_counter()
    try:
        status, _, body = await client.ask(request)
    except OSError:
        seen.searches["cut"] += 1
        return
    seen.searches[str(status)] += 1
    if status == 200:
        seen.times.append(time.perf_counter() - started)
        seen.inside.append(json.loads(body)["stats"]["elapsed_ms"] / 1000)


async def load(client: Client, request: bytes, seen: Seen) -> None:
    """One load; a refusal is waited out."""
    try:
        status, headers, _ = await client.ask(request)
    except OSError:
        seen.loads["cut"] += 1
        await asyncio.sleep(1)
        return
    seen.loads[str(status)] += 1
    if status in (429, 503):
        await asyncio.sleep(float(headers.get("retry-after", "1")))


def garbage_requests(rng: np.random.Generator, joins: bool) -> list[bytes]:
    """Things that a server meets. joins: and what only a user with a key can do to it."""
    rows = "application/vnd.apache.arrow.stream"
    bomb = gzip.compress(b" " * (200 << 20))
    heavy = http("/v1/sql", json.dumps({"sql": "SELECT * FROM docs, docs b, docs c"}).encode())
    return [
        *([heavy] if joins else []),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(rng.bytes(200)),
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 200_000,
        http("/v1/sql", b'{"sql": "SELECT'),
        http("/v1/sql", b'{"sql": "SELEC 1"}'),
        http("/v1/sql", b"\xff" * 1000),
        http("/v1/sql", json.dumps({"sql": "SELECT " + "(" * 5000}).encode()),
        http("/v1/sql", bomb, more="Content-Encoding: gzip\r\n"),
        http("/v1/tables/docs/rows", bytes(rng.bytes(100_000)), rows),
        http("/v1/tables/nosuch/rows", bytes(10), rows),
        http("/v1/sql", b"{}").replace(KEY.encode(), b"nq_wrong"),
        http("/v1/tables/docs/rows", bytes(100_000), rows)[:5_000],
    ]


async def spoil(client: Client, request: bytes, seen: Seen) -> None:
    """Send garbage; half of the clients don't wait for what it is answered."""
    try:
        if random.random() < 0.5:
            status, _, _ = await asyncio.wait_for(client.ask(request), 5)
            seen.garbage[str(status)] += 1
        else:
            _, client.writer = await asyncio.open_connection("127.0.0.1", client.port)
            client.writer.write(request)
            await asyncio.sleep(random.random() / 5)
            seen.garbage["left"] += 1
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        seen.garbage["cut"] += 1
    client.close()


async def repeat(until: float, pause_s: float, act: Callable[[], Awaitable[None]]) -> None:
    """Act, pause about so long, until the time is up."""
    await asyncio.sleep(random.random() * pause_s)
    while time.monotonic() < until:
        await act()
        await asyncio.sleep(pause_s * (0.5 + random.random()))


# ---- the run ------------------------------------------------------------------------------------


async def quiet(port: int, rng: np.random.Generator, dimensions: int, seconds: float) -> Seen:
    """Searches of one connection, one after the other."""
    seen, client = Seen(), Client(port)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await search(client, search_request(rng, dimensions), seen)
        await asyncio.sleep(0.02)
    client.close()
    return seen


async def storm(
    port: int, rng: np.random.Generator, options: argparse.Namespace, process: psutil.Process
) -> Seen:
    """Everything at once."""
    seen, until = Seen(), time.monotonic() + options.seconds
    dimensions: int = options.dimensions
    rows = "application/vnd.apache.arrow.stream"
    loads = [
        http(
            "/v1/tables/bulk/rows?mode=upsert",
            arrow_rows(rng, rng.choice(LOAD_KEYS, LOAD_ROWS, replace=False), dimensions),
            rows,
        )
        for _ in range(20)
    ]
    asked = [search_request(rng, dimensions) for _ in range(500)]
    bad = garbage_requests(rng, options.joins)

    def one(pause: float, kind: Any, requests: list[bytes]) -> Awaitable[None]:
        client = Client(port)
        return repeat(until, pause, lambda: kind(client, random.choice(requests), seen))

    async def watch() -> None:
        found = process.memory_info()
        seen.memory.append((time.monotonic(), found.rss - found.shared))  # without mapped files

    async def look() -> None:
        due = time.perf_counter() + 0.01
        await asyncio.sleep(0.01)
        seen.lag.append(time.perf_counter() - due)

    await asyncio.gather(
        *(one(4.0, search, asked) for _ in range(options.searches)),
        *(one(0.0, load, loads) for _ in range(options.loads)),
        *(one(0.5, spoil, bad) for _ in range(options.garbage)),
        repeat(until, 1.0, watch), repeat(until, 0.01, look),
    )  # fmt: skip
    return seen


def percentile(times: list[float], share: float) -> float:
    """Milliseconds."""
    return float(np.percentile(times, share) * 1000) if times else float("nan")


def report(calm: Seen, seen: Seen, options: argparse.Namespace, faults: int) -> dict[str, Any]:
    """The figures, and whether they are as they should be."""
    tail = [rss for _, rss in seen.memory[len(seen.memory) // 3 :]]
    half = len(tail) // 2
    early, late = (np.percentile(part, [10, 50]) for part in (tail[:half], tail[half:]))
    p50, p99 = percentile(calm.times, 50), percentile(seen.times, 99)
    answered = {**seen.searches, **{f"load {k}": v for k, v in seen.loads.items()}}
    checks = {
        "no unhandled error": faults == 0 and "500" not in answered and "load 500" not in answered,
        f"p99 below {FACTOR:.0f} times the quiet p50": p99 < FACTOR * p50,
        "memory flat": bool(late[0] < GROWTH * early[0]),
    }
    return {
        "seconds": options.seconds,
        "connections": {n: vars(options)[n] for n in ("searches", "loads", "garbage")},
        "searches": {
            "quiet_p50_ms": round(p50, 2), "quiet_p99_ms": round(percentile(calm.times, 99), 2),
            "p50_ms": round(percentile(seen.times, 50), 2), "p99_ms": round(p99, 2),
            "inside_the_server_p50_ms": round(percentile(seen.inside, 50), 2),
            "inside_the_server_p99_ms": round(percentile(seen.inside, 99), 2),
            "this_client_late_p99_ms": round(percentile(seen.lag, 99), 2),
            "answers": dict(seen.searches),
        },
        "loads": dict(seen.loads),
        "garbage": dict(seen.garbage),
        "memory_mb": {
            "second_third": round(early[1] / 1e6), "last_third": round(late[1] / 1e6),
            "lowest_tenth_of_second_third": round(early[0] / 1e6),
            "lowest_tenth_of_last_third": round(late[0] / 1e6),
            "highest": round(max(rss for _, rss in seen.memory) / 1e6),
        },
        "faults_in_the_log": faults,
        "checks": checks,
    }  # fmt: skip


async def prepare(port: int, rng: np.random.Generator, rows: int, dimensions: int) -> None:
    """Two tables: one to search, one to load."""
    client = Client(port)
    for name in ("docs", "bulk"):
        sql = f"CREATE TABLE {name} (id BIGINT PRIMARY KEY, vec VECTOR({dimensions}))"
        status, _, body = await client.ask(http("/v1/sql", json.dumps({"sql": sql}).encode()))
        assert status == 200, body
    for low in range(0, rows, 5000):
        ids = np.arange(low, min(low + 5000, rows))
        body = arrow_rows(rng, ids, dimensions)
        request = http("/v1/tables/docs/rows", body, "application/vnd.apache.arrow.stream")
        status, _, told = await client.ask(request)
        assert status == 200, told
    client.close()


async def started(port: int) -> None:
    """Wait until the server is ready."""
    while True:
        with suppress(OSError):
            client = Client(port)
            status, _, _ = await client.ask(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
            client.close()
            if status == 200:
                return
        await asyncio.sleep(0.1)


async def run(port: int, process: psutil.Process, options: argparse.Namespace) -> tuple[Seen, Seen]:
    """(quiet, storm)."""
    rng = np.random.default_rng(7)
    random.seed(7)
    await asyncio.wait_for(started(port), 60)
    await prepare(port, rng, options.rows, options.dimensions)
    calm = await quiet(port, rng, options.dimensions, min(20.0, options.seconds))
    return calm, await storm(port, rng, options, process)


def main() -> int:
    """Run, print, and say by the exit code whether every check holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dimensions", type=int, default=128)
    parser.add_argument("--port", type=int, default=18_470)
    parser.add_argument("--joins", action="store_true", help="joins without an end, too")
    parser.add_argument("--searches", type=int, default=SEARCHERS, help="connections")
    parser.add_argument("--loads", type=int, default=LOADERS, help="connections")
    parser.add_argument("--garbage", type=int, default=GARBAGE, help="connections")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "root.key").write_text(KEY)
        environment = {
            **os.environ,
            "NEARQL_AUTH_MODE": "required",
            "NEARQL_AUTH_BOOTSTRAP_ADMIN_KEY_FILE": f"{folder}/root.key",
            "NEARQL_LOG_FORMAT": "json",
        }
        command = [sys.executable, "-m", "nearql", "serve", "--port", str(options.port)]
        log = Path(folder) / "log"
        with log.open("wb") as errors:
            server = subprocess.Popen(
                [*command, "--data-dir", f"{folder}/data"], stderr=errors, env=environment
            )
            try:
                calm, seen = asyncio.run(run(options.port, psutil.Process(server.pid), options))
            finally:
                server.terminate()
                server.wait(60)
        lines = log.read_text().splitlines()
        faults = [line for line in lines if '"request_failed"' in line or "Traceback" in line]
    for line in faults[:5]:
        print(line[:2000], file=sys.stderr)
    found = report(calm, seen, options, len(faults))
    print(json.dumps(found, indent=2))
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=2) + "\n")
    return 0 if all(found["checks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
