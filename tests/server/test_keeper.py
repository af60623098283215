"""What a cluster's node keeps on its disk: real tables, metadata of a node alone, no network."""

from __future__ import annotations

import errno
import os
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import pytest

from nearql.cluster.metadata import commands as c
from nearql.cluster.metadata import shards as sh
from nearql.cluster.metadata.local import LocalMetadata
from nearql.cluster.metadata.nodes import ChangeSetting
from nearql.cluster.metadata.shards import ShardRow
from nearql.cluster.metadata.state import TableRow
from nearql.engine.errors import StorageFull, Unavailable
from nearql.engine.schema import TableDef
from nearql.engine.shard.copy import ShardCopy
from nearql.engine.storage.files import LocalFileSystem
from nearql.server import keeper
from nearql.server.copies import Copies
from nearql.server.keeper import Keeper
from support.tables import context, definition, fatal
from support.waiting import wait_for

TABLE = definition().uuid


class Attachments:
    """Remembers which copies take part."""

    def __init__(self) -> None:
        self.copies: dict[str, ShardCopy] = {}

    def attach(self, table_uuid: str, shard: ShardRow, copy: ShardCopy) -> None:
        assert shard.uuid not in self.copies
        self.copies[shard.uuid] = copy

    def detach(self, shard_uuid: str) -> None:
        del self.copies[shard_uuid]


class World:
    """The node `me`, and tables on it and on b and c, which are names only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metadata = LocalMetadata.open(folder / "metadata", LocalFileSystem(), fatal)
        self.me = self.metadata.node_id
        self.copies: Copies
        self.attachments: Attachments
        self.keeper: Keeper
        self.changes = 0
        self.open()

    def open(self) -> None:
        made = replace(context(), replicated=True)
        self.copies, self.attachments = Copies(self.folder, made), Attachments()
        self.keeper = Keeper(
            self.me, self.copies, self.attachments, self.metadata, self._note_change
        )
        self.keeper.start()
        self.metadata.watch(self.keeper.see)

    def _note_change(self) -> None:
        self.changes += 1

    def close(self) -> None:
        self.keeper.close()
        self.copies.close()

    def do(self, command: c.Command) -> None:
        assert self.metadata.propose(command).ok
        self.settle()

    def settle(self) -> None:
        wanted = self.metadata.state
        assert self.keeper.wait_done(lambda done: done is self.metadata.state, 60), wanted

    def create(self, *nodes: str, shards: int = 1) -> None:
        table = definition(shards=shards)
        uuids = tuple(f"s{number}" for number in range(shards))
        request = uuid.uuid4().hex
        self.do(c.CreateTable(request_id=request, table=table, shard_uuids=uuids, nodes=nodes))

    def ready(self, *others: str) -> None:
        """Everybody's copies are in sync."""
        alloc = {node: f"{node}-1" for node in others}
        alloc[self.me] = self.alloc_id()
        request = uuid.uuid4().hex
        self.do(c.TableReady(request_id=request, table_uuid=TABLE, alloc_ids=alloc))

    def alloc_id(self, number: int = 0) -> str:
        return self.copies.tables[TABLE].copies[number].alloc_id.hex()

    @property
    def row(self) -> TableRow:
        return self.metadata.state.tables[TABLE]

    def damage(self) -> None:
        """Between two lives: the copy's identity is unreadable."""
        self.close()
        (self.folder / "tables" / TABLE / "shard-0000" / "shard.meta").write_bytes(b"nonsense")
        self.open()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def test_a_placed_copy_is_made_told_and_replicated(world: World) -> None:
    world.create(world.me, "b")
    world.settle()
    assert world.row.shards[0].replicas == {world.me: world.alloc_id(), "b": ""}
    assert world.attachments.copies == {"s0": world.copies.tables[TABLE].copies[0]}
    assert world.changes


def test_a_copy_placed_elsewhere_is_not_made(world: World) -> None:
    world.create("b", "c")
    assert not world.copies.tables
    assert not world.attachments.copies


def test_a_dropped_table_is_let_go_and_lies_in_the_trash(world: World) -> None:
    world.create(world.me, "b")
    world.do(c.DropTable(request_id="drop", table_uuid=TABLE))
    assert not world.attachments.copies
    assert not world.copies.has(TABLE)
    assert [path.name for path in (world.folder / "trash").glob(f"orphan-{TABLE}-*")]


def test_trash_that_can_not_be_emptied_keeps_nobody_from_following(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Event()

    def fail() -> NoReturn:
        tried.set()
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(keeper, "_TRASH_S", 0.01)
    monkeypatch.setattr(world.copies, "empty_trash", fail)
    world.create(world.me, "b")
    assert tried.wait(60)
    world.do(c.DropTable(request_id="drop", table_uuid=TABLE))
    assert not world.copies.has(TABLE)


def test_what_is_dropped_stays_in_the_trash_for_its_time_however_old_its_files_are(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.create(world.me, "b")
    os.utime(world.folder / "tables" / TABLE, (1.0, 1.0))
    world.do(c.DropTable(request_id="drop", table_uuid=TABLE))
    kept = [path for path in (world.folder / "trash").iterdir() if TABLE in path.name]
    world.copies.empty_trash()
    assert kept
    assert all(path.exists() for path in kept)
    monkeypatch.setattr(Copies, "_is_short", lambda self: True)
    world.copies.empty_trash()
    assert not any(path.exists() for path in kept)


def test_what_was_in_the_trash_for_long_enough_is_removed(world: World) -> None:
    world.create(world.me, "b")
    world.do(c.DropTable(request_id="drop", table_uuid=TABLE))
    world.copies._retention_s = -1.0
    world.copies.empty_trash()
    assert not list((world.folder / "trash").iterdir())


def test_a_copy_that_can_not_be_made_is_not_tried_with_each_piece_of_news(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[float] = []

    def failing(definition: TableDef) -> NoReturn:
        tries.append(time.monotonic())
        raise StorageFull("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(world.copies, "make", failing)
        request = uuid.uuid4().hex
        world.metadata.propose(
            c.CreateTable(
                request_id=request, table=definition(), shard_uuids=("s0",), nodes=(world.me,)
            )
        )
        wait_for(lambda: bool(tries), "the first try")
        for number in range(50):
            setting = ChangeSetting(
                request_id=f"news-{number}", name=str(number), value="x", expected=None
            )
            world.metadata.propose(setting)
        wait_for(lambda: len(tries) > 1, "another try")
    assert all(later - before > 0.5 for before, later in pairwise(tries))
    world.settle()
    assert world.copies.has(TABLE)


def test_what_is_on_disk_is_opened_again_as_the_same_copy(world: World) -> None:
    world.create(world.me, "b")
    world.ready("b")
    before = world.alloc_id()
    world.close()
    world.open()
    assert world.alloc_id() == before
    assert list(world.attachments.copies) == ["s0"]


def test_a_damaged_copy_is_made_anew_where_another_node_has_it_all(world: World) -> None:
    world.create(world.me, "b")
    world.ready("b")
    before = world.alloc_id()
    world.damage()
    assert world.alloc_id() != before
    assert list((world.folder / "trash").glob(f"orphan-{TABLE}-*"))
    assert world.row.shards[0].replicas[world.me] == before  # until replication tells of the loss


def test_the_only_copy_in_sync_is_never_put_away(world: World) -> None:
    world.create(world.me)
    world.ready()
    world.damage()
    assert TABLE in world.copies.failed
    assert not world.attachments.copies
    assert (world.folder / "tables" / TABLE / "shard-0000" / "shard.meta").exists()


def test_a_copy_that_was_the_only_one_is_made_anew_once_another_one_counts(world: World) -> None:
    world.create(world.me, "b")
    world.ready("b")
    before = world.alloc_id()
    world.do(c.RegisterNode(request_id="b", node_id="b", name="b", url=""))
    world.do(c.RegisterNode(request_id="me", node_id=world.me, name="me", url=""))
    shard = world.row.shards[0]
    world.do(sh.UncleanPromote(
        request_id="mine", shard_uuid="s0", expected_version=shard.version, node_id=world.me
    ))  # fmt: skip
    world.damage()
    assert TABLE in world.copies.failed
    shard = world.row.shards[0]
    world.do(sh.UncleanPromote(
        request_id="theirs", shard_uuid="s0", expected_version=shard.version, node_id="b"
    ))  # fmt: skip
    assert TABLE not in world.copies.failed
    assert world.alloc_id() != before
    assert list(world.attachments.copies) == ["s0"]


def test_a_copy_that_is_damaged_while_it_is_used_is_renewed(world: World) -> None:
    world.create(world.me, "b")
    world.ready("b")
    before = world.alloc_id()
    renewed = world.keeper.renew(TABLE, "s0")
    assert renewed.alloc_id.hex() == world.alloc_id() != before


def test_healthy_shards_go_with_a_damaged_one_only_where_enough_others_have_them(
    world: World,
) -> None:
    world.create(world.me, "b", shards=2)
    world.ready("b")
    with pytest.raises(Unavailable, match="too few other nodes"):
        world.keeper.renew(TABLE, "s0")
    assert list(world.attachments.copies) == ["s0", "s1"]


def test_three_copies_of_two_shards_can_spare_one_folder(world: World) -> None:
    world.create(world.me, "b", "c", shards=2)
    world.ready("b", "c")
    before = [world.alloc_id(0), world.alloc_id(1)]
    world.keeper.renew(TABLE, "s1")
    assert not set(before) & {world.alloc_id(0), world.alloc_id(1)}
    assert list(world.attachments.copies) == ["s1", "s0"]
