"""What three copies cost and how fast they are, on three processes of this machine.

    python3 dev.py bench replication [--only load|single|lag|follower|json|behind|failover ...]
        [--rows 60000] [--behind-mb 1000] [--failovers 20] [--json FILE]

- load: majority writes of 384-d rows in bulk, beside three nodes alone that load the same rows at
  once (so that both write every row to three logs); rows a second, and their ratio.
- single: one-row majority writes, beside the disk's own fdatasync; p50 in ms.
- lag: of each replica while rows come at a steady rate, as its primary tells: the age of the first
  row that it lacks; and until a reader on a replica sees a row that was just acknowledged. p50 and
  p99 in ms.
- follower: searches on a replica while it replicates 2,000 rows a second, and before and after,
  while nothing comes (the table has grown meanwhile); searches a second, and their ratio.
- json: eight clients send 30 MB of JSON each; failovers that it causes.
- failover: the node that orders the writes is killed, or paused, in turns; seconds until another
  one has acknowledged a write at majority, p50 and p95.
- behind: a replica that was stopped while so many MB were written; MB a second as it catches up
  (its restart, less one with nothing to catch up), beside what the disk takes in order.

Processes, disk and clients share one machine. Everything is durable when it is counted. The data
directories should be on the disk that counts: TMPDIR moves them.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
from provenance import commit, machine

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.cluster_processes import ADMIN_KEY, Process, Processes, cluster
from support.waiting import wait_for

DIMENSIONS = 384
BATCH = 1_000
ROW_BYTES = 4 * DIMENSIONS + 32
QUIET_S = 3.0
FLAPPING_S = 62.0
ENGINE = {"wal_file": "64MiB"}  # the default; tests make theirs smaller
TABLE = f"CREATE TABLE docs (id BIGINT PRIMARY KEY, label TEXT, vec VECTOR({DIMENSIONS}))"
_RANDOM = np.random.default_rng(7)


# ---- Clients -------------------------------------------------------------------------------------


class Client:
    """A kept-alive connection to one node."""

    def __init__(self, node: Process) -> None:
        parts = urlsplit(node.url)
        assert parts.hostname
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=120)

    def post(self, path: str, body: bytes, kind: str, session: str = "") -> Any:
        """The JSON of the answer; ends the benchmark where it is not a success."""
        headers = {"Authorization": f"Bearer {ADMIN_KEY}", "Content-Type": kind}
        if session:
            headers["NearQL-Session"] = session
        self._connection.request("POST", path, body, headers)
        answer = self._connection.getresponse()
        told = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status} {told[:500]!r}")
        return json.loads(told)

    def sql(self, text: str, parameters: Any = None, session: str = "", **settings: Any) -> Any:
        """A statement's answer. session: the token of one that this must see."""
        body = {"sql": text, "params": parameters or {}, "settings": settings}
        return self.post("/v1/sql", json.dumps(body).encode(), "application/json", session)

    def rows(self, body: bytes) -> None:
        """A batch made by `batch`."""
        path = "/v1/tables/docs/rows?mode=insert"
        self.post(path, body, "application/vnd.apache.arrow.stream")


def batch(first: int, count: int = BATCH) -> bytes:
    """Rows with keys from `first` on, as an Arrow stream."""
    vectors = _RANDOM.standard_normal(count * DIMENSIONS, np.float32)
    table = pa.table(
        {
            "id": pa.array(np.arange(first, first + count)),
            "label": pa.array([f"row {key}" for key in range(first, first + count)]),
            "vec": pa.FixedSizeListArray.from_arrays(pa.array(vectors), DIMENSIONS),
        }
    )
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def at_once(*works: Callable[[], object]) -> float:
    """Seconds that these take beside each other."""
    threads = [threading.Thread(target=work) for work in works]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start


def send(node: Process, batches: list[bytes]) -> None:
    """All of these over one connection."""
    client = Client(node)
    for body in batches:
        client.rows(body)


def orders(nodes: Processes) -> Process:
    """The node that orders the table's writes."""
    name = nodes.primary("docs")
    assert name is not None
    return nodes[name]


def prepared(nodes: Processes) -> Process:
    """An empty table of which every copy is in sync; its primary."""
    nodes.write("DROP TABLE IF EXISTS docs")
    nodes.write(TABLE)
    wait_for(nodes.in_sync, "all copies in sync", 60)
    time.sleep(QUIET_S)
    return orders(nodes)


# ---- What is measured ----------------------------------------------------------------------------


def load(nodes: Processes, folder: Path, options: Any) -> dict[str, Any]:
    """Interleaved: copies, alone, copies, alone, ..."""
    batches = [batch(first) for first in range(0, options.rows, BATCH)]
    copies, alone = [], []
    for turn in range(options.repeats):
        primary = prepared(nodes)
        parts = (partial(send, primary, batches[at::3]) for at in range(3))
        copies.append(options.rows / at_once(*parts))
        alone.append(options.rows / _alone(folder / f"alone-{turn}", batches))
    ratio = statistics.median(copies) / statistics.median(alone)
    return {"copies_rows_s": copies, "alone_rows_s": alone, "ratio": ratio, "target": ">= 0.8"}


def _alone(folder: Path, batches: list[bytes]) -> float:
    """Seconds in which three nodes that know nothing of each other have all of the rows."""
    found = []
    for number in range(3):
        own = folder / str(number)
        own.mkdir(parents=True)
        found.append(Processes(own, 1, voters=1, cluster={"enabled": False}, engine=ENGINE))
    try:
        for nodes in found:
            nodes.start()
            nodes.write(TABLE)
        time.sleep(QUIET_S)
        return at_once(*(partial(send, nodes["n1"], batches) for nodes in found))
    finally:
        for nodes in found:
            nodes.stop()


def sync_ms(folder: Path, times: int = 300) -> float:
    """p50 of an fdatasync of 4 KiB that were just written to a file that has its room."""
    spent = []
    with (folder / "probe").open("wb+") as file:
        os.posix_fallocate(file.fileno(), 0, 4096 * times)
        os.fsync(file.fileno())
        for at in range(times):
            os.pwrite(file.fileno(), os.urandom(4096), 4096 * at)
            start = time.perf_counter()
            os.fdatasync(file.fileno())
            spent.append((time.perf_counter() - start) * 1e3)
    return statistics.median(spent)


def single(nodes: Processes, folder: Path, options: Any) -> dict[str, Any]:
    """One client, one row at a time, on the primary's node."""
    client = Client(prepared(nodes))
    vector = _RANDOM.standard_normal(DIMENSIONS).round(4).tolist()
    text = "INSERT INTO docs VALUES (:id, 'one', :vec)"
    syncs, spent = [sync_ms(folder)], []
    for key in range(-1, -1 - options.singles, -1):
        start = time.perf_counter()
        client.sql(text, {"id": key, "vec": vector})
        spent.append((time.perf_counter() - start) * 1e3)
    syncs.append(sync_ms(folder))
    disk = statistics.median(syncs)
    warm = spent[len(spent) // 10 :]
    return {
        "p50_ms": statistics.median(warm), "p99_ms": float(np.percentile(warm, 99)),
        "fdatasync_p50_ms": disk, "target": f"< {3 * disk + 3:.1f} ms",
    }  # fmt: skip


@contextmanager
def steady(node: Process, first: int, rows_s: int, size: int) -> Iterator[list[float]]:
    """Rows at a steady rate meanwhile; gives how late each batch was sent, in s."""
    late: list[float] = []
    over = threading.Event()
    bodies = [batch(first + at * size, size) for at in range(int(rows_s / size * 40))]

    def run() -> None:
        client, due = Client(node), time.perf_counter()
        for body in bodies:
            if over.wait(max(0.0, due - time.perf_counter())):
                return
            late.append(time.perf_counter() - due)
            client.rows(body)
            due += size / rows_s

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield late
    finally:
        over.set()
        thread.join()


def lag(nodes: Processes, folder: Path, options: Any) -> dict[str, Any]:
    """Asked of the primary 20 times a second, under 1,000 rows a second."""
    primary = prepared(nodes)
    client = Client(primary)
    found: list[float] = []
    with steady(primary, 0, 1_000, 50) as late:
        until = time.perf_counter() + options.seconds
        while time.perf_counter() < until:
            rows = client.sql("SELECT lag_ms FROM nearql.shards WHERE \"table\" = 'docs'")["rows"]
            found += [float(row[0]) for row in rows if row[0] is not None]
            time.sleep(0.05)
    p50, p99 = np.percentile(found, [50, 99])
    seen = _until_seen(primary, nodes, options.seconds)
    return {
        "p50_ms": float(p50), "p99_ms": float(p99), "readings": len(found),
        "latest_batch_s": max(late), "seen_elsewhere_p50_ms": float(np.percentile(seen, 50)),
        "seen_elsewhere_p99_ms": float(np.percentile(seen, 99)), "target": "p99 < 100 ms",
    }  # fmt: skip


def _until_seen(primary: Process, nodes: Processes, seconds: float) -> list[float]:
    """Ms from a write's answer to the answer of a read elsewhere, which waits until it shows it."""
    replica = next(node for node in nodes.nodes.values() if node is not primary)
    writer, reader, spent = Client(primary), Client(replica), []
    until, key = time.perf_counter() + seconds, -1
    while time.perf_counter() < until:
        told = writer.sql("INSERT INTO docs (id, label) VALUES (:id, 'seen')", {"id": key})
        start = time.perf_counter()
        rows = reader.sql(
            "SELECT count(*) FROM docs WHERE id = :id",
            {"id": key},
            session=told["stats"]["session"],
        )["rows"]
        spent.append((time.perf_counter() - start) * 1e3)
        assert rows == [[1]], rows
        key -= 1
        time.sleep(0.02)
    return spent


def follower(nodes: Processes, folder: Path, options: Any) -> dict[str, Any]:
    """Exact searches of 20,000 rows by one client, with nothing else and beside the writes."""
    primary = prepared(nodes)
    send(primary, [batch(first) for first in range(0, 20_000, BATCH)])
    replica = next(node for node in nodes.nodes.values() if node is not primary)
    wait_for(lambda: Client(replica).sql("SELECT count(*) FROM docs")["rows"] == [[20_000]], "rows")
    found: dict[str, dict[str, list[float]]] = {}
    for name, where in (("all rows", ""), ("a filter", "WHERE id < 1000000 ")):
        text = f"SELECT id FROM docs {where}ORDER BY vec <-> :q LIMIT 10"
        search = partial(_searches, replica, text, options.seconds / 4)
        before, beside, after = [], [], []
        for turn in range(options.repeats):
            before.append(search())
            with steady(primary, (turn + 1) * 1_000_000, 2_000, 100):
                time.sleep(0.5)
                beside.append(search())
            time.sleep(0.5)
            after.append(search())
            Client(primary).sql("DELETE FROM docs WHERE id >= 1000000")
            time.sleep(QUIET_S)
        ratios = [2 * b / (x + y) for x, b, y in zip(before, beside, after, strict=True)]
        found[name] = {
            "before_qps": before, "beside_qps": beside, "after_qps": after,
            "ratio": [statistics.median(ratios)],
        }  # fmt: skip
    return {**found, "target": "ratio >= 0.7"}


QUERIES = _RANDOM.standard_normal((64, DIMENSIONS)).round(4).tolist()


def _searches(node: Process, text: str, seconds: float) -> float:
    """Searches a second of one client: always the same queries, in turns, for some of them take
    several times as long as others.
    """
    client, done = Client(node), 0
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        query = QUERIES[done % len(QUERIES)]
        assert len(client.sql(text, {"q": query}, read_level="any")["rows"]) == 10
        done += 1
    return done / seconds


def large_json(nodes: Processes, folder: Path, options: Any) -> dict[str, Any]:
    """Epochs and terms before and after; refused bodies (429) are sent again."""
    primary = prepared(nodes)
    before = _reigns(nodes)
    counted = dict.fromkeys(("accepted", "refused"), 0)

    def client(number: int) -> None:
        vectors = _RANDOM.standard_normal((30_000_000 // (9 * DIMENSIONS), DIMENSIONS))
        rows = "\n".join(
            json.dumps({"id": number * 1_000_000 + at, "vec": [round(float(x), 4) for x in vector]})
            for at, vector in enumerate(vectors)
        )
        parts = urlsplit(primary.url)
        while True:
            connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=300)
            headers = {
                "Authorization": f"Bearer {ADMIN_KEY}", "Content-Type": "application/x-ndjson",
            }  # fmt: skip
            connection.request("POST", "/v1/tables/docs/rows?mode=upsert", rows.encode(), headers)
            status = connection.getresponse().status
            counted["accepted" if status == 200 else "refused"] += 1
            if status == 200:
                return
            time.sleep(1.0)

    seconds = at_once(*(partial(client, number) for number in range(8)))
    after = _reigns(nodes)
    failovers = sum(after[key] - before.get(key, after[key]) for key in after)
    return {"failovers": failovers, "seconds": seconds, **counted, "target": "0 failovers"}


def _reigns(nodes: Processes) -> dict[str, int]:
    told = nodes["n1"].get("/v1/cluster/shards")[1]["shards"]
    return {f"{shard['table']}/{shard['shard']}": int(shard["epoch"]) for shard in told}


def behind(nodes: Processes, folder: Path, options: Any) -> dict[str, Any]:
    """What its restart takes longer than one with nothing to catch up, by the log's bytes."""
    primary = prepared(nodes)
    replica = next(node for node in nodes.nodes.values() if node is not primary)
    replica.stop()
    empty = _in_sync_after(nodes, replica)
    time.sleep(FLAPPING_S)  # who leaves the in-sync set again so soon has to prove itself for 10 s
    replica.stop()
    count = options.behind_mb * 1_000_000 // ROW_BYTES
    for first in range(0, count, BATCH):
        Client(primary).rows(batch(first))
    disk = _disk_mb_s(folder)
    spent = _in_sync_after(nodes, replica) - empty
    mb = count * ROW_BYTES / 1e6
    return {
        "mb": mb, "mb_s": mb / max(spent, 1e-3), "seconds": spent, "restart_s": empty,
        "disk_mb_s": disk, "target": f">= {min(100.0, disk):.0f} MB/s",
    }  # fmt: skip


def _in_sync_after(nodes: Processes, node: Process) -> float:
    """Seconds from the start of a stopped node until its copies are in sync."""
    wait_for(lambda: not nodes.in_sync(), "its copies out of sync", 60)
    start = time.perf_counter()
    node.start()
    wait_for(nodes.in_sync, "its copies in sync", 600)
    return time.perf_counter() - start


def failover(nodes: Processes, folder: Path, options: Any) -> dict[str, Any]:
    """Asked of a node that lives, which passes writes on."""
    spent: dict[str, list[float]] = {"killed": [], "paused": []}
    prepared(nodes)
    for turn in range(options.failovers):
        victim = orders(nodes)
        survivor = next(node for node in nodes.nodes.values() if node is not victim)
        kind = "paused" if turn % 2 else "killed"
        start = time.perf_counter()
        victim.send(signal.SIGSTOP) if turn % 2 else victim.kill()
        spent[kind].append(_until_written(survivor, turn, start))
        victim.send(signal.SIGCONT) if turn % 2 else victim.start()
        nodes.wait_ready(victim.name)
        wait_for(nodes.in_sync, "all copies in sync", 120)
    p50, p95 = np.percentile([*spent["killed"], *spent["paused"]], [50, 95])
    return {"p50_s": float(p50), "p95_s": float(p95), **spent, "target": "p95 < 6 s"}


def _until_written(node: Process, turn: int, start: float) -> float:
    """Seconds from `start` until a write was acknowledged; sent again under its request id."""
    text = f"INSERT INTO docs (id, label) VALUES ({turn}, 'after a failover')"
    settings = {"write_timeout_ms": 2_000}
    request_id = str(uuid.uuid4()) + ":1"
    while True:
        status, _ = node.sql(text, settings=settings, request_id=request_id, timeout_s=4.0)
        if status == 200:
            return time.perf_counter() - start
        time.sleep(0.02)


def _disk_mb_s(folder: Path, mb: int = 256) -> float:
    """What the disk takes in order, synced every 4 MiB as a log is."""
    block = os.urandom(4 << 20)
    start = time.perf_counter()
    with (folder / "order").open("wb") as file:
        for _ in range(mb // 4):
            file.write(block)
            file.flush()
            os.fdatasync(file.fileno())
    return mb * 1.048576 / (time.perf_counter() - start)


PARTS: dict[str, Callable[[Processes, Path, Any], dict[str, Any]]] = {
    "load": load, "single": single, "lag": lag, "follower": follower, "json": large_json,
    "failover": failover, "behind": behind,
}  # fmt: skip


def main() -> None:
    """Print each part's figures as a line of JSON."""
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    p.add_argument("--only", nargs="*", choices=sorted(PARTS), default=list(PARTS))
    p.add_argument("--rows", type=int, default=60_000)
    p.add_argument("--singles", type=int, default=500)
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--seconds", type=float, default=20.0)
    p.add_argument("--behind-mb", type=int, default=1_000)
    p.add_argument("--failovers", type=int, default=20)
    p.add_argument("--json", type=Path)
    options = p.parse_args()
    found: dict[str, Any] = {
        "machine": machine(), "commit": commit(), "load_before": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="nearql-replication-") as folder:
        place = Path(folder)
        with cluster(place, engine=ENGINE) as nodes:
            for name in options.only:
                found[name] = PARTS[name](nodes, place, options)
                print(json.dumps({name: found[name]}), flush=True)
    found["load_after"] = os.getloadavg()[0]
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
