"""Takes a snapshot from another node: fetch what is missing, verify, switch.

What arrived stays on the disk when the transfer breaks off; the next one begins where it ended, if
the other node still has the same snapshot. The old state is served until the new one is complete.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgpack

from nearql.cluster.replication.link.calls import Calls
from nearql.cluster.replication.link.link import Channel
from nearql.cluster.replication.status import SyncProgress
from nearql.engine.errors import Corruption, NearQLError, Unavailable
from nearql.engine.shard.copy import ShardCopy, SnapshotImport
from nearql.engine.shard.snapshot import PIECE_BYTES, SnapshotManifest

EXPORT_TIMEOUT_MS = 600_000  # the source may have to make a checkpoint, and reads every byte once
READ_TIMEOUT_MS = 60_000
READ_BYTES = 8 << 20  # of one request
ROUNDS = 3  # pieces that arrive damaged are asked for again


@dataclass(slots=True)
class Fetch:
    """One transfer. `progress` may be read meanwhile; `given_up` ends it, `ended` tells it."""

    calls: Calls
    copy: ShardCopy
    shard_uuid: str
    source: str
    at_least_lsn: int
    given_up: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    progress: SyncProgress = field(default_factory=lambda: SyncProgress("full", 0, 0))

    def run(self) -> None:
        """Fetch and install. Blocks.

        Raises:
            NearQLError: nothing was switched.
        """
        answer = self._call("snapshot", self.shard_uuid.encode(), EXPORT_TIMEOUT_MS)
        number, packed = msgpack.unpackb(answer)
        try:
            manifest = SnapshotManifest.unpack(packed)
            if manifest.end.lsn < self.at_least_lsn:
                raise Unavailable(
                    f"Node {self.source} has a snapshot up to LSN {manifest.end.lsn} only, and "
                    f"{self.at_least_lsn} is known to be committed."
                )
            incoming = self.copy.receive(manifest)
            self._fill(incoming, number, manifest)
            incoming.install()
        finally:
            self._release(number)

    def _fill(self, incoming: SnapshotImport, number: int, manifest: SnapshotManifest) -> None:
        for _ in range(ROUNDS):
            missing = incoming.missing()
            left = sum(size for _, _, size in missing)
            self.progress = SyncProgress("full", manifest.nbytes - left, manifest.nbytes)
            if not missing:
                return
            for file, offset, size in missing:
                self._fetch_run(incoming, number, (file, offset, size))
        raise Corruption("A snapshot arrives damaged again and again; its transfer was given up.")

    def _fetch_run(self, incoming: SnapshotImport, number: int, run: tuple[int, int, int]) -> None:
        file, offset, size = run
        end = offset + size
        for at in range(offset, end, READ_BYTES):
            asked = [number, file, at, min(READ_BYTES, end - at)]
            with self.calls.stream(
                self.source, "snapshot_read", msgpack.packb(asked),
                timeout_ms=READ_TIMEOUT_MS, channel=Channel.BULK,
            ) as parts:  # fmt: skip
                self._take(incoming, file, at, pieces(parts, PIECE_BYTES))

    def _take(
        self, incoming: SnapshotImport, file: int, offset: int, parts: Iterator[bytes]
    ) -> None:
        for piece in parts:
            if self.given_up.is_set():
                raise Unavailable("The node is stopping; the snapshot is fetched later.")
            try:
                incoming.write(file, offset, piece)
            except Corruption:
                pass
            else:
                done, total = self.progress.done + len(piece), self.progress.total
                self.progress = SyncProgress("full", done, total)
            offset += len(piece)

    def _release(self, number: int) -> None:
        with contextlib.suppress(NearQLError):  # else the source lets it go after a while
            self._call("snapshot_end", msgpack.packb([number]), READ_TIMEOUT_MS)

    def _call(self, method: str, payload: bytes, timeout_ms: int) -> bytes:
        return self.calls.call(
            self.source, method, payload, timeout_ms=timeout_ms, channel=Channel.BULK
        )


def pieces(parts: Iterator[bytes | memoryview], size: int) -> Iterator[bytes]:
    """The same bytes in pieces of `size`, the last one shorter."""
    held = bytearray()
    for part in parts:
        held += part
        while len(held) >= size:
            yield bytes(held[:size])
            del held[:size]
    if held:
        yield bytes(held)
