"""A server killed at random moments loses nothing acknowledged and shows nothing half-written.

Each round writes from several threads, kills the process with SIGKILL at a random moment, starts it
again and reads everything back. What was answered must be there exactly once; what was not answered
may be there or not, but a batch only as a whole; a row's every column must belong to its key.
"""

from __future__ import annotations

import io
import os
import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest

from support.server_process import ServerProcess

pytestmark = pytest.mark.chaos
ROUNDS = int(os.environ.get("NEARQL_KILL_ROUNDS", "8"))
BATCH_ROWS = 400
DIMENSIONS = 24
FIRST_SINGLE = 1_000_000_000  # keys of single-row writes; batches count from 0
SCHEMA = pa.schema(
    [("id", pa.int64()), ("title", pa.string()), ("vec", pa.list_(pa.float32(), DIMENSIONS))]
)


def title_of(key: int) -> str:
    return f"title of {key} " + "x" * (key % 97)


def vectors_of(
    keys: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return ((keys[:, None] * 31 + np.arange(DIMENSIONS)) % 1009).astype(np.float32)


@dataclass
class History:
    """What the writers were told. Invariant: a key is in at most one of the sets."""

    acknowledged: set[int] = field(default_factory=set)
    unknown: set[int] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    next_batch: int = 0
    next_single: int = FIRST_SINGLE

    def take_batch(self) -> range:
        with self.lock:
            self.next_batch += 1
            return range((self.next_batch - 1) * BATCH_ROWS, self.next_batch * BATCH_ROWS)

    def take_single(self) -> range:
        with self.lock:
            self.next_single += 1
            return range(self.next_single - 1, self.next_single)

    def record(self, keys: range, answered: bool) -> None:
        with self.lock:
            (self.acknowledged if answered else self.unknown).update(keys)


def write_batch(http: httpx.Client, keys: range) -> httpx.Response:
    numbers = np.arange(keys.start, keys.stop)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(vectors_of(numbers).ravel()), DIMENSIONS)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        columns = [pa.array(numbers), pa.array([title_of(k) for k in keys]), vectors]
        writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
    return http.post(
        "/v1/tables/docs/rows?mode=insert",
        content=sink.getvalue(),
        headers={"Content-Type": "application/vnd.apache.arrow.stream"},
    )


def write_single(http: httpx.Client, keys: range) -> httpx.Response:
    key = keys.start
    vector = vectors_of(np.array([key]))[0].tolist()
    body = {
        "sql": "INSERT INTO docs VALUES (:id, :title, :vec)",
        "params": {"id": key, "title": title_of(key), "vec": vector},
    }
    return http.post("/v1/sql", json=body)


Write = Callable[[httpx.Client, range], httpx.Response]


def write_until_dead(url: str, history: History, take: Callable[[], range], write: Write) -> None:
    """Write one thing after the other until the server is gone."""
    with httpx.Client(base_url=url, timeout=30) as http:
        while True:
            keys = take()
            try:
                response = write(http, keys)
            except httpx.TransportError:
                history.record(keys, answered=False)
                return
            assert response.status_code == 200, response.text
            history.record(keys, answered=True)


def check(server: ServerProcess, history: History) -> None:
    """Compare all rows with what the writers were told."""
    found = {row[0]: (row[1], row[2]) for row in server.rows("SELECT id, title, vec FROM docs")}
    count = server.rows("SELECT count(*), count(DISTINCT id) FROM docs")[0]
    assert count == [len(found), len(found)]
    lost = history.acknowledged - found.keys()
    assert not lost, f"{len(lost)} acknowledged rows are lost, such as {sorted(lost)[:5]}"
    strangers = found.keys() - history.acknowledged - history.unknown
    assert not strangers, sorted(strangers)[:5]
    check_batches_are_whole(found.keys())
    keys = np.array(sorted(found))
    expected = vectors_of(keys)
    for key, vector in zip(keys.tolist(), expected.tolist(), strict=True):
        assert found[key] == (title_of(key), vector), key
    probe = random.choice(sorted(found))
    query = {"q": vectors_of(np.array([probe]))[0].tolist()}
    nearest = server.rows("SELECT vec <-> :q AS d FROM docs ORDER BY d LIMIT 1", query)
    assert nearest == [[0.0]]


def check_batches_are_whole(keys: Iterable[int]) -> None:
    batched = np.array(sorted(k for k in keys if k < FIRST_SINGLE), dtype=np.int64)
    _, counts = np.unique(batched // BATCH_ROWS, return_counts=True)
    assert set(counts.tolist()) <= {BATCH_ROWS}, "a batch is there in part"


@pytest.mark.timeout(max(600, 30 * ROUNDS))
def test_kill_at_random_moments(tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    moments = random.Random(seed)
    # Small limits, so that kills also hit seals, checkpoints and new WAL files.
    small = {
        "NEARQL_ENGINE_SEAL_ROWS": "3000",
        "NEARQL_ENGINE_CHECKPOINT_WAL": "512KiB",
        "NEARQL_ENGINE_WAL_FILE": "1MiB",
    }
    history = History()
    with ServerProcess(tmp_path / "data", environment=small) as server:
        server.sql(
            f"CREATE TABLE docs (id BIGINT PRIMARY KEY, title TEXT, vec VECTOR({DIMENSIONS}))"
        )
        for _ in range(ROUNDS):
            run_round(server, history, moments.uniform(0.05, 1.5))
            server.start()
            check(server, history)
    assert len(history.acknowledged) > ROUNDS * BATCH_ROWS


def run_round(server: ServerProcess, history: History, seconds: float) -> None:
    """Write from three threads for a while, then kill the server."""
    jobs = [
        (history.take_batch, write_batch),
        (history.take_single, write_single),
        (history.take_single, write_single),
    ]
    threads = [
        threading.Thread(target=write_until_dead, args=(server.url, history, take, write))
        for take, write in jobs
    ]
    for thread in threads:
        thread.start()
    time.sleep(seconds)  # the moment of the kill is what this test draws at random
    server.kill()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
