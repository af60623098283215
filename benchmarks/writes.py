"""Upserts, deletes and restarts: rows a second, durable; searches before and after; time to open.

    python3 dev.py bench writes VECTORS.parquet [--rows 1000000] [--index hnsw]
        [--many-index ivfpq] [--only changes|restart] [--json FILE]

VECTORS.parquet: a column `embedding` of fixed-size lists. On its rows, with an index: upserts of
10 % in bulk and by SQL, then a delete of 30 %, with searches before it, right after it and when the
background has left the dead rows out, by nobody's command. Searches are medians of interleaved
runs, with recall against exact answers of the same state. Then `--rows` rows clustered around the
real ones: load, index, restart in a new process, searches by the index, memory. Every write is
durable when it is counted. The directory should be on the disk that counts: TMPDIR moves it.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nearql.engine.types import Metric, OnConflict, SearchRequest, Tuning
from nearql.server.config import load_config
from nearql.server.node import Node

BATCH = 10_000
SEARCHES = 40
WAIT_S = 1_800.0
NEAREST = "SELECT id FROM docs ORDER BY vec <=> :q LIMIT 10"


def opened(directory: Path) -> Node:
    """A node on a directory, with default settings."""
    return Node.open(load_config(environment={}, flags={"node.data_dir": str(directory)}))


def vectors_of(path: str) -> NDArray[np.float32]:
    """float32 (n, d)."""
    column = pq.read_table(path, columns=["embedding"])["embedding"].combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    found: NDArray[np.float32] = flat.reshape(len(column), -1).astype(np.float32)
    return found


def clustered(real: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """Vectors around real ones, at a fifth of their length: no uniform noise."""
    random = np.random.default_rng(seed)
    picked = real[random.integers(0, len(real), count)]
    noise = random.standard_normal(picked.shape, np.float32)
    return picked + noise * np.float32(0.2 / np.sqrt(real.shape[1]))


def batch(keys: NDArray[np.int64], vectors: NDArray[np.float32], label: str) -> pa.Table:
    """Rows of table docs."""
    items = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    return pa.table(
        {
            "id": pa.array(keys),
            "label": pa.array([f"{label} {key % 997}" for key in keys.tolist()]),
            "vec": pa.FixedSizeListArray.from_arrays(items, vectors.shape[1]),
        }
    )


def create(node: Node, dimensions: int, name: str = "docs") -> None:
    """The table that all is done to."""
    columns = f"id BIGINT PRIMARY KEY, label TEXT, vec VECTOR({dimensions})"
    node.session().execute(f"CREATE TABLE {name} ({columns})")


def store(node: Node, table: pa.Table, size: int, mode: OnConflict, name: str = "docs") -> float:
    """Write the rows in batches; rows a second."""
    start = time.perf_counter()
    for first in range(0, table.num_rows, size):
        node.session().insert_rows(name, table.slice(first, size), mode)
    return float(table.num_rows / (time.perf_counter() - start))


def wait_for_index(node: Node) -> float:
    """Seconds until every index is ready."""
    start = time.perf_counter()
    while time.perf_counter() - start < WAIT_S:
        phases = node.session().execute("SELECT phase FROM nearql.indexes").table["phase"]
        if set(phases.to_pylist()) <= {"ready"}:
            return time.perf_counter() - start
        time.sleep(0.1)
    raise SystemExit("the index was not ready in time")


def wait_for_space(node: Node) -> float:
    """Seconds until no segment holds a fifth of dead rows any more."""
    text = (
        "SELECT count(*) AS n FROM nearql.segments WHERE state = 'sealed' AND dead_rows * 5 > rows"
    )
    start = time.perf_counter()
    while node.session().execute(text).table["n"][0].as_py():
        if time.perf_counter() - start > WAIT_S:
            raise SystemExit("the dead rows were not left out in time")
        time.sleep(0.05)
    return time.perf_counter() - start


def search(node: Node, queries: NDArray[np.float32], target: float | None) -> dict[str, Any]:
    """Median time of a search in ms, and its recall@10 against exact search of the same rows."""
    settings = {} if target is None else {"target_recall": target}
    times, hits = [], 0
    for query in queries:
        parameters = {"q": query.tolist()}
        exact = node.session().execute(NEAREST, parameters).table["id"].to_pylist()
        start = time.perf_counter()
        found = node.session().execute(NEAREST, parameters, settings).table["id"].to_pylist()
        times.append((time.perf_counter() - start) * 1e3)
        hits += len(set(found) & set(exact))
    return {"ms": statistics.median(times), "recall": hits / (10 * len(queries))}


def changes(directory: Path, real: NDArray[np.float32], options: Any) -> Iterator[tuple[str, Any]]:
    """Upserts and deletes on the real rows, with an index."""
    node = opened(directory)
    create(node, real.shape[1])
    keys = np.arange(len(real))
    random = np.random.default_rng(1)
    yield "load rows/s", store(node, batch(keys, real, "first"), BATCH, OnConflict.ERROR)
    text = f"CREATE INDEX ON docs USING {options.index} (vec vector_cosine_ops)"
    node.session().execute(text)
    yield "index ready after s", wait_for_index(node)
    some = random.choice(keys, len(keys) // 10, replace=False)
    for size in (1_000, BATCH):
        rate = store(node, batch(some, real[some], f"at {size}"), size, OnConflict.REPLACE)
        yield f"upsert of 10 % in batches of {size}, rows/s", rate
    text = (
        "INSERT INTO docs (id, label) SELECT unnest(:k::BIGINT[]), 'sql' "
        "ON CONFLICT (id) DO UPDATE SET label = EXCLUDED.label"
    )
    start = time.perf_counter()
    for first in range(0, len(some), 1_000):
        node.session().execute(text, {"k": some[first : first + 1_000].tolist()})
    yield (
        "upsert of one column by SQL, 1,000 a statement, rows/s",
        len(some) / (time.perf_counter() - start),
    )
    wait_for_index(node)
    queries = clustered(real, SEARCHES, 7)
    for target in (None, 0.95):
        yield f"search before, target {target}", search(node, queries, target)
    start = time.perf_counter()
    gone = node.session().execute("DELETE FROM docs WHERE id % 10 < 3").row_count
    yield "delete of 30 %, rows/s", gone / (time.perf_counter() - start)
    for target in (None, 0.95):
        yield f"search right after, target {target}", search(node, queries, target)
    yield "dead rows gone after s", wait_for_space(node)
    wait_for_index(node)
    for target in (None, 0.95):
        yield f"search later, target {target}", search(node, queries, target)
    node.close()


def restart(directory: Path, real: NDArray[np.float32], options: Any) -> Iterator[tuple[str, Any]]:
    """Load many rows, index them, then open them in another process."""
    rows = options.rows
    node = opened(directory)
    create(node, real.shape[1])
    spent = 0.0
    for first in range(0, rows, 10 * BATCH):
        count = min(10 * BATCH, rows - first)
        keys = np.arange(first, first + count)
        made = batch(keys, clustered(real, count, first), "many")
        spent += count / store(node, made, BATCH, OnConflict.ERROR)
    yield f"load of {rows} rows, rows/s", rows / spent
    if options.many_index:
        text = f"CREATE INDEX ON docs USING {options.many_index} (vec vector_cosine_ops)"
        node.session().execute(text)
        yield f"{options.many_index} index ready after s", wait_for_index(node)
    node.close()
    np.save(directory / "queries.npy", clustered(real, 10 * SEARCHES, rows))
    command = [sys.executable, __file__, "--open", str(directory)]
    for _ in range(3):
        done = subprocess.run(command, capture_output=True, check=True, text=True)
        yield "restart", json.loads(done.stdout.splitlines()[-1])


def measure_open(directory: Path) -> dict[str, Any]:
    """In a process of its own: open, searches by the index, an exact one; times, memory in MiB."""
    process = psutil.Process()
    before = process.memory_info()
    start = time.perf_counter()
    node = opened(directory)
    spent = time.perf_counter() - start
    after = process.memory_info()
    table = node.table(node.catalog().tables["docs"].uuid)
    queries = np.load(directory / "queries.npy")
    dimensions = queries.shape[1]
    index = sum(found.bytes for found in table.index_progress().values())
    times, touched, tuning = [], 0, Tuning(target_recall=0.95)
    for at in range(len(queries) if index else 0):
        query = queries[at : at + 1]
        request = SearchRequest("vec", Metric.COSINE, query, 10, tuning=tuning)
        start = time.perf_counter()
        hits = table.read_view().search(request)
        times.append(time.perf_counter() - start)
        touched += hits.stats.reranked * max(4 * dimensions, 4096)
    asked = process.memory_info()
    start = time.perf_counter()
    node.session().execute(NEAREST, {"q": [1.0] * dimensions})
    first = time.perf_counter() - start
    searched = process.memory_info()
    raw = 4 * dimensions * table.read_view().row_count
    quality = search(node, queries[:SEARCHES], 0.95)
    node.close()
    return {
        "open s": spent, "vectors MiB": raw >> 20, "index MiB": index >> 20,
        "RSS MiB before": before.rss >> 20, "opened": after.rss >> 20,
        "first indexed search s": times[0] if times else 0.0,
        "indexed ms": 1e3 * statistics.median(times) if times else 0.0,
        "recall": quality["recall"], "vectors touched MiB": touched >> 20,
        f"RSS MiB after {len(times)} indexed searches": asked.rss >> 20,
        "exact search s": first, "RSS MiB after it": searched.rss >> 20,
        "of it files": searched.shared >> 20,
    }  # fmt: skip


def main() -> None:
    """Read the arguments, run both parts, print a line per figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("vectors", nargs="?")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--index", default="hnsw")
    parser.add_argument("--many-index", default="ivfpq", help="of the --rows rows; empty = none")
    parser.add_argument("--only", choices=["changes", "restart"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.open is not None:
        print(json.dumps(measure_open(options.open)))
        return
    if options.vectors is None:
        parser.error("VECTORS.parquet is missing")
    real = vectors_of(options.vectors)
    print(f"{len(real)} x {real.shape[1]} float32, index {options.index}, {os.cpu_count()} cores")
    figures: list[tuple[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory:
        for part in (changes, restart):
            if options.only not in (None, part.__name__):
                continue
            for name, value in part(Path(directory) / part.__name__, real, options):
                figures.append((name, value))
                print(f"{name:55} {shown(value)}", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def shown(value: Any) -> str:
    """A figure, or several, short."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown(one)}" for name, one in value.items())
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.4g}"


if __name__ == "__main__":
    main()
