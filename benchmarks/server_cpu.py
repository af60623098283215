"""What a search over HTTP costs the server beside the search: against a bare echo, in one run.

    python3 dev.py bench server_cpu [--requests 1000] [--rounds 7] [--rows 2000] [--out FILE]

Two processes: `nearql serve`, and the least that Starlette, uvloop and orjson can do with the same
body: parse it, and send it back. Both are sent the same `POST /v1/sql` (a vector of 384 numbers as
JSON, LIMIT 10, a text that the plan cache knows) over one kept connection, in turns; what is
compared is the CPU time that each process used, all of its threads, per request. What the node
says the search itself took (`stats.search_ms`) is taken off. The goal: at most 2.5 times the echo.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psutil
from lean_http import LeanConnection, post_request

DIMENSIONS, GOAL = 384, 2.5
TEXT = "SELECT id, title, vec <-> :q AS d FROM docs ORDER BY d LIMIT 10"
ECHO = """
import sys, orjson, uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
async def echo(request):
    return Response(orjson.dumps(orjson.loads(await request.body())), media_type="application/json")
app = Starlette(routes=[Route("/v1/sql", echo, methods=["POST"])])
if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", http="httptools", log_level="error",
                access_log=False, lifespan="off", timeout_keep_alive=600)
"""


def search_body(rng: np.random.Generator) -> bytes:
    """The nearest ten of a random vector."""
    vector = rng.standard_normal(DIMENSIONS).astype(np.float32).tolist()
    return orjson.dumps({"sql": TEXT, "params": {"q": vector}})


def post(port: int, body: Any) -> Any:
    """The answer of /v1/sql, by a client that waits for the server to come up."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/sql", orjson.dumps(body),
        {"Content-Type": "application/json"},
    )  # fmt: skip
    for _ in range(300):
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read())
        except ConnectionError:
            time.sleep(0.1)
        except urllib.error.URLError as error:
            if isinstance(error, urllib.error.HTTPError):
                raise
            time.sleep(0.1)
    raise SystemExit("the server does not answer")


def prepare(port: int, rows: int, rng: np.random.Generator) -> None:
    """A table to search."""
    post(
        port,
        {"sql": f"CREATE TABLE docs (id BIGINT PRIMARY KEY, title TEXT, vec VECTOR({DIMENSIONS}))"},
    )
    for low in range(0, rows, 500):
        count = min(500, rows - low)
        vectors = rng.standard_normal((count, DIMENSIONS)).astype(np.float32).round(4).tolist()
        params = [
            item for at, v in enumerate(vectors) for item in (low + at, f"title {low + at}", v)
        ]
        marks = ", ".join(f"(${3 * at + 1}, ${3 * at + 2}, ${3 * at + 3})" for at in range(count))
        post(port, {"sql": f"INSERT INTO docs VALUES {marks}", "params": params})


def cpu_s(process: psutil.Process) -> float:
    """Seconds that a process has used so far, in all threads."""
    used = process.cpu_times()
    return float(used.user + used.system)


def one_round(
    process: psutil.Process, connection: LeanConnection, requests: list[bytes]
) -> tuple[float, list[bytes]]:
    """(CPU microseconds per request, the answers)."""
    before = cpu_s(process)
    answers = [connection.post(request) for request in requests]
    return (cpu_s(process) - before) * 1e6 / len(requests), answers


def measured(ports: tuple[int, int], pids: tuple[int, int], options: argparse.Namespace) -> Any:
    """CPU of both, in turns."""
    rng = np.random.default_rng(3)
    prepare(ports[0], options.rows, rng)
    post(ports[1], {"sql": "warm"})
    requests = [post_request("/v1/sql", search_body(rng)) for _ in range(200)] * (
        options.requests // 200 or 1
    )
    found: dict[str, list[float]] = {"nearql": [], "echo": [], "search": []}
    nodes = [psutil.Process(pid) for pid in pids]
    lines = [LeanConnection(port) for port in ports]
    for round_number in range(options.rounds + 1):
        used, answers = one_round(nodes[0], lines[0], requests)
        bare, _ = one_round(nodes[1], lines[1], requests)
        if round_number == 0:  # the first one warms both up
            continue
        search = statistics.fmean(orjson.loads(a)["stats"]["search_ms"] for a in answers) * 1000
        found["nearql"].append(used)
        found["echo"].append(bare)
        found["search"].append(search)
    return found


def report(found: dict[str, list[float]], options: argparse.Namespace) -> dict[str, Any]:
    """Medians and the ratio, with its spread over the rounds."""
    ratios = [
        (used - search) / bare
        for used, search, bare in zip(found["nearql"], found["search"], found["echo"], strict=True)
    ]
    return {
        "requests": options.requests, "rounds": options.rounds, "rows": options.rows,
        **{f"{name}_us": round(statistics.median(values), 1) for name, values in found.items()},
        "ratio_without_search": round(statistics.median(ratios), 2),
        "ratios": [round(min(ratios), 2), round(max(ratios), 2)],
        "goal": GOAL,
    }  # fmt: skip


def main() -> int:
    """Run, print, and say by the exit code whether the goal is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--port", type=int, default=18_570)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        node = [sys.executable, "-m", "nearql", "serve", "--port", str(options.port)]
        with Path(os.devnull).open("wb") as nowhere:
            started = [
                subprocess.Popen([*node, "--data-dir", f"{folder}/data"], stderr=nowhere),
                subprocess.Popen([sys.executable, "-c", ECHO, str(options.port + 1)]),
            ]
            try:
                pids = started[0].pid, started[1].pid
                found = measured((options.port, options.port + 1), pids, options)
            finally:
                for process in started:
                    process.terminate()
                for process in started:
                    process.wait(60)
    told = report(found, options)
    print(json.dumps(told, indent=2))
    if options.out is not None:
        options.out.write_text(json.dumps(told, indent=2) + "\n")
    return 0 if told["ratio_without_search"] <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
