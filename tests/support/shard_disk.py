"""The disk of a simulated copy: a log of which the end may not be synced, and what was promised.

`Disk` is a model of the log, cheap enough for many schedules: records are durable when a sync that
began after them is done; a power loss keeps a prefix of the rest; a cut and a promise are durable
when they return; a snapshot replaces everything at once. `LogDisk` is the product's own log over a
file system that loses power in the middle of an operation, with the model beside it: what the log
says after each crash is compared with what the model allows.
"""

from __future__ import annotations

import errno
import random
from pathlib import Path
from typing import Any, cast

from nearql.cluster.replication.core.epochs import extended, shortened
from nearql.cluster.replication.core.events import LogState
from nearql.cluster.replication.core.messages import Record, Vector
from nearql.engine.errors import NearQLError
from nearql.engine.settings import EngineSettings
from nearql.engine.storage.flusher import Flusher
from nearql.engine.storage.wal import LogIdentity, RecordKind
from nearql.engine.storage.wal_format import ZERO_LINK
from nearql.engine.storage.wal_raw import RawRecord
from nearql.engine.storage.wal_shared import SharedWal
from support.disks import PowerLoss, SimulatedDisk

SETTINGS = EngineSettings(wal_file_bytes=4096, wal_group_bytes=2048, disk_reserve_bytes=0)
ROOM = 1 << 30


class Disk:
    """Survives its node's processes. records: from first_lsn on."""

    def __init__(self, alloc_id: str) -> None:
        self.alloc_id = alloc_id
        self.promised_epoch = 0
        self.records: list[Record] = []
        self.vector: Vector = ()
        self.first_lsn = 1
        self.base_lsn = 0  # a checkpoint holds everything up to here
        self.durable_lsn = 0
        self.cuts = 0  # so that a sync knows that the log was cut while it ran

    @property
    def end_lsn(self) -> int:
        return self.first_lsn + len(self.records) - 1

    def at(self, lsn: int) -> Record | None:
        """The record at `lsn`, if it is kept."""
        place = lsn - self.first_lsn
        return self.records[place] if 0 <= place < len(self.records) else None

    def log(self, epoch: int, value: int | None) -> Record:
        """A record of our own; value None: EPOCH_START."""
        record = Record(self.end_lsn + 1, epoch, 100 if value else 1, value)
        self._add(record)
        return record

    def append(self, record: Record) -> None:
        """One of another copy's."""
        self._add(record)

    def _add(self, record: Record) -> None:
        assert record.lsn == self.end_lsn + 1, f"{record} behind {self.end_lsn}"
        self.vector = extended(self.vector, record.epoch, record.lsn)
        self.records.append(record)

    def read(self, first_lsn: int, last_lsn: int, limit: int) -> tuple[Record, ...]:
        place = first_lsn - self.first_lsn
        assert place >= 0, f"LSN {first_lsn} was trimmed"
        return tuple(self.records[place : min(place + limit, last_lsn - self.first_lsn + 1)])

    def sync(self, lsn: int, cuts: int) -> None:
        """A sync is done that began when the log ended at `lsn`."""
        if cuts == self.cuts:
            self.durable_lsn = max(self.durable_lsn, lsn)

    def cut(self, end_lsn: int) -> None:
        """Durably, as power may be lost at any moment after."""
        assert end_lsn >= self.base_lsn, "cut below the checkpoint"
        del self.records[end_lsn - self.first_lsn + 1 :]
        self.vector = shortened(self.vector, end_lsn)
        self.durable_lsn = min(self.durable_lsn, end_lsn)
        self.cuts += 1

    def checkpoint(self, lsn: int, keep: int) -> None:
        """A checkpoint at `lsn`; the log keeps so many records below it."""
        self.base_lsn = lsn
        self._trim(max(self.first_lsn, lsn - keep + 1))

    def _trim(self, first_lsn: int) -> None:
        del self.records[: first_lsn - self.first_lsn]
        self.first_lsn = first_lsn

    def kill(self) -> None:
        """The process is gone: the kernel has everything, and recovery syncs what it finds."""
        self._found(self.end_lsn)

    def lose_power(self, chance: random.Random) -> None:
        """Of what was not synced a part is found again, or nothing."""
        self._found(chance.randint(self.durable_lsn, self.end_lsn))

    def _found(self, end_lsn: int) -> None:
        del self.records[end_lsn - self.first_lsn + 1 :]
        self.vector = shortened(self.vector, end_lsn)
        self.durable_lsn = end_lsn
        self.cuts += 1

    def install(self, source: Disk) -> None:
        """The source's checkpoint in place of everything."""
        lsn = source.base_lsn
        self.records = []
        self.vector = shortened(source.vector, lsn)
        self.first_lsn, self.base_lsn, self.durable_lsn = lsn + 1, lsn, lsn
        self.cuts += 1

    def arm(self, chance: random.Random) -> bool:
        """Let power fail in the middle of an operation soon; whether this disk can."""
        return False

    def disarm(self) -> None:
        """It won't."""

    @property
    def has_lost_power(self) -> bool:
        """Whether it has just failed so."""
        return False

    def fail_sync(self) -> bool:
        """Let syncs fail from now on; whether this disk can."""
        return False

    @property
    def has_failed(self) -> bool:
        """Whether one did, so that the process has ended itself."""
        return False

    def state(self) -> LogState:
        return LogState(self.vector, self.end_lsn, self.first_lsn, self.base_lsn)


class DiskFailed(PowerLoss):
    """A sync failed: the process has ended itself."""


class _NoThreads:
    """In place of the flusher: the world syncs when it is time."""

    def schedule(self, log: Any) -> None:
        pass

    def forget(self, log: Any) -> None:
        pass


class LogDisk(Disk):
    """See the module."""

    def __init__(self, alloc_id: str) -> None:
        super().__init__(alloc_id)
        self.fs = SimulatedDisk()
        self._tries = 0  # a log that was half made when power failed is left behind
        self._place = Path("/log0")
        self._base_vector: Vector = ()
        self._cutting: int | None = None  # where the log is being cut, if it is
        self._failed = False
        self.wal = self._open(self._place)

    def _open(
        self, place: Path, start_lsn: int = 1, base: tuple[int, bytes] = (0, ZERO_LINK)
    ) -> SharedWal:
        try:
            return SharedWal.open(
                place,
                LogIdentity(b"c" * 16, b"s" * 16, self.alloc_id.encode().ljust(16, b"-")[:16]),
                SETTINGS, fs=self.fs, start_lsn=start_lsn, base=base,
                flusher=cast(Flusher, _NoThreads()), on_fatal=self._fatal,
            )  # fmt: skip
        except NearQLError as error:
            raise AssertionError(f"the log can't be opened: {error}") from error

    def log(self, epoch: int, value: int | None) -> Record:
        kind = RecordKind.EPOCH_START if value is None else RecordKind.BATCH
        parts = [] if value is None else [value.to_bytes(8, "little") * (1 + value % 40)]
        lsn = self.wal.append(kind, parts, epoch=epoch, timestamp_ms=value or 0)
        (raw,) = self.wal.read_raw(lsn, 1)
        record = Record(raw.lsn, raw.epoch, raw.nbytes, raw)
        self._add(record)
        self._compare()
        return record

    def append(self, record: Record) -> None:
        self.wal.append_raw(record.data)
        self._add(record)
        self._compare()

    def _compare(self) -> None:
        found = self.wal.end.lsn, self.wal.end.epoch, self.wal.epochs
        assert found == (self.end_lsn, _last(self.vector), self.vector), f"{found} {self.vector}"

    def read(self, first_lsn: int, last_lsn: int, limit: int) -> tuple[Record, ...]:
        wanted = super().read(first_lsn, last_lsn, limit)
        found = self.wal.read_raw(first_lsn, sum(record.nbytes for record in wanted))
        assert [record.data for record in wanted[: len(found)]] == found[: len(wanted)]
        return wanted[: len(found)]

    def sync(self, lsn: int, cuts: int) -> None:
        while self.wal.flush_group():
            pass
        super().sync(lsn, cuts)
        assert self.durable_lsn <= self.wal.durable_lsn, "a sync that was done is not"

    def cut(self, end_lsn: int) -> None:
        self._cutting = end_lsn
        self.wal.truncate(end_lsn)
        super().cut(end_lsn)
        self._cutting = None
        self._compare()

    def checkpoint(self, lsn: int, keep: int) -> None:
        self._base_vector = shortened(self.vector, lsn)
        super().checkpoint(lsn, keep)
        self.wal.write_hint()
        self.wal.forget_durable()  # who asks for these records is served from the files

    def _trim(self, first_lsn: int) -> None:
        self.wal.trim(first_lsn)  # whole files
        super()._trim(self.wal.first_lsn)

    def kill(self) -> None:
        """After a failed sync the kernel shows what the disk does not have."""
        self._failed = False
        self.fs = self.fs.after_kill()
        self._recover()

    def lose_power(self, chance: random.Random) -> None:
        self.fs = self.fs.after_power_loss(chance)
        self._recover()

    def _recover(self) -> None:
        """What the log finds is a part of what was there, with all that was durable."""
        self.wal = self._open(self._place)
        self.wal.learn_epochs(self._base_vector, self.base_lsn)
        end = self.wal.end.lsn
        least = self.durable_lsn if self._cutting is None else self._cutting
        self._cutting = None
        assert least <= end <= self.end_lsn, f"{end} found of {least} to {self.end_lsn}"
        self._trim(self.wal.first_lsn)
        self._found(end)
        assert [record.data for record in self.records] == self._read_all(self.first_lsn)
        self._compare()

    def _read_all(self, lsn: int) -> list[RawRecord]:
        found: list[RawRecord] = []
        while more := self.wal.read_raw(lsn + len(found), ROOM):
            found += more
        return found

    def install(self, source: Disk) -> None:
        assert isinstance(source, LogDisk)
        end = source.wal.end_at(source.base_lsn)
        assert end is not None
        self._tries += 1
        place = Path(f"/log{self._tries}")
        wal = self._open(place, end.lsn + 1, (end.epoch, end.link))
        self._place, self.wal = place, wal  # power may fail before, not here
        super().install(source)
        self._base_vector = self.vector
        self.wal.learn_epochs(self._base_vector, self.base_lsn)
        self._compare()

    def arm(self, chance: random.Random) -> bool:
        self.fs.crash_at = self.fs.steps + chance.randint(1, 6)
        self.fs.torn = chance
        return True

    def disarm(self) -> None:
        self.fs.crash_at = self.fs.torn = None
        self.fs.fail.clear()

    def fail_sync(self) -> bool:
        self.fs.fail["fdatasync"] = errno.EIO
        return True

    @property
    def has_failed(self) -> bool:
        return self._failed

    def _fatal(self, reason: str) -> None:
        assert self.fs.fail, f"the log failed: {reason}"
        self._failed = True
        raise DiskFailed(reason)

    @property
    def has_lost_power(self) -> bool:
        return self.fs.crash_at is not None and self.fs.steps >= self.fs.crash_at


def _last(vector: Vector) -> int:
    return vector[-1][0] if vector else 0
