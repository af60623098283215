"""A table's shards as a backup reads them: pinned checkpoints, and the log up to the cut.

On a node alone, from its own disk. On a node of a cluster from a copy here that is in sync, else
from the primary's node, over the calls by which copies fetch snapshots from each other, and one
more for the log behind them:

    backup_log    shard's uuid, first LSN, end (LSN, epoch, link) -> records, once it is applied
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import msgpack
from crc32c import crc32c

from nearql.cluster.replication.link.calls import Calls, Request
from nearql.cluster.replication.link.link import Channel
from nearql.engine.deadline import Deadline
from nearql.engine.errors import InvalidRequest, NearQLError, NotFound, Unavailable
from nearql.engine.settings import MIB
from nearql.engine.shard.copy import ShardCopy, SnapshotExport
from nearql.engine.shard.own_export import LogPins, OwnExports
from nearql.engine.shard.shard import Shard
from nearql.engine.shard.snapshot import SnapshotManifest
from nearql.engine.storage.wal_format import (
    FLAG_MORE,
    PAYLOAD_SCHEMA,
    ZERO_LINK,
    RecordHeader,
    WalRecord,
)
from nearql.engine.storage.wal_raw import NO_TAG, LogEnd, RawRecord, pack_records, unpack_records

if TYPE_CHECKING:
    from nearql.cluster.metadata.shards import ShardRow
    from nearql.cluster.replication.node import Replication
    from nearql.engine.table import Table
    from nearql.server.node import Node

LOG_CALL = "backup_log"
_READ_BYTES = 4 * MIB
_EXPORT_MS, _READ_MS, _REACH_MS = 600_000, 60_000, 60_000
_ALIVE_S = 15.0  # between signs of life to whoever keeps a snapshot for us


class CutLost(Unavailable):
    """What was in the log at the cut was never committed: a failover came between. Cut again."""

    code = "cut_lost"


class Pinned(Protocol):
    """A shard whose checkpoint, and log behind it, stay until it is closed. One thread's."""

    @property
    def manifest(self) -> SnapshotManifest:
        """What the checkpoint holds."""
        ...

    def file(self, number: int) -> Iterator[bytes]:
        """The manifest's `number`-th file."""
        ...

    def log(self, end: LogEnd) -> Iterator[RawRecord]:
        """Every record behind the checkpoint up to this place, once that is committed.

        Raises:
            CutLost: it never will be.
        """
        ...

    def close(self) -> None:
        """Let it go."""
        ...


class Pins:
    """Of one node: what its own shards keep for backups and for the archive. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[int, tuple[Shard, LogPins, OwnExports | None]] = {}

    def of(self, shard: Shard, fs: Any) -> tuple[LogPins, OwnExports | None]:
        """The shard's hooks, made at the first use; exports where it is not replicated."""
        with self._lock:
            found = self._known.get(id(shard))
            if found is None:
                pins = LogPins(shard)
                exports = None
                if fs is not None:
                    exports = OwnExports(shard, fs)
                    pins.add(lambda: exports.oldest_lsn)
                self._known[id(shard)] = found = shard, pins, exports
            return found[1], found[2]

    def keep(self, tables: list[Table]) -> None:
        """Forget the shards of all others."""
        living = {id(shard) for table in tables for shard in table.shards}
        with self._lock:
            self._known = {key: one for key, one in self._known.items() if key in living}


class LocalPinned:
    """On this disk."""

    def __init__(self, shard: Shard, copy: ShardCopy | None, export: SnapshotExport) -> None:
        self._shard, self._copy, self._export = shard, copy, export

    @property
    def manifest(self) -> SnapshotManifest:
        """See `Pinned.manifest`."""
        return self._export.manifest

    def file(self, number: int) -> Iterator[bytes]:
        """See `Pinned.file`."""
        described = self.manifest.files[number]
        for offset in range(0, described.size, MIB):
            try:
                yield self._export.read(number, offset, min(MIB, described.size - offset))
            except OSError as error:  # whoever writes what is read would take it for its own
                raise _unreadable(self._shard, described.name, error) from error

    def log(self, end: LogEnd) -> Iterator[RawRecord]:
        """See `Pinned.log`."""
        first = self.manifest.end.lsn + 1
        if self._copy is not None:
            reach(self._copy, end)
            return copy_log(self._copy, first, end.lsn)
        if not self._shard.wal.wait_durable(end.lsn, _REACH_MS):
            raise Unavailable(f"The log of {self._shard.directory} is not durable for long.")
        return own_log(self._shard, first, end.lsn)

    def close(self) -> None:
        """See `Pinned.close`."""
        self._export.close()


class RemotePinned:
    """On another node. Its manifest names files by number, as the calls of snapshots do."""

    def __init__(self, calls: Calls, node_id: str, shard_uuid: str) -> None:
        self._calls, self._node_id, self._uuid = calls, node_id, shard_uuid
        answer = self._call("snapshot", shard_uuid.encode(), _EXPORT_MS)
        self._number, packed = msgpack.unpackb(answer)
        self._manifest = SnapshotManifest.unpack(packed)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._stay, name="backup-pin", daemon=True)
        self._thread.start()

    @property
    def manifest(self) -> SnapshotManifest:
        """See `Pinned.manifest`."""
        return self._manifest

    def file(self, number: int) -> Iterator[bytes]:
        """See `Pinned.file`."""
        described = self._manifest.files[number]
        for offset in range(0, described.size, 8 * MIB):
            asked = [self._number, number, offset, min(8 * MIB, described.size - offset)]
            yield self._call("snapshot_read", msgpack.packb(asked), _READ_MS)

    def log(self, end: LogEnd) -> Iterator[RawRecord]:
        """See `Pinned.log`."""
        asked = [self._uuid, self._manifest.end.lsn + 1, end.lsn, end.epoch, end.link]
        with self._calls.stream(
            self._node_id, LOG_CALL, msgpack.packb(asked),
            timeout_ms=_EXPORT_MS, channel=Channel.BULK,
        ) as parts:  # fmt: skip
            yield from _framed_records(parts)

    def close(self) -> None:
        """See `Pinned.close`."""
        self._closed.set()
        self._thread.join()
        with suppress(NearQLError):  # else the other node lets it go after a while
            self._call("snapshot_end", msgpack.packb([self._number]), _READ_MS)

    def _stay(self) -> None:
        """The other node forgets a snapshot that is not read: read nothing of it now and then."""
        while not self._closed.wait(_ALIVE_S):
            with suppress(NearQLError):  # whoever reads next is told
                self._call("snapshot_read", msgpack.packb([self._number, 0, 0, 0]), _READ_MS)

    def _call(self, method: str, payload: bytes, timeout_ms: int) -> bytes:
        return self._calls.call(
            self._node_id, method, payload, timeout_ms=timeout_ms, channel=Channel.BULK
        )


def _unreadable(shard: Shard, file: str, error: OSError) -> NearQLError:
    if isinstance(error, FileNotFoundError):
        return NotFound(f"{shard.directory / file} is not there any more.")
    return Unavailable(f"{shard.directory / file} can't be read: {error}.", code="disk_error")


def _framed_records(parts: Any) -> Iterator[RawRecord]:
    """Records of a stream, whose parts break anywhere: each run of them behind its length."""
    held = bytearray()
    for part in parts:
        held += part
        while len(held) >= 4:
            size = int.from_bytes(held[:4], "little")
            if len(held) < 4 + size:
                break
            yield from unpack_records(bytes(held[4 : 4 + size]))
            del held[: 4 + size]
    if held:
        raise Unavailable("The log of another node broke off; the backup begins again.")


# ---- Reading logs ---------------------------------------------------------------------------


def reach(copy: ShardCopy, end: LogEnd) -> None:
    """Wait until this place of the log is committed and applied.

    Raises:
        CutLost: the log went another way. Unavailable: it takes too long.
    """
    if not copy.wait_applied(end.lsn, Deadline(_REACH_MS)):
        raise CutLost("A write that was under way at the cut is not committed for long.")
    found = copy.end_at(end.lsn)
    if found != end:
        raise CutLost("A failover took back what was in the log at the cut.")


def copy_log(copy: ShardCopy, first: int, last: int) -> Iterator[RawRecord]:
    """Records of a replicated copy."""
    while first <= last:
        found = [record for record in copy.read(first, _READ_BYTES) if record.lsn <= last]
        yield from found
        first = found[-1].lsn + 1


def own_log(shard: Shard, first: int, last: int) -> Iterator[RawRecord]:
    """Records of a node alone, in the form in which copies exchange them; their links are zeros."""
    if first > last:
        return
    for record in shard.wal.read(first):
        yield raw(record)
        if record.lsn >= last:
            return


def raw(record: WalRecord) -> RawRecord:
    """A record of a node's own log."""
    payload = bytes(record.payload)
    header = RecordHeader(
        len(payload), crc32c(payload), int(record.kind), FLAG_MORE if record.more else 0,
        PAYLOAD_SCHEMA, record.epoch, record.lsn, ZERO_LINK, bytes(record.request_id),
        record.timestamp_ms, NO_TAG, 0,
    )  # fmt: skip
    return RawRecord.of(header, payload)


# ---- Pinning --------------------------------------------------------------------------------


def pin(node: Node, pins: Pins, table: Any, number: int) -> Pinned:
    """Pin one shard of a table. table: its `TableRow`. Blocks: reads every byte once.

    Raises:
        Corruption: a file is damaged; it is named. NotFound: the table was dropped.
        Unavailable: no copy of it can be read now.
    """
    uuid = table.table.uuid
    if node.member is None:
        shard = node.copies.table(uuid).shards[number]
        _, exports = pins.of(shard, node.context.fs)
        assert exports is not None
        return LocalPinned(shard, None, exports.open())
    row: ShardRow = table.shards[number]
    replication, me = node.member.replication, node.member.cluster.node_id
    handle, found = replication.shard(row.uuid), node.copies.tables.get(uuid)
    if me in row.isr and handle is not None and handle.readable and found is not None:
        return LocalPinned(
            found.shards[number], found.copies[number], found.copies[number].export()
        )
    return _remote(replication, row, node.member.cluster.alive() - {me}, table.table.name)


def _remote(replication: Replication, row: ShardRow, alive: Any, name: str) -> Pinned:
    sources = sorted(set(row.isr) & set(alive), key=lambda node: node != row.primary)
    reason = "no node that has it in sync is alive"
    for source in sources:
        try:
            return RemotePinned(replication.calls, source, row.uuid)
        except (NotFound, Unavailable) as error:
            reason = error.detail
    raise Unavailable(f"Table {name!r} can't be read for a backup now: {reason}.")


def serve_log(calls: Calls, copy_of: Any) -> None:
    """Answer `backup_log`. copy_of: shard's uuid -> a copy here that is fit to be read, or None."""

    def answer(request: Request) -> Iterator[bytes]:
        uuid, first, end = _asked(request.payload)
        copy = copy_of(uuid)
        if copy is None:
            raise NotFound(f"This node has no complete copy of shard {uuid}.")
        reach(copy, end)
        while first <= end.lsn:
            records = [r for r in copy.read(first, _READ_BYTES) if r.lsn <= end.lsn]
            packed = b"".join(pack_records(records))
            yield len(packed).to_bytes(4, "little") + packed
            first = records[-1].lsn + 1

    calls.serve(LOG_CALL, answer, channel=Channel.BULK)


def _asked(payload: bytes | bytearray) -> tuple[str, int, LogEnd]:
    try:
        uuid, first, lsn, epoch, link = msgpack.unpackb(payload)
        return str(uuid), int(first), LogEnd(int(lsn), int(epoch), bytes(link))
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise InvalidRequest("A request for a log can't be read.") from error
