"""`nearql bench`: how fast and how right searches and writes are on this machine.

Without `--url` a node of its own runs in this process, on a temporary folder that goes afterwards.
Without `--table` a table is made of vectors clustered around those of 5,000 real texts, loaded,
indexed, searched, filtered, upserted and thinned out, and dropped again; a table that is named is
only searched. Recall is measured against exact answers to the same statements, by distance, so that
of equal rows any will do; beside each figure of speed stands the recall at which it was reached.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from nearql.client.cli import options as cli
from nearql.client.errors import Error, UsageError
from nearql.client.format import text_table
from nearql.client.sync import Connection

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

TABLE = "nearql_bench"
OPERATORS = {"cosine": "<=>", "l2": "<->", "inner_product": "<#>"}
CLASSES = {"cosine": "vector_cosine_ops", "l2": "vector_l2_ops", "inner_product": "vector_ip_ops"}
KINDS = ("hnsw", "ivfflat", "ivfpq", "ivfrabitq", "auto", "none")
BUCKETS = 1_000
FILTERS = (500, 100, 20, 5, 1)  # of the buckets: 50 to 0.1 % of the rows
QUERIES = 200  # different ones
COMPARED = 100  # of them, with exact answers
UPSERTED, DELETED = 0.1, 0.3  # of the rows
BATCH = 10_000  # rows of an upsert
POLL_S = 0.05  # how often an index under way is looked at
READY_S = 3_600.0  # how long an index may take
EXAMPLES = """  nearql bench                                       50,000 rows, in this process
  nearql bench --rows 1000000 --index ivfpq --json
  nearql bench --url http://n1:8470                  over HTTP, a table of its own
  nearql bench --url http://n1:8470 --table docs --column embedding --metric l2
"""


@dataclass(frozen=True)
class Measure:
    """One line of the report. rate: per second, of `unit`. recall, rows: per search, the mean."""

    what: str
    rate: float
    unit: str
    seconds: float
    clients: int = 1
    p50_ms: float | None = None
    p99_ms: float | None = None
    recall: float | None = None
    rows: float | None = None


def main(argv: list[str]) -> int:
    """Run the command."""
    arguments = make_parser().parse_args(argv)
    return cli.run("bench", lambda: _work(arguments))


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = cli.parser("bench", "Measure speed and recall.", EXAMPLES)
    made.set_defaults(url=os.environ.get("NEARQL_URL"))
    made.add_argument("--table", help="search this table instead of making one; nothing is written")
    made.add_argument("--column", default="vec", help="its vector column (default vec)")
    made.add_argument("--metric", choices=sorted(OPERATORS), default="cosine")
    made.add_argument("--rows", type=int, default=50_000, help="rows to make (default 50,000)")
    made.add_argument("--index", choices=KINDS, default="hnsw", help="default hnsw")
    made.add_argument("--target", type=float, default=0.95, help="recall to reach (default 0.95)")
    made.add_argument("--k", type=int, default=10, help="rows of an answer (default 10)")
    made.add_argument("--clients", default="1,8", help="searching at once (default 1,8)")
    made.add_argument("--seconds", type=float, default=3.0, help="of each measurement (default 3)")
    made.add_argument("--json", action="store_true", help="the report as JSON")
    return made


def _work(arguments: argparse.Namespace) -> int:
    arguments.clients = _clients(arguments.clients)
    if arguments.rows < 1_000 or arguments.k < 1 or arguments.seconds <= 0:
        raise UsageError("--rows must be at least 1000, --k at least 1, --seconds above 0.")
    with _node(arguments) as db:
        bench = Bench(db, arguments)
        measures = bench.given() if arguments.table else bench.own()
        if arguments.json:
            print(cli.json_text([asdict(measure) for measure in measures]))
            return cli.DONE
        _print(measures)
    return cli.DONE


def _clients(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise UsageError(f"--clients is {text!r}; it must be numbers, as in 1,8.")
    return found


@contextmanager
def _node(arguments: argparse.Namespace) -> Iterator[Connection]:
    """The node that was named, or one of this process's own."""
    if arguments.url is not None:
        with cli.open_connection(arguments) as db:
            yield db
        return
    if arguments.table:
        raise UsageError("--table needs --url: the node, or the data directory, that holds it.")
    with tempfile.TemporaryDirectory(prefix="nearql-bench-") as folder:
        arguments.url = folder
        with cli.open_connection(arguments) as db:
            yield db


def _print(measures: Sequence[Measure]) -> None:
    names = ("what", "clients", "rate", "unit", "p50 ms", "p99 ms", "recall", "rows")
    rows = [
        (m.what, m.clients, f"{m.rate:,.0f}", m.unit, _two(m.p50_ms), _two(m.p99_ms),
         "" if m.recall is None else f"{m.recall:.4f}", _two(m.rows))
        for m in measures
    ]  # fmt: skip
    print(text_table(names, rows))


def _two(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


class Bench:
    """Measurements of one table through one node."""

    def __init__(self, db: Connection, arguments: argparse.Namespace) -> None:
        self._db = db
        self._options = arguments
        self._table = arguments.table or TABLE
        self._column = arguments.column if arguments.table else "vec"
        self._queries: list[Any] = []

    # ---- What is measured ------------------------------------------------------------------

    def given(self) -> list[Measure]:
        """A table that is there: it is only read."""
        found = self._db.sql(
            f"SELECT {self._column} FROM {self._table} WHERE {self._column} IS NOT NULL "
            f"ORDER BY random() LIMIT {QUERIES}"
        ).fetchall()
        if not found:
            raise UsageError(f"Table {self._table} has no vectors to search for.")
        self._queries = [row[0] for row in found]
        return [self._search("exact search", target=1.0), *self._searches()]

    def own(self) -> list[Measure]:
        """A table of its own, from loading it to deleting a third; dropped in the end."""
        vectors = clustered(self._options.rows + QUERIES)
        self._queries = list(vectors[self._options.rows :])
        vectors = vectors[: self._options.rows]
        self._db.sql(f"DROP TABLE IF EXISTS {TABLE}")
        try:
            return list(self._life(vectors))
        finally:
            self._db.sql(f"DROP TABLE IF EXISTS {TABLE}")

    def _life(self, vectors: Vectors) -> Iterator[Measure]:
        rows = len(vectors)
        self._db.sql(
            f"CREATE TABLE {TABLE} (id BIGINT PRIMARY KEY, bucket INTEGER, "
            f"vec VECTOR({vectors.shape[1]}))"
        )
        yield self._write("load", rows, lambda: self._put(vectors, 0, "insert"))
        if self._options.index != "none":
            yield self._write(f"build {self._options.index}", rows, self._build)
        yield self._search("exact search", target=1.0)
        yield from self._searches()
        for buckets in FILTERS:
            share = buckets / BUCKETS
            yield self._search(f"filter {share:.1%}", where=f"bucket < {buckets}")
        changed = vectors[: int(rows * UPSERTED)][::-1].copy()
        yield self._write("upsert 10 %", len(changed), lambda: self._upsert(changed))
        yield self._search("search right after")
        deleted = int(rows * DELETED)
        yield self._write("delete 30 %", deleted, lambda: self._delete(rows - deleted))
        yield self._search("search right after")

    def _searches(self) -> Iterator[Measure]:
        for clients in self._options.clients:
            yield self._search("search", clients=clients)

    # ---- Writes ----------------------------------------------------------------------------

    def _write(self, what: str, rows: int, work: Callable[[], object]) -> Measure:
        started = time.perf_counter()
        work()
        seconds = time.perf_counter() - started
        return Measure(what, rows / seconds, "rows/s", seconds)

    def _put(self, vectors: Vectors, first: int, mode: Any) -> None:
        import numpy as np

        ids = np.arange(first, first + len(vectors))
        buckets = (ids * 7_919 % BUCKETS).astype(np.int32)
        self._db.insert(TABLE, {"id": ids, "bucket": buckets, "vec": vectors}, mode)

    def _upsert(self, vectors: Vectors) -> None:
        for low in range(0, len(vectors), BATCH):
            self._put(vectors[low : low + BATCH], low, "upsert")

    def _delete(self, first: int) -> None:
        self._db.sql(f"DELETE FROM {TABLE} WHERE id >= {first}")

    def _build(self) -> None:
        kind, operators = self._options.index, CLASSES[self._options.metric]
        self._db.sql(f"CREATE INDEX {TABLE}_index ON {TABLE} USING {kind} (vec {operators})")
        pause, until = threading.Event(), time.monotonic() + READY_S
        shown = f"SELECT phase, detail FROM nearql.indexes WHERE name = '{TABLE}_index'"
        while True:
            [(phase, detail)] = self._db.sql(shown).fetchall()
            if phase == "ready":
                return
            if phase == "failed" or time.monotonic() > until:
                raise Error(f"The index is {phase}: {detail or 'it takes too long'}.")
            pause.wait(POLL_S)

    # ---- Searches --------------------------------------------------------------------------

    def _search(
        self, what: str, *, clients: int = 1, where: str = "", target: float | None = None
    ) -> Measure:
        target = self._options.target if target is None else target
        text, settings = self._statement(where), {"target_recall": target}
        recall, rows = self._recall(text, settings)
        ends = threading.Event()
        began = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            asked = [pool.submit(self._ask, at, text, settings, ends) for at in range(clients)]
            ends.wait(self._options.seconds)
            ends.set()
        seconds = time.perf_counter() - began
        times = [1000 * one for future in asked for one in future.result()]
        return Measure(
            what, len(times) / seconds, "queries/s", seconds, clients,
            statistics.median(times), _quantile(times, 0.99), recall, rows,
        )  # fmt: skip

    def _statement(self, where: str) -> str:
        operator = OPERATORS[self._options.metric]
        filtered = f" WHERE {where}" if where else ""
        return (
            f"SELECT {self._column} {operator} $1 AS distance FROM {self._table}{filtered} "
            f"ORDER BY distance LIMIT {self._options.k}"
        )

    def _ask(
        self, number: int, text: str, settings: dict[str, Any], ends: threading.Event
    ) -> list[float]:
        """One client: statements one after the other, at least one, until the time is up; the
        seconds of each.
        """
        spent: list[float] = []
        at = number * len(self._queries) // max(self._options.clients)
        while not spent or not ends.is_set():
            began = time.perf_counter()
            self._db.execute(text, [self._queries[at % len(self._queries)]], settings)
            spent.append(time.perf_counter() - began)
            at += 1
        return spent

    def _recall(self, text: str, settings: dict[str, Any]) -> tuple[float, float]:
        """The mean share of the exact answers' rows that were found, and of rows an answer."""
        shares, rows = [], []
        for query in self._queries[:COMPARED]:
            exact = self._db.execute(text, [query], {"target_recall": 1.0}).fetchall()
            found = self._db.execute(text, [query], settings).fetchall()
            rows.append(len(found))
            if exact:
                last = exact[-1][0]
                shares.append(sum(row[0] <= last for row in found) / len(exact))
        return (statistics.fmean(shares) if shares else 1.0), statistics.fmean(rows)


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def clustered(count: int) -> Vectors:
    """float32 (count, 384), of unit length: drawn around the embeddings of real texts, since those
    without clusters say nothing of recall. The same for the same count.
    """
    import numpy as np
    import pyarrow.parquet as pq

    data = files("nearql.client") / "demo_data" / "debian_5k.parquet"
    with data.open("rb") as stream:
        column = pq.read_table(stream, columns=["embedding"])["embedding"].combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    real: Vectors = flat.reshape(len(column), -1).astype(np.float32)
    random = np.random.default_rng(count)
    made: Vectors = real[random.integers(0, len(real), count)]
    scale = np.float32(0.5 / np.sqrt(real.shape[1]))
    made += random.standard_normal(made.shape, np.float32) * scale
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made
