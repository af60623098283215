"""Looking after a repository: is every backup whole, which are old enough to go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from nearql.engine.errors import Corruption, NearQLError, NotFound
from nearql.server.backup.care_archive import check_pieces, superfluous
from nearql.server.backup.manifest import BackupManifest, Blob
from nearql.server.backup.repository import Repository, manifest_name, object_name
from nearql.server.backup.store import DirectoryStore
from nearql.server.backup.take import Living, Progress

_DAY_MS = 86_400_000
_UNFINISHED_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found of one backup. problem: empty where it is whole."""

    backup: str
    objects: int
    bytes: int
    problem: str = ""


def verify(repository: Repository, backup: str, progress: Progress) -> list[Finding]:
    """Read every byte of a backup, or of all and of the archived logs (`all`), against its hash;
    each object once.

    Raises:
        Conflict: code `repository_busy`: a prune is at work.
    """
    with repository.working("a verification") as alive:  # no prune takes away what is read
        names = repository.ids() if backup == "all" else [repository.backup(backup).id]
        seen: dict[str, str] = {}  # object -> what is wrong with it
        living, found = Living(progress, alive), []
        for name in names:
            progress.step(f"verifying {name}")
            found.append(_verified(repository, name, seen, living))
        if backup == "all":
            logs = check_pieces(repository, living)
            found += [Finding(f"log of {one}", n, size, told) for one, n, size, told in logs]
        return found


def _verified(
    repository: Repository, name: str, seen: dict[str, str], progress: Progress
) -> Finding:
    try:
        manifest = repository.backup(name)
    except Corruption as error:
        return Finding(name, 0, 0, error.detail)
    blobs = {blob.sha256: blob for blob in manifest.blobs()}
    progress.expect(sum(blob.size for blob in blobs.values()))
    for blob in blobs.values():
        if blob.sha256 not in seen:
            seen[blob.sha256] = _problem(repository, blob)
        progress.advance(blob.size)
    problems = [seen[key] for key in blobs if seen[key]]
    nbytes = sum(blob.size for blob in blobs.values())
    told = "; ".join(problems[:3]) + (f"; {len(problems) - 3} more" if len(problems) > 3 else "")
    return Finding(name, len(blobs), nbytes, told)


def _problem(repository: Repository, blob: Blob) -> str:
    """Empty where the object is whole."""
    try:
        for _ in repository.read(blob):
            pass
    except (Corruption, NotFound):
        there = repository.store.size(object_name(blob.sha256))
        what = "is missing" if there is None else f"is damaged ({there} of {blob.size} bytes)"
        return f"{object_name(blob.sha256)} {what}"
    return ""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a prune removed, or would remove."""

    removed: tuple[str, ...]
    kept: tuple[str, ...]
    objects: int
    bytes: int


def prune(
    repository: Repository, *, keep: int, days: int | None, dry_run: bool, progress: Progress
) -> Pruned:
    """Remove all backups but the `keep` newest and those of the last `days` days; then every object
    that no backup needs any more, and the log before the oldest one that stays.

    Raises:
        Conflict: code `repository_busy`: somebody is at work.
        Corruption: a manifest is damaged: what it needs is not known, so nothing was removed.
    """
    with repository.working("a prune", alone=True) as alive:
        backups = []
        for name in repository.ids():
            alive()
            backups.append(repository.backup(name))
        doomed = [*_doomed(backups, keep, days, repository.clock() * 1000)][::-1]
        kept = [one for one in backups if one not in doomed]
        if not dry_run:
            for one in doomed:
                progress.step(f"removing {one.id}")
                alive()
                repository.store.remove(manifest_name(one.id))
        needed = {blob.sha256 for one in kept for blob in one.blobs()}
        objects = nbytes = 0
        for stored in repository.store.list("objects"):
            if stored.name.rpartition("/")[2] in needed:
                continue
            objects, nbytes = objects + 1, nbytes + stored.size
            if not dry_run:
                alive()
                repository.store.remove(stored.name)
        for name, size in [*superfluous(repository, kept)]:
            objects, nbytes = objects + 1, nbytes + size
            if not dry_run:
                alive()
                repository.store.remove(name)
        if isinstance(repository.store, DirectoryStore) and not dry_run:
            repository.store.remove_unfinished(_UNFINISHED_S)
        return Pruned(
            tuple(one.id for one in doomed), tuple(one.id for one in kept), objects, nbytes
        )


def _doomed(
    backups: list[BackupManifest], keep: int, days: int | None, now_ms: float
) -> Iterator[BackupManifest]:
    """Backups that nothing keeps; the newest always stays."""
    for place, one in enumerate(reversed(backups)):
        is_young = days is not None and one.cut_ms > now_ms - days * _DAY_MS
        if place >= max(1, keep) and not is_young:
            yield one


class Quiet:
    """Progress that nobody looks at."""

    def step(self, name: str) -> None:
        """See `Progress.step`."""

    def expect(self, nbytes: int) -> None:
        """See `Progress.expect`."""

    def advance(self, nbytes: int) -> None:
        """See `Progress.advance`."""


def error_of(found: list[Finding]) -> NearQLError | None:
    """The error of a check that found something."""
    broken = [one for one in found if one.problem]
    if not broken:
        return None
    told = "; ".join(f"backup {one.backup}: {one.problem}" for one in broken[:3])
    return Corruption(f"{len(broken)} of {len(found)} backups are damaged. {told}.",
                      code="backup_damaged")  # fmt: skip


def now_ms() -> int:
    """The clock."""
    return time.time_ns() // 1_000_000
