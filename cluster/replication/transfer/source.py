"""Sends snapshots of this node's copies to others.

    snapshot       shard's uuid              -> number of the export, manifest
    snapshot_read  number, file, offset, size -> bytes
    snapshot_end   number                    -> nothing

An export keeps its files, and the log behind them, until it is closed, or was not read for
`IDLE_S`: who takes it up again after a break gets the same files, if no newer checkpoint was made.
To read no bytes says that it is needed still.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgpack

from nearql.cluster.replication.link.calls import Calls, Request
from nearql.cluster.replication.link.link import Channel
from nearql.cluster.replication.transfer.pace import Pace
from nearql.engine.errors import InvalidRequest, NotFound
from nearql.engine.shard.copy import ShardCopy, SnapshotExport
from nearql.engine.shard.snapshot import PIECE_BYTES

IDLE_S = 60.0


@dataclass(slots=True)
class _Open:
    export: SnapshotExport
    node_id: str
    used_at: float


class SnapshotSource:
    """Answers the calls above. copy_of: a copy of this node that is fit to be read, by shard."""

    def __init__(
        self, calls: Calls, pace: Pace, copy_of: Callable[[str], ShardCopy | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._pace, self._copy_of, self._clock = pace, copy_of, clock
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._open: dict[int, _Open] = {}
        self.sent_bytes = 0
        calls.serve("snapshot", self._begin, channel=Channel.BULK)
        calls.serve("snapshot_read", self._read, channel=Channel.BULK)
        calls.serve("snapshot_end", self._end, channel=Channel.BULK)

    def __len__(self) -> int:
        return len(self._open)

    def _begin(self, request: Request) -> Iterator[bytes]:
        shard_uuid = bytes(request.payload).decode(errors="replace")
        copy = self._copy_of(shard_uuid)
        if copy is None:
            raise NotFound(f"This node has no complete copy of shard {shard_uuid}.")
        export = copy.export()
        with self._lock:
            number = next(self._numbers)
            self._open[number] = _Open(export, request.node_id, self._clock())
        yield msgpack.packb([number, export.manifest.pack()])

    def _read(self, request: Request) -> Iterator[bytes]:
        number, file, offset, size = _numbers(request.payload, 4)
        used = self._of(number, request.node_id)
        used.used_at = self._clock()
        if not size:
            return
        files = used.export.manifest.files
        if file >= len(files) or offset + size > files[file].size:
            raise InvalidRequest(f"Snapshot {number} has no such bytes.")
        for at in range(offset, offset + size, PIECE_BYTES):
            count = min(PIECE_BYTES, offset + size - at)
            if not self._pace.take(count, request.cancelled):
                return
            used.used_at = self._clock()
            self.sent_bytes += count
            yield used.export.read(file, at, count)

    def _end(self, request: Request) -> Iterator[bytes]:
        (number,) = _numbers(request.payload, 1)
        self._of(number, request.node_id)
        self._close([number])
        yield b""

    def _of(self, number: int, node_id: str) -> _Open:
        found = self._open.get(number)
        if found is None or found.node_id != node_id:
            raise NotFound("This snapshot is not open any more; begin again.")
        return found

    def _close(self, numbers: list[int]) -> None:
        with self._lock:
            closed = [self._open.pop(number) for number in numbers if number in self._open]
        for used in closed:
            used.export.close()

    def sweep(self) -> None:
        """Close what was not read for a while. May block."""
        oldest = self._clock() - IDLE_S
        self._close([number for number, used in list(self._open.items()) if used.used_at < oldest])

    def close(self) -> None:
        """Close all. May block."""
        self._close(list(self._open))


def _numbers(payload: bytes | bytearray, count: int) -> list[int]:
    try:
        found: Any = msgpack.unpackb(payload)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise InvalidRequest("A snapshot's request can't be read.") from error
    if not isinstance(found, list) or len(found) != count:
        raise InvalidRequest("A snapshot's request can't be read.")
    if not all(type(number) is int and 0 <= number < 1 << 62 for number in found):
        raise InvalidRequest("A snapshot's request can't be read.")
    return found
