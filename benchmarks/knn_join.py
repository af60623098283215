"""A nearest-neighbour join as one statement, beside as many single statements by the same session.

    python3 dev.py bench knn_join VECTORS.parquet [--left 10000] [--singles 1000] [--k 5]

VECTORS.parquet: columns `id` and `embedding` (fixed-size lists). A node is made in a temporary
folder. The join asks for the k nearest rows to each of the first `left` rows, itself included. The
single statements have one text and a parameter, so that their plan is kept; `singles` of them are
run and their time is scaled up to `left`. Both answers are compared. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nearql.engine.types import OnConflict
from nearql.server.config import Config, LimitsSection, NodeSection
from nearql.server.node import Node

JOIN = """SELECT q.id AS of, n.id FROM docs q
CROSS JOIN LATERAL (SELECT d.id FROM docs d ORDER BY d.vec <-> q.vec LIMIT :k) n
WHERE q.id < :left"""
SINGLE = "SELECT id FROM docs ORDER BY vec <-> :q LIMIT :k"
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


def timed(node: Node, text: str, params: dict[str, Any]) -> tuple[pa.Table, float]:
    """(answer, seconds)."""
    started = time.perf_counter()
    answer = node.session().execute(text, params, {"statement_timeout_ms": 3_600_000}).table
    return answer, time.perf_counter() - started


def measure(path: str, left: int, singles: int, k: int) -> dict[str, Any]:
    """Everything on one node."""
    with tempfile.TemporaryDirectory() as directory:
        limits = LimitsSection(result_rows=10_000_000)
        node = Node.open(Config(node=NodeSection(data_dir=Path(directory) / "data"), limits=limits))
        try:
            vectors = loaded(node, path)
            timed(node, SINGLE, {"q": vectors[0], "k": k})
            answer, join_s = timed(node, JOIN, {"left": left, "k": k})
            alone = [timed(node, SINGLE, {"q": vectors[at], "k": k}) for at in range(singles)]
            _, pairs_s = timed(node, PAIRS, {"left": left})
            _, groups_s = timed(node, GROUPS, {"q": vectors[0]})
        finally:
            node.close()
    found = answer.filter(pa.compute.less(answer.column("of"), singles)).sort_by("of")
    same = {i: set() for i in range(singles)}  # type: dict[int, set[int]]
    for of, other in zip(*(found.column(n).to_pylist() for n in (0, 1)), strict=True):
        same[of].add(other)
    assert all(same[i] == set(one.column(0).to_pylist()) for i, (one, _) in enumerate(alone))
    singles_s = sum(spent for _, spent in alone) * left / singles
    return {
        "rows": len(vectors), "dimensions": vectors.shape[1], "left": left, "k": k,
        "cpus": os.cpu_count(), "join_s": round(join_s, 3),
        "singles_measured": singles, "singles_s": round(singles_s, 3),
        "faster": round(singles_s / join_s, 1),
        "near_duplicates_s": round(pairs_s, 3), "top_3_of_100_groups_s": round(groups_s, 3),
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vectors")
    parser.add_argument("--left", type=int, default=10_000)
    parser.add_argument("--singles", type=int, default=1_000)
    parser.add_argument("--k", type=int, default=5)
    given = parser.parse_args()
    print(json.dumps(measure(given.vectors, given.left, given.singles, given.k), indent=2))


if __name__ == "__main__":
    main()
