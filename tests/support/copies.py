"""Copies of a table of one shard, replicated by hand: every step is the test's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nearql.engine.context import EngineContext
from nearql.engine.deadline import Deadline
from nearql.engine.errors import StatementTimeout, WriteUnknown
from nearql.engine.settings import EngineSettings
from nearql.engine.shard.copy import ContentHashes, SnapshotExport
from nearql.engine.shard.local_copy import LocalCopy
from nearql.engine.shard.snapshot import SnapshotManifest
from nearql.engine.storage.files import FileSystem
from nearql.engine.storage.flusher import Flushable
from nearql.engine.storage.wal_raw import pack_records, unpack_records
from nearql.engine.table import Table
from nearql.engine.types import OnConflict
from support.disks import SimulatedDisk
from support.tables import CLUSTER, SMALL, Inline, definition, fatal, insert, searcher

#: a log file holds a few records, the log is kept for a few files, no byte is held back
SETTINGS = replace(SMALL, wal_file_bytes=8192, disk_reserve_bytes=0, wal_retention_bytes=16_384)
COLUMNS = (1, 2, 3)


def soon() -> Deadline:
    """For what must come."""
    return Deadline(60_000)


class Steps(Executor):
    """Work that waits until the test runs it."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Later."""
        self.waiting.append(lambda: fn(*args, **kwargs))
        return Future()

    def run(self) -> None:
        """All of it, and what it brings."""
        while self.waiting:
            self.waiting.pop(0)()


class HandFlusher:
    """Makes nothing durable until the test says so."""

    def __init__(self) -> None:
        self.waiting: list[Flushable] = []

    def schedule(self, log: Flushable) -> None:
        """Later."""
        self.waiting.append(log)

    def forget(self, log: Flushable) -> None:
        """No hints are written."""

    def run(self) -> None:
        """Make everything durable."""
        while self.waiting:
            log = self.waiting.pop(0)
            if log.flush_group():
                self.waiting.append(log)


class HandCopy:
    """One copy on a disk of its own; what its threads would do waits for the test."""

    def __init__(
        self, fs: FileSystem | None = None, settings: EngineSettings = SETTINGS,
        directory: Path = Path("/data/table"), alloc_id: bytes | None = None,
    ) -> None:  # fmt: skip
        self.fs = fs or SimulatedDisk()
        self.settings = settings
        self.directory = directory
        self.alloc_ids = {} if alloc_id is None else {0: alloc_id}
        self.open()

    def open(self) -> None:
        """Open what is on the disk, or make it."""
        self.flusher, self.steps = HandFlusher(), Steps()
        flusher: Any = self.flusher
        context = EngineContext(
            self.settings, searcher(), self.fs, CLUSTER, fatal, flusher, replicated=True
        )
        context.background = Inline(1)
        context.appliers = self.steps
        self.table = Table.create(self.directory, definition(), context, alloc_ids=self.alloc_ids)
        self.copy: LocalCopy = self.table.copies[0]

    def settle(self) -> None:
        """Make durable what was appended, apply what is committed."""
        self.flusher.run()
        self.steps.run()

    def restart(self, fs: FileSystem | None = None) -> None:
        """What a kill leaves, or this disk."""
        assert isinstance(self.fs, SimulatedDisk)
        self.fs = fs or self.fs.after_kill()
        self.open()

    def hashes(self) -> ContentHashes:
        """Of what is applied."""
        found = self.copy.content_hashes(self.copy.applied_lsn, COLUMNS, soon())
        assert found is not None
        return found

    def log(self, wanted: Iterable[int], title: str | None = None, **options: Any) -> WriteUnknown:
        """Insert or replace rows without waiting; where in the log they are."""
        with pytest.raises(WriteUnknown) as info:
            insert(
                self.table, wanted, title, timeout_ms=0, on_conflict=OnConflict.REPLACE, **options
            )
        return info.value


def ship(source: HandCopy, target: HandCopy, limit: int = 1 << 30) -> None:
    """Send what the target lacks, as bytes."""
    records = source.copy.read(target.copy.end.lsn + 1, limit)
    sent = b"".join(bytes(part) for part in pack_records(records))
    appended = target.copy.append(unpack_records(sent))
    assert appended.mismatch is None
    assert not appended.gap


def commit(primary: HandCopy, *replicas: HandCopy) -> None:
    """Bring all copies to where the primary's log ends."""
    primary.flusher.run()
    for replica in replicas:
        ship(primary, replica)
        replica.flusher.run()
    for one in (primary, *replicas):
        one.copy.advance(primary.copy.end.lsn)
        one.settle()


def lead(primary: HandCopy, *replicas: HandCopy, epoch: int = 1) -> None:
    """Make it the primary, with nothing left to be done before a write."""
    primary.copy.lead(epoch)
    commit(primary, *replicas)
    if primary.copy.end.lsn == 1:
        with pytest.raises(StatementTimeout, match="schema"):
            insert(primary.table, [0], timeout_ms=0)
        commit(primary, *replicas)


def fetch(export: SnapshotExport, target: HandCopy) -> None:
    """Take a whole snapshot."""
    manifest = SnapshotManifest.unpack(export.manifest.pack())
    taken = target.copy.receive(manifest)
    for file, offset, size in taken.missing():
        taken.write(file, offset, export.read(file, offset, size))
    assert taken.missing() == []
    taken.install()
    export.close()
