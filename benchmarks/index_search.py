"""Indexes of a table beside bare FAISS: build time, queries per second of CPU at measured recall.

    python3 dev.py bench index_search VECTORS.parquet|.npy [QUERIES.npz] [--metric cosine]
        [--kinds hnsw,ivfpq] [--clients 1,8] [--seconds 2] [--k 10] [--filters 0.5,0.1] [--wall]

Ours is `TableView.search` of a table on disk: index, canonical distances, order by key. Bare is
`IndexHNSWFlat.search` on the same rows with the same parameters, one query a call, each client a
thread of its own with OpenMP kept to one thread. Both go up a ladder of efforts; at each the two
take turns, the mean recall@k against exact search is measured on all queries, and queries per
second are interpolated (log-linear) at the recalls asked for. Seconds are those of the process's
CPU time, all threads together, so that other work on the machine counts as little as it can; with
--wall those of the clock, in which clients that wait for each other count: on an idle machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nearql.engine.backends import choose_backend
from nearql.engine.backends.blas import use_one_blas_thread
from nearql.engine.context import EngineContext
from nearql.engine.distance import canonical_distances
from nearql.engine.schema import Column, ColumnType, IndexDef, TableDef, TableSchema
from nearql.engine.search import Searcher
from nearql.engine.settings import EngineSettings
from nearql.engine.storage.files import LocalFileSystem
from nearql.engine.table import Table
from nearql.engine.types import Metric, OnConflict, RowSet, SearchRequest, Tuning

RECALLS = (0.9, 0.95, 0.98)
ROUNDS = 5
HNSW_EFFORTS = (24, 32, 48, 64, 96, 128, 192, 256, 384)
IVF_EFFORTS = (8, 16, 32, 64, 96, 128)
Ask = Callable[[NDArray[np.float32]], NDArray[np.int64]]


def load(path: str) -> NDArray[np.float32]:
    """Vectors, float32 (n, d)."""
    if path.endswith(".npy"):
        return np.load(path).astype(np.float32)  # type: ignore[no-any-return]
    column = pq.read_table(path, columns=["embedding"])["embedding"].combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), -1).astype(np.float32)  # type: ignore[no-any-return]


def die(reason: str) -> NoReturn:
    """As a node does."""
    raise SystemExit(reason)


def make_table(folder: Path, vectors: NDArray[np.float32], context: EngineContext) -> Table:
    """A table of one segment, if the settings allow it."""
    kind = ColumnType(f"VECTOR({vectors.shape[1]})")
    schema = TableSchema(
        (Column(1, "id", ColumnType("BIGINT"), True), Column(2, "vec", kind)), key_number=1
    )
    table = Table.create(folder, TableDef("0" * 32, "docs", schema), context)
    step = 50_000
    for low in range(0, len(vectors), step):
        part = vectors[low : low + step]
        rows = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), part.shape[1])
        ids = pa.array(np.arange(low, low + len(part)))
        columns = pa.table({"id": ids, "vec": rows}).cast(schema.storage_schema())
        table.insert(columns, OnConflict.ERROR)
    table.checkpoint()
    return table


def built(table: Table, kind: str, metric: Metric, options: dict[str, Any]) -> float:
    """Seconds until the index of this kind is ready; it is the table's only one."""
    started = time.perf_counter()
    table.declare_indexes([IndexDef(f"i-{kind}", "i", "vec", kind, metric, options)])
    while (found := table.index_progress()[f"i-{kind}"]).phase != "ready":
        if found.phase == "failed":
            raise SystemExit(f"{kind}: {found.detail}")
        time.sleep(0.02)
    return time.perf_counter() - started


def asker(table: Table, metric: Metric, k: int, rows: RowSet | None, effort: int | None) -> Ask:
    """Searches of the table at an effort; None = what the index's own target asks for."""
    tuning = Tuning(ef_search=effort, probes=effort)
    view = table.read_view()

    def ask(query: NDArray[np.float32]) -> NDArray[np.int64]:
        return view.search(SearchRequest("vec", metric, query, k, rows, tuning=tuning)).rows

    return ask


def bare_asker(index: Any, k: int, effort: int) -> Ask:
    """The same of a bare FAISS index."""
    parameters = faiss.SearchParametersHNSW(efSearch=effort)

    def ask(query: NDArray[np.float32]) -> NDArray[np.int64]:
        return index.search(query, k, params=parameters)[1]  # type: ignore[no-any-return]

    return ask


def burst(
    ask: Ask, queries: NDArray[np.float32], clients: int, seconds: float, *, wall: bool
) -> float:
    """Queries per second of so many threads, one query a call, for a while: of their CPU time, or
    wall: of the clock."""
    counts = [0] * clients
    gate = threading.Barrier(clients + 1)
    ends = [0.0]

    def client(number: int) -> None:
        faiss.omp_set_num_threads(1)
        at = number * len(queries) // clients
        gate.wait()
        while time.perf_counter() < ends[0]:
            ask(queries[at : at + 1])
            at = (at + 1) % len(queries)
            counts[number] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    clock = time.perf_counter if wall else time.process_time
    started = clock()
    ends[0] = time.perf_counter() + seconds
    gate.wait()
    for thread in threads:
        thread.join()
    return sum(counts) / (clock() - started)


def race(asks: list[Ask], clients: int, run: argparse.Namespace) -> list[float]:
    """The median rate of each; they take turns."""
    rates: list[list[float]] = [[] for _ in asks]
    for _ in range(ROUNDS):
        for ask, mine in zip(asks, rates, strict=True):
            mine.append(burst(ask, run.queries, clients, run.seconds / ROUNDS, wall=run.wall))
    return [statistics.median(mine) for mine in rates]


class Truth:
    """The k-th canonical distance of every query among the rows that qualify."""

    def __init__(
        self, vectors: NDArray[np.float32], queries: NDArray[np.float32], metric: Metric
    ) -> None:
        self.all = np.stack([canonical_distances(vectors, query, metric) for query in queries])

    def recall(
        self, ask: Ask, queries: NDArray[np.float32], k: int, mask: NDArray[np.bool_] | None
    ) -> float:
        """Share of answers that are no farther than the k-th nearest, ties counted as hits."""
        hits = 0
        for query, distances in zip(queries, self.all, strict=True):
            held = distances if mask is None else distances[mask]
            kth = np.partition(held, min(k, len(held)) - 1)[min(k, len(held)) - 1]
            rows = ask(query[np.newaxis])[0]
            hits += int((distances[rows[rows >= 0]] <= kth).sum())
        return hits / (len(queries) * k)


def at_recall(points: list[tuple[float, float]], wanted: float) -> float | None:
    """Queries per second at a recall, log-linear between the efforts around it."""
    points = sorted(points)
    for (low, slow), (high, fast) in zip(points, points[1:], strict=False):
        if low <= wanted <= high and high > low:
            share = (wanted - low) / (high - low)
            return float(np.exp(np.log(slow) * (1 - share) + np.log(fast) * share))
    return None


def ladder(
    name: str, ask_at: Callable[[int], Ask], efforts: tuple[int, ...], bare: Any, run: Any
) -> dict[int, list[list[tuple[float, float]]]]:
    """By clients: (recall, rate) at every effort, ours and bare, printed as they come."""
    found: dict[int, list[list[tuple[float, float]]]] = {c: [[], []] for c in run.clients}
    for effort in efforts:
        asks = [ask_at(effort), bare_asker(bare, run.k, effort)]
        shares = [run.truth.recall(ask, run.queries, run.k, None) for ask in asks]
        shown = ""
        for clients in run.clients:
            rates = race(asks, clients, run)
            for side, point in zip(found[clients], zip(shares, rates, strict=True), strict=True):
                side.append(point)
            shown += f"  {clients} clients {rates[0]:6.0f} and {rates[1]:6.0f}/s"
        print(
            f"  {name} and bare HNSW, effort {effort:4}: "
            f"recall {shares[0]:.4f} and {shares[1]:.4f}{shown}",
            flush=True,
        )
    return found


def summary(name: str, found: dict[int, list[list[tuple[float, float]]]]) -> None:
    """One line per recall and clients, beside bare HNSW."""
    for clients, (ours, bare) in found.items():
        for wanted in RECALLS:
            mine, other = at_recall(ours, wanted), at_recall(bare, wanted)
            if mine:
                ratio = f"{mine / other:5.2f} x bare HNSW" if other else ""
                print(f"{name:14} {clients} clients {mine:8.0f}/s at recall {wanted}  {ratio}")


def main() -> None:
    """Read the arguments and run every comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("vectors")
    parser.add_argument("queries", nargs="?")
    parser.add_argument("--metric", default="cosine", choices=["cosine", "l2"])
    parser.add_argument("--kinds", default="hnsw,hnsw:sq8,ivfflat,ivfpq,ivfrabitq")
    parser.add_argument("--clients", default="1,8")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--filters", default="")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--wall", action="store_true", help="seconds of the clock")
    run = parser.parse_args()
    run.clients = [int(text) for text in run.clients.split(",")]
    metric = Metric(run.metric)
    vectors = load(run.vectors)
    if run.queries:
        run.queries = np.load(run.queries)["queries"].astype(np.float32)[:500]
    else:
        run.queries = vectors[:: len(vectors) // 500][:500].copy()
    use_one_blas_thread()
    run.truth = Truth(vectors, run.queries, metric)
    print(
        f"{len(vectors)} x {vectors.shape[1]}, {metric}, k = {run.k}; {os.cpu_count()} cores, ",
        end="",
    )
    print(f"FAISS {faiss.__version__}, NumPy {np.__version__}")

    settings = EngineSettings()
    context = EngineContext(
        settings, Searcher(choose_backend(settings), settings), LocalFileSystem(), b"b" * 16, die
    )
    folder = Path(tempfile.mkdtemp())
    table = make_table(folder / "table", vectors, context)
    print(f"segments: {[s.rows for s in table.stats().segments]}")
    try:
        compare(table, vectors, metric, run)
    finally:
        table.close()
        context.index_builder.close()
        context.searcher.close()
        shutil.rmtree(folder)


def bare_index(vectors: NDArray[np.float32], metric: Metric) -> tuple[Any, float]:
    """FAISS's HNSW with our defaults, and the seconds that it took."""
    unit = metric is Metric.COSINE
    rows = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if unit else vectors
    flat = faiss.METRIC_INNER_PRODUCT if unit else faiss.METRIC_L2
    bare = faiss.IndexHNSWFlat(vectors.shape[1], 16, flat)
    bare.hnsw.efConstruction = 64
    faiss.omp_set_num_threads(os.cpu_count() or 1)
    started = time.perf_counter()
    bare.add(rows)
    seconds = time.perf_counter() - started
    faiss.omp_set_num_threads(1)
    return bare, seconds


def compare(table: Table, vectors: NDArray[np.float32], metric: Metric, run: Any) -> None:
    """Every kind beside bare HNSW; then at the index's own target, and under each filter."""
    bare, bare_s = bare_index(vectors, metric)
    print(f"build bare HNSW {bare_s:.2f} s")
    for named in run.kinds.split(","):
        kind, _, storage = named.partition(":")
        seconds = built(table, kind, metric, {"storage": storage} if storage else {})
        print(f"build {named} {seconds:.2f} s, {seconds / bare_s:.2f} x bare HNSW, and measured")
        efforts = HNSW_EFFORTS if kind == "hnsw" else IVF_EFFORTS
        summary(
            named,
            ladder(named, lambda e: asker(table, metric, run.k, None, e), efforts, bare, run),
        )
        for share in ("1", *filter(None, run.filters.split(","))):
            mask = np.random.default_rng(1).random(len(vectors)) < float(share)
            chosen = None if share == "1" else table.read_view().row_set(np.flatnonzero(mask))
            ask = asker(table, metric, run.k, chosen, None)
            recall = run.truth.recall(ask, run.queries, run.k, mask)
            rates = [race([ask], clients, run)[0] for clients in run.clients]
            shown = "  ".join(
                f"{c} clients {r:.0f}/s" for c, r in zip(run.clients, rates, strict=True)
            )
            print(
                f"{named:14} own target, {float(share):5.1%} qualify: recall {recall:.4f}  {shown}"
            )


if __name__ == "__main__":
    main()
