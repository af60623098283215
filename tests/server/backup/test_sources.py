"""What a backup reads stays for as long as it needs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nearql.cluster.replication.link.calls import Calls
from nearql.cluster.replication.link.serving import Cancelled
from nearql.cluster.replication.transfer.pace import Pace
from nearql.cluster.replication.transfer.source import IDLE_S, SnapshotSource
from nearql.engine.shard.copy import ShardCopy
from nearql.engine.shard.snapshot import SnapshotFile, SnapshotManifest
from nearql.engine.storage.wal_raw import LogEnd
from nearql.server.backup import sources
from support.waiting import wait_for


class OneNode:
    """Calls to the node itself."""

    def __init__(self) -> None:
        self.handlers: dict[str, Callable[[Any], Iterable[bytes]]] = {}

    def serve(self, method: str, handler: Callable[[Any], Iterable[bytes]], **_: Any) -> None:
        self.handlers[method] = handler

    def call(self, node_id: str, method: str, payload: bytes, **_: Any) -> bytes:
        request = SimpleNamespace(node_id=node_id, payload=payload, cancelled=Cancelled())
        return b"".join(self.handlers[method](request))


class Export:
    """A checkpoint's files."""

    def __init__(self, *files: SnapshotFile) -> None:
        self.manifest = SnapshotManifest("s", b"u" * 16, LogEnd(7, 1, b"l"), (), files, b"")

    def read(self, file: int, offset: int, size: int) -> bytes:
        return bytes(size)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("files", [(), (SnapshotFile("f", 9, b"h", (1,)),)])
def test_what_is_pinned_elsewhere_stays_without_being_read(
    files: tuple[SnapshotFile, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint without files, of a table that is all in its log, too."""
    monkeypatch.setattr(sources, "_ALIVE_S", 0.001)
    now = [1000.0]
    node, copy = OneNode(), SimpleNamespace(export=lambda: Export(*files))
    calls = cast("Calls", node)
    source = SnapshotSource(
        calls, Pace(1 << 30), lambda _: cast("ShardCopy", copy), clock=lambda: now[0]
    )
    pinned = sources.RemotePinned(calls, "n2", "shard")
    try:
        for _ in range(3):
            now[0] += IDLE_S - 1
            wait_for(lambda: source._open[1].used_at == now[0], "a sign of life")
        source.sweep()
        assert len(source) == 1
    finally:
        pinned.close()
    assert len(source) == 0
