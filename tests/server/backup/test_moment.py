"""Restores of a node alone to moments between two backups."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nearql.engine.errors import Conflict, Corruption, InvalidRequest, InvalidValue, NotFound
from nearql.server.backup import archiver as archiver_module
from nearql.server.backup import shipping as shipping_module
from nearql.server.backup.archive import Archive, clusters
from nearql.server.backup.archiver import Archiver
from nearql.server.backup.care import Quiet, error_of, prune, verify
from nearql.server.backup.care_archive import reaches
from nearql.server.backup.moment import lsns, milliseconds, moment_text
from nearql.server.backup.restore import Wish, wish_to
from nearql.server.backup.shipping import now_ms
from nearql.server.node import Node
from support.archives import Told, archiving, moment, shipped
from support.backups import (
    DOCS,
    Killed,
    KilledStore,
    backup,
    fill,
    hashes,
    repository,
    restore,
    run,
    running,
    seal,
)

ROW = "SELECT id, title FROM {} ORDER BY id"


def test_any_moment_behind_a_backup_comes_back(tmp_path: Path) -> None:
    place = repository(tmp_path / "copies")
    told: list[tuple[int, Any]] = []
    with archiving(tmp_path / "a", tmp_path / "copies") as node:
        run(node, DOCS)
        fill(node, 0, 50)
        backup(node, place)
        told.append((moment(), hashes(node)))
        for step in range(1, 6):
            fill(node, 100 * step, 7)
            run(node, f"DELETE FROM docs WHERE id = {step}")
            run(node, f"UPDATE docs SET title = 'step {step}' WHERE id < 30")
            told.append((moment(), hashes(node)))
            if step == 3:
                seal(node)
        run(node, "TRUNCATE docs")
        told.append((moment(), hashes(node)))
        shipped(node)
    with running(tmp_path / "b") as node:
        for number, (at, wanted) in enumerate(told):
            restore(node, place, to_ms=at, tables=("docs",), rename={"docs": f"d{number}"})
            assert hashes(node, f"d{number}") == wanted
        done = restore(node, place, newest=True)
        assert dict(done.rows) == {"docs": 0}


def test_what_was_defined_at_the_moment_comes_back(tmp_path: Path) -> None:
    """Tables made, dropped, altered and renamed behind the backup; indexes, views and users."""
    place = repository(tmp_path / "copies")
    with archiving(tmp_path / "a", tmp_path / "copies") as node:
        run(node, "CREATE TABLE old (id BIGINT PRIMARY KEY, v VECTOR(2))")
        run(node, "INSERT INTO old VALUES (1, '[1,2]')")
        backup(node, place)
        run(node, "CREATE TABLE fresh (id BIGINT PRIMARY KEY, title TEXT)")
        run(node, "INSERT INTO fresh VALUES (1, 'a'), (2, 'b')")
        first = moment()
        run(node, "ALTER TABLE fresh ADD COLUMN n INTEGER DEFAULT 5")
        run(node, "INSERT INTO fresh VALUES (3, 'c', 6)")
        run(node, "CREATE INDEX near ON old USING flat (v vector_l2_ops)")
        run(node, "CREATE VIEW titles AS SELECT id, title FROM fresh")
        node.access.create_user("ann", "reader")
        second = moment()
        run(node, "DROP VIEW titles", "ALTER TABLE fresh DROP COLUMN title")
        run(node, "ALTER TABLE fresh RENAME TO later", "DROP TABLE old")
        third = moment()
        shipped(node)
    with running(tmp_path / "first") as node:
        done = restore(node, place, to_ms=first)
        assert dict(done.rows) == {"old": 1, "fresh": 2}
        assert (done.views, done.users, done.to) == ((), (), moment_text(first))
        assert run(node, "SELECT * FROM fresh ORDER BY id")[1] == {"id": 2, "title": "b"}
        assert not node.catalog().tables["old"].indexes
    with running(tmp_path / "second") as node:
        done = restore(node, place, to_ms=second)
        assert dict(done.rows) == {"old": 1, "fresh": 3}
        assert (done.views, done.users) == (("titles",), ("ann",))
        found = run(node, "SELECT * FROM fresh ORDER BY id")
        assert found == [
            {"id": 1, "title": "a", "n": 5}, {"id": 2, "title": "b", "n": 5},
            {"id": 3, "title": "c", "n": 6},
        ]  # fmt: skip
        assert [index.name for index in node.catalog().tables["old"].indexes] == ["near"]
    with running(tmp_path / "third") as node:
        done = restore(node, place, to_ms=third)
        assert dict(done.rows) == {"later": 3}
        assert run(node, "SELECT * FROM later ORDER BY id")[2] == {"id": 3, "n": 6}
        with pytest.raises(NotFound, match=r"there was no table 'old'; there were: later"):
            restore(node, place, to_ms=third, tables=("old",))
        restore(node, place, to_ms=second, tables=("old",))
        assert run(node, "SELECT count(*) AS n FROM old") == [{"n": 1}]


def test_a_table_that_was_dropped_comes_back_as_it_was_just_before(tmp_path: Path) -> None:
    """Nothing waits for the next round: what is left is shipped before the log goes."""
    place = repository(tmp_path / "copies")
    with archiving(
        tmp_path / "a", tmp_path / "copies", backup__archive_interval_ms=3_600_000
    ) as node:
        run(node, DOCS)
        shipped(node)
        fill(node, 0, 20)
        wanted, at = hashes(node), moment()
        run(node, "DROP TABLE docs")
        shipped(node)
        restore(node, place, to_ms=at, tables=("docs",))  # there is no backup: from its log alone
        assert hashes(node) == wanted


def test_a_restore_ships_what_it_needs_first(tmp_path: Path) -> None:
    place, hour = repository(tmp_path / "copies"), 3_600_000
    with archiving(tmp_path / "a", tmp_path / "copies", backup__archive_interval_ms=hour) as node:
        run(node, DOCS)
        shipped(node)
        fill(node, 0, 20)
        wanted, at = hashes(node), moment()
        run(node, "TRUNCATE docs")
        restore(node, place, to_ms=at, tables=("docs",), rename={"docs": "past"})
        assert hashes(node, "past") == wanted


def test_a_statement_on_several_shards_is_there_as_a_whole(tmp_path: Path) -> None:
    place = repository(tmp_path / "copies")
    with archiving(tmp_path / "a", tmp_path / "copies") as node:
        run(node, "CREATE TABLE docs (id BIGINT PRIMARY KEY) WITH (shards = 8)")
        for step in range(30):
            run(node, f"INSERT INTO docs SELECT range FROM range({step * 16}, {step * 16 + 16})")
        shipped(node)
        archive = Archive(place, node.metadata.state.cluster_id)
        times = {
            record.header.timestamp_ms
            for pieces in archive.all_pieces().values()
            for piece in pieces
            for record in archive.read(piece)[1]
        }
        for number, at in enumerate(sorted(times)[5:11]):
            done = restore(node, place, to_ms=at, rename={"docs": f"d{number}"}, tables=("docs",))
            assert done.rows[f"d{number}"] % 16 == 0


def test_lsns_of_each_shard(tmp_path: Path) -> None:
    place = repository(tmp_path / "copies")
    with archiving(tmp_path / "a", tmp_path / "copies") as node:
        run(node, DOCS)
        told = []
        for step in range(6):
            fill(node, 10 * step, 10)
            table = node.copies.table(node.catalog().tables["docs"].uuid)
            told.append((tuple(shard.read_view().lsn for shard in table.shards), hashes(node)))
            if step == 2:
                backup(node, place)
        shipped(node)
        for number, (where, wanted) in enumerate(told):
            name = f"d{number}"
            done = restore(node, place, to_lsns=where, tables=("docs",), rename={"docs": name})
            assert hashes(node, name) == wanted
            assert done.to == "LSN " + ", ".join(map(str, where))
            assert bool(done.backup) == (number >= 2)
        beyond = (told[-1][0][0] + 1, told[-1][0][1])
        with pytest.raises(NotFound) as caught:
            restore(node, place, to_lsns=beyond, tables=("docs",), rename={"docs": "no"})
        assert caught.value.code == "archive_ends"
        with pytest.raises(InvalidRequest, match="has 2 shards"):
            restore(node, place, to_lsns=(1,), tables=("docs",), rename={"docs": "no"})
        with pytest.raises(NotFound, match="never had a table 'other'"):
            restore(node, place, to_lsns=(1,), tables=("other",))
        assert "no" not in node.catalog().tables


def test_a_moment_that_is_not_reached_is_refused_by_name(tmp_path: Path) -> None:
    place = repository(tmp_path / "copies")
    with running(tmp_path / "b") as other:
        with pytest.raises(NotFound) as caught:
            restore(other, place, newest=True)
        assert caught.value.code == "no_archive"
    before = now_ms() - 60_000
    with archiving(tmp_path / "a", tmp_path / "copies") as node:
        run(node, DOCS)
        fill(node, 0, 5)
        made = backup(node, place)
        shipped(node)
        wanted: dict[str, Any] = {"tables": ("docs",), "rename": {"docs": "no"}}
        ends = "The archive of metadata ends at .*Z: .*Restore to a moment"
        with pytest.raises(NotFound, match=ends) as caught:
            restore(node, place, to_ms=now_ms() + 3_600_000, **wanted)
        assert caught.value.code == "archive_ends"
        with pytest.raises(NotFound, match="The archive begins at"):
            restore(node, place, to_ms=before, **wanted)
        with pytest.raises(InvalidRequest) as early:
            restore(node, place, to_ms=made.cut_ms - 1, backup=made.id, **wanted)
        assert early.value.code == "backup_too_late"
        assert "no" not in node.catalog().tables


def test_a_shard_whose_log_ends_before_metadata_is_named(tmp_path: Path) -> None:
    """As where its primary alone could not reach the repository."""
    place = repository(tmp_path / "copies")
    with archiving(tmp_path / "a", tmp_path / "copies") as node:
        run(node, DOCS)
        fill(node, 0, 5)
        backup(node, place)
        shipped(node)
        name, cluster_id = node.node_id, node.metadata.state.cluster_id
    archive = Archive(place, cluster_id)
    noted = archive.noted_by(name)
    longer = replace(noted.known[-1], until_ms=noted.known[-1].until_ms + 3_600_000)
    archive.put_reached(name, now_ms(), noted.shards, [longer])
    with running(tmp_path / "b") as other:
        with pytest.raises(NotFound, match="ends with LSN .*Z: restore to a moment") as caught:
            restore(other, place, to_ms=longer.until_ms - 1)
        assert caught.value.code == "archive_ends"
        assert "'docs', shard" in caught.value.detail


def test_the_log_is_kept_while_the_repository_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_of = Told()
    monkeypatch.setattr(shipping_module, "log", told_of)
    place, copies = repository(tmp_path / "copies"), tmp_path / "copies"
    with archiving(tmp_path / "a", copies, engine__wal_file="64KiB") as node:
        run(node, DOCS)
        backup(node, place)
        shipped(node)
        copies.rename(tmp_path / "away")
        told = []
        for step in range(4):
            fill(node, 1000 * step, 500)
            seal(node)
            told.append((moment(), hashes(node)))
        node.backups.archiver.finish_round()
        assert node.backups.archiver.status().behind > 0
        (tmp_path / "away").rename(copies)
        shipped(node)
        assert node.backups.archiver.status().gaps == 0
        assert "archive_gap" not in [line["event"] for line in told_of.lines]
        for number, (at, wanted) in enumerate(told):
            restore(node, place, to_ms=at, tables=("docs",), rename={"docs": f"d{number}"})
            assert hashes(node, f"d{number}") == wanted


def test_a_gap_is_told_and_never_crossed(tmp_path: Path) -> None:
    place, copies = repository(tmp_path / "copies"), tmp_path / "copies"
    with archiving(
        tmp_path / "a", copies, engine__wal_file="64KiB", backup__archive_keep="64KiB"
    ) as node:
        run(node, DOCS)
        fill(node, 0, 10)
        backup(node, place)
        fill(node, 100, 10)
        before, wanted = moment(), hashes(node)
        shipped(node)
        copies.rename(tmp_path / "away")
        for step in range(1, 8):
            fill(node, 10_000 * step, 500)
            seal(node)
        within = moment()
        (tmp_path / "away").rename(copies)
        fill(node, 900_000, 1)
        shipped(node)
        assert node.backups.archiver.status().gaps == 2  # a shard each
        late = moment()
        shipped(node)
        for at in (within, late):
            with pytest.raises(NotFound, match="lacks the records between LSN") as caught:
                restore(node, place, to_ms=at, tables=("docs",), rename={"docs": "no"})
            assert caught.value.code == "archive_gap"
        restore(node, place, to_ms=before, tables=("docs",), rename={"docs": "then"})
        assert hashes(node, "then") == wanted
        backup(node, place)
        fill(node, 2_000_000, 3)
        again, wanted = moment(), hashes(node)
        shipped(node)
        restore(node, place, to_ms=again, tables=("docs",), rename={"docs": "again"})
        assert hashes(node, "again") == wanted
        (told,) = reaches(place)
        assert told.gaps == 2


def test_a_data_directory_put_back_from_a_copy_ships_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, copies = repository(tmp_path / "copies"), tmp_path / "copies"
    with archiving(tmp_path / "a", copies) as node:
        run(node, DOCS)
        fill(node, 0, 10)
    shutil.copytree(tmp_path / "a", tmp_path / "kept")
    with archiving(tmp_path / "a", copies) as node:
        fill(node, 100, 10)
        at, wanted = moment(), hashes(node)
        shipped(node)
    before = {stored.name for stored in place.store.list("archive")}
    told_of = Told()
    monkeypatch.setattr(shipping_module, "log", told_of)
    with archiving(tmp_path / "kept", copies) as node:
        for step in range(20):
            fill(node, 1000 + step, 1)
        archiver = node.backups.archiver
        archiver.finish_round()
        assert archiver.status().stopped == 2
        fill(node, 5000, 50)
        archiver.finish_round()
    forked = [line for line in told_of.lines if line["event"] == "archive_forked"]
    assert sorted(line["shard"] for line in forked) == [0, 1]
    after = {stored.name for stored in place.store.list("archive") if stored.name.endswith("log")}
    assert after <= before
    with running(tmp_path / "b") as node:
        restore(node, place, to_ms=at)
        assert hashes(node) == wanted


def test_prune_leaves_what_the_backups_that_stay_need(tmp_path: Path) -> None:
    place, copies = repository(tmp_path / "copies"), tmp_path / "copies"
    with archiving(tmp_path / "a", copies) as node:
        run(node, DOCS, "CREATE TABLE gone (id BIGINT PRIMARY KEY)")
        told = []
        for step in range(4):
            fill(node, 100 * step, 20)
            backup(node, place)
            fill(node, 100 * step + 50, 20)
            told.append((moment(), hashes(node)))
            shipped(node)
        run(node, "DROP TABLE gone")
        shipped(node)
        names = {stored.name for stored in place.store.list("archive")}
        dry = prune(place, keep=2, days=None, dry_run=True, progress=Quiet())
        assert {stored.name for stored in place.store.list("archive")} == names
        gone = prune(place, keep=2, days=None, dry_run=False, progress=Quiet())
        assert (gone.objects, gone.bytes) == (dry.objects, dry.bytes)
        assert {stored.name for stored in place.store.list("archive")} < names
        with pytest.raises(NotFound):
            restore(node, place, to_ms=told[1][0], tables=("docs",), rename={"docs": "no"})
        for number, (at, wanted) in enumerate(told[2:]):
            restore(node, place, to_ms=at, tables=("docs",), rename={"docs": f"d{number}"})
            assert hashes(node, f"d{number}") == wanted
    with archiving(tmp_path / "a", copies) as node:  # it finds where to go on
        fill(node, 7000, 3)
        at, wanted = moment(), hashes(node)
        shipped(node)
        assert node.backups.archiver.status().gaps == 0
        restore(node, place, to_ms=at, tables=("docs",), rename={"docs": "last"})
        assert hashes(node, "last") == wanted


def test_a_damaged_piece_is_found_and_refused(tmp_path: Path) -> None:
    place, copies = repository(tmp_path / "copies"), tmp_path / "copies"
    with archiving(tmp_path / "a", copies) as node:
        run(node, DOCS)
        backup(node, place)
        fill(node, 0, 10)
        at = moment()
        shipped(node)
    assert error_of(verify(place, "all", Quiet())) is None
    (cluster,) = clusters(place.store)
    archive = Archive(place, cluster)
    for pieces in archive.all_pieces().values():
        path = copies / pieces[-1].name
        good = path.read_bytes()
        for bad in (good[:-1], good[:90] + bytes([good[90] ^ 1]) + good[91:], b""):
            path.write_bytes(bad)
            error = error_of(verify(place, "all", Quiet()))
            assert error is not None
            assert pieces[-1].name in error.detail
            with running(tmp_path / "b") as other:
                with pytest.raises(Corruption) as caught:
                    restore(other, place, to_ms=at)
                assert caught.value.code == "backup_damaged"
                assert not other.catalog().tables
        path.write_bytes(good)


def test_identity_numbers_go_on_behind_those_that_were_used(tmp_path: Path) -> None:
    place, copies = repository(tmp_path / "copies"), tmp_path / "copies"
    with archiving(tmp_path / "a", copies) as node:
        run(node, "CREATE TABLE plain (n INTEGER)")
        backup(node, place)
        run(node, "INSERT INTO plain SELECT range FROM range(25000)")
        at = moment()
        shipped(node)
    with running(tmp_path / "b") as node:
        restore(node, place, to_ms=at)
        run(node, "INSERT INTO plain VALUES (-1)")
        assert run(node, "SELECT count(*) AS n FROM plain") == [{"n": 25001}]


def test_several_clusters_in_one_repository(tmp_path: Path) -> None:
    place, copies = repository(tmp_path / "copies"), tmp_path / "copies"
    ids = []
    for name in ("a", "b"):
        with archiving(tmp_path / name, copies) as node:
            run(node, f"CREATE TABLE {name} (id BIGINT PRIMARY KEY)")
            run(node, f"INSERT INTO {name} VALUES (1)")
            shipped(node)
            ids.append(node.metadata.state.cluster_id)
    with running(tmp_path / "c") as node:
        with pytest.raises(Conflict) as caught:
            restore(node, place, newest=True)
        assert caught.value.code == "several_archives"
        assert all(one in caught.value.detail for one in ids)
        assert dict(restore(node, place, newest=True, cluster=ids[0]).rows) == {"a": 1}
    with running(tmp_path / "b") as node:
        renamed = restore(node, place, newest=True, tables=("b",), rename={"b": "b2"})
        assert dict(renamed.rows) == {"b2": 1}


def test_a_wish_is_read_or_refused() -> None:
    at = datetime(2026, 11, 23, 10, 30, 0, 123999, tzinfo=UTC)
    for text in ("2026-11-23T10:30:00.123999Z", "2026-11-23T11:30:00.123+01:00"):
        assert wish_to(Wish(), text, "").to_ms == milliseconds(text)
        assert milliseconds(text) == int(at.timestamp() * 1000)
    assert milliseconds("2026-11-23 10:30:00.123") == milliseconds("2026-11-23T10:30:00.123Z")
    assert wish_to(Wish(), "LATEST", "").newest
    assert wish_to(Wish(tables=("a",)), "", "12, 7").to_lsns == (12, 7)
    for bad in ("yesterday", "12", "2026-13-01", "9" * 400):
        with pytest.raises(InvalidValue, match="is no time such as"):
            wish_to(Wish(), bad, "")
    for bad in ("-1", "1,", "a", "1;2", "٣", "9" * 30):
        with pytest.raises(InvalidValue, match="is no LSN"):
            lsns(bad)
    for wish, time, lsn in (
        (Wish(), "2026-11-23", "5"), (Wish(), "", "5"), (Wish(tables=("a", "b")), "", "5"),
    ):  # fmt: skip
        with pytest.raises(InvalidRequest):
            wish_to(wish, time, lsn)


def test_metrics_tell_how_far_the_archive_is(tmp_path: Path) -> None:
    repository(tmp_path / "copies")

    def told(node: Node) -> dict[str, float]:
        return {count.name: count.value for count in node.counts()}

    with archiving(tmp_path / "a", tmp_path / "copies") as node:
        run(node, DOCS)
        fill(node, 0, 10)
        shipped(node)
        found = told(node)
        assert found["nearql_archived_records"] >= 2
        assert found["nearql_archived_bytes"] > 0
        assert found["nearql_archive_lag_records"] == 0
        (tmp_path / "copies").rename(tmp_path / "away")
        fill(node, 100, 10)
        node.backups.archiver.finish_round()
        found = told(node)
        assert found["nearql_archive_lag_records"] > 0
        assert found["nearql_archive_lag_seconds"] > 0
        assert found["nearql_archive_failures"] > 0


@pytest.mark.parametrize("before", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_killed_in_any_write_of_the_archive_a_node_goes_on(tmp_path: Path, before: bool) -> None:
    place, copies = repository(tmp_path / "copies"), tmp_path / "copies"
    told: list[tuple[int, Any]] = []
    ids = itertools.count(0, 100)
    with archiving(tmp_path / "a", copies) as node:
        run(node, DOCS)
        backup(node, place)
    for nth in range(1, 6):
        with archiving(tmp_path / "a", copies, backup__archive_interval_ms=3_600_000) as node:
            archiver = node.backups.archiver
            shipped(node)
            fill(node, next(ids), 20)
            run(node, f"CREATE TABLE t{nth} (id BIGINT PRIMARY KEY)")
            told.append((moment(), hashes(node)))
            with archiver._working:  # its own thread does nothing now
                archive = archiver._opened()
                whole = archive.repository.store
                archive.repository.store = KilledStore(whole, nth, before=before)
                with contextlib.suppress(Killed):
                    archiver._round(lambda: False)
                archive.repository.store = whole
            archiver._archive = None  # a new process knows nothing
            archiver._catalogs.look_again()
            for shipper in archiver._all():
                shipper.forget()
    with running(tmp_path / "b") as node:
        for number, (at, wanted) in enumerate(told):
            restore(node, place, to_ms=at, tables=("docs",), rename={"docs": f"d{number}"})
            assert hashes(node, f"d{number}") == wanted
            assert f"t{number + 1}" not in node.catalog().tables
        done = restore(node, place, to_ms=told[-1][0], rename={"docs": "all"})
        assert set(done.rows) == {"all", *(f"t{number}" for number in range(1, 6))}


class Elsewhere:
    """A member of a cluster of three, one of which never wrote into the archive."""

    def __init__(self) -> None:
        self.cluster = self

    def alive(self) -> set[str]:
        return {"n1", "n2", "n3"}


def test_nodes_that_archive_elsewhere_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = repository(tmp_path / "copies")
    now = [1_000_000]
    told_of = Told()
    monkeypatch.setattr(archiver_module, "now_ms", lambda: now[0])
    monkeypatch.setattr(archiver_module, "log", told_of)
    with running(tmp_path / "a") as node:
        names = {name: SimpleNamespace(name=name.upper()) for name in ("n1", "n2", "n3")}
        fake = SimpleNamespace(
            member=Elsewhere(), config=node.config,
            metadata=SimpleNamespace(state=SimpleNamespace(nodes=names)),
        )  # fmt: skip
        archiver = Archiver(cast("Node", fake), node.backups.pins)
        archiver._on = True
        archive = Archive(place, node.metadata.state.cluster_id)
        for name in ("n1", "n2"):
            archive.put_reached(name, now[0], {})
        for step_ms in (0, 30_000, 31_000, 10_000):
            now[0] += step_ms
            archiver._look_for_nodes(archive)
        assert archiver.status().elsewhere == 1
        archive.put_reached("n3", now[0], {})
        archiver._look_for_nodes(archive)
        assert archiver.status().elsewhere == 0
    assert [line["nodes"] for line in told_of.lines] == [["N3"]]
