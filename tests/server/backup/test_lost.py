"""What an archive loses by a full disk or log, a drop, or a kill is counted and told."""

from __future__ import annotations

from pathlib import Path

import pytest

from nearql.cluster.metadata import commands as c
from nearql.engine.errors import NotFound
from nearql.server.backup import archiver as archiver_module
from nearql.server.backup import shipping as shipping_module
from nearql.server.node import Node
from support.archives import Told, archiving, killed, moment, shipped
from support.backups import DOCS, fill, hashes, repository, restore, run, seal


def test_who_gives_up_keeping_a_log_says_so_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_of = Told()
    monkeypatch.setattr(archiver_module, "log", told_of)
    repository(tmp_path / "copies")
    keep = {"engine__wal_file": "64KiB", "backup__archive_keep": "64KiB"}
    with archiving(tmp_path / "a", tmp_path / "copies", **keep) as node:
        run(node, DOCS)
        shipped(node)
        (tmp_path / "copies").rename(tmp_path / "away")
        for step in range(1, 8):
            fill(node, 10_000 * step, 700)
            seal(node)
        assert node.backups.archiver.status().unkept == 2
        given = [line for line in told_of.lines if line["event"] == "archive_gives_up"]
        assert sorted(line["shard"] for line in given) == [0, 1]
        (tmp_path / "away").rename(tmp_path / "copies")
        shipped(node)
        found = node.backups.archiver.status()
        assert (found.unkept, found.gaps) == (0, 2)


def test_what_a_drop_loses_is_counted_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_of = Told()
    monkeypatch.setattr(shipping_module, "log", told_of)
    place, copies = repository(tmp_path / "copies"), tmp_path / "copies"
    with archiving(tmp_path / "a", copies, backup__archive_wait_ms=300) as node:
        run(node, DOCS)
        fill(node, 0, 10)
        shipped(node)
        early, wanted = moment(), hashes(node)
        shipped(node)
        copies.rename(tmp_path / "away")
        fill(node, 100, 10)
        lost = moment()
        run(node, "DROP TABLE docs")
        (tmp_path / "away").rename(copies)
        shipped(node)
        assert node.backups.archiver.status().gaps == 2
        gaps = [line for line in told_of.lines if line["event"] == "archive_gap"]
        assert sorted(line["shard"] for line in gaps) == [0, 1]
        with pytest.raises(NotFound) as caught:
            restore(node, place, to_ms=lost, tables=("docs",))
        assert caught.value.code == "archive_ends"
        restore(node, place, to_ms=early, tables=("docs",))
        assert hashes(node) == wanted


def test_a_kill_between_a_drop_and_its_end_is_counted_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metadata has no table any more, and its log was not shipped to the end."""
    told_of = Told()
    monkeypatch.setattr(archiver_module, "log", told_of)
    place, copies = repository(tmp_path / "copies"), tmp_path / "copies"
    with archiving(tmp_path / "a", copies) as node:
        run(node, DOCS, DOCS.replace("docs", "whole"))
        fill(node, 0, 10)
        fill(node, 0, 10, "whole")
        shipped(node)
        early, wanted = moment(), hashes(node)
        shipped(node)
        copies.rename(tmp_path / "away")
        fill(node, 100, 10)
        lost = moment()
        for name in ("docs", "whole"):
            uuid = node.catalog().tables[name].uuid
            node._commit(c.DropTable(request_id=f"drop-{name}", table_uuid=uuid))
        killed(node)
    (tmp_path / "away").rename(copies)
    with archiving(tmp_path / "a", copies) as node:
        shipped(node)
        assert node.backups.archiver.status().gaps == 3, "two shards, and the change of metadata"
        gaps = [line for line in told_of.lines if line["event"] == "archive_gap"]
        assert sorted(line["shard"] for line in gaps) == [0, 1]
        assert all(line["last_lsn"] > line["after_lsn"] > 0 for line in gaps)
        with pytest.raises(NotFound) as caught:
            restore(node, place, to_ms=lost, tables=("docs",))
        assert caught.value.code in ("archive_ends", "archive_gap")
        restore(node, place, to_ms=early, tables=("docs",))
        assert hashes(node) == wanted
    with archiving(tmp_path / "a", copies) as node:
        shipped(node)
        assert node.backups.archiver.status().gaps == 0, "it is told once"


def test_a_full_disk_keeps_no_log_for_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_of = Told()
    monkeypatch.setattr(archiver_module, "log", told_of)
    place, copies = repository(tmp_path / "copies"), tmp_path / "copies"
    with archiving(tmp_path / "a", copies, engine__wal_file="64KiB") as node:
        run(node, DOCS)
        fill(node, 0, 10)
        before, wanted = moment(), hashes(node)
        shipped(node)
        copies.rename(tmp_path / "away")
        for step in range(1, 12):
            fill(node, 10_000 * step, 700)
            seal(node)
        assert node.backups.archiver.status().unkept == 0
        kept = sum(shard.wal.size_bytes for shard in node.copies.tables[uuid_of(node)].shards)
        reserve = node.context.settings.disk_reserve_bytes
        free = 2 * reserve - 1  # writes are taken still, and the log is not kept any more
        monkeypatch.setattr(type(node.context.fs), "free_bytes", lambda _fs, _path: free)
        fill(node, 900_000, 700)
        seal(node)
        left = sum(shard.wal.size_bytes for shard in node.copies.tables[uuid_of(node)].shards)
        assert left < kept
        assert node.backups.archiver.status().unkept == 2
        given = [line for line in told_of.lines if line["event"] == "archive_gives_up"]
        assert [line["reason"] for line in given] == ["the disk is nearly full"] * 2
        monkeypatch.undo()
        within = moment()
        (tmp_path / "away").rename(copies)
        shipped(node)
        found = node.backups.archiver.status()
        assert (found.unkept, found.gaps) == (0, 2)
        with pytest.raises(NotFound) as caught:
            restore(node, place, to_ms=within, tables=("docs",), rename={"docs": "no"})
        assert caught.value.code == "archive_gap"
        restore(node, place, to_ms=before, tables=("docs",), rename={"docs": "then"})
        assert hashes(node, "then") == wanted


def uuid_of(node: Node) -> str:
    return node.catalog().tables["docs"].uuid
