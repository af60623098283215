"""CREATE INDEX to DROP INDEX as SQL sees them, on a node of its own, over a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("faiss", reason="FAISS isn't installed")

from nearql.server.config import Config, EngineSection, NodeSection
from nearql.server.node import Node
from support.indexes import packages
from support.waiting import wait_for

ROWS = 400
NEAREST = "SELECT id FROM docs ORDER BY vec <-> :q LIMIT 5"


def opened(directory: Path) -> Node:
    engine = EngineSection(index_min_rows=100)
    return Node.open(Config(node=NodeSection(data_dir=directory), engine=engine))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def node(directory: Path) -> Iterator[Node]:
    made = opened(directory)
    run(made, "CREATE TABLE docs (id BIGINT PRIMARY KEY, vec VECTOR(16))")
    values = ", ".join(f"({at}, '{vector(at)}')" for at in range(ROWS))
    run(made, f"INSERT INTO docs VALUES {values}")
    yield made
    made.close()


def vector(at: int) -> list[float]:
    return [round(float(x), 4) for x in packages()[at, :16]]


def run(node: Node, text: str, **params: Any) -> list[tuple[Any, ...]]:
    table = node.session().execute(text, params or None).table
    return [tuple(row.values()) for row in table.to_pylist()]


def phase(node: Node) -> str:
    return str(run(node, "SELECT phase FROM nearql.indexes")[0][0])


def ready(node: Node) -> None:
    wait_for(lambda: phase(node) in ("ready", "failed"), "the build ends", 120)
    assert phase(node) == "ready"


def test_an_index_from_its_creation_to_its_end(node: Node, directory: Path) -> None:
    query = vector(7)
    exact = run(node, NEAREST, q=query)
    answer = node.session().execute(
        "CREATE INDEX near ON docs USING hnsw (vec vector_l2_ops)", None
    )
    assert "nearql.indexes" in answer.notices[-1]
    assert run(node, NEAREST, q=query) == exact, "complete at every moment"
    ready(node)
    shown = run(
        node, 'SELECT name, "table", "column", kind, metric, rows_done, rows_total, eta_ms, '
        "bytes > 0, detail FROM nearql.indexes",
    )  # fmt: skip
    assert shown == [("near", "docs", "vec", "hnsw", "l2", ROWS, ROWS, 0, True, None)]
    hard = "SET hnsw.ef_search = 200; "
    assert run(node, hard + NEAREST, q=query) == exact
    explained = str(run(node, hard + "EXPLAIN ANALYZE " + NEAREST, q=query))
    assert "index/hnsw" in explained

    node.close()
    again = opened(directory)
    try:
        assert phase(again) == "ready"
        assert run(again, hard + NEAREST, q=query) == exact
        run(again, "REINDEX INDEX near")
        assert run(again, hard + NEAREST, q=query) == exact
        ready(again)
        run(again, "DROP INDEX near")
        assert run(again, "SELECT * FROM nearql.indexes") == []
        assert run(again, NEAREST, q=query) == exact
        run(again, "CREATE INDEX ON docs USING ivfpq (vec vector_l2_ops)")
        run(again, "DROP TABLE docs")
        assert list((directory / "tables").iterdir()) == []
    finally:
        again.close()


def test_null_and_changed_vectors(node: Node) -> None:
    run(node, "INSERT INTO docs VALUES (1000, NULL)")
    run(node, "CREATE INDEX near ON docs USING hnsw (vec)")
    ready(node)
    far = [9.0] * 16
    run(node, "UPDATE docs SET vec = :v WHERE id = 3", v=far)
    run(node, "DELETE FROM docs WHERE id = 5")
    hard = "SET hnsw.ef_search = 200; "
    assert run(node, hard + NEAREST, q=far)[0] == (3,)
    assert (5,) not in run(node, hard + NEAREST, q=vector(5))
    every = run(node, "SELECT id FROM docs ORDER BY vec <-> :q LIMIT 2000", q=np.zeros(16).tolist())
    assert len(every) == ROWS - 1
