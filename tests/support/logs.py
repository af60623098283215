"""Small WALs for tests: a flusher that works when told to, and records made of a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nearql.engine.settings import EngineSettings
from nearql.engine.storage.files import FileSystem
from nearql.engine.storage.flusher import Flushable, Flusher
from nearql.engine.storage.wal import LogIdentity, RecordKind, Wal

IDENTITY = LogIdentity(b"c" * 16, b"s" * 16, b"a" * 16)
SETTINGS = replace(EngineSettings(), wal_file_bytes=1 << 16, disk_reserve_bytes=0)
DIRECTORY = Path("/disk/wal")


class ManualFlusher(Flusher):
    """Flushes nothing by itself; the test says when."""

    def __init__(self) -> None:
        super().__init__(threads=0)

    def schedule(self, log: Flushable) -> None:
        """The test calls `flush_group`."""


def open_wal(
    fs: FileSystem,
    directory: Path = DIRECTORY,
    *,
    identity: LogIdentity = IDENTITY,
    settings: EngineSettings = SETTINGS,
    failures: list[str] | None = None,
    start_lsn: int = 1,
) -> Wal:
    """A log that is flushed by hand; `failures` collects what would end the process."""
    return Wal.open(
        directory,
        identity,
        settings,
        fs=fs,
        start_lsn=start_lsn,
        flusher=ManualFlusher(),
        on_fatal=unexpected if failures is None else failures.append,
    )


def unexpected(reason: str) -> None:
    """The end of the process, where a test does not expect it."""
    raise AssertionError(f"the log failed: {reason}")


def put(wal: Wal, *parts: bytes, **more: Any) -> int:
    """Append without flushing; the LSN."""
    return wal.append(RecordKind.BATCH, parts, **{"epoch": 1, "timestamp_ms": 5, **more})


def flush(wal: Wal) -> None:
    """Make everything durable, group by group."""
    while wal.flush_group():
        pass


def commit(wal: Wal, *parts: bytes) -> int:
    """Append and make durable, as a group of its own."""
    lsn = put(wal, *parts)
    flush(wal)
    assert wal.durable_lsn == lsn
    return lsn


def payloads(wal: Wal, from_lsn: int | None = None) -> list[bytes]:
    """Of all durable records, whose LSNs are checked to be dense."""
    start = wal.first_lsn if from_lsn is None else from_lsn
    records = list(wal.read(start))
    assert [record.lsn for record in records] == list(range(start, wal.durable_lsn + 1))
    return [bytes(record.payload) for record in records]


def numbered(count: int) -> Sequence[bytes]:
    """Different payloads of different lengths."""
    return [b"%d:" % number * (number % 7) for number in range(1, count + 1)]
