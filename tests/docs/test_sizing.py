"""What docs/operating.md says under "Sizing" of the disk that rows and indexes take."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.backups import run, running
from support.waiting import wait_for

pytestmark = [pytest.mark.docs, pytest.mark.slow]
N, D, M = 6000, 64, 16


@pytest.mark.parametrize(
    ("kind", "opclass", "element", "copied"),
    [
        ("VECTOR", "vector_l2_ops", 4, 0),
        ("VECTOR", "vector_cosine_ops", 4, 4 * D),
        ("HALFVEC", "halfvec_l2_ops", 2, 4 * D),
    ],
)
def test_rows_and_indexes_take_what_the_page_says(
    tmp_path: Path, kind: str, opclass: str, element: int, copied: int
) -> None:
    with running(tmp_path) as node:
        run(node, f"CREATE TABLE docs (id BIGINT PRIMARY KEY, vec {kind}({D}))")
        numbers = f"list_transform(range(0, {D}), lambda x: sin(r * x))"
        run(node, f"INSERT INTO docs SELECT r, {numbers}::FLOAT[{D}] FROM range({N}) AS t(r)")
        table = node.copies.table(node.catalog().tables["docs"].uuid)
        table.checkpoint()
        folder = tmp_path / "tables" / table.definition.uuid
        (rows,) = (size(f) for f in folder.rglob("segment-*") if "indexes" not in f.parts)
        assert N * element * D < rows < N * (element * D + 12 + 8) * 1.1
        run(node, f"CREATE INDEX ON docs USING hnsw (vec {opclass}) WITH (m = {M})")
        ready = lambda: run(node, "SELECT phase FROM nearql.indexes")[0]["phase"] == "ready"  # noqa: E731
        wait_for(ready, "the index", 90)
        index = sum(size(f) for f in folder.rglob("indexes/*") if "profile" not in f.name)
        assert N * (4 * (2 * M + 4) + copied) * 0.95 < index < N * (4 * (2 * M + 4) + copied) * 1.2


def size(path: Path) -> int:
    return path.stat().st_size
