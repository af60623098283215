"""What a scan over registered Arrow costs beside DuckDB's own table (docs/decisions/0001).

python3 dev.py python benchmarks/arrow_scan.py [ROWS]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import duckdb
import numpy as np
import pyarrow as pa

STATEMENTS = {
    "filter on two numbers": "SELECT row FROM {} WHERE cat = 3 AND price < 10",
    "LIKE": "SELECT row FROM {} WHERE title LIKE '%lib77%'",
    "GROUP BY": "SELECT cat, avg(price), count(*) FROM {} GROUP BY cat",
    "ten rows by key": "SELECT title FROM {} WHERE id IN (1, 5, 9, 888, 1000, 20000, 123, 77, 4)",
}


def rows(count: int) -> pa.Table:
    """A table of numbers and short texts."""
    random = np.random.default_rng(0)
    return pa.table(
        {
            "row": np.arange(count),
            "id": np.arange(count),
            "price": random.random(count) * 100,
            "cat": random.integers(0, 20, count),
            "title": [f"package number {n} lib{n % 977} some text" for n in range(count)],
            "live": np.ones(count, bool),
        }
    )


def cpu_ms(job: Callable[[], object], repeats: int = 5) -> float:
    """The least CPU time of several runs."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        job()
        best = min(best, time.process_time() - start)
    return best * 1e3


def main(count: int) -> None:
    """Print CPU milliseconds per statement and form of the data."""
    whole = rows(count)
    chunked = pa.concat_tables([whole.slice(at, 50_000) for at in range(0, count, 50_000)])
    database = duckdb.connect(":memory:", config={"threads": 1})
    database.register("source", whole)
    database.execute("CREATE TABLE native AS SELECT * FROM source")

    def over(relation: pa.Table, statement: str) -> Callable[[], object]:
        def job() -> object:
            with database.cursor() as cursor:
                cursor.register("relation", relation)
                return cursor.sql(statement.format("relation")).to_arrow_table()

        return job

    print(f"{'CPU ms':24}{'native':>10}{'arrow':>10}{'chunked':>10}")
    for name, statement in STATEMENTS.items():
        own = cpu_ms(lambda s=statement: database.sql(s.format("native")).to_arrow_table())  # type: ignore[misc]
        print(
            f"{name:24}{own:10.2f}{cpu_ms(over(whole, statement)):10.2f}"
            f"{cpu_ms(over(chunked, statement)):10.2f}"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
