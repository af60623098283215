"""Exact search in process beside bare FAISS on the same array: time ratios and recall.

    python3 dev.py bench exact_search VECTORS.parquet [QUERIES.npz] [--rounds 15] [--k 10]

VECTORS.parquet: a column `embedding` of fixed-size lists. QUERIES.npz: an array `queries` (nq, d);
without it, 64 rows of the table are asked for. Ours is `Searcher.search`: candidates, canonical
distances, order by key; with the 8-bit codes that a node makes, and without. Bare is the best of
`faiss.knn` with one thread and with one per core, each by FAISS's two algorithms (a scan per query;
BLAS). All take turns in one run, each after a pause in which the others' threads stop spinning and
after one call that is not counted; medians count.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import faiss
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nearql.engine.backends import choose_backend
from nearql.engine.backends.blas import use_one_blas_thread
from nearql.engine.codes import Codes
from nearql.engine.distance import canonical_distances
from nearql.engine.search import Searcher, VectorSlice, row_norms
from nearql.engine.settings import EngineSettings
from nearql.engine.types import Metric, SearchRequest

PAUSE_S = 0.08  # OpenBLAS's threads spin for tens of milliseconds after a product
MEASURED = 3
FAISS_METRICS = {Metric.L2: faiss.METRIC_L2, Metric.COSINE: faiss.METRIC_INNER_PRODUCT}
BLAS, SCAN = 1, 10**9  # values of distance_compute_blas_threshold that force either algorithm

Answer = Callable[[], NDArray[np.int64]]


@dataclass
class Contestant:
    """Something that answers the queries with row positions, (nq, k), and its times in ms."""

    name: str
    answer: Answer
    times: list[float]

    @property
    def median(self) -> float:
        """Milliseconds a call."""
        return statistics.median(self.times)


def load(path: str) -> NDArray[np.float32]:
    """The table's vectors, float32 (n, d)."""
    column = pq.read_table(path, columns=["embedding"])["embedding"].combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    vectors: NDArray[np.float32] = flat.reshape(len(column), -1).astype(np.float32)
    return vectors


def load_queries(path: str | None, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Queries from a file, or rows spread over the table."""
    if path is None:
        return vectors[:: max(1, len(vectors) // 64)][:64].copy()
    queries: NDArray[np.float32] = np.load(path)["queries"].astype(np.float32)
    return queries


def bare(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int, how: tuple[Any, int, int]
) -> NDArray[np.int64]:
    """faiss.knn with a number of threads and one of its algorithms."""
    metric, threads, threshold = how
    faiss.omp_set_num_threads(threads)
    faiss.cvar.distance_compute_blas_threshold = threshold
    positions: NDArray[np.int64] = faiss.knn(queries, vectors, k, metric)[1]
    return positions


def ours(searcher: Searcher, one: VectorSlice, request: SearchRequest) -> NDArray[np.int64]:
    """The facade that a table calls."""
    return searcher.search([one], request, masks=None, keys_of=lambda rows: rows).rows


def race(contestants: Sequence[Contestant], rounds: int) -> None:
    """Let all take turns."""
    for _ in range(rounds):
        for contestant in contestants:
            time.sleep(PAUSE_S)
            contestant.answer()
            for _ in range(MEASURED):
                start = time.perf_counter()
                contestant.answer()
                contestant.times.append((time.perf_counter() - start) * 1e3)


def recall(
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    metric: Metric,
    found: NDArray[np.int64],
) -> float:
    """Share of positions that are no farther than the k-th nearest by canonical distances."""
    hits = 0
    for query, positions in zip(queries, found, strict=True):
        distances = canonical_distances(vectors, query, metric)
        kth = np.partition(distances, len(positions) - 1)[len(positions) - 1]
        hits += int((distances[positions] <= kth).sum())
    return hits / found.size


def compare(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], metric: Metric, options: Any
) -> None:
    """Race and print one line per contestant."""
    searcher = Searcher(choose_backend(EngineSettings()), EngineSettings())
    raw = VectorSlice(vectors, 0, None, row_norms(vectors))
    coded = VectorSlice(vectors, 0, None, raw.norms, Codes())
    request = SearchRequest("embedding", metric, queries, options.k)
    ours(searcher, coded, request)  # which asks for the codes
    searcher.coder.settle()
    contestants = [
        Contestant(f"nearql {name}", partial(ours, searcher, one, request), [])
        for name, one in (("with codes", coded), ("without codes", raw))
    ]
    for threads in sorted({1, os.cpu_count() or 1}):
        for threshold, algorithm in ((SCAN, "scan"), (BLAS, "BLAS")):
            how = (FAISS_METRICS[metric], threads, threshold)
            answer = partial(bare, vectors, queries, options.k, how)
            contestants.append(Contestant(f"faiss.knn {algorithm} x{threads}", answer, []))
    race(contestants, options.rounds)
    best = min(contestant.median for contestant in contestants[2:])
    for contestant in contestants:
        share = recall(vectors, queries, metric, contestant.answer())
        print(
            f"{metric:8} {len(queries):4} {contestant.name:20} {contestant.median:9.2f} ms "
            f"ratio {contestant.median / best:5.2f}  recall@{options.k} {share:.4f}"
        )
    searcher.close()


def main() -> None:
    """Read the arguments and run every comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("vectors")
    parser.add_argument("queries", nargs="?")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--k", type=int, default=10)
    options = parser.parse_args()
    vectors = load(options.vectors)
    queries = load_queries(options.queries, vectors)
    use_one_blas_thread()  # NumPy's, as a node does; FAISS has its own BLAS
    print(f"{len(vectors)} x {vectors.shape[1]} float32; ratio = time / best bare FAISS; ", end="")
    print(f"{os.cpu_count()} cores, FAISS {faiss.__version__}, NumPy {np.__version__}")
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        if name in os.environ:
            print(f"note: {name}={os.environ[name]} is set and holds the libraries back")
    for metric in FAISS_METRICS:
        for count in (1, 64):
            compare(vectors, np.ascontiguousarray(queries[:count]), metric, options)


if __name__ == "__main__":
    main()
