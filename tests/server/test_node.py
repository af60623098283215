"""The node: tables come to life and go without a trace, whatever moment the process ends."""

from __future__ import annotations

import shutil
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from nearql.cluster.metadata import commands as c
from nearql.engine.errors import (
    Conflict,
    Corruption,
    InvalidRequest,
    NotFound,
    StorageFull,
    Unavailable,
)
from nearql.engine.schema import Column, ColumnType, IndexDef, TableDef, TableSchema
from nearql.engine.storage.files import LocalFileSystem
from nearql.engine.table import Table
from nearql.engine.types import Metric, OnConflict
from nearql.server.config import Config, LimitsSection, NodeSection
from nearql.server.node import NUMBER_BLOCK, Node

SCHEMA = TableSchema(
    (
        Column(1, "id", ColumnType("BIGINT"), not_null=True),
        Column(2, "title", ColumnType("VARCHAR")),
        Column(3, "vec", ColumnType("VECTOR(2)")),
    ),
    key_number=1,
)


def definition(name: str = "docs", shards: int = 1) -> TableDef:
    return TableDef(str(uuid.uuid4()), name, SCHEMA, shards=shards)


def config(directory: Path, max_tables: int = 100) -> Config:
    return Config(node=NodeSection(data_dir=directory), limits=LimitsSection(max_tables=max_tables))


def insert(node: Node, name: str, keys: list[int]) -> None:
    rows = pa.table(
        {"id": keys, "title": [f"t{k}" for k in keys], "vec": [[float(k), 0.0] for k in keys]},
        schema=SCHEMA.storage_schema(),
    )
    node.table(node.catalog().tables[name].uuid).insert(rows, OnConflict.ERROR)


def keys(node: Node, name: str = "docs") -> list[int]:
    view = node.table(node.catalog().tables[name].uuid).read_view()
    return sorted(view.scan(["id"])["id"].to_pylist())


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    opened = Node.open(config(tmp_path / "data", max_tables=3))
    yield opened
    opened.close()


def test_rows_and_tables_survive_a_restart(tmp_path: Path) -> None:
    first = Node.open(config(tmp_path))
    first.create_table(definition(shards=2), if_not_exists=False)
    insert(first, "docs", list(range(50)))
    cluster, name = first.metadata.state.cluster_id, first.node_id
    first.close()
    again = Node.open(config(tmp_path))
    assert keys(again) == list(range(50))
    assert (again.metadata.state.cluster_id, again.node_id) == (cluster, name)
    assert again.metadata.state.nodes[name].incarnation == 2
    again.close()


def test_a_directory_serves_one_process(node: Node) -> None:
    with pytest.raises(Unavailable, match="open in this process already: .* close it") as caught:
        Node.open(node.config)
    assert caught.value.code == "data_dir_in_use"


def test_a_newer_data_directory_is_refused_untouched(tmp_path: Path) -> None:
    Node.open(config(tmp_path)).close()
    (tmp_path / "FORMAT").write_text('{"format": 99}\n')
    with pytest.raises(Unavailable, match="format 99.*upgrade NearQL"):
        Node.open(config(tmp_path))
    assert (tmp_path / "FORMAT").read_text() == '{"format": 99}\n'


def test_names_are_taken_whatever_their_case(node: Node) -> None:
    assert node.create_table(definition(), if_not_exists=False)
    with pytest.raises(Conflict, match="exists already"):
        node.create_table(definition("DOCS"), if_not_exists=False)
    assert not node.create_table(definition("Docs"), if_not_exists=True)


def test_dropping_removes_the_files_at_once(node: Node) -> None:
    table = definition()
    node.create_table(table, if_not_exists=False)
    insert(node, "docs", [1, 2])
    assert node.drop_table("docs", if_exists=False)
    assert not list((node.config.node.data_dir / "tables").iterdir())
    assert not list((node.config.node.data_dir / "trash").iterdir())
    assert not node.drop_table("docs", if_exists=True)
    with pytest.raises(NotFound):
        node.table(table.uuid)


def test_the_number_of_tables_is_bounded(node: Node) -> None:
    for number in range(3):
        node.create_table(definition(f"t{number}"), if_not_exists=False)
    with pytest.raises(InvalidRequest, match=r"3 tables.*limits\.max_tables"):
        node.create_table(definition("one_more"), if_not_exists=False)


def test_a_create_that_fails_leaves_nothing(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> Table:
        raise OSError("no disk")

    monkeypatch.setattr(Table, "create", failing)
    with pytest.raises(OSError, match="no disk"):
        node.create_table(definition(), if_not_exists=False)
    assert not node.catalog().tables
    assert not node.metadata.state.tables


def test_a_create_cut_off_before_it_was_ready_is_undone_at_start(tmp_path: Path) -> None:
    first = Node.open(config(tmp_path))
    table = definition()
    command = c.CreateTable(request_id="r", table=table, shard_uuids=("s",), nodes=(first.node_id,))
    assert first.metadata.propose(command).ok
    (tmp_path / "tables" / table.uuid).mkdir()
    first.close()
    again = Node.open(config(tmp_path))
    assert not again.metadata.state.tables
    assert not list((tmp_path / "tables").iterdir())
    assert again.create_table(definition(), if_not_exists=False)
    again.close()


def test_a_directory_that_no_table_owns_is_put_aside_not_deleted(tmp_path: Path) -> None:
    Node.open(config(tmp_path)).close()
    stranger = tmp_path / "tables" / str(uuid.uuid4())
    stranger.mkdir()
    (stranger / "rows").write_text("precious")
    Node.open(config(tmp_path)).close()
    assert not stranger.exists()
    assert [p.read_text() for p in (tmp_path / "trash").glob("orphan-*/rows")] == ["precious"]


def test_a_table_whose_files_are_gone_is_an_error_never_an_empty_table(tmp_path: Path) -> None:
    first = Node.open(config(tmp_path))
    lost = definition("lost")
    first.create_table(lost, if_not_exists=False)
    first.create_table(definition("kept"), if_not_exists=False)
    insert(first, "kept", [7])
    first.close()
    shutil.rmtree(tmp_path / "tables" / lost.uuid)
    again = Node.open(config(tmp_path))
    assert keys(again, "kept") == [7]
    with pytest.raises(Corruption, match="'lost' is gone"):
        again.table(lost.uuid)
    assert again.drop_table("lost", if_exists=False)
    assert not again.failed_tables()
    again.close()


def test_altering_is_metadata_and_data_together(tmp_path: Path) -> None:
    first = Node.open(config(tmp_path))
    first.create_table(definition(), if_not_exists=False)
    insert(first, "docs", [1])
    columns = (*SCHEMA.columns, Column(4, "stars", ColumnType("INTEGER"), default="5"))
    first.alter_table("docs", replace(SCHEMA, columns=columns, version=2), new_name="papers")
    first.close()
    again = Node.open(config(tmp_path))
    view = again.table(again.catalog().tables["papers"].uuid).read_view()
    assert view.scan(["stars"])["stars"].to_pylist() == [5]
    again.close()


def test_altering_on_a_full_disk_changes_neither_metadata_nor_data(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.create_table(definition(), if_not_exists=False)
    columns = (*SCHEMA.columns, Column(4, "stars", ColumnType("INTEGER")))
    monkeypatch.setattr(LocalFileSystem, "free_bytes", lambda *_: 1000)
    with pytest.raises(StorageFull):
        node.alter_table("docs", replace(SCHEMA, columns=columns, version=2))
    assert node.catalog().tables["docs"].schema == SCHEMA
    monkeypatch.undo()
    node.alter_table("docs", replace(SCHEMA, columns=columns, version=2))
    assert node.catalog().tables["docs"].schema.version == 2


def test_numbers_are_never_given_twice(tmp_path: Path) -> None:
    first = Node.open(config(tmp_path))
    table = definition()
    first.create_table(table, if_not_exists=False)
    assert [first.allocate(table.uuid, 3), first.allocate(table.uuid, 2)] == [1, 4]
    big = first.allocate(table.uuid, NUMBER_BLOCK + 1)
    assert big > 5
    first.close()
    again = Node.open(config(tmp_path))
    assert again.allocate(table.uuid, 1) >= big + NUMBER_BLOCK + 1
    again.close()


def test_indexes_are_defined_once_and_dropped_by_name(node: Node) -> None:
    node.create_table(definition(), if_not_exists=False)
    index = IndexDef(str(uuid.uuid4()), "docs_vec", "vec", "hnsw", Metric.COSINE, {"m": 16})
    assert node.create_index("docs", index, if_not_exists=False)
    assert not node.create_index("docs", index, if_not_exists=True)
    with pytest.raises(Conflict, match="docs_vec"):
        node.create_index("docs", index, if_not_exists=False)
    listed = node.system_table("indexes")
    assert listed is not None
    assert listed["name"].to_pylist() == ["docs_vec"]
    assert node.drop_index("DOCS_VEC", if_exists=False)
    assert not node.drop_index("docs_vec", if_exists=True)


def test_a_closed_node_refuses_changes(tmp_path: Path) -> None:
    node = Node.open(config(tmp_path))
    node.close()
    node.close()
    with pytest.raises(Unavailable, match="shutting down"):
        node.create_table(definition(), if_not_exists=False)


@pytest.mark.parametrize(
    "name",
    ["tables", "columns", "indexes", "shards", "nodes", "segments", "devices", "settings"],
)
def test_every_system_table_has_rows_or_a_reason(name: str, node: Node) -> None:
    node.create_table(definition(), if_not_exists=False)
    insert(node, "docs", [1, 2, 3])
    found = node.system_table(name)
    assert found is not None
    assert found.num_rows > 0 or name == "indexes"


def test_an_unknown_system_table_is_none(node: Node) -> None:
    assert node.system_table("nonsense") is None


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM docs ORDER BY vec <-> '[1,2]' LIMIT 3",
        "INSERT INTO docs (id) SELECT max(id) + 1 FROM docs",
        "UPDATE docs SET title = 'x' WHERE id = 1",
    ],
)
def test_statements_go_on_while_their_table_is_altered(node: Node, statement: str) -> None:
    """A plan for the schema before is made anew; it is neither an error nor half an answer."""
    node.create_table(definition(shards=2), if_not_exists=False)
    insert(node, "docs", [1, 2, 3])
    done = threading.Event()

    def alter() -> None:
        for n in range(8):
            for change in (f"ADD COLUMN c{n} INT DEFAULT 1", f"DROP COLUMN c{n}"):
                node.session().execute(f"ALTER TABLE docs {change}")
        done.set()

    thread = threading.Thread(target=alter)
    thread.start()
    count = 0
    while not done.is_set() or not count:
        assert node.session().execute(statement).row_count
        count += 1
    thread.join()
