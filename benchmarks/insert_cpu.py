"""What share of a bulk insert's CPU is the client's: `db.insert` of Arrow data into one node.

    python3 dev.py bench insert_cpu [--rows 200000] [--dimensions 384] [--out FILE]

A node in a process of its own; the client in this one, with two requests under way as by default.
Counted is the CPU time of both processes, threads included, from the first batch to the last
answer. Asked for: the client's share below 25 %, so that the server is what limits a load.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from provenance import commit, machine

import nearql

ROUNDS = 3
WANTED = 0.25


def main() -> None:
    """Measure, print, and say whether the goal is met by the exit code."""
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    p.add_argument("--rows", type=int, default=200_000)
    p.add_argument("--dimensions", type=int, default=384)
    p.add_argument("--out", type=Path, help="also write the figures here, as JSON")
    given = p.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "nearql", "serve", "--port", str(port), "--data-dir"]
    with (
        tempfile.TemporaryDirectory() as folder,
        Path(folder, "log").open("ab") as log,
        subprocess.Popen([*command, f"{folder}/data"], stdout=log, stderr=log) as server,
    ):
        try:
            found = measured(f"http://127.0.0.1:{port}", server.pid, given)
        finally:
            server.terminate()
    print(json.dumps(found, indent=2))
    if given.out:
        given.out.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(0 if found["client_share"] < WANTED else 1)


def measured(url: str, pid: int, given: argparse.Namespace) -> dict[str, Any]:
    """The median round by the client's share."""
    data = rows(given.rows, given.dimensions)
    with nearql.connect(url, retries=40) as db:
        rounds = [inserted(db, pid, data, given.dimensions) for _ in range(ROUNDS)]
    middle = sorted(rounds, key=lambda each: each["client_share"])[ROUNDS // 2]
    return {"rows": given.rows, "dimensions": given.dimensions, **middle, "rounds": ROUNDS,
            "wanted_below": WANTED, "machine": machine(), "commit": commit()}  # fmt: skip


def rows(count: int, dimensions: int) -> pa.Table:
    """Ids and vectors, as Arrow has them."""
    vectors = np.random.default_rng(1).standard_normal((count, dimensions), np.float32)
    flat = pa.array(vectors.reshape(-1))
    return pa.table(
        {"id": np.arange(count), "vec": pa.FixedSizeListArray.from_arrays(flat, dimensions)}
    )


def inserted(db: nearql.Connection, pid: int, data: pa.Table, dimensions: int) -> dict[str, Any]:
    """One insert into a new table."""
    db.sql("DROP TABLE IF EXISTS bench")
    db.sql(f"CREATE TABLE bench (id BIGINT PRIMARY KEY, vec VECTOR({dimensions}))")
    server_before, client_before, began = used_by(pid), time.process_time(), time.perf_counter()
    report = db.insert("bench", data)
    wall, client = time.perf_counter() - began, time.process_time() - client_before
    server = used_by(pid) - server_before
    assert report.inserted == data.num_rows
    return {
        "seconds": round(wall, 2), "rows_per_s": round(data.num_rows / wall),
        "client_cpu_s": round(client, 3), "server_cpu_s": round(server, 3),
        "client_share": round(client / (client + server), 4),
    }  # fmt: skip


def used_by(pid: int) -> float:
    """CPU seconds of a process and its children so far."""
    process = psutil.Process(pid)
    every = [process, *process.children(recursive=True)]
    return sum(sum(each.cpu_times()[:2]) for each in every)


if __name__ == "__main__":
    main()
