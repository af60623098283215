"""Indexes of pgvector's other forms: shown, kept through a restart, and taken back; those for which
nothing is built are recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nearql.engine.errors import NearQLError
from nearql.server.config import Config, NodeSection
from nearql.server.node import Node

DDL = {
    "part": "CREATE INDEX part ON docs USING hnsw (vec vector_l2_ops) WHERE lang = 'en'",
    "bits": "CREATE INDEX bits ON docs USING hnsw (flags bit_jaccard_ops) WITH (m = '8')",
    "quantized": (
        "CREATE INDEX quantized ON docs USING hnsw "
        "((binary_quantize(vec)::bit(3)) bit_hamming_ops) WHERE size > 3"
    ),
    "half": "CREATE INDEX half ON docs USING hnsw ((vec::halfvec(3)) halfvec_cosine_ops)",
    "some": "CREATE INDEX some ON docs USING ivfflat ((subvector(vec, 1, 2)::vector(2)))",
    "unit": "CREATE INDEX unit ON docs USING hnsw ((l2_normalize(vec)::vector(3)) vector_l2_ops)",
}
RECORDED = ("unit",)


def opened(directory: Path) -> Node:
    """A node on a directory."""
    return Node.open(Config(node=NodeSection(data_dir=directory)))


def shown(node: Node) -> list[dict[str, Any]]:
    """nearql.indexes, by name."""
    text = 'SELECT name, "column", kind, metric, phase, rows_done, detail FROM nearql.indexes'
    rows: list[dict[str, Any]] = node.session().execute(f"{text} ORDER BY name").table.to_pylist()
    return rows


def test_they_are_recorded_until_they_are_dropped(tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="FAISS isn't installed")
    node = opened(tmp_path / "data")
    run = node.session().execute
    run(
        "CREATE TABLE docs (id BIGINT PRIMARY KEY, lang TEXT, size INT, flags BIT(3), "
        "vec VECTOR(3))"
    )
    run("INSERT INTO docs VALUES (1, 'en', 5, B'101', '[1,2,3]'), (2, 'de', 1, NULL, '[0,2,3]')")
    for name, text in DDL.items():
        [notice] = run(text).notices
        told = {"unit": "is recorded and nothing is built: ", "bits": "holds nothing: "}
        assert notice.startswith(f"Index {name!r} {told.get(name, 'is built in the background')}")
    with pytest.raises(NearQLError) as taken:
        run(DDL["part"])
    assert taken.value.code == "duplicate_index"
    before = shown(node)
    assert [(one["name"], one["column"], one["kind"], one["metric"]) for one in before] == [
        ("bits", "flags", "hnsw", "jaccard"),
        ("half", "(CAST(vec AS halfvec(3)))", "hnsw", "cosine"),
        ("part", "vec WHERE lang = 'en'", "hnsw", "l2"),
        ("quantized", "(CAST(binary_quantize(vec) AS BIT(3))) WHERE size > 3", "hnsw", "hamming"),
        ("some", "(CAST(subvector(vec, 1, 2) AS VECTOR(2)))", "ivfflat", "l2"),
        ("unit", "(CAST(l2_normalize(vec) AS VECTOR(3)))", "hnsw", "l2"),
    ]
    assert {(one["phase"], one["rows_done"]) for one in before} == {("ready", 2)}
    for one in before:
        assert (one["detail"] or "").startswith("nothing is built") is (one["name"] in RECORDED)
    for column in ("vec", "lang", "size", "flags"):
        for change in (f"DROP COLUMN {column}", f"RENAME COLUMN {column} TO other"):
            with pytest.raises(NearQLError) as needed:
                run(f"ALTER TABLE docs {change}")
            assert needed.value.code == "dependent_object"
    run("REINDEX TABLE docs")
    node.close()
    node = opened(tmp_path / "data")
    assert shown(node) == before
    strategy = "SELECT id FROM docs WHERE lang = 'en' ORDER BY vec <-> '[1,2,3]' LIMIT 1"
    assert node.session().execute(strategy).stats["strategy"].startswith("exact")
    for name in DDL:
        node.session().execute(f"DROP INDEX {name}")
    assert shown(node) == []
    node.session().execute("ALTER TABLE docs DROP COLUMN lang")
    node.close()


def test_they_get_names_of_their_own(tmp_path: Path) -> None:
    node = opened(tmp_path / "data")
    run = node.session().execute
    run("CREATE TABLE docs (id BIGINT PRIMARY KEY, vec VECTOR(3))")
    for _ in range(2):
        run("CREATE INDEX ON docs USING hnsw (vec) WHERE id > 5")
    run("CREATE INDEX ON docs USING hnsw ((vec::halfvec(3)) halfvec_l2_ops)")
    run("CREATE INDEX IF NOT EXISTS docs_vec_idx ON docs USING hnsw (vec) WHERE id > 5")
    assert [one["name"] for one in shown(node)] == [
        "docs_vec_idx", "docs_vec_idx1", "docs_vec_idx2",
    ]  # fmt: skip
    node.close()
