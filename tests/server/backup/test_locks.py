"""Who is at work in a repository of backups, and who was taken for dead."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from nearql.cluster.metadata.state import Metadata
from nearql.engine.errors import Conflict, Corruption
from nearql.server.backup import take as take_module
from nearql.server.backup.care import Quiet, prune, verify
from nearql.server.backup.catalog import Catalog, catalog_of
from nearql.server.backup.repository import LOCK_S, Repository, object_name
from support.backups import DOCS, backup, fill, repository, run, running


def test_a_prune_and_others_keep_out_of_each_others_way(tmp_path: Path) -> None:
    place = repository(tmp_path / "copies")
    with place.working("a backup"):
        with place.working("another backup"):
            pass
        with pytest.raises(Conflict, match="a backup by"):
            prune(place, keep=1, days=None, dry_run=False, progress=Quiet())
    with place.working("a prune", alone=True), pytest.raises(Conflict, match="a prune by"):
        place.working("a backup").__enter__()
    with place.working("one that dies"):
        late = Repository(place.store, place.id, lambda: place.clock() + LOCK_S + 1)
        prune(late, keep=1, days=None, dry_run=False, progress=Quiet())


def test_a_prune_that_was_taken_for_dead_removes_nothing(tmp_path: Path) -> None:
    place = repository(tmp_path / "copies")
    now = [place.clock()]

    class Late(Quiet):
        def step(self, name: str) -> None:
            now[0] += LOCK_S + 1

    with running(tmp_path / "a") as node:
        run(node, DOCS)
        made = [backup(node, place).id for _ in range(2)]
        slow = Repository(place.store, place.id, lambda: now[0])
        with pytest.raises(Conflict, match="a prune gave no sign of life for 601 s"):
            prune(slow, keep=1, days=None, dry_run=False, progress=Late())
        assert place.ids() == made
        assert [found.problem for found in verify(place, "all", Quiet())] == ["", ""]


def test_a_backup_that_was_taken_for_dead_is_not_published_beside_a_prune(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = repository(tmp_path / "copies")
    now, prunes = [place.clock()], ExitStack()
    place.clock = lambda: now[0]

    def late(state: Metadata) -> Catalog:  # when everything but the catalog is there
        now[0] += LOCK_S + 1
        prunes.enter_context(place.working("a prune", alone=True))
        return catalog_of(state)

    monkeypatch.setattr(take_module, "catalog_of", late)
    with running(tmp_path / "a") as node, prunes:
        run(node, DOCS)
        fill(node, 0, 100)
        with pytest.raises(Conflict, match="is in use: a prune by"):
            backup(node, place)
        assert place.ids() == []


def test_a_backup_looks_again_at_what_a_prune_may_have_removed(tmp_path: Path) -> None:
    place = repository(tmp_path / "copies")
    seen = 0
    with running(tmp_path / "a") as node:
        run(node, DOCS)
        made = backup(node, place)
    blobs = list({blob.sha256: blob for blob in made.blobs()}.values())

    def alive() -> bool:  # a prune comes and goes behind the first object
        nonlocal seen
        seen += 1
        if seen == 1:
            place.store.remove(object_name(blobs[0].sha256))
        return seen == 1

    with pytest.raises(Corruption, match="went while it was needed"):
        place.publish(made, alive)


def test_a_lock_that_somebody_removed_is_taken_anew(tmp_path: Path) -> None:
    place = repository(tmp_path / "copies")
    now = [place.clock()]
    place.clock = lambda: now[0]
    with place.working("a restore") as alive:
        now[0] += LOCK_S / 10 + 1
        assert not alive()
        for stored in place.store.list("locks"):
            place.store.remove(stored.name)  # by a clock that runs ahead
        now[0] += LOCK_S / 10 + 1
        assert alive()
        with pytest.raises(Conflict, match="a restore by"):
            prune(place, keep=1, days=None, dry_run=False, progress=Quiet())
