"""Damage as users and operators meet it: SQL answers, system tables, metrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nearql.engine.errors import Corruption
from nearql.server.config import load_config
from nearql.server.counts import counts
from nearql.server.node import Node


def opened(directory: Path) -> Node:
    flags = {"node.data_dir": str(directory), "engine.index_min_rows": 64}
    return Node.open(load_config(environment={}, flags=flags))


@pytest.fixture
def damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Table docs of 200 rows, the vector of key 150 damaged; table papers of the same, whole."""
    monkeypatch.setattr("nearql.engine.storage.blobs.BLOCK_BYTES", 256)
    node = opened(tmp_path)
    for name in ("docs", "papers"):
        node.session().execute(f"CREATE TABLE {name} (id BIGINT PRIMARY KEY, vec VECTOR(8))")
        rows = ",".join(f"({i}, '{[i] * 8}')" for i in range(200))
        node.session().execute(f"INSERT INTO {name} VALUES {rows}")
        node.table(node.catalog().tables[name].uuid).checkpoint()
    folder = tmp_path / "tables" / node.catalog().tables["docs"].uuid / "shard-0000"
    node.close()
    (path,) = folder.glob("segment-*")
    data = bytearray(path.read_bytes())
    data[data.find(np.full(8, 150, np.float32).tobytes())] ^= 1
    path.write_bytes(bytes(data))
    return tmp_path


SEARCH = "SELECT id FROM {} ORDER BY vec <-> '[7,7,7,7,7,7,7,7]' LIMIT 1"


def test_what_needs_the_damaged_vectors_is_refused_by_file_and_rows(damaged: Path) -> None:
    node = opened(damaged)
    run = node.session().execute
    with pytest.raises(Corruption, match=r"segment-\w+ is corrupt: .*It hits rows \d+ to \d+"):
        run(SEARCH.format("docs"))
    assert run(SEARCH.format("papers")).table.to_pylist() == [{"id": 7}]
    assert run("SELECT count(*) AS n FROM docs").table.to_pylist() == [{"n": 200}]
    (found,) = run("SELECT * FROM nearql.damage").table.to_pylist()
    assert (found["table"], found["shard"], found["columns"]) == ("docs", 0, ["vec"])
    assert "150" in found["keys"]
    assert found["first_row"] <= 150 <= found["last_row"]
    states = run('SELECT "table", state FROM nearql.segments ORDER BY 1').table.to_pylist()
    assert [row["state"] for row in states] == ["damaged", "sealed"]
    shown = {count.name: count.value for count in counts(node)}
    assert shown["nearql_damaged_segments"] == 1
    node.close()


def test_indexes_of_a_damaged_segment_neither_answer_nor_hide_the_table(damaged: Path) -> None:
    node = opened(damaged)
    run = node.session().execute
    for name in ("docs", "papers"):
        run(f"CREATE INDEX ON {name} USING hnsw (vec vector_l2_ops)")
    node.close()
    node = opened(damaged)
    run = node.session().execute
    assert not node.failed_tables()
    for settings in ({}, {"target_recall": 0.9}):
        with pytest.raises(Corruption, match="its vectors were set aside"):
            run(SEARCH.format("docs"), settings=settings)
        assert run(SEARCH.format("papers"), settings=settings).table.to_pylist() == [{"id": 7}]
    assert run("SELECT count(*) AS n FROM docs").table.to_pylist() == [{"n": 200}]
    node.close()


@pytest.mark.parametrize("part", ["vectors", "keys"])
def test_partial_answers_leave_the_damaged_segment_out_and_say_so(damaged: Path, part: str) -> None:
    node = opened(damaged)
    more = ",".join(f"({i}, '{[i] * 8}')" for i in range(200, 260))
    if part == "vectors":
        node.session().execute(f"INSERT INTO docs VALUES {more}")
    else:  # keys of a lost segment are unknown, so the rows beside it come before the damage
        folder = damaged / "tables" / node.catalog().tables["papers"].uuid / "shard-0000"
        node.session().execute(f"INSERT INTO papers VALUES {more}")
        node.close()
        (path,) = folder.glob("segment-*")
        path.unlink()
        node = opened(damaged)
    name = "docs" if part == "vectors" else "papers"
    settings = {"partial_answers": "on"}
    run = node.session().execute
    with pytest.raises(Corruption):
        run(SEARCH.format(name))
    found = run(SEARCH.format(name), settings=settings)
    assert found.table.to_pylist() == [{"id": 200}]
    assert any(f"200 rows of table '{name}'" in notice for notice in found.notices)
    counted = run(f"SELECT count(*) AS n FROM {name} WHERE id >= 0", settings=settings)
    assert counted.table.to_pylist() == [{"n": 60}]
    saved = run(f"CREATE TABLE saved AS SELECT * FROM {name}", settings=settings)
    assert saved.row_count == 60
    whole = run("SELECT count(*) AS n FROM saved", settings=settings)
    assert (whole.table.to_pylist(), whole.notices) == ([{"n": 60}], ())
    node.close()


def test_the_documented_remedy_heals_it(damaged: Path) -> None:
    node = opened(damaged)
    run = node.session().execute
    (found,) = run("SELECT keys FROM nearql.damage").table.to_pylist()
    for key in found["keys"]:
        vector = str([int(key)] * 8)
        run("UPDATE docs SET vec = :v WHERE id = :k", {"v": vector, "k": int(key)})
    node.table(node.catalog().tables["docs"].uuid).checkpoint()
    assert run("SELECT * FROM nearql.damage").row_count == 0
    assert run(SEARCH.format("docs")).table.to_pylist() == [{"id": 7}]
    node.close()
