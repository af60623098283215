"""One node beside its yardsticks, in one run: load, search over HTTP, restart.

    python3 dev.py bench one_node DEBIAN.PARQUET QUERIES.NPZ

Each figure is a ratio against something measured in the same run:
- bulk load over HTTP (Arrow, durable) against COPY BINARY into PostgreSQL + pgvector;
- p50 of a one-row exact search over a kept-alive connection against the server's own time, the
same statement in process, and the engine call alone;
- restart to ready, in seconds (there is no peer for it).
Runs are interleaved (A B A B ...); medians are printed with their spread. The answers' recall
against the exact ground truth stands beside the search figures.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from lean_http import LeanConnection, post_request
from postgres import column_types
from provenance import commit, machine

from nearql import connect

SCALARS = ["id", "name", "version", "section", "priority", "architecture", "installed_size"]
LIMIT = 10
BLOCK = 20  # searches in a row over the same way
BESIDE = {
    "server_p50_ms": "the server's own time",
    "in_process_p50_ms": "the statement in process",
    "engine_p50_ms": "the engine alone, served",
}


@dataclass
class Spread:
    """Median, least and greatest of repeated runs."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:,.2f} ({self.low:,.2f} to {self.high:,.2f})"


class Server:
    """A `nearql serve` of this checkout on a data directory."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start and wait until ready; seconds from process start."""
        begin = time.perf_counter()
        command = [sys.executable, "-m", "nearql", "serve", "--port", str(self.port)]
        self._process = subprocess.Popen(
            [*command, "--data-dir", str(self._folder)], stderr=subprocess.DEVNULL
        )
        while not self._ready():
            if self._process.poll() is not None:
                sys.exit(f"the server ended with {self._process.returncode}")
            time.sleep(0.005)
        return time.perf_counter() - begin

    def _ready(self) -> bool:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Send a signal and wait for the end."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(60)


def main() -> None:
    """Run and print; with --out also write the figures as JSON."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("rows", type=Path, help="debian.parquet")
    p.add_argument("queries", type=Path, help="debian_queries.npz")
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--wide", action="store_true", help="load every column, long texts included")
    p.add_argument("--out", type=Path, help="folder for <commit>.json")
    arguments = p.parse_args()
    figures: dict[str, Any] = {"machine": machine(), "commit": commit()}
    data = read_rows(arguments.rows, wide=arguments.wide)
    with tempfile.TemporaryDirectory(prefix="nearql-bench-") as folder:
        server = Server(Path(folder) / "data")
        server.start()
        figures["load"] = load_figures(server, data, arguments.repeats)
        figures["search"] = search_figures(server, arguments.queries, data)
        figures["restart_s"] = restart_figures(server, arguments.repeats)
        server.stop()
    report(figures)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        path = arguments.out / f"{figures['commit']}.json"
        path.write_text(json.dumps(figures, indent=1, default=asdict) + "\n")


def read_rows(path: Path, *, wide: bool) -> pa.Table:
    """The Debian rows with a float32 column `vec`."""
    columns = pq.read_schema(path).names[:-1] if wide else SCALARS
    table = pq.read_table(path, columns=[*columns, "embedding"])
    halves = table["embedding"].combine_chunks().flatten().to_numpy()
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(halves.astype(np.float32)), 384)
    return table.drop(["embedding"]).append_column("vec", vectors)


def load_figures(server: Server, data: pa.Table, repeats: int) -> dict[str, Any]:
    """Rows a second of both, interleaved; the last load stays for the searches."""
    from postgres import copy_binary, create, postgres, version

    ours: list[float] = []
    theirs: list[float] = []
    types = column_types(data, "vec")
    vectors = data["vec"].combine_chunks().flatten().to_numpy().reshape(len(data), -1)
    scalars = [data[name].to_pylist() for name in data.column_names[:-1]]
    rows = [list(row) for row in zip(*scalars, vectors, strict=True)]
    with postgres() as connection, connect(server.url) as db:
        for _ in range(repeats):
            db.execute("DROP TABLE IF EXISTS docs")
            db.execute(our_table(types))
            ours.append(timed(lambda: db.insert("docs", data), len(rows)))
            create(connection, "docs", types, "id")
            theirs.append(timed(lambda: copy_binary(connection, "docs", types, rows), len(rows)))
        return {
            "rows": len(rows),
            "columns": len(types),
            "nearql_rows_per_s": Spread.of(ours),
            "pgvector_rows_per_s": Spread.of(theirs),
            "ratio": statistics.median(ours) / statistics.median(theirs),
            "peer": version(connection),
        }


def our_table(types: dict[str, str]) -> str:
    """The same table in our SQL."""
    columns = ", ".join(
        f"{name} {kind}{' PRIMARY KEY' if name == 'id' else ''}" for name, kind in types.items()
    )
    return f"CREATE TABLE docs ({columns})"


def timed(job: Any, rows: int) -> float:
    """Rows a second of a job."""
    start = time.perf_counter()
    job()
    return rows / (time.perf_counter() - start)


def search_figures(server: Server, path: Path, data: pa.Table) -> dict[str, Any]:
    """The same searches over HTTP and in process, in turn; p50 of each, and recall over HTTP.

    Over HTTP the answer says how long the server took (`elapsed_ms`) and how long the engine
    alone (`search_ms`): the overhead is given against all three.
    """
    with np.load(path) as truth:
        queries = np.ascontiguousarray(truth["queries"], dtype="<f4")
        tenth = truth["all_sims"][:, LIMIT - 1]
    sql = f"SELECT id, vec <=> :q AS d FROM docs ORDER BY d LIMIT {LIMIT}"
    connection = LeanConnection(server.port)
    requests = [
        post_request(
            "/v1/sql",
            orjson.dumps({"sql": sql, "params": {"q": base64.b64encode(query).decode()}}),
        )
        for query in queries
    ]
    times: list[list[float]] = []  # a row per query: over HTTP, elapsed_ms, search_ms, in process
    right = 0
    with tempfile.TemporaryDirectory(prefix="nearql-bench-") as folder, connect(folder) as db:
        db.execute(our_table(column_types(data, "vec")))
        db.insert("docs", data)
        for block in np.array_split(np.arange(len(queries)), max(len(queries) // BLOCK, 1)):
            inside = [searched(db, sql, queries[at]) for at in block]
            for at, own in zip(block, inside, strict=True):
                start = time.perf_counter()
                body = connection.post(requests[at])
                taken = (time.perf_counter() - start) * 1e3
                answer = orjson.loads(body)
                stats = answer["stats"]
                times.append([taken, stats["elapsed_ms"], stats["search_ms"], own])
                right += sum(1 - row[1] >= tenth[at] - 2e-5 for row in answer["rows"])
    http, elapsed, search, own = np.median(np.array(times), axis=0).tolist()
    return {
        "recall_at_10": right / (len(queries) * LIMIT),
        "http_p50_ms": http,
        "server_p50_ms": elapsed,
        "in_process_p50_ms": own,
        "engine_p50_ms": search,
    }


def searched(db: Any, sql: str, query: Any) -> float:
    """Milliseconds of the statement in this process, rows fetched."""
    start = time.perf_counter()
    db.execute(sql, {"q": query}).fetchall()
    return (time.perf_counter() - start) * 1e3


def restart_figures(server: Server, repeats: int) -> Spread:
    """Seconds from process start to /readyz 200, after SIGKILL."""
    seconds = []
    for _ in range(repeats):
        server.stop(signal.SIGKILL)
        seconds.append(server.start())
    return Spread.of(seconds)


def report(figures: dict[str, Any]) -> None:
    """The figures for people."""
    load, search = figures["load"], figures["search"]
    out = io.StringIO()
    print(f"{figures['machine']}; commit {figures['commit']}; {load['peer']}", file=out)
    print(f"load {load['rows']:,} rows x {load['columns']} columns, rows/s:", file=out)
    print(f"  nearql   {load['nearql_rows_per_s']}", file=out)
    print(f"  pgvector {load['pgvector_rows_per_s']}", file=out)
    print(f"  ratio    {load['ratio']:.2f}x", file=out)
    print(f"search, exact, recall@10 = {search['recall_at_10']:.4f}:", file=out)
    print(f"  over HTTP, p50              {search['http_p50_ms']:.2f} ms", file=out)
    for name, what in BESIDE.items():
        more = search["http_p50_ms"] - search[name]
        print(f"  {what:27} {search[name]:.2f} ms: HTTP adds {more:.2f} ms", file=out)
    print(f"restart to ready after SIGKILL: {figures['restart_s']} s", file=out)
    print(out.getvalue(), end="")


if __name__ == "__main__":
    main()
