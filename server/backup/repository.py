"""A repository of backups: in a directory or a bucket, shared by as many backups as one likes.

    repository.json               its identity; a place without it is not written to
    objects/ab/<sha256>           checkpoint files, pieces of logs, catalogs; immutable
    backups/<id>.json             a manifest each, written last: a backup without one does not exist
    archive/<cluster>/...         the log as it goes on, see `archive`
    locks/<id>.json               who is at work: a prune and anything else exclude each other

Rules, whatever kill comes between: an object is there whole or not at all; a manifest is written
only when all its objects are there; an object is removed only when no manifest names it, nobody is
at work, and its manifest, if it had one, went before.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import orjson

from nearql.engine.errors import Conflict, Corruption, NotFound
from nearql.engine.storage.files import newer_format
from nearql.server.backup.manifest import BackupManifest, Blob, sealed, unpack, unsealed
from nearql.server.backup.store import Store, read_all

MARKER = "repository.json"
FORMAT = 1
LOCK_S = 600.0  # a lock that was not renewed for so long is of a process that died
_MANIFEST_NAME = re.compile(r"backups/([0-9]{8}t[0-9]{6}[.][0-9]{3}z-[0-9a-f]{8})[.]json")
_SMALL = 1 << 20
_MANIFEST_LIMIT = 256 << 20
Clock = Callable[[], float]
Alive = Callable[[], bool]  # see `Repository.working`


@dataclass
class Repository:
    """Thread-safe. id: made with the repository, so that it is told from another one."""

    store: Store
    id: str
    clock: Clock = field(default=time.time, repr=False)

    @classmethod
    def open(cls, store: Store, clock: Clock = time.time) -> Repository:
        """A repository that is there.

        Raises:
            NotFound: code `not_a_repository`. Corruption: its marker is damaged.
            Unavailable: code `newer_format`, or what the store answered.
        """
        try:
            plain = orjson.loads(read_all(store, MARKER, _SMALL))
            found, name = int(plain["format"]), str(uuid.UUID(plain["repository"]))
        except NotFound:
            raise not_a_repository(store.location) from None
        except (KeyError, TypeError, ValueError) as error:
            raise Corruption(f"{store.location}/{MARKER} is damaged: {error!r}.") from error
        if found > FORMAT:
            raise newer_format(f"the repository {store.location}", found, FORMAT)
        return cls(store, name, clock)

    @classmethod
    def open_or_make(cls, store: Store, clock: Clock = time.time) -> Repository:
        """The same, made where nothing is yet.

        Raises:
            Conflict: code `not_empty`: something else is there.
        """
        if store.size(MARKER) is None:
            if store.size("objects") is not None or store.list("backups"):
                raise Conflict(
                    f"{store.location} holds parts of a repository without its {MARKER}: put the "
                    "file back, or name an empty place.",
                    code="not_empty",
                )
            marker = {"format": FORMAT, "repository": str(uuid.uuid4())}
            store.put(MARKER, [orjson.dumps(marker) + b"\n"])
        return cls.open(store, clock)

    @property
    def location(self) -> str:
        """As people write it."""
        return self.store.location

    # ---- Objects --------------------------------------------------------------------------

    def has(self, blob: Blob) -> bool:
        """Whether the object is there with its size."""
        return self.store.size(object_name(blob.sha256)) == blob.size

    def put(self, data: bytes) -> tuple[Blob, int]:
        """Keep these bytes; the object, and how many bytes that added."""
        blob = Blob(hashlib.sha256(data).hexdigest(), len(data))
        return blob, self.put_stream(blob, lambda: [data])

    def put_stream(self, blob: Blob, parts: Callable[[], Iterable[bytes]]) -> int:
        """Keep an object whose hash is known already; bytes added, 0 where it was there.

        Raises:
            Corruption: the bytes don't fit the hash: what was read from has gone bad.
        """
        if self.has(blob):
            return 0
        self.store.put(object_name(blob.sha256), _verified(parts(), blob, "what was to be copied"))
        return blob.size

    def read(self, blob: Blob) -> Iterator[bytes]:
        """Its bytes, in pieces; the last one is given out only if all of them fit the hash.

        Raises:
            Corruption: code `backup_damaged`, names the object.
        """
        name = object_name(blob.sha256)
        try:
            yield from _verified(self.store.get(name), blob, f"{self.location}/{name}")
        except NotFound:
            raise damaged(f"{self.location}/{name} is missing") from None

    def read_whole(self, blob: Blob) -> bytes:
        """The same, at once."""
        return b"".join(self.read(blob))

    # ---- Backups --------------------------------------------------------------------------

    def new_id(self, cut_ms: int) -> str:
        """For a backup: its time, and something that no other has."""
        at = datetime.fromtimestamp(cut_ms / 1000, UTC)
        return f"{at:%Y%m%dt%H%M%S}.{cut_ms % 1000:03d}z-{uuid.uuid4().hex[:8]}"

    def publish(self, manifest: BackupManifest, alive: Alive) -> None:
        """From now on the backup exists. alive: as `working` gives it.

        Raises:
            Corruption: one of its objects is gone. Conflict: see `working`.
        """
        blobs = list({blob.sha256: blob for blob in manifest.blobs()}.values())
        at = 0
        while at < len(blobs):
            if not self.has(blobs[at]):
                gone = f"object {blobs[at].sha256} of {self.location} went while it was needed"
                raise damaged(gone)
            at = 0 if alive() else at + 1  # a prune that came between may have removed any of them
        self.store.put(manifest_name(manifest.id), [manifest.pack()])

    def ids(self) -> list[str]:
        """Of all backups, the oldest first; what else people put there is none."""
        found = (_MANIFEST_NAME.fullmatch(stored.name) for stored in self.store.list("backups"))
        return sorted(name[1] for name in found if name is not None)

    def backup(self, name: str) -> BackupManifest:
        """A backup by its id, `latest` for the newest.

        Raises:
            NotFound: code `no_such_backup`, with the ids that there are. Corruption.
        """
        known = self.ids()
        if name == "latest" and known:
            name = known[-1]
        if name not in known:
            there = ", ".join(known[-5:]) or "none"
            raise NotFound(
                f"{self.location} has no backup {name[:80]!r}; the newest are: {there}.",
                code="no_such_backup", sqlstate="58P01",
            )  # fmt: skip
        where = manifest_name(name)
        data = read_all(self.store, where, _MANIFEST_LIMIT)
        return unpack(data, f"{self.location}/{where}")

    def backups(self) -> list[BackupManifest]:
        """All of them, the oldest first. Raises Corruption where one is damaged."""
        return [self.backup(name) for name in self.ids()]

    # ---- Locks ----------------------------------------------------------------------------

    @contextmanager
    def working(self, what: str, *, alone: bool = False) -> Iterator[Alive]:
        """Keep a prune away; with alone, everybody. Gives a function that says one still lives.

        Who says so too late may have been taken for dead: a prune, say, that knows nothing of the
        backups made meanwhile. Whoever is alone can't go on then; others can if nobody is alone
        now, and are answered True: what they saw before need not be there any more.

        Raises:
            Conflict: code `repository_busy`: somebody else is at work; by the function, too.
        """
        lock = _Lock(self, what, alone)
        lock.take()
        try:
            yield lock.renew
        finally:
            lock.release()

    def others(self, mine: str) -> list[dict[str, object]]:
        """Living locks but this one."""
        found = []
        for stored in self.store.list("locks"):
            if stored.name == mine:
                continue
            try:
                lock = unsealed(read_all(self.store, stored.name, _SMALL), stored.name)
            except NotFound:
                continue  # released meanwhile
            if self.clock() - lock["at"] < LOCK_S:
                found.append(lock)
            else:
                self.store.remove(stored.name)
        return found


class _Lock:
    """An object in `locks/`. It is written before others are looked for: of two that begin at once
    at least one sees the other.
    """

    def __init__(self, repository: Repository, what: str, alone: bool) -> None:
        self._repository, self._alone = repository, alone
        self._name = f"locks/{uuid.uuid4().hex}.json"
        self._told = {"what": what, "alone": alone, "by": f"{socket.gethostname()}/{os.getpid()}"}
        self._written = 0.0

    def take(self) -> None:
        self._write()
        for other in self._repository.others(self._name):
            if self._alone or other["alone"]:
                self.release()
                raise Conflict(
                    f"{self._repository.location} is in use: {other['what']} by {other['by']}. Try "
                    f"again when it has ended; one that died is forgotten after {LOCK_S:.0f} s.",
                    code="repository_busy", sqlstate="55006",
                )  # fmt: skip

    def renew(self) -> bool:
        """See `Repository.working`: whether it was taken anew."""
        age = self._repository.clock() - self._written
        if age <= LOCK_S / 10:
            return False
        if age <= LOCK_S and self._repository.store.size(self._name) is not None:
            self._write()
            return False
        if self._alone:
            raise Conflict(
                f"{self._told['what']} gave no sign of life for {age:.0f} s, so that others may be "
                f"at work in {self._repository.location}: it stops here. Begin it again.",
                code="repository_busy", sqlstate="55006",
            )  # fmt: skip
        self.take()
        return True

    def release(self) -> None:
        self._repository.store.remove(self._name)

    def _write(self) -> None:
        self._written = self._repository.clock()
        self._repository.store.put(self._name, [sealed({**self._told, "at": self._written})])


def object_name(sha256: str) -> str:
    """Where an object lies."""
    return f"objects/{sha256[:2]}/{sha256}"


def manifest_name(backup_id: str) -> str:
    """Where a manifest lies."""
    return f"backups/{backup_id}.json"


def not_a_repository(location: str) -> NotFound:
    """The error for a place that is none of ours."""
    return NotFound(
        f"{location} is no repository of backups: it has no {MARKER}. Make one with "
        f"`nearql backup init {location}`, where the node sees the same place.",
        code="not_a_repository", sqlstate="58P01",
    )  # fmt: skip


def damaged(what: str) -> Corruption:
    """The error for a backup that can't be restored."""
    return Corruption(
        f"The backup is damaged: {what}. Nothing was restored from it; take another backup, and "
        "find out with `nearql backup verify` which others are whole.",
        code="backup_damaged",
    )


def _verified(parts: Iterable[bytes], blob: Blob, what: str) -> Iterator[bytes]:
    """The parts; Corruption instead of the last one where they don't fit the hash."""
    whole, size, held = hashlib.sha256(), 0, b""
    for part in parts:
        if held:
            yield held
        whole.update(part)
        size += len(part)
        held = part
    if (whole.hexdigest(), size) != (blob.sha256, blob.size):
        raise damaged(f"{what} does not fit its hash")
    if held:
        yield held
