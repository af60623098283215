"""What hybrid search adds: packages of one source found by vector, by title, and by both.

    python3 dev.py bench hybrid DEBIAN.PARQUET

For some packages, chosen at random, the other packages of the same source are to be found from the
package's own vector (of its description) and the words of its title, its name. Reported for each
way: nDCG@10, the share of siblings among the first 10 (of at most 10), and the median time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from one_node import commit, machine

from nearql import connect

COLUMNS = ["id", "name", "source"]
FOUND = 10
MOST_SIBLINGS = 20
BY_TEXT = """
SELECT id FROM docs WHERE bm25(name, :words) > 0 AND id <> :self
ORDER BY bm25(name, :words) DESC, id LIMIT 10
"""
BY_VECTOR = "SELECT id FROM docs WHERE id <> :self ORDER BY vec <=> :q LIMIT 10"
BY_BOTH = """
WITH t AS (
  SELECT id, row_number() OVER (ORDER BY bm25(name, :words) DESC, id) AS rank
  FROM docs WHERE bm25(name, :words) > 0 AND id <> :self ORDER BY rank LIMIT 50),
v AS (
  SELECT id, row_number() OVER () AS rank
  FROM (SELECT id FROM docs WHERE id <> :self ORDER BY vec <=> :q LIMIT 50))
SELECT id FROM t FULL JOIN v USING (id) ORDER BY rrf(t.rank, v.rank) DESC, id LIMIT 10
"""
WEIGHTED = BY_BOTH.replace("rrf(t.rank, v.rank)", "rrf(v.rank) + 0.5 * rrf(t.rank)")
WAYS = {"vector": BY_VECTOR, "title": BY_TEXT, "rrf": BY_BOTH, "weighted": WEIGHTED}


def main() -> None:
    """Run and print; with --out also write the figures as JSON."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("rows", type=Path, help="debian.parquet")
    p.add_argument("--queries", type=int, default=300)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--out", type=Path, help="folder for hybrid-<commit>.json")
    arguments = p.parse_args()
    data = read_rows(arguments.rows)
    figures: dict[str, Any] = {"machine": machine(), "commit": commit()}
    with (
        tempfile.TemporaryDirectory(prefix="nearql-bench-") as folder,
        connect(str(Path(folder) / "data")) as db,
    ):
        load(db, data)
        figures["ways"] = compare(db, data, arguments.queries, arguments.seed)
    report(figures, arguments.queries)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        path = arguments.out / f"hybrid-{figures['commit']}.json"
        path.write_text(json.dumps(figures, indent=1) + "\n")


def read_rows(path: Path) -> pa.Table:
    """The packages with a float32 column `vec`."""
    table = pq.read_table(path, columns=[*COLUMNS, "embedding"])
    halves = table["embedding"].combine_chunks().flatten().to_numpy()
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(halves.astype(np.float32)), 384)
    return table.drop(["embedding"]).append_column("vec", vectors)


def load(db: Any, data: pa.Table) -> None:
    """Into a new table."""
    db.execute("CREATE TABLE docs (id BIGINT PRIMARY KEY, name TEXT, source TEXT, vec VECTOR(384))")
    db.insert("docs", data)


def compare(db: Any, data: pa.Table, queries: int, seed: int) -> dict[str, Any]:
    """Each way's means over the same packages."""
    siblings = by_source(data)
    chosen = chosen_rows(data, siblings, queries, seed)
    vectors = data["vec"].combine_chunks().flatten().to_numpy().reshape(len(data), -1)
    words, sources = data["name"].to_pylist(), data["source"].to_pylist()
    ids = data["id"].to_numpy()
    measured: dict[str, list[tuple[float, float, float]]] = {way: [] for way in WAYS}
    for row in chosen:
        wanted = siblings[sources[row]] - {int(ids[row])}
        asked = {"q": vectors[row], "words": words[row], "self": int(ids[row])}
        for way, sql in WAYS.items():
            params = {name: asked[name] for name in asked if f":{name}" in sql}
            start = time.perf_counter()
            found = [one[0] for one in db.execute(sql, params).fetchall()]
            seconds = time.perf_counter() - start
            measured[way].append((ndcg(found, wanted), recall(found, wanted), seconds * 1e3))
    return {way: means(values) for way, values in measured.items()}


def by_source(data: pa.Table) -> dict[str, set[int]]:
    """Source -> ids of its packages."""
    found: dict[str, set[int]] = {}
    for key, source in zip(data["id"].to_pylist(), data["source"].to_pylist(), strict=True):
        found.setdefault(source, set()).add(key)
    return found


def chosen_rows(data: pa.Table, siblings: dict[str, set[int]], count: int, seed: int) -> list[int]:
    """Rows with 1 to MOST_SIBLINGS siblings."""
    order = np.random.default_rng(seed).permutation(len(data)).tolist()
    sources = data["source"].to_pylist()
    fit = (row for row in order if 2 <= len(siblings[sources[row]]) <= MOST_SIBLINGS + 1)
    return [row for _, row in zip(range(count), fit, strict=False)]


def ndcg(found: list[int], wanted: set[int]) -> float:
    """Normalized discounted cumulative gain of the first FOUND, each sibling worth 1."""
    gains = [1 / np.log2(place + 2) for place in range(FOUND)]
    got = sum(gains[place] for place, key in enumerate(found) if key in wanted)
    return float(got / sum(gains[: len(wanted)]))


def recall(found: list[int], wanted: set[int]) -> float:
    """Siblings found of those that could be."""
    return len(wanted & set(found)) / min(FOUND, len(wanted))


def means(values: list[tuple[float, float, float]]) -> dict[str, float]:
    """Mean nDCG and recall, median time."""
    gains, recalls, times = zip(*values, strict=True)
    return {
        "ndcg_at_10": statistics.mean(gains),
        "recall_at_10": statistics.mean(recalls),
        "median_ms": statistics.median(times),
    }


def report(figures: dict[str, Any], queries: int) -> None:
    """The figures for people."""
    print(f"{figures['machine']}; commit {figures['commit']}; {queries} packages")
    for way, found in figures["ways"].items():
        print(
            f"  {way:8} nDCG@10 {found['ndcg_at_10']:.3f}  recall@10 {found['recall_at_10']:.3f}"
            f"  median {found['median_ms']:.2f} ms"
        )


if __name__ == "__main__":
    main()
