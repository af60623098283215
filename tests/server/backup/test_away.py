"""An archive whose repository is away for a while, hangs, or is reached by some nodes only: nothing
is lost without a word.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nearql.cluster.metadata.access import Access, UserRow
from nearql.cluster.metadata.state import Metadata
from nearql.engine.errors import InvalidValue, NotFound, Unavailable
from nearql.server.backup import catalogs as catalogs_module
from nearql.server.backup import service as service_module
from nearql.server.backup.archive import Archive, Known, path
from nearql.server.backup.care_archive import superfluous
from nearql.server.backup.catalogs import CatalogShipper
from nearql.server.backup.moment import milliseconds, moment_text
from nearql.server.node import Node
from support.archives import Told, archiving, killed, moment, shipped
from support.backups import DOCS, backup, fill, hashes, repository, restore, run, running, seal


def names(node: Node) -> set[str]:
    return set(node.catalog().tables)


# ---- Metadata -------------------------------------------------------------------------------


def test_moments_of_which_metadata_is_not_known_are_refused(tmp_path: Path) -> None:
    """A table is made while the repository is away, and the node is killed before it comes back."""
    place, copies = repository(tmp_path / "copies"), tmp_path / "copies"
    with archiving(tmp_path / "a", copies) as node:
        run(node, DOCS)
        fill(node, 0, 10)
        backup(node, place)
        early, wanted = moment(), hashes(node)
        shipped(node)
        copies.rename(tmp_path / "away")
        run(node, "CREATE TABLE since (id BIGINT PRIMARY KEY)", "INSERT INTO since VALUES (1)")
        within = moment()
        killed(node)
    (tmp_path / "away").rename(copies)
    with archiving(tmp_path / "a", copies) as node:
        run(node, "INSERT INTO since VALUES (2)")
        late = moment()
        shipped(node)
        assert node.backups.archiver.status().gaps == 1
        with pytest.raises(NotFound, match="between .*Z and .*Z: no node") as caught:
            restore(node, place, to_ms=within, rename={"docs": "no"})
        assert caught.value.code == "archive_gap"
        restore(node, place, to_ms=early, rename={"docs": "early"})
        assert hashes(node, "early") == wanted
        assert names(node) == {"docs", "early", "since"}
        renamed = {"docs": "d2", "since": "s2"}
        assert dict(restore(node, place, to_ms=late, rename=renamed).rows) == {"d2": 10, "s2": 2}
        newest = restore(node, place, newest=True, tables=("since",), rename={"since": "s3"})
        assert dict(newest.rows) == {"s3": 2}


def test_a_restart_without_a_change_of_metadata_makes_no_gap(tmp_path: Path) -> None:
    place, copies = repository(tmp_path / "copies"), tmp_path / "copies"
    told = []
    for step in range(3):
        with archiving(tmp_path / "a", copies) as node:
            if not step:
                run(node, DOCS)
            fill(node, 100 * step, 10)
            shipped(node)
            told.append((moment(), hashes(node)))
            killed(node)
    with archiving(tmp_path / "a", copies) as node:
        shipped(node)
        assert node.backups.archiver.status().gaps == 0
        for number, (at, wanted) in enumerate(told):
            restore(node, place, to_ms=at, tables=("docs",), rename={"docs": f"d{number}"})
            assert hashes(node, f"d{number}") == wanted


def test_changes_while_the_repository_is_away_keep_their_times(tmp_path: Path) -> None:
    place, copies = repository(tmp_path / "copies"), tmp_path / "copies"
    with archiving(tmp_path / "a", copies) as node:
        run(node, DOCS)
        shipped(node)
        copies.rename(tmp_path / "away")
        told = []
        for number in range(3):
            run(node, f"CREATE TABLE t{number} (id BIGINT PRIMARY KEY)")
            run(node, f"INSERT INTO t{number} VALUES (1)")
            told.append(moment())
        (tmp_path / "away").rename(copies)
        shipped(node)
        assert node.backups.archiver.status().gaps == 0
    for number, at in enumerate(told):
        with running(tmp_path / f"b{number}") as other:
            restore(other, place, to_ms=at)
            assert names(other) == {"docs", *(f"t{n}" for n in range(number + 1))}


class Leader:
    """Metadata of a cluster as one of its nodes sees it."""

    def __init__(self) -> None:
        self.cluster, self.leading, self.term = self, True, 1
        self.state = Metadata(applied_index=1, version=1, cluster_id="c")
        self.fails = False

    def barrier(self, *, timeout_ms: int) -> None:
        if self.fails:
            raise Unavailable("No quorum.")

    def shipper(self) -> CatalogShipper:
        node = SimpleNamespace(member=self, metadata=self)
        shipper = CatalogShipper(cast("Node", node))
        shipper.saw(self.state)
        return shipper


def changed(state: Metadata, **settings: str) -> Metadata:
    return Metadata(
        cluster_id=state.cluster_id, applied_index=state.applied_index + 1,
        version=state.version + 1, settings={**state.settings, **settings},
    )  # fmt: skip


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Milliseconds; each look at it is one later."""
    now = [1000]

    def tick() -> int:
        now[0] += 1
        return now[0]

    monkeypatch.setattr(catalogs_module, "now_ms", tick)
    return now


def archive_in(directory: Path) -> Archive:
    return Archive(repository(directory), "11111111-1111-1111-1111-111111111111")


def vouch(shipper: CatalogShipper, archive: Archive) -> None:
    """Two rounds: the first sees a term begin, the second how far it has come."""
    for _ in range(2):
        shipper.confirm()
        shipper.ship(archive)


def noted(archive: Archive, name: str, shipper: CatalogShipper) -> list[Known]:
    archive.put_reached(name, 0, {}, shipper.known)
    return shipper.known


def test_only_who_leads_vouches_and_only_for_what_it_confirmed(
    tmp_path: Path, clock: list[int]
) -> None:
    archive, leader = archive_in(tmp_path / "copies"), Leader()
    one = leader.shipper()
    vouch(one, archive)
    first = noted(archive, "n1", one)
    assert len(first) == 1
    leader.fails = True  # it may not lead any more, whatever it believes
    clock[0] += 1000
    one.confirm()
    one.ship(archive)
    assert one.known == first
    leader.fails, leader.leading = False, False
    one.confirm()
    one.ship(archive)
    assert one.known == first


@pytest.mark.parametrize("changes", [0, 1])
def test_between_two_leaders_nothing_is_known_if_something_changed(
    tmp_path: Path, clock: list[int], changes: int
) -> None:
    archive, first, second = archive_in(tmp_path / "copies"), Leader(), Leader()
    one = first.shipper()
    vouch(one, archive)
    (before,) = noted(archive, "n1", one)
    clock[0] += 1000
    for number in range(changes):  # the first could not ship this
        second.state = changed(second.state, name=str(number))
    second.term = 2
    two = second.shipper()
    clock[0] += 1000
    vouch(two, archive)
    (after,) = noted(archive, "n2", two)
    assert two.gaps == changes
    assert (after.since_ms == before.until_ms) == (not changes)
    assert after.since_ms >= before.until_ms


def test_who_led_while_the_repository_was_away_ships_its_changes_later(
    tmp_path: Path, clock: list[int]
) -> None:
    """Others led in the meantime, and know of the change from later on only."""
    archive, leader, other = archive_in(tmp_path / "copies"), Leader(), Leader()
    one = leader.shipper()
    vouch(one, archive)
    noted(archive, "n1", one)
    leader.state = changed(leader.state, name="x")
    one.saw(leader.state)
    at = clock[0]
    one.confirm()  # and nothing can be shipped
    leader.leading = False
    clock[0] += 1000
    other.state, other.term = leader.state, 2
    two = other.shipper()
    vouch(two, archive)
    noted(archive, "n2", two)
    assert two.gaps == 1
    one.confirm()
    one.ship(archive)
    (known,) = noted(archive, "n1", one)
    assert known.since_ms < at <= known.until_ms
    assert next(one.at_ms for one in archive.catalogs() if one.index == 2) == at


def test_too_many_changes_are_not_vouched_for(
    tmp_path: Path, clock: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogs_module, "CHANGES", 3)
    archive, leader = archive_in(tmp_path / "copies"), Leader()
    one = leader.shipper()
    vouch(one, archive)
    (before,) = noted(archive, "n1", one)
    for number in range(4):
        leader.state = changed(leader.state, name=str(number))
        one.saw(leader.state)
    lost_until = clock[0]
    vouch(one, archive)
    first, second = noted(archive, "n1", one)
    assert first == before
    assert second.since_ms > lost_until
    assert one.gaps == 1


def test_what_is_forgotten_while_it_is_shipped_is_not_vouched_for(
    tmp_path: Path, clock: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogs_module, "CHANGES", 2)
    archive, leader = archive_in(tmp_path / "copies"), Leader()
    one = leader.shipper()
    vouch(one, archive)
    before = noted(archive, "n1", one)
    whole = archive.put_catalog

    def more(*given: Any) -> None:
        monkeypatch.setattr(archive, "put_catalog", whole)
        for number in range(3):
            leader.state = changed(leader.state, more=str(number))
            one.saw(leader.state)
        whole(*given)

    leader.state = changed(leader.state, name="x")
    one.saw(leader.state)
    one.confirm()
    monkeypatch.setattr(archive, "put_catalog", more)
    one.ship(archive)
    assert one.known == before


# ---- The log --------------------------------------------------------------------------------


def test_a_log_is_kept_over_a_restart_and_for_new_tables(tmp_path: Path) -> None:
    place, copies = repository(tmp_path / "copies"), tmp_path / "copies"
    told = []
    with archiving(tmp_path / "a", copies, engine__wal_file="64KiB") as node:
        run(node, DOCS)
        fill(node, 0, 10)
        backup(node, place)
        shipped(node)
    copies.rename(tmp_path / "away")
    for step in range(1, 3):
        with archiving(tmp_path / "a", copies, engine__wal_file="64KiB") as node:
            for part in range(3):
                fill(node, 10_000 * step + 1000 * part, 500)
                seal(node)
            told.append((moment(), hashes(node)))
            killed(node)
    with archiving(tmp_path / "a", copies, engine__wal_file="64KiB") as node:
        run(node, DOCS.replace("docs", "fresh"))
        for part in range(3):
            fill(node, 1000 * part, 500, "fresh")
            seal(node, "fresh")
        (tmp_path / "away").rename(copies)
        shipped(node)
        assert node.backups.archiver.status().gaps == 0
        at = moment()
        shipped(node)
        for number, (then, wanted) in enumerate(told):
            restore(node, place, to_ms=then, tables=("docs",), rename={"docs": f"d{number}"})
            assert hashes(node, f"d{number}") == wanted
        restore(node, place, to_ms=at, tables=("fresh",), rename={"fresh": "again"})
        assert hashes(node, "again") == hashes(node, "fresh")


def test_a_restore_that_is_under_way_is_at_no_moment(tmp_path: Path) -> None:
    place, copies = repository(tmp_path / "copies"), tmp_path / "copies"
    with archiving(tmp_path / "a", copies) as node:
        run(node, DOCS)
        fill(node, 0, 50)
        backup(node, place)
        seen: list[int] = []
        whole = node.publish_restored

        def late(command: Any) -> None:
            shipped(node)
            seen.append(moment())
            shipped(node)
            whole(command)

        node.publish_restored = late  # type: ignore[method-assign]
        restore(node, place, rename={"docs": "again"})
        after = moment()
        shipped(node)
    with running(tmp_path / "b") as other:
        restore(other, place, to_ms=seen[0])
        assert names(other) == {"docs"}
    with running(tmp_path / "c") as other:
        restore(other, place, to_ms=after)
        assert hashes(other, "again") == hashes(other) == (50, hashes(other)[1])


def test_a_repository_that_is_taken_away_is_not_made_anew(tmp_path: Path) -> None:
    place = repository(tmp_path / "copies")
    (tmp_path / "copies").rename(tmp_path / "away")
    with pytest.raises(Unavailable) as caught:
        place.store.put("archive/a", [b"x"])
    assert caught.value.code == "repository_unavailable"
    assert not (tmp_path / "copies").exists()


# ---- A repository that never answers --------------------------------------------------------


class Hung:
    """A store that answers nothing until it is let go."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.go, self.asked = inner, threading.Event(), threading.Event()
        self.location = inner.location

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def wait(*args: Any, **named: Any) -> Any:
            self.asked.set()
            self.go.wait()
            return getattr(self.inner, name)(*args, **named)

        return wait


def hang(node: Node) -> Hung:
    """From now on the repository does not answer; who asks waits."""
    archive = node.backups.archiver._archive
    assert archive is not None
    store = Hung(archive.repository.store)
    archive.repository.store = cast("Any", store)
    return store


def test_a_drop_and_the_end_of_a_node_wait_no_longer_than_they_may(tmp_path: Path) -> None:
    repository(tmp_path / "copies")
    with archiving(tmp_path / "a", tmp_path / "copies", backup__archive_wait_ms=200) as node:
        run(node, DOCS, "CREATE TABLE other (id BIGINT PRIMARY KEY)")
        shipped(node)
        store = hang(node)
        fill(node, 0, 10)
        assert store.asked.wait(60)
        node.backups.archiver.finish_round()
        run(node, "DROP TABLE docs")
        assert node.backups.archiver.status().gaps == 2
        assert names(node) == {"other"}
    store.go.set()  # the node has ended: this is after its end
    with running(tmp_path / "a") as node:
        assert names(node) == {"other"}


def test_many_drops_wait_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository(tmp_path / "copies")
    with archiving(tmp_path / "a", tmp_path / "copies", backup__archive_wait_ms=200) as node:
        for number in range(3):
            run(node, f"CREATE TABLE t{number} (id BIGINT PRIMARY KEY)")
        shipped(node)
        store = hang(node)
        begun: list[Any] = []
        whole = node.backups.archiver._finish

        def finish(ending: Any) -> None:
            begun.append(ending)
            whole(ending)

        monkeypatch.setattr(node.backups.archiver, "_finish", finish)
        for number in range(3):
            run(node, f"INSERT INTO t{number} VALUES (1)", f"DROP TABLE t{number}")
        assert len(begun) == 1
        assert node.backups.archiver.status().gaps == 3
        store.go.set()
        run(node, "CREATE TABLE more (id BIGINT PRIMARY KEY)")
        shipped(node)
        run(node, "INSERT INTO more VALUES (1)", "DROP TABLE more")
        assert len(begun) == 2
        assert node.backups.archiver.status().gaps == 3


def test_a_node_ends_though_its_backup_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_of = Told()
    monkeypatch.setattr(service_module, "log", told_of)
    place = repository(tmp_path / "copies")
    store = Hung(place.store)
    place.store = cast("Any", store)
    with running(tmp_path / "a", backup__archive_wait_ms=200) as node:
        run(node, DOCS)
        monkeypatch.setattr(node.backups, "_repository", lambda *named: place)
        job = node.backups.backup()
        assert store.asked.wait(60)
    assert {"event": "backup_jobs_left", "jobs": 1} in told_of.lines
    with pytest.raises(Unavailable, match="shutting down"):
        node.backups.backup()
    store.go.set()
    assert job.ended.wait(60)
    assert job.state != "done"


# ---- Looking after it -----------------------------------------------------------------------


def test_prune_keeps_what_a_later_backup_with_a_lower_lsn_needs(tmp_path: Path) -> None:
    """Histories parted between two backups: the second one is of an earlier LSN."""
    place, copies = repository(tmp_path / "copies"), tmp_path / "copies"
    with archiving(tmp_path / "a", copies) as node:
        run(node, DOCS)
        made = []
        for step in range(4):
            fill(node, 100 * step, 10)
            shipped(node)
            made.append(backup(node, place))
    first, last = (place.backup(made[number].id) for number in (1, 3))
    parted = (
        replace(last, id=first.id, cut_ms=first.cut_ms),
        replace(first, id=last.id, cut_ms=last.cut_ms),
    )
    lsn = first.tables[0].shards[0].lsn
    found = {name for name, _ in superfluous(place, parted)}
    archive = Archive(place, made[0].cluster_id)
    kept = [
        piece for piece in archive.all_pieces()[first.tables[0].uuid, 0] if piece.name not in found
    ]
    assert path(kept, lsn)[-1].last == last.tables[0].shards[0].lsn


def test_dates_that_no_clock_shows_are_refused(tmp_path: Path) -> None:
    for bad in (
        "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+14:00", "1969-12-31", "9999-01-01",
    ):  # fmt: skip
        with pytest.raises(InvalidValue, match="is no time"):
            milliseconds(bad)
    assert moment_text(milliseconds("9998-12-31T23:59:59.999Z")) == "9998-12-31T23:59:59.999Z"


@pytest.mark.parametrize("changes", [0, 1])
def test_a_change_of_users_alone_between_two_leaders_is_a_gap(
    tmp_path: Path, clock: list[int], changes: int
) -> None:
    """The version stays as it is when users change: no plan depends on them."""
    archive, first, second = archive_in(tmp_path / "copies"), Leader(), Leader()
    one = first.shipper()
    vouch(one, archive)
    (before,) = noted(archive, "n1", one)
    users = {"eve": UserRow("eve", "read")} if changes else {}
    second.state = replace(second.state, applied_index=2, access=Access(version=7, users=users))
    second.term = 2
    two = second.shipper()
    clock[0] += 1000
    vouch(two, archive)
    (after,) = noted(archive, "n2", two)
    assert two.gaps == changes
    assert (after.since_ms == before.until_ms) == (not changes)
