"""A copy that lacks what the log has no more takes a snapshot: over real links, from real files."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nearql.cluster.certificates import make_certificates
from nearql.cluster.replication.link.calls import Request
from nearql.cluster.replication.link.link import Channel
from nearql.cluster.replication.transfer.pace import Pace
from nearql.cluster.replication.transfer.sink import pieces
from nearql.engine.errors import InvalidRequest, NotFound
from support.replication_nodes import SHARD, DataNode, Trio
from support.tables import SMALL

#: a log that is trimmed as soon as nobody needs it
BRIEF = replace(SMALL, wal_file_bytes=32 << 10, wal_retention_bytes=0)


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[Trio]:
    make_certificates(tmp_path / "certificates", ["a", "b", "c"])
    made = Trio(tmp_path, tmp_path / "certificates", BRIEF)
    yield made
    made.close()


def write_and_trim(node: DataNode, ids: range) -> None:
    """Write so much that whole files of the log go."""
    for first in range(ids.start, ids.stop, 100):
        node.write_soon(range(first, first + 100))
    node.clock.skip(10_000)  # who is silent for so long is not waited for
    node.replication.thread.run(look_after(node))
    node.table._shards[0].checkpoint()
    node.replication.thread.run(look_after(node))
    assert node.copy.first_lsn > 1


async def look_after(node: DataNode) -> None:
    """What a node does once a second."""
    node.replication._look_after()


def lose_disk_and_return(trio: Trio, name: str) -> None:
    trio.stop(name)
    write_and_trim(trio["a"], range(2000))
    trio[name].wipe()
    trio.start(name)


@pytest.mark.slow
def test_a_node_that_lost_its_disk_takes_a_snapshot(trio: Trio) -> None:
    lose_disk_and_return(trio, "c")
    trio.all_show(range(2000))
    trio.are_alike()
    assert trio["c"].replication.counts["snapshots_installed"] == 1
    assert trio["a"].replication.source.sent_bytes > 0
    trio["a"].write_soon([5000], "all")
    trio.all_show([5000])


@pytest.mark.slow
def test_a_transfer_that_breaks_off_goes_on_where_it_ended(
    trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second file fails once: what came of the first is not sent again."""
    source = trio["a"].replication.source
    read = source._read
    asked: list[bytes] = []
    failed = threading.Event()

    def failing(request: Request) -> Iterator[bytes]:
        if len(asked) == 1 and not failed.is_set():
            failed.set()
            raise NotFound("the files are gone")
        asked.append(bytes(request.payload)[1:])  # without the export's number
        yield from read(request)

    trio["a"].replication.calls.serve("snapshot_read", failing, channel=Channel.BULK)
    lose_disk_and_return(trio, "c")
    trio.all_show(range(2000))
    trio.are_alike()
    assert failed.is_set()
    assert trio["c"].replication.counts["snapshots_failed"] == 1
    assert trio["c"].replication.counts["snapshots_installed"] == 1
    assert len(set(asked)) == len(asked) > 1, "nothing was sent twice"


@pytest.mark.slow
def test_an_export_is_of_its_asker_and_ends(trio: Trio) -> None:
    trio["a"].write_soon(range(100))
    calls, source = trio["b"].replication.calls, trio["a"].replication.source
    ask = {"timeout_ms": 60_000, "channel": Channel.BULK}
    calls.call("id-a", "snapshot", SHARD.encode(), **ask)  # type: ignore[arg-type]
    assert len(source) == 1
    (number,) = source._open
    wrong = [
        b"\x94" + bytes([number]) + rest
        for rest in (b"\x7f\x00\x01", b"\x00\x00\xce\x7f\xff\xff\xff")
    ]
    for payload in (*wrong, b"", b"\x91\x01", b"\x94\xa0\x00\x00\x01"):
        with pytest.raises(InvalidRequest):
            calls.call("id-a", "snapshot_read", payload, **ask)  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        trio["c"].replication.calls.call("id-a", "snapshot_end", b"\x91" + bytes([number]), **ask)  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        calls.call("id-a", "snapshot", b"\xff another shard", **ask)  # type: ignore[arg-type]
    source._open[number].used_at -= 3600
    source.sweep()
    assert len(source) == 0


def test_pace_gives_a_second_at_once_and_then_what_it_may() -> None:
    now = [100.0]
    pace = Pace(1000, lambda: now[0])
    waited: list[float] = []

    class Waiting(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            waited.append(timeout)
            now[0] += timeout
            return False

    now[0] += 60
    assert pace.take(1000, Waiting())
    assert waited == []
    assert pace.take(500, Waiting())
    assert pace.take(250, Waiting())
    assert waited == [0.5, 0.25]


def test_who_gives_up_does_not_wait_for_the_pace() -> None:
    pace, given_up = Pace(1), threading.Event()
    given_up.set()
    assert not pace.take(1 << 40, given_up)


def test_pieces_are_whole_whatever_the_parts() -> None:
    parts = [b"ab", b"", b"cdefg", b"h"]
    assert list(pieces(iter(parts), 3)) == [b"abc", b"def", b"gh"]
    assert list(pieces(iter([]), 3)) == []
