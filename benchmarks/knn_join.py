"""A nearest-neighbour join as one statement, beside as many single statements by the same session.

    python3 dev.py bench knn_join VECTORS.parquet [--left 10000] [--singles 1000] [--k 5]

VECTORS.parquet: columns `id` and `embedding` (fixed-size lists). A node is made in a temporary
folder. The join asks for the k nearest rows to each of the first `left` rows, itself included. The
single statements have one text and a parameter, so that their plan is kept; `singles` of them are
run and their time is scaled up to `left`. Both answers are compared, distance by distance: they
must be equal. NumPy's BLAS has one thread, as in a server. Prints one JSON object; processor time,
which a busy machine changes less than the clock, stands beside the seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nearql.engine.backends.blas import use_one_blas_thread
from nearql.engine.types import OnConflict
from nearql.server.config import Config, LimitsSection, NodeSection
from nearql.server.node import Node

JOIN = """SELECT q.id AS of, n.id, n.d FROM docs q
CROSS JOIN LATERAL (SELECT d.id, d.vec <-> q.vec AS d FROM docs d ORDER BY d LIMIT :k) n
WHERE q.id < :left ORDER BY q.id, n.d, n.id"""
SINGLE = "SELECT id, vec <-> :q AS d FROM docs ORDER BY d LIMIT :k"
PAIRS = """SELECT a.id, n.id FROM docs a
CROSS JOIN LATERAL (SELECT b.id, b.vec <-> a.vec AS d FROM docs b WHERE b.id > a.id
                    ORDER BY d LIMIT 1) n
WHERE a.id < :left AND n.d < 0.05"""
GROUPS = """SELECT id FROM docs
QUALIFY row_number() OVER (PARTITION BY id % 100 ORDER BY vec <-> :q, id) <= 3"""


def loaded(node: Node, path: str) -> NDArray[np.float32]:
    """Fill table docs; the vectors, float32 (n, d), by id."""
    read = pq.read_table(path, columns=["id", "embedding"])
    vectors = read.column("embedding").combine_chunks().flatten().to_numpy().astype(np.float32)
    vectors = vectors.reshape(read.num_rows, -1)
    size = vectors.shape[1]
    node.session().execute(f"CREATE TABLE docs (id BIGINT PRIMARY KEY, vec VECTOR({size}))")
    for start in range(0, read.num_rows, 8192):
        part = vectors[start : start + 8192]
        column = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), size)
        ids = read.column("id").slice(start, len(part))
        node.session().insert_rows("docs", pa.table({"id": ids, "vec": column}), OnConflict.ERROR)
    return vectors


@dataclass(frozen=True)
class Timed:
    """An answer, how long it took, and what of the processors' time."""

    table: pa.Table
    seconds: float
    cpu_s: float


def timed(node: Node, text: str, params: dict[str, Any]) -> Timed:
    """Run a statement in a session of its own."""
    started, cpu = time.perf_counter(), time.process_time()
    answer = node.session().execute(text, params, {"statement_timeout_ms": 3_600_000}).table
    return Timed(answer, time.perf_counter() - started, time.process_time() - cpu)


def measure(path: str, left: int, singles: int, k: int) -> dict[str, Any]:
    """Everything on one node."""
    with tempfile.TemporaryDirectory() as directory:
        limits = LimitsSection(result_rows=10_000_000)
        node = Node.open(Config(node=NodeSection(data_dir=Path(directory) / "data"), limits=limits))
        try:
            vectors = loaded(node, path)
            for _ in range(20):  # until the scan's codes are made
                timed(node, SINGLE, {"q": vectors[0], "k": k})
                time.sleep(0.1)
            join = timed(node, JOIN, {"left": left, "k": k})
            alone = [timed(node, SINGLE, {"q": vectors[at], "k": k}) for at in range(singles)]
            pairs = timed(node, PAIRS, {"left": left})
            groups = timed(node, GROUPS, {"q": vectors[0]})
        finally:
            node.close()
    equal = sum(same(join.table, at, k, one.table) for at, one in enumerate(alone))
    assert equal == singles, f"{singles - equal} of {singles} left rows are answered otherwise"
    singles_s, singles_cpu_s = (
        sum(values) * left / singles
        for values in ([one.seconds for one in alone], [one.cpu_s for one in alone])
    )
    return {
        "rows": len(vectors), "dimensions": vectors.shape[1], "left": left, "k": k,
        "cpus": os.cpu_count(),
        "join_s": round(join.seconds, 3), "join_cpu_s": round(join.cpu_s, 3),
        "singles_measured": singles, "singles_s": round(singles_s, 3),
        "singles_cpu_s": round(singles_cpu_s, 3), "equal": equal,
        "faster": round(singles_s / join.seconds, 1),
        "faster_by_cpu": round(singles_cpu_s / join.cpu_s, 1),
        "near_duplicates_s": round(pairs.seconds, 3),
        "top_3_of_100_groups_s": round(groups.seconds, 3),
    }  # fmt: skip


def same(join: pa.Table, at: int, k: int, alone: pa.Table) -> bool:
    """Whether the join's rows of a left row are those of its single statement, in order."""
    part = join.slice(at * k, k)
    return bool(
        part.column("of").to_pylist() == [at] * k
        and part.column("id").to_pylist() == alone.column("id").to_pylist()
        and part.column("d").to_pylist() == alone.column("d").to_pylist()
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vectors")
    parser.add_argument("--left", type=int, default=10_000)
    parser.add_argument("--singles", type=int, default=1_000)
    parser.add_argument("--k", type=int, default=5)
    given = parser.parse_args()
    use_one_blas_thread()
    print(json.dumps(measure(given.vectors, given.left, given.singles, given.k), indent=2))


if __name__ == "__main__":
    main()
