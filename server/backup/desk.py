"""What the commands `nearql backup` and `nearql restore` do by themselves, without a node: with
repositories, and with data directories that no node has open.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nearql.engine.errors import Conflict, InvalidRequest, Unavailable
from nearql.engine.storage.files import LocalFileSystem
from nearql.server.backup.care import Pruned, error_of, prune, verify
from nearql.server.backup.care_archive import reaches
from nearql.server.backup.places import store_at
from nearql.server.backup.repository import Repository
from nearql.server.backup.restore import Wish, wish_to
from nearql.server.backup.s3 import S3Options
from nearql.server.backup.service import Job, restored
from nearql.server.backup.store import DirectoryStore
from nearql.server.backup.take import summary
from nearql.server.config import load_config
from nearql.server.node import Node

Plain = dict[str, Any]
Tell = Callable[[str, int, int], None]  # step, bytes done, bytes in all


class _Told(Job):
    """A job whose progress is told as it goes."""

    tell: Tell | None = None

    def step(self, name: str) -> None:
        super().step(name)
        self._say()

    def advance(self, nbytes: int) -> None:
        super().advance(nbytes)
        self._say()

    def _say(self) -> None:
        if self.tell is not None:
            self.tell(self.detail, self.done, self.total)


def _job(kind: str, tell: Tell | None) -> _Told:
    job = _Told(kind, "")
    job.tell = tell
    return job


def make(location: str, s3: Mapping[str, str]) -> Plain:
    """Make a repository where nothing is, or find the one that is there."""
    store = store_at(location, S3Options(**s3))
    if isinstance(store, DirectoryStore):
        _make_directory(Path(location).absolute())
    repository = Repository.open_or_make(store)
    return {"repository": repository.id, "location": repository.location}


def _make_directory(directory: Path) -> None:
    if directory.is_dir() and any(directory.iterdir()):
        return  # a repository, or `open_or_make` refuses it
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(f"{directory} can't be made: {error.strerror}.") from error


def found(location: str, s3: Mapping[str, str]) -> Plain:
    """A repository that is there."""
    repository = _open(location, s3)
    return {"repository": repository.id, "location": repository.location}


def listed(location: str, s3: Mapping[str, str]) -> list[Plain]:
    """Every backup, the oldest first."""
    return [dict(summary(one)) for one in _open(location, s3).backups()]


def archives(location: str, s3: Mapping[str, str]) -> list[Plain]:
    """What logs are archived, by cluster."""
    return [
        {
            "cluster_id": one.cluster_id, "from": one.since_ms, "to": one.until_ms,
            "pieces": one.pieces, "bytes": one.bytes, "gaps": one.gaps,
        }
        for one in reaches(_open(location, s3))
    ]  # fmt: skip


def checked(location: str, s3: Mapping[str, str], backup: str, tell: Tell | None) -> list[Plain]:
    """Verify; raises Corruption, code `backup_damaged`, where something is wrong."""
    found = verify(_open(location, s3), backup, _job("verify", tell))
    if (error := error_of(found)) is not None:
        raise error
    return [{"backup": f.backup, "objects": f.objects, "bytes": f.bytes} for f in found]


def pruned(
    location: str, s3: Mapping[str, str], *, keep: int, days: int | None, dry_run: bool
) -> Plain:
    """Remove old backups."""
    repository, job = _open(location, s3), _job("prune", None)
    found: Pruned = prune(repository, keep=keep, days=days, dry_run=dry_run, progress=job)
    return {
        "removed": list(found.removed), "kept": list(found.kept), "objects": found.objects,
        "bytes": found.bytes, "dry_run": dry_run,
    }  # fmt: skip


def backup_directory(
    data_dir: str, location: str, s3: Mapping[str, str], tell: Tell | None
) -> Plain:
    """Back up a data directory that no node has open."""
    if not (Path(data_dir) / "FORMAT").exists():
        raise Unavailable(f"{data_dir} is no data directory.", code="not_a_data_directory")
    make(location, s3)
    with _node(Path(data_dir)) as node:
        return dict(summary(node.backups.take_here(_job("backup", tell), _open(location, s3))))


def restore_directory(
    data_dir: str, location: str, s3: Mapping[str, str], wish: Mapping[str, Any], tell: Tell | None
) -> Plain:
    """Restore into a data directory: one that is there, or a new one, which appears when it is
    complete.
    """
    target, repository = Path(data_dir).absolute(), _open(location, s3)
    members = dict(wish)
    to = str(members.pop("to_time", "")), str(members.pop("to_lsn", ""))
    job, wanted = _job("restore", tell), wish_to(Wish(**members), *to)
    if target.is_dir() and any(target.iterdir()):
        with _node(target) as node:
            return dict(restored(node.backups.restore_here(job, repository, wanted)))
    working = target.with_name(f".{target.name}.restoring-{uuid.uuid4().hex[:8]}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _node(working, {"backup.archive": False}) as node:  # it may come to nothing
            found = dict(restored(node.backups.restore_here(job, repository, wanted)))
        _take_place(working, target)
    finally:
        shutil.rmtree(working, ignore_errors=True)
    return found


def _take_place(working: Path, target: Path) -> None:
    """One rename: an empty directory of the name is replaced, a full one refuses."""
    try:
        working.rename(target)
    except OSError as error:
        raise Conflict(
            f"{target} could not be put in place: {error.strerror}.", code="not_empty"
        ) from error
    LocalFileSystem().sync_directory(target.parent)


@contextmanager
def _node(directory: Path, flags: Mapping[str, Any] | None = None) -> Iterator[Node]:
    node = Node.open(load_config(flags={"node.data_dir": str(directory), **(flags or {})}))
    try:
        yield node
    finally:
        node.close()


def _open(location: str, s3: Mapping[str, str]) -> Repository:
    return Repository.open(store_at(location, S3Options(**s3)))
