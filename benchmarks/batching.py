"""Concurrent searches in process, answered together or not: searches a second, delays, recall.

    python3 dev.py bench batching VECTORS.parquet QUERIES.npz [--clients 1,8,32,128] [--rounds 5]

VECTORS.parquet: a column `embedding` of fixed-size lists. QUERIES.npz: `queries` (nq, d) and
`all_ids`, their nearest by cosine. Each client is a thread that asks again as soon as it has its
answer, of the engine's facade. A round is --seconds with budget 0 (each for itself), then as long
with --budget milliseconds; medians over the rounds. A tie may be answered by another row than
`all_ids` has, so recall is by similarity.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nearql.engine.backends import choose_backend
from nearql.engine.backends.blas import use_one_blas_thread
from nearql.engine.context import EngineContext
from nearql.engine.schema import Column, ColumnType, TableDef, TableSchema
from nearql.engine.search import Searcher
from nearql.engine.settings import EngineSettings
from nearql.engine.storage.files import LocalFileSystem
from nearql.engine.table import Table
from nearql.engine.types import Metric, OnConflict, Patience, RowSet, SearchRequest

K = 10
TIE = 2e-5  # similarities that differ by less count as equal


@dataclass
class Round:
    """One measurement. cpu_ms: of the process, a search. delays: milliseconds of each search."""

    per_second: float
    cpu_ms: float
    delays: NDArray[np.float64]
    recall: float


def _fatal(reason: str) -> NoReturn:
    raise SystemExit(reason)


def load(folder: Path, vectors: NDArray[np.float32]) -> Table:
    """A table of one vector column."""
    settings = EngineSettings()
    searcher = Searcher(choose_backend(settings), settings)
    context = EngineContext(settings, searcher, LocalFileSystem(), uuid.uuid4().bytes, _fatal)
    columns = (
        Column(1, "id", ColumnType("BIGINT"), not_null=True),
        Column(2, "vec", ColumnType(f"VECTOR({vectors.shape[1]})")),
    )
    definition = TableDef(str(uuid.uuid4()), "bench", TableSchema(columns, key_number=1))
    table = Table.create(folder, definition, context)
    step = 4096
    for low in range(0, len(vectors), step):
        part = vectors[low : low + step]
        items = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), part.shape[1])
        ids = pa.array(np.arange(low, low + len(part)))
        table.insert(pa.table({"id": ids, "vec": items}), OnConflict.ERROR)
    return table


class Clients:
    """`count` threads that search until told to stop."""

    def __init__(self, table: Table, queries: NDArray[np.float32], rows: RowSet | None) -> None:
        self.table, self.queries, self.rows = table, queries, rows
        self.delays: list[float] = []
        self.answers: list[tuple[int, NDArray[np.float32]]] = []
        self._end = 0.0

    def run(self, count: int, seconds: float, budget_ms: float) -> tuple[float, float]:
        """Searches a second, CPU milliseconds a search."""
        threads = [
            threading.Thread(target=self._client, args=(number, count, budget_ms))
            for number in range(count)
        ]
        begin, cpu = time.perf_counter(), time.process_time()
        self._end = begin + seconds
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        count = len(self.delays)
        spent_ms = (time.process_time() - cpu) * 1000
        return count / (time.perf_counter() - begin), spent_ms / count

    def _client(self, number: int, count: int, budget_ms: float) -> None:
        patience = Patience(budget_ms, lambda: None)
        while time.perf_counter() < self._end:
            at = number % len(self.queries)
            query = self.queries[at : at + 1]
            request = SearchRequest("vec", Metric.COSINE, query, K, self.rows, patience)
            began = time.perf_counter()
            hits = self.table.read_view().search(request)
            self.delays.append((time.perf_counter() - began) * 1000)
            self.answers.append((at, hits.distances[0]))
            number += count


def measure(
    table: Table, queries: NDArray[np.float32], kth: NDArray[np.float32], options: Any
) -> Round:
    """One round; options: clients, seconds, budget, rows."""
    clients = Clients(table, queries, options.rows)
    speed = clients.run(options.count, options.seconds, options.budget_now)
    near = [np.count_nonzero(found <= kth[at] + TIE) / K for at, found in clients.answers]
    return Round(*speed, np.array(clients.delays), float(np.mean(near)))


def shown(name: str, rounds: Sequence[Round]) -> str:
    """One line."""
    rate = statistics.median(one.per_second for one in rounds)
    p50 = statistics.median(float(np.percentile(one.delays, 50)) for one in rounds)
    p99 = statistics.median(float(np.percentile(one.delays, 99)) for one in rounds)
    recall = min(one.recall for one in rounds)
    cpu_ms = statistics.median(one.cpu_ms for one in rounds)
    figures = f"{rate:8,.0f}/s  CPU {cpu_ms:6.2f} ms  p50 {p50:7.2f} ms  p99 {p99:7.2f} ms"
    return f"{name:>18} {figures}  recall {recall:.4f}"


def gains(before: Sequence[Round], after: Sequence[Round]) -> str:
    """What batching brings; where other processes want the cores too, the CPU's figure counts."""
    pairs = list(zip(before, after, strict=True))
    rate = statistics.median(b.per_second / a.per_second for a, b in pairs)
    cpu = statistics.median(a.cpu_ms / b.cpu_ms for a, b in pairs)
    return f"{'gain':>18} {rate:.2f} in searches a second, {cpu:.2f} in CPU a search"


def parse() -> Any:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("vectors")
    parser.add_argument("queries")
    parser.add_argument("--clients", default="1,8,32,128")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--budget", type=float, default=10.0)
    parser.add_argument("--rows", type=int, default=None, help="only the first so many")
    return parser.parse_args()


def main() -> None:
    """Run and print."""
    options = parse()
    use_one_blas_thread()
    column = pq.read_table(options.vectors, columns=["embedding"])["embedding"].combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    vectors = flat.reshape(len(column), -1)[: options.rows]
    queries = np.load(options.queries)["queries"].astype(np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    kth = 1 - np.sort(queries @ unit.T, axis=1)[:, -K]
    options.rows = None
    with tempfile.TemporaryDirectory() as folder:
        table = load(Path(folder) / "table", vectors)
        for count in map(int, options.clients.split(",")):
            options.count = count
            rounds: dict[float, list[Round]] = {0.0: [], options.budget: []}
            for _ in range(options.rounds):
                for options.budget_now, found in rounds.items():
                    found.append(measure(table, queries, kth, options))
            print(f"{count} clients, {len(vectors):,} rows")
            for budget, found in rounds.items():
                print(shown(f"budget {budget:g} ms", found))
            print(gains(*rounds.values()))
        table.close()


if __name__ == "__main__":
    main()
