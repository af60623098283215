"""What a statement costs beside the search: planning a new one, and the hot path's overhead.

    python3 dev.py bench statements [--rows 20000] [--rounds 500]

A node is made in a temporary folder. `planning` parses and plans texts that were never seen, and
`shapes` every statement of the rules' golden scripts, without the caches of texts; `kept`
runs one text again; `bare` is the engine's search and the fetch of its rows alone; `overhead` is
what `kept` takes beyond it. Medians of interleaved rounds, in milliseconds, and the least of each.
Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nearql.engine.types import Metric, OnConflict, SearchRequest
from nearql.query.dialect import parse
from nearql.query.planner import plan_query
from nearql.query.statements import Select
from nearql.server.config import Config, NodeSection
from nearql.server.node import Node

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.rules import SCHEMA, SCRIPTS, blocks  # found by the line above

DIMENSIONS = 64
SHAPE_ROUNDS = 20
HOT = "SELECT id, title, vec <-> :q AS d FROM docs ORDER BY d LIMIT 10"
PLANNED = (
    "SELECT id AS a{i}, title FROM docs ORDER BY vec <-> :q LIMIT 10",
    (
        "SELECT id, title FROM docs WHERE id < {i} AND title LIKE 'title 1%' "
        "ORDER BY vec <-> :q LIMIT 10"
    ),
    (
        "WITH near AS (SELECT id, vec <-> :q AS d FROM docs ORDER BY d LIMIT {i}) "
        "SELECT n.id, n.d, t.title FROM near n JOIN docs t USING (id) ORDER BY n.d"
    ),
)


def loaded(node: Node, rows: int) -> NDArray[np.float32]:
    """Fill table docs; a query."""
    text = f"CREATE TABLE docs (id BIGINT PRIMARY KEY, title TEXT, vec VECTOR({DIMENSIONS}))"
    node.session().execute(text)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((rows, DIMENSIONS)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIMENSIONS)
    titles = pa.array([f"title {i}" for i in range(rows)])
    table = pa.table({"id": np.arange(rows), "title": titles, "vec": column})
    node.session().insert_rows("docs", table, OnConflict.ERROR)
    return vectors[rows // 2] + np.float32(0.1)


def milliseconds(work: Callable[[], object]) -> float:
    """How long it takes, once."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def bare(node: Node, query: NDArray[np.float32]) -> Callable[[], object]:
    """The engine's part of the hot path: view, search, fetch."""
    definition = node.catalog().tables["docs"]

    def work() -> object:
        view = node.table(definition.uuid).read_view()
        hits = view.search(SearchRequest("vec", Metric.L2, query[np.newaxis], 10))
        return view.take(["id", "title"], hits.rows[0])

    return work


def planning(node: Node, form: str, rounds: int) -> dict[str, float]:
    """Parsing and planning texts that were never seen."""
    catalog = node.catalog()

    def once(number: int) -> float:
        def work() -> None:
            (statement,) = parse(form.format(i=number))
            assert isinstance(statement, Select)
            plan_query(statement.tree, catalog)

        return milliseconds(work)

    once(1)
    return summary([once(number + 2) for number in range(rounds)])


def shapes(node: Node, rounds: int) -> dict[str, object]:
    """The same for each statement of tests/scripts/rules: medians over the rounds."""
    node.session().execute(f"DROP TABLE docs; {SCHEMA}")
    catalog = node.catalog()
    medians = {}
    for text in [text for path in sorted(SCRIPTS.glob("*.sql")) for text, _ in blocks(path)]:
        if not isinstance(parse(text)[0], Select):
            continue

        def work(text: str = text) -> None:
            (statement,) = parse(text)
            assert isinstance(statement, Select)
            plan_query(statement.tree, catalog)

        medians[text] = statistics.median(milliseconds(work) for _ in range(rounds))
    longest = max(medians, key=medians.__getitem__)
    return {
        "statements": len(medians), "p50_ms": round(statistics.median(medians.values()), 3),
        "above_3_ms": sum(one > 3 for one in medians.values()),
        "longest": {"sql": longest, "p50_ms": round(medians[longest], 3)},
    }  # fmt: skip


def summary(times: list[float]) -> dict[str, float]:
    """Median and least."""
    return {"p50_ms": round(statistics.median(times), 3), "least_ms": round(min(times), 3)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=500)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        node = Node.open(Config(node=NodeSection(data_dir=Path(folder) / "data")))
        try:
            query = loaded(node, given.rows)
            session, parameters = node.session(), {"q": query.tolist()}
            engine = bare(node, query)
            alone, kept = [], []
            for _ in range(given.rounds + 20):  # in turns, so that both see the same machine
                alone.append(milliseconds(engine))
                kept.append(milliseconds(lambda: session.execute(HOT, parameters)))
            alone, kept = alone[20:], kept[20:]
            overhead = [a - b for a, b in zip(kept, alone, strict=True)]
            print(json.dumps({
                "rows": given.rows, "dimensions": DIMENSIONS, "rounds": given.rounds,
                "bare": summary(alone), "kept": summary(kept), "overhead": summary(overhead),
                "planning": {form: planning(node, form, given.rounds) for form in PLANNED},
                "shapes": shapes(node, SHAPE_ROUNDS),
                "plan_cache": {"hits": session.plans.hits, "misses": session.plans.misses},
            }, indent=2))  # fmt: skip
        finally:
            node.close()


if __name__ == "__main__":
    main()
