"""Backups of a node alone: what is in them, and that it comes back the same."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nearql.cluster.metadata.restores import PublishRestored
from nearql.cluster.metadata.state import Metadata
from nearql.engine.errors import Conflict, Corruption, NotFound, Unavailable, WriteUnknown
from nearql.server.backup import cut as cut_module
from nearql.server.backup.care import Quiet, prune, verify
from nearql.server.backup.places import repository_for
from nearql.server.backup.repository import Repository
from nearql.server.backup.restore import Restore, Wish
from nearql.server.backup.service import Job
from nearql.server.backup.settings import BackupSection
from nearql.server.backup.store import DirectoryStore
from nearql.server.node import Node
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

EVERY_TYPE = (
    "CREATE TABLE docs (id BIGINT PRIMARY KEY, title TEXT, vec VECTOR(3), half HALFVEC(2), "
    "bits BIT(5), j JSON, at TIMESTAMPTZ, price DECIMAL(10, 2), tags TEXT[], u UUID, "
    "d DATE, t TIME, i INTERVAL, b BOOLEAN, raw BLOB, f FLOAT) WITH (shards = 3)"
)


def test_everything_comes_back_the_same_on_another_node(tmp_path: Path) -> None:
    place = repository(tmp_path / "copies")
    with running(tmp_path / "a") as node:
        run(
            node, EVERY_TYPE, "CREATE TABLE plain (a TEXT, n INTEGER NOT NULL DEFAULT 4)",
            "CREATE INDEX near ON docs USING hnsw (vec vector_l2_ops) WITH (m = 8)",
            "CREATE VIEW titles AS SELECT id, title FROM docs",
            "CREATE VIEW some AS SELECT * FROM titles WHERE id < 5",
        )  # fmt: skip
        run(
            node,
            *(
                f"INSERT INTO docs VALUES ({n}, 'title {n}', '[{n},0.1,-2]', '[0.1,{n}]', "
                f"B'0101{n % 2}', '{{\"n\": {n}}}', '2026-01-0{n} 10:00:00+02', {n}.25, "
                f"['a', NULL], gen_random_uuid(), '2026-02-0{n}', '10:00:0{n}', "
                f"INTERVAL '{n} days', {n % 2 == 0}, '\\xAA'::BLOB, 0.1)"
                for n in range(1, 10)
            ),
            "INSERT INTO docs (id) VALUES (100)",
            "INSERT INTO plain SELECT 'x' || range FROM range(500)",
        )
        seal(node)
        run(
            node, "DELETE FROM docs WHERE id = 3", "UPDATE docs SET title = 'new' WHERE id = 4",
            "ALTER TABLE docs ADD COLUMN extra INTEGER DEFAULT 7",
            "INSERT INTO docs (id) VALUES (5000)",
        )  # fmt: skip
        wanted = {name: hashes(node, name) for name in ("docs", "plain")}
        rows = run(node, "SELECT * FROM docs ORDER BY id")
        made = backup(node, place)
    assert [table.name for table in made.tables] == ["docs", "plain"]
    with running(tmp_path / "b") as node:
        done = restore(node, place)
        assert dict(done.rows) == {"docs": 10, "plain": 500}
        assert done.views == ("titles", "some")
        assert {name: hashes(node, name) for name in ("docs", "plain")} == wanted
        assert run(node, "SELECT * FROM docs ORDER BY id") == rows
        assert run(node, "SELECT count(*) AS n FROM some") == [{"n": 3}]
        assert [i.name for i in node.catalog().tables["docs"].indexes] == ["near"]
        run(node, "INSERT INTO plain (a) VALUES ('a new number, not one that was given out')")
        assert run(node, "SELECT count(*) AS n FROM plain") == [{"n": 501}]
    with running(tmp_path / "b") as node:
        assert {n: hashes(node, n)[0] for n in ("docs", "plain")} == {"docs": 10, "plain": 501}


def test_one_table_under_another_name_beside_the_first(tmp_path: Path) -> None:
    place = repository(tmp_path / "copies")
    with running(tmp_path / "a") as node:
        run(node, DOCS, "CREATE INDEX near ON docs USING flat (vec vector_l2_ops)")
        run(node, "CREATE TABLE other (id BIGINT PRIMARY KEY)")
        fill(node, 0, 100)
        wanted = hashes(node)
        backup(node, place)
        run(node, "DELETE FROM docs WHERE id > 10")
        done = restore(node, place, tables=("DOCS",), rename={"DOCS": "old"})
        assert dict(done.rows) == {"old": 100}
        assert hashes(node, "old") == wanted
        assert hashes(node)[0] == 11
        assert [i.name for i in node.catalog().tables["old"].indexes] == ["near_2"]


def test_views_of_tables_that_keep_their_names_come_with_others_renamed(tmp_path: Path) -> None:
    place = repository(tmp_path / "copies")
    with running(tmp_path / "a") as node:
        run(
            node, DOCS, "CREATE TABLE plain (id BIGINT PRIMARY KEY)",
            "CREATE VIEW titles AS SELECT id, title FROM docs",
            "CREATE VIEW both AS SELECT titles.id FROM titles JOIN plain ON titles.id = plain.id",
            "CREATE VIEW ids AS SELECT id FROM plain", "INSERT INTO plain VALUES (7)",
        )  # fmt: skip
        backup(node, place)
    with running(tmp_path / "b") as node:
        done = restore(node, place, rename={"DOCS": "papers"})
        assert (done.views, done.left_out) == (("ids",), ("both", "titles"))
        assert run(node, "SELECT * FROM ids") == [{"id": 7}]
        assert set(node.catalog().tables) == {"papers", "plain"}


def test_a_name_that_is_taken_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    place = repository(tmp_path / "copies")
    with running(tmp_path / "a") as node:
        run(node, DOCS, "CREATE TABLE zoo (id BIGINT PRIMARY KEY)")
        backup(node, place)
        run(node, "DROP TABLE docs", "CREATE VIEW Docs AS SELECT 1 AS one")
        before = dict(node.metadata.state.tables)
        with pytest.raises(Conflict, match="'docs' exists already"):
            restore(node, place, tables=("docs",))
        with pytest.raises(Conflict, match="exists already"):
            restore(node, place, tables=("docs",), rename={"docs": "ZOO"})
        with pytest.raises(Conflict, match="exists already"):
            restore(node, place, tables=("docs", "zoo"), rename={"docs": "a", "zoo": "A"})
        with pytest.raises(NotFound, match="has no table 'nothing'; it has: docs, zoo"):
            restore(node, place, tables=("nothing",))
        with pytest.raises(NotFound, match="has no backup 'never'"):
            restore(node, place, backup="never")
        assert dict(node.metadata.state.tables) == before


def test_the_second_backup_copies_what_is_new(tmp_path: Path) -> None:
    place = repository(tmp_path / "copies")
    with running(tmp_path / "a") as node:
        run(node, DOCS)
        fill(node, 0, 3000)
        seal(node)
        first = backup(node, place)
        again = backup(node, place)
        assert first.new_bytes == first.nbytes
        assert again.new_bytes == 0
        fill(node, 10_000, 10)
        third = backup(node, place)
        assert 0 < third.new_bytes < first.new_bytes / 10
        assert [b.id for b in place.backups()] == [first.id, again.id, third.id]


def test_users_come_with_their_rights_and_without_their_keys(tmp_path: Path) -> None:
    place = repository(tmp_path / "copies")
    with running(tmp_path / "a") as node:
        run(node, DOCS, "CREATE TABLE other (id BIGINT PRIMARY KEY)")
        docs = node.catalog().tables["docs"]
        node.access.create_user("ann", "reader", [docs.uuid])
        node.access.create_user("bob", "none")
        node.access.change_grants("bob", docs, ["SELECT"], revoke=False)
        text = node.access.create_key("ann").text
        backup(node, place)
    stored = b"".join(
        path.read_bytes() for path in (tmp_path / "copies").rglob("*") if path.is_file()
    )
    assert text.encode() not in stored
    with running(tmp_path / "b") as node:
        node.access.create_user("bob", "writer")
        assert restore(node, place).users == ("ann",)
        users, new = node.metadata.state.access.users, node.catalog().tables["docs"].uuid
        assert (users["ann"].role, users["ann"].tables) == ("reader", (new,))
        assert users["bob"].role == "writer"  # who is there stays as he is
        assert not node.metadata.state.access.keys


def test_a_cut_holds_what_was_answered_before_it(tmp_path: Path) -> None:
    """Each row goes into `a`, is answered, then into `b`: no backup has one in `b` alone."""
    place = repository(tmp_path / "copies")
    with running(tmp_path / "a") as node:
        run(node, *(f"CREATE TABLE {name} (id BIGINT PRIMARY KEY)" for name in "ab"))
        ended = threading.Event()
        written = threading.Event()

        def write(first: int) -> None:
            for n in range(first, first + 100_000, 2):
                if ended.is_set():
                    return
                run(node, f"INSERT INTO a VALUES ({n})", f"INSERT INTO b VALUES ({n})")
                written.set()

        writers = [threading.Thread(target=write, args=(n,)) for n in (0, 1)]
        for writer in writers:
            writer.start()
        try:
            made = []
            for _ in range(4):
                written.clear()
                assert written.wait(30)
                made.append(backup(node, place).id)
        finally:
            ended.set()
            for writer in writers:
                writer.join()
        for number, name in enumerate(made):
            names = {one: f"{one}{number}" for one in "ab"}
            restore(node, place, backup=name, tables=("a", "b"), rename=names)
            lost = f"SELECT count(*) AS n FROM b{number} WHERE id NOT IN (SELECT id FROM a{number})"
            assert run(node, lost) == [{"n": 0}]
            ahead = f"SELECT (SELECT count(*) FROM a{number}) - (SELECT count(*) FROM b{number}) n"
            assert 0 <= run(node, ahead)[0]["n"] <= len(writers)


@pytest.mark.parametrize("before", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_killed_anywhere_a_backup_is_whole_or_is_not(tmp_path: Path, before: bool) -> None:
    with running(tmp_path / "a") as node:
        run(node, DOCS)
        fill(node, 0, 50)
        seal(node)
        fill(node, 100, 5)
        wanted = hashes(node)
        for nth in range(1, 40):
            directory = tmp_path / f"copies-{nth}"
            whole = repository(directory)
            broken = Repository(KilledStore(whole.store, nth, before=before), whole.id)
            try:
                backup(node, broken)
            except Killed:
                assert whole.ids() == []
            else:
                assert nth > 5
                break
            whole.clock = lambda: 4e9  # the dead one's lock is forgotten
            made = backup(node, whole)
            assert verify(whole, "all", Quiet())[0].problem == ""
            restore(node, whole, tables=("docs",), rename={"docs": "again"})
            assert hashes(node, "again") == wanted
            run(node, "DROP TABLE again")
            assert whole.ids() == [made.id]
        else:
            pytest.fail("the backup writes more than it should")


def test_a_damaged_backup_is_found_and_refused_by_name(tmp_path: Path) -> None:
    place = repository(tmp_path / "copies")
    with running(tmp_path / "a") as node:
        run(node, DOCS)
        fill(node, 0, 300)
        seal(node)
        fill(node, 1000, 3)
        made = backup(node, place)
        for blob in {blob.sha256: blob for blob in made.blobs()}.values():
            path = tmp_path / "copies" / "objects" / blob.sha256[:2] / blob.sha256
            good = path.read_bytes()
            for bad in (None, good[:-1], bytes([good[0] ^ 1]) + good[1:]):
                path.unlink() if bad is None else path.write_bytes(bad)
                (found,) = verify(place, "latest", Quiet())
                assert blob.sha256 in found.problem
            with pytest.raises(Corruption) as caught:  # of the right size
                restore(node, place, rename={"docs": "new"})
            assert caught.value.code == "backup_damaged"
            assert "new" not in node.catalog().tables
            path.write_bytes(good)
        manifest = tmp_path / "copies" / "backups" / f"{made.id}.json"
        manifest.write_bytes(manifest.read_bytes().replace(b"docs", b"dogs", 1))
        with pytest.raises(Corruption, match="its checksum does not fit"):
            restore(node, place, rename={"docs": "new"})
        assert "checksum" in verify(place, "all", Quiet())[0].problem
        with pytest.raises(Corruption):
            prune(place, keep=1, days=None, dry_run=False, progress=Quiet())
        assert [row.table.name for row in node.metadata.state.tables.values()] == ["docs"]


def test_a_restore_that_dies_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = repository(tmp_path / "copies")
    with running(tmp_path / "a") as node:
        run(node, DOCS, "CREATE TABLE more (id BIGINT PRIMARY KEY)")
        fill(node, 0, 100)
        backup(node, place)

    def die(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(Restore, "_drop", lambda *_: None)
    for step in ("_make", "_fill", "_compare", "_publish"):
        with running(tmp_path / "b") as node, monkeypatch.context() as patch:
            patch.setattr(Restore, step, die)
            with pytest.raises(Killed):
                restore(node, place)
            assert not node.catalog().tables
        with running(tmp_path / "b") as node:
            assert not node.metadata.state.tables
            assert not list((tmp_path / "b" / "tables").iterdir())
    with running(tmp_path / "b") as node:
        restore(node, place)
        assert sorted(node.catalog().tables) == ["docs", "more"]


def test_prune_keeps_what_is_asked_for_and_what_it_needs(tmp_path: Path) -> None:
    place = repository(tmp_path / "copies")
    with running(tmp_path / "a") as node:
        run(node, DOCS)
        made = []
        for n in range(4):
            fill(node, 1000 * n, 200)
            seal(node)
            made.append(backup(node, place).id)
        wanted = hashes(node)
        told = prune(place, keep=2, days=None, dry_run=True, progress=Quiet())
        assert told.removed == (made[0], made[1]) == tuple(place.ids()[:2])
        assert prune(place, keep=1, days=9, dry_run=True, progress=Quiet()).removed == ()
        gone = prune(place, keep=1, days=0, dry_run=False, progress=Quiet())
        assert (gone.removed, gone.kept) == (tuple(made[:3]), (made[3],))
        assert gone.objects > 0
        assert verify(place, "all", Quiet())[0].problem == ""
        assert prune(place, keep=0, days=None, dry_run=False, progress=Quiet()).objects == 0
        restore(node, place, rename={"docs": "again"})
        assert hashes(node, "again") == wanted


def test_files_of_others_beside_the_manifests_are_no_backups(tmp_path: Path) -> None:
    place = repository(tmp_path / "copies")
    with running(tmp_path / "a") as node:
        run(node, DOCS)
        made = [backup(node, place).id for _ in range(2)]
    for name in ("zz-notes.txt", ".DS_Store", "Copy of it.json", f"{made[0]}.json.bak"):
        (tmp_path / "copies" / "backups" / name).write_text("not ours")
    assert place.ids() == made
    assert place.backup("latest").id == made[-1]
    gone = prune(place, keep=1, days=None, dry_run=False, progress=Quiet())
    assert (gone.removed, gone.kept) == ((made[0],), (made[1],))


def test_a_table_that_is_dropped_before_the_cut_is_not_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = repository(tmp_path / "copies")
    shards_of = cut_module._shards
    with running(tmp_path / "a") as node:
        run(node, DOCS, "CREATE TABLE other (id BIGINT PRIMARY KEY)")

        def late(*arguments: Any) -> Any:
            if "other" in node.catalog().tables:
                run(node, "DROP TABLE other")
            return shards_of(*arguments)

        monkeypatch.setattr(cut_module, "_shards", late)
        assert [table.name for table in backup(node, place).tables] == ["docs"]


@pytest.mark.parametrize("sealed", [False, True])
def test_a_table_that_is_dropped_while_it_is_copied_begins_the_backup_again(
    tmp_path: Path, sealed: bool
) -> None:
    place = repository(tmp_path / "copies")
    with running(tmp_path / "a") as node:
        run(node, "CREATE TABLE keep (id BIGINT PRIMARY KEY)", DOCS)
        fill(node, 0, 100)
        if sealed:
            seal(node)

        class Dropping(Job):
            def step(self, name: str) -> None:
                super().step(name)
                if name == "copying" and "docs" in node.catalog().tables:
                    run(node, "DROP TABLE docs")

        made = node.backups.take_here(Dropping("backup", ""), place)
        assert [table.name for table in made.tables] == ["keep"]


def test_a_table_that_could_not_be_made_whole_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = repository(tmp_path / "copies")
    with running(tmp_path / "a") as node:
        run(node, DOCS)
        backup(node, place)
    with running(tmp_path / "b") as node:
        create = node.create_table

        def late(*arguments: Any, **named: Any) -> bool:
            create(*arguments, **named)
            raise WriteUnknown("no answer in time")

        with monkeypatch.context() as patched:
            patched.setattr(node, "create_table", late)
            with pytest.raises(WriteUnknown):
                restore(node, place)
        assert not node.metadata.state.tables
        assert restore(node, place).rows == {"docs": 0}


@pytest.mark.parametrize("answers", [False, True])
def test_a_last_step_whose_outcome_is_unknown_loses_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    """It is asked for again; as long as nobody knows, it may have shown the tables."""
    place = repository(tmp_path / "copies")
    with running(tmp_path / "a") as node:
        run(node, DOCS, "CREATE TABLE other (id BIGINT PRIMARY KEY)")
        run(node, "CREATE VIEW ids AS SELECT id FROM other")
        backup(node, place)
    with running(tmp_path / "b") as node:
        publish, drop, asked = node.publish_restored, node.drop_table, []

        def unknown(command: PublishRestored) -> None:
            asked.append(command)
            if answers and len(asked) > 1:
                publish(command)
                return
            raise WriteUnknown("no answer in time")

        def late(*arguments: Any, **named: Any) -> bool:
            publish(asked[0])  # it was on its way
            return drop(*arguments, **named)

        monkeypatch.setattr(node, "publish_restored", unknown)
        monkeypatch.setattr(node, "drop_table", late)
        if answers:
            assert sorted(restore(node, place).rows) == ["docs", "other"]
        else:
            with pytest.raises(WriteUnknown):
                restore(node, place)
            publish(asked[0])
        assert sorted(node.catalog().tables) == ["docs", "other"]
        assert len({command.request_id for command in asked}) == 1


def test_users_that_can_not_be_made_are_told_beside_what_was_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = repository(tmp_path / "copies")
    with running(tmp_path / "a") as node:
        run(node, DOCS)
        node.access.create_user("ann", "reader", None)
        backup(node, place)
    with running(tmp_path / "b") as node:

        def refused(*_: Any) -> None:
            raise Unavailable("No majority answers.", code="metadata_unavailable")

        monkeypatch.setattr(node.access, "create_user", refused)
        with pytest.raises(Conflict, match=r"are shown\. User 'ann'.*No majority") as caught:
            restore(node, place)
        assert caught.value.code == "metadata_unavailable"
        assert list(node.catalog().tables) == ["docs"]


def test_a_repository_is_the_one_that_who_asks_knows(tmp_path: Path) -> None:
    place, other = repository(tmp_path / "copies"), repository(tmp_path / "other")
    for configured in ("", place.location):
        section = BackupSection(repository=configured)
        assert repository_for(place.location, section, place.id).id == place.id
        with pytest.raises(NotFound, match="is no repository"):
            repository_for(place.location, section, other.id)
    (tmp_path / "new").mkdir()
    section = BackupSection(repository=str(tmp_path / "new"))
    with pytest.raises(NotFound, match="is no repository"):  # who asks sees it elsewhere
        repository_for("", section, place.id)
    assert not list((tmp_path / "new").iterdir())


def test_a_cluster_with_older_nodes_restores_nothing(tmp_path: Path) -> None:
    place = repository(tmp_path / "copies")
    node = SimpleNamespace(member=object(), metadata=SimpleNamespace(state=Metadata()))
    work = Restore(cast("Node", node), place, Wish(), Job("restore", ""), "j")
    with pytest.raises(Unavailable, match="can't restore") as caught:
        work.run()
    assert caught.value.code == "older_nodes"
    node.metadata.state = Metadata(feature_level=1)
    with pytest.raises(NotFound, match="has no backup"):
        work.run()


def test_only_a_repository_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(NotFound, match="is no repository of backups"):
        Repository.open(DirectoryStore(tmp_path / "x"))
    made = repository(tmp_path / "x")
    assert repository(tmp_path / "x").id == made.id
    (tmp_path / "x" / "repository.json").write_text("{}")
    with pytest.raises(Corruption):
        Repository.open(DirectoryStore(tmp_path / "x"))


def test_a_stop_ends_a_restore_and_leaves_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = repository(tmp_path / "copies")
    reached = threading.Event()

    def compare(self: Restore, *_: object) -> None:
        reached.set()
        assert isinstance(self.progress, Job)
        assert self.progress.given_up.wait(60)
        self.progress.step("goes on")

    with running(tmp_path / "a") as node:
        run(node, DOCS)
        fill(node, 0, 10)
        backup(node, place)
    monkeypatch.setattr(Restore, "_compare", compare)
    with running(tmp_path / "b") as node:
        job = node.backups.restore(Wish(), place.location)
        assert reached.wait(60)
    assert (job.state, job.error and job.error.code) == ("cancelled", "job_cancelled")
    with running(tmp_path / "b") as node:
        assert not node.metadata.state.tables


def test_jobs_are_told_and_can_be_cancelled(tmp_path: Path) -> None:
    place = repository(tmp_path / "copies")
    with running(tmp_path / "a") as node:
        run(node, DOCS)
        job = node.backups.backup(place.location, place.id)
        assert job.ended.wait(60)
        (told,) = node.backups.all_jobs()
        assert (told["kind"], told["state"], told["result"]["tables"]) == (
            "backup",
            "done",
            ["docs"],
        )
        with pytest.raises(Conflict, match="has ended"):
            node.backups.cancel(job.job)
        assert not node.backups.cancel("another node's")
        failed = node.backups.restore(Wish(), place.location)
        assert failed.ended.wait(60)
        assert (failed.state, failed.described()["code"]) == ("failed", "duplicate_table")
