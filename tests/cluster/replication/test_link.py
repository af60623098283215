"""The links that carry data, over real sockets on loopback: what arrives, and what comes back."""

from __future__ import annotations

import asyncio
import queue
import random
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nearql.cluster.certificates import make_certificates
from nearql.cluster.replication.link.connection import Connection
from nearql.cluster.replication.link.frames import MAX_FRAME_BYTES, Kind, Malformed
from nearql.cluster.replication.link.link import Channel, Patience
from nearql.cluster.replication.link.notices import MAX_NOTICE_BYTES, Notices
from nearql.cluster.replication.link.patience import Backoff
from nearql.cluster.replication.link.resolver import Resolver
from nearql.cluster.tls import RenewedContext
from nearql.engine.errors import InvalidRequest
from support.replication_links import (
    QUICK,
    End,
    frame_bytes,
    is_ended,
    say_hello,
    stranger,
    tls,
)
from support.waiting import wait_for

Make = Callable[..., End]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder, ["a", "b", "c"])
    return folder


@pytest.fixture
def make(certificates: Path) -> Iterator[Make]:
    """Make ends that are closed afterwards."""
    ends: list[End] = []

    def make_end(name: str, **changes: object) -> End:
        ends.append(End(name, certificates, **changes))
        return ends[-1]

    yield make_end
    for end in ends:
        end.close()


@pytest.fixture
def pair(make: Make) -> tuple[End, End]:
    """a and b, who know each other; every channel is up."""
    a, b = make("a"), make("b")
    a.knows(b.peer()).link.start()
    b.knows(a.peer()).link.start()
    a.until_up()
    b.until_up()
    return a, b


def test_messages_arrive_whole_and_in_order(pair: tuple[End, End]) -> None:
    a, b = pair
    sent = [bytes([n % 256]) * (n * 3701 % 70_000) for n in range(300)]
    assert all(a.send(b, data) for data in sent)
    assert [b.heard.get(timeout=60) for _ in sent] == [("a", Channel.LOG, data) for data in sent]


def test_the_largest_frame_arrives_and_a_larger_one_is_not_sent(pair: tuple[End, End]) -> None:
    a, b = pair
    whole = random.Random(1).randbytes(MAX_FRAME_BYTES)
    assert a.send(b, whole)
    assert b.heard.get(timeout=60)[2] == whole
    with pytest.raises(Malformed, match="oversized"):
        a.send(b, whole + b"x")
    assert a.send(b, b"still up")
    assert b.heard.get(timeout=60)[2] == b"still up"


def test_a_heartbeat_does_not_wait_behind_records(pair: tuple[End, End]) -> None:
    """b takes nothing from the log channel; what goes over the beat channel arrives."""
    a, b = pair
    held = queue.Queue[None]()
    b.thread.soon(lambda: _log_connection(b).transport.pause_reading())
    b.thread.soon(held.put, None)
    held.get(timeout=60)
    for _ in range(3):
        assert a.send(b, bytes(MAX_FRAME_BYTES // 2))
    assert a.send(b, b"beat", Channel.BEAT)
    assert b.heard.get(timeout=60) == ("a", Channel.BEAT, b"beat")
    b.thread.soon(lambda: _log_connection(b).transport.resume_reading())
    assert [len(b.heard.get(timeout=60)[2]) for _ in range(3)] == [MAX_FRAME_BYTES // 2] * 3


def _log_connection(end: End) -> Connection:
    return end.link._incoming["id-a", Channel.LOG].connection


def test_a_peer_that_reads_nothing_loses_its_connection_before_memory_runs_out(
    pair: tuple[End, End],
) -> None:
    a, b = pair
    b.thread.soon(lambda: _log_connection(b).transport.pause_reading())
    while a.send(b, bytes(MAX_FRAME_BYTES)):
        pass
    wait_for(lambda: a.link.counts["ended_slow"] == 1, "the slow connection is ended")
    a.until_up(Channel.LOG)
    assert a.send(b, b"again")


def test_nothing_is_sent_where_there_is_no_connection(make: Make) -> None:
    a, b = make("a"), make("b")
    a.knows(b.peer())
    assert not a.send(b, b"x")


def test_links_come_back_after_a_restart_elsewhere(pair: tuple[End, End], make: Make) -> None:
    """A pod with a new address under its old name."""
    a, b = pair
    b.link.thread.run(b.link.stop())
    a.until_down()
    again = make("b").knows(a.peer())
    again.link.start()
    a.knows(again.peer())
    a.until_up()
    assert a.send(again, b"hello")
    assert again.heard.get(timeout=60) == ("a", Channel.LOG, b"hello")


def test_a_host_name_is_resolved_anew_for_each_connection(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = make("a"), make("b")
    asked: queue.Queue[str] = queue.Queue()
    addresses = {"node-b.example": "192.0.2.1"}  # of nobody
    real = socket.getaddrinfo

    def resolve(host: str, *rest: object, **options: object) -> object:
        if host in addresses:
            asked.put(addresses[host])
        if addresses.get(host) == "192.0.2.1":
            raise socket.gaierror("not yet")
        return real(addresses.get(host, host), *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    a.knows(b.peer(host="node-b.example")).link.start()
    b.knows(a.peer()).link.start()
    assert [asked.get(timeout=60) for _ in range(6)] == ["192.0.2.1"] * 6
    addresses["node-b.example"] = "127.0.0.1"
    a.until_up()
    assert a.send(b, b"found")
    assert b.heard.get(timeout=60)[2] == b"found"


def test_a_slow_resolver_delays_nobody_else(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    released: queue.Queue[None] = queue.Queue()
    real = socket.getaddrinfo

    def resolve(host: str, *rest: object, **options: object) -> object:
        if host == "slow.example":
            released.get(timeout=60)
            raise socket.gaierror("unknown")
        return real(host, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    a, b, c = make("a"), make("b"), make("c")
    a.knows(c.peer(host="slow.example"), b.peer()).link.start()
    b.knows(a.peer()).link.start()
    a.until_up(peer="b")
    for n in range(20):
        assert a.send(b, b"%d" % n)
        assert b.heard.get(timeout=60)[2] == b"%d" % n
    assert not a.send(c, b"x")
    for _ in range(8):
        released.put(None)


def test_lookups_of_one_name_are_one() -> None:
    async def three() -> list[list[str]]:
        return await asyncio.gather(*(resolver.addresses("h", 1) for _ in range(3)))

    asked = []

    def lookup(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return [(0, 0, 0, "", ("10.0.0.1", port)), (0, 0, 0, "", ("10.0.0.1", port))]

    resolver = Resolver(lookup)
    assert asyncio.run(three()) == [["10.0.0.1"]] * 3
    assert asked == ["h"]


def test_a_name_without_addresses_is_an_error() -> None:
    with pytest.raises(OSError, match="no address"):
        asyncio.run(Resolver(lambda *_, **__: []).addresses("h", 1))


def test_pauses_double_to_a_limit_differ_by_chance_and_begin_anew_after_success() -> None:
    patience = Patience(retry_s=1, retry_limit_s=8)
    first, other = Backoff(patience, random.Random(1)), Backoff(patience, random.Random(2))
    pauses = [first.next_s() for _ in range(6)]
    for pause, due in zip(pauses, (1, 2, 4, 8, 8, 8), strict=True):
        assert due / 2 <= pause <= due
    assert pauses != [other.next_s() for _ in range(6)]
    first.reset()
    assert first.next_s() <= 1


def test_the_pause_begins_anew_once_a_peer_has_answered(pair: tuple[End, End]) -> None:
    a, b = pair
    dialer = a.link.dialer(b.node_id, Channel.LOG)
    assert dialer is not None
    wait_for(lambda: dialer._backoff._next_s == QUICK.retry_s, "the pause is the first again")


def test_a_silent_peer_is_let_go(make: Make, certificates: Path) -> None:
    a = make("a", patience=replace(QUICK, silence_s=0.2))
    b = make("b")
    a.knows(b.peer()).link.start()
    with stranger(a, tls(certificates, "b")) as stream:
        assert say_hello(stream).refused == ""
        while stream.recv(4096):
            pass  # its pings, until it gives up
    wait_for(lambda: a.link.counts["ended_silent"] == 1, "it is counted")


def test_an_idle_link_stays_up(pair: tuple[End, End]) -> None:
    """Pings on every connection, both ways; none of them is a message."""
    a, b = pair
    connections = a.thread.run(_all(a)) + b.thread.run(_all(b))
    before = [connection.received_bytes for connection in connections]
    wait_for(
        lambda: all(c.received_bytes > n + 60 for c, n in zip(connections, before, strict=True)),
        "every connection has heard several pings",
    )
    assert b.heard.empty()
    assert not any(connection.ended.done() for connection in connections)
    wait_for(lambda: set(b.link.heard()) == {"id-a"}, "b heard a")


async def _all(end: End) -> list[Connection]:
    return end.link._connections()


def test_a_newer_connection_replaces_the_older(pair: tuple[End, End], certificates: Path) -> None:
    a, b = pair
    with stranger(a, tls(certificates, "b")) as stream:
        assert say_hello(stream).node_id == "id-a"
        b.until_down()
    wait_for(lambda: a.link.counts["ended_replaced"] >= 1, "it is counted")


def test_a_node_that_is_no_member_any_more_is_cut_off(pair: tuple[End, End]) -> None:
    a, b = pair
    a.knows()
    wait_for(lambda: b.link.refused().get("by_peer_not_a_member", 0) > 4, "b is refused")
    assert a.link.refused()["not_a_member"] > 4
    assert a.link.heard() == {}
    assert a.link.channels_up() == {}


def test_a_renewed_certificate_serves_the_next_connection(
    certificates: Path, tmp_path: Path
) -> None:
    """The old one stays in use while its successor is incomplete."""
    for file in certificates.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    a = End("a", tmp_path).knows()
    try:
        a.link.start()
        serial = _serial(a, certificates)
        for name in ("a.pem", "a.key"):
            (tmp_path / name).unlink()
        assert _serial(a, certificates) == serial
        make_certificates(tmp_path, ["a"])
        assert _serial(a, certificates) != serial
    finally:
        a.close()


def _serial(end: End, certificates: Path) -> object:
    with stranger(end, tls(certificates, "b")) as stream:
        return (stream.getpeercert() or {})["serialNumber"]


def test_bad_files_are_named_at_once(tmp_path: Path) -> None:
    files = tls(tmp_path, "a")
    with pytest.raises(InvalidRequest, match="can't be used"):
        RenewedContext(files, server=True)


def test_only_tls_1_3_is_spoken(make: Make, certificates: Path) -> None:
    a = make("a").knows()
    a.link.start()
    files = tls(certificates, "b")
    context = files.context(server=False)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", a.link.port), timeout=60) as raw,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(raw, server_hostname="a")
    wait_for(lambda: a.link.refused().get("tls") == 1, "it is counted")


def test_notices_reach_whoever_hears_their_topic(pair: tuple[End, End]) -> None:
    a, b = pair
    to_b, heard = Notices(a.link), queue.Queue[tuple[str, bytes]]()
    Notices(b.link).hear("news", lambda node_id, payload: heard.put((node_id, payload)))
    assert to_b.tell("id-b", "rumours", b"nobody listens")
    assert to_b.tell("id-b", "news", b"x" * MAX_NOTICE_BYTES)
    assert heard.get(timeout=60) == ("id-a", b"x" * MAX_NOTICE_BYTES)
    assert b.link.counts["unknown_notices"] == 1
    assert not to_b.tell("id-c", "news", b"no connection")
    wait_for(lambda: set(to_b.heard()) == {"id-b"}, "b's pings are heard")


@pytest.mark.parametrize("payload", [b"", b"\x00", b"\x00\x09short", b"\x00\x00" + bytes(1 << 17)])
def test_a_malformed_notice_ends_the_connection(
    make: Make, certificates: Path, payload: bytes
) -> None:
    a = make("a")
    a.knows(replace(a.peer(), name="b", node_id="id-b", port=1)).link.start()
    Notices(a.link).hear("", lambda node_id, payload: None)
    with stranger(a, tls(certificates, "b")) as stream:
        assert say_hello(stream, channel="beat").refused == ""
        stream.sendall(frame_bytes(Kind.NOTICE, payload))
        assert is_ended(stream)
    wait_for(lambda: a.link.counts["ended_malformed"] == 1, "it is counted")
