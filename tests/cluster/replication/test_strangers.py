"""Who is none of ours is refused, counted, and costs nobody anything."""

from __future__ import annotations

import contextlib
import random
import resource
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import msgpack
import pytest
from crc32c import crc32c

from nearql.cluster.certificates import make_certificates
from nearql.cluster.replication.link.frames import (
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    Assembler,
    Kind,
    Malformed,
)
from nearql.cluster.replication.link.hello import HELLO_BYTES, Welcome, unpack
from nearql.cluster.replication.link.link import Channel, Peer
from nearql.cluster.replication.link.listener import PENDING
from support.replication_links import (
    HELLO,
    QUICK,
    End,
    frame_bytes,
    is_ended,
    read_welcome,
    say_hello,
    stranger,
    tls,
)
from support.waiting import wait_for


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a, b and c, and of an authority of somebody else's."""
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder / "ours", ["a", "b", "c"])
    make_certificates(folder / "theirs", ["a", "b"])
    return folder


@pytest.fixture
def a(certificates: Path) -> Iterator[End]:
    """Node a, which knows b (and can't reach it)."""
    end = End("a", certificates / "ours")
    end.knows(absent_b(end)).link.start()
    yield end
    end.close()


def absent_b(end: End) -> Peer:
    return replace(end.peer(), name="b", node_id="id-b", port=1)


def refused(end: End, reason: str, times: int = 1) -> None:
    wait_for(lambda: end.link.refused().get(reason, 0) == times, f"{reason} is counted")
    assert end.heard.empty()
    assert end.link.heard() == {}


def test_without_a_certificate_nothing_is_read(a: End, certificates: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificates / "ours" / "ca.pem")
    with (
        socket.create_connection(("127.0.0.1", a.link.port), timeout=60) as raw,
        contextlib.suppress(ssl.SSLError, ConnectionError),
        context.wrap_socket(raw, server_hostname="a") as stream,
    ):
        stream.sendall(frame_bytes(Kind.HELLO, b"x"))
        assert is_ended(stream)
    refused(a, "tls")


def test_a_certificate_of_another_authority_is_refused(a: End, certificates: Path) -> None:
    theirs, ours = certificates / "theirs", certificates / "ours"
    files = replace(tls(theirs, "b"), ca=ours / "ca.pem")
    with contextlib.suppress(ssl.SSLError, ConnectionError), stranger(a, files) as stream:
        assert is_ended(stream)
    refused(a, "tls")


def test_plain_text_is_refused(a: End) -> None:
    with socket.create_connection(("127.0.0.1", a.link.port), timeout=60) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while raw.recv(100):
                pass
    refused(a, "tls")


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("name", {"name": "c"}),
        ("name", {"name": ""}),
        ("cluster", {"cluster": "8d3f6a7e-0000-4000-8000-00000000000f"}),
        ("cluster", {"cluster": ""}),
        ("not_me", {"wanted": "id-c"}),
        ("not_a_member", {"node_id": "id-c"}),
        ("not_a_member", {"node_id": "id-a"}),
        ("channel", {"channel": "gossip"}),
        ("protocol", {"protocol_min": 2, "protocol_max": 3}),
        ("protocol", {"protocol_min": 0, "protocol_max": 0}),
    ],
)
def test_a_wrong_hello_is_answered_with_the_reason(
    a: End, certificates: Path, reason: str, changes: dict[str, object]
) -> None:
    with stranger(a, tls(certificates / "ours", "b")) as stream:
        welcome = say_hello(stream, **changes)
        assert welcome == Welcome(reason)
        assert is_ended(stream)
    refused(a, reason)


def test_a_stolen_name_needs_its_certificate(a: End, certificates: Path) -> None:
    """c is one of us, and says that it is b."""
    with stranger(a, tls(certificates / "ours", "c")) as stream:
        assert say_hello(stream).refused == "name"
    refused(a, "name")


def test_a_later_protocol_that_still_speaks_ours_is_welcome(a: End, certificates: Path) -> None:
    with stranger(a, tls(certificates / "ours", "b")) as stream:
        welcome = say_hello(stream, protocol_max=9, features=255, added_later="x")
        assert welcome == Welcome("", 1, 0, "id-a", 1)


def test_a_node_without_a_cluster_lets_nobody_in(certificates: Path) -> None:
    end = End("a", certificates / "ours", cluster_id=lambda: "")
    try:
        end.knows(absent_b(end)).link.start()
        with stranger(end, tls(certificates / "ours", "b")) as stream:
            assert say_hello(stream, cluster="").refused == "cluster"
    finally:
        end.close()


MALFORMED: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a hello above 4 KiB": ("oversized", lambda: frame_bytes(Kind.HELLO, bytes(HELLO_BYTES + 1))),
    "a length of 4 GiB": ("oversized", lambda: struct.pack(">2sBBII", b"NR", 1, 1, 2**32 - 1, 0)),
    "no frame": ("malformed", lambda: b"\x80" * HEADER_BYTES),
    "another layout": ("malformed", lambda: struct.pack(">2sBBII", b"NR", 2, 1, 0, 0)),
    "an unknown kind": ("malformed", lambda: struct.pack(">2sBBII", b"NR", 1, 99, 0, 0)),
    "a wrong checksum": (
        "checksum",
        lambda: frame_bytes(Kind.HELLO, msgpack.packb(asdict(HELLO)))[:-1] + b"\xff",
    ),
    "no msgpack": ("malformed", lambda: frame_bytes(Kind.HELLO, b"\xc1")),
    "nested without end": ("malformed", lambda: frame_bytes(Kind.HELLO, b"\x91" * 4000)),
    "a list": ("malformed", lambda: frame_bytes(Kind.HELLO, msgpack.packb([1]))),
    "an empty hello": ("malformed", lambda: frame_bytes(Kind.HELLO, msgpack.packb({}))),
    "a number too large": (
        "malformed",
        lambda: frame_bytes(Kind.HELLO, msgpack.packb({**asdict(HELLO), "session": 1 << 63})),
    ),
    "a field of another type": (
        "malformed",
        lambda: frame_bytes(Kind.HELLO, msgpack.packb({**asdict(HELLO), "name": 1})),
    ),
    "another frame first": ("malformed", lambda: frame_bytes(Kind.SHARD, b"x")),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_bytes_end_the_connection(a: End, certificates: Path, name: str) -> None:
    reason, data = MALFORMED[name]
    with stranger(a, tls(certificates / "ours", "b")) as stream:
        stream.sendall(data())
        with pytest.raises(OSError):
            read_welcome(stream)
    refused(a, reason)


@pytest.mark.parametrize("name", ["a wrong checksum", "no frame", "an unknown kind"])
def test_malformed_bytes_of_a_proved_peer_end_the_connection_too(
    a: End, certificates: Path, name: str
) -> None:
    with stranger(a, tls(certificates / "ours", "b")) as stream:
        assert say_hello(stream).refused == ""
        stream.sendall(frame_bytes(Kind.SHARD, b"good"))
        assert a.heard.get(timeout=60) == ("b", Channel.LOG, b"good")
        stream.sendall(MALFORMED[name][1]())
        assert is_ended(stream)
    wait_for(lambda: a.link.counts[f"ended_{MALFORMED[name][0]}"] == 1, "it is counted")
    assert a.heard.empty()


def test_a_frame_above_32_mib_ends_the_connection_before_a_byte_of_it_is_kept(
    a: End, certificates: Path
) -> None:
    with stranger(a, tls(certificates / "ours", "b")) as stream:
        assert say_hello(stream).refused == ""
        stream.sendall(struct.pack(">2sBBII", b"NR", 1, Kind.SHARD, MAX_FRAME_BYTES + 1, 0))
        assert is_ended(stream)
    wait_for(lambda: a.link.counts["ended_oversized"] == 1, "it is counted")


def test_a_kind_that_nobody_handles_ends_the_connection(a: End, certificates: Path) -> None:
    with stranger(a, tls(certificates / "ours", "b")) as stream:
        assert say_hello(stream).refused == ""
        stream.sendall(frame_bytes(Kind.HELLO, b""))
        assert is_ended(stream)


def test_a_thousand_idle_connections_keep_nobody_out(a: End, certificates: Path) -> None:
    """They stay open as long as they may; a node still comes in, and the oldest are dropped."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    idle: list[socket.socket] = []
    try:
        for _ in range(1000):
            idle.append(socket.create_connection(("127.0.0.1", a.link.port), timeout=60))
        with stranger(a, tls(certificates / "ours", "b")) as stream:
            assert say_hello(stream).refused == ""
            stream.sendall(frame_bytes(Kind.SHARD, b"heard"))
            assert a.heard.get(timeout=60)[2] == b"heard"
            assert a.link.refused()["flood"] >= 1000 - PENDING
    finally:
        for raw in idle:
            raw.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_who_says_nothing_is_let_go(certificates: Path) -> None:
    end = End("a", certificates / "ours", patience=replace(QUICK, handshake_s=0.2))
    try:
        end.knows().link.start()
        with (
            socket.create_connection(("127.0.0.1", end.link.port), timeout=60) as raw,
            contextlib.suppress(ConnectionError),
        ):
            assert raw.recv(1) == b""
        wait_for(lambda: sum(end.link.refused().values()) == 1, "it is counted")
    finally:
        end.close()


def test_any_bytes_are_a_frame_or_malformed() -> None:
    """Whatever comes, in whatever pieces; nothing else is raised, and nothing beyond the limit."""
    chance = random.Random(8472)
    for _ in range(2000):
        data = bytearray(frame_bytes(Kind.SHARD, chance.randbytes(chance.randrange(60))))
        for _ in range(chance.randrange(4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        assembler = Assembler(64)
        try:
            whole = _feed(assembler, data, chance)
        except Malformed:
            continue
        head, crc = bytes(data[:8]), int.from_bytes(data[8:12], "big")
        assert whole == [bytes(data[12:])] or not whole
        if whole:
            assert crc32c(bytes(data[12:]), crc32c(head)) == crc


def _feed(assembler: Assembler, data: bytearray, chance: random.Random) -> list[bytes]:
    whole, at = [], 0
    while at < len(data):
        room = assembler.room()
        assert 0 < len(room) <= 64
        count = min(len(room), len(data) - at, chance.randrange(1, 20))
        room[:count] = data[at : at + count]
        at += count
        if (frame := assembler.filled(count)) is not None:
            whole.append(bytes(frame.payload))
    return whole


def test_any_bytes_are_a_hello_or_malformed() -> None:
    chance = random.Random(8472)
    good = msgpack.packb(asdict(HELLO))
    for _ in range(2000):
        data = bytearray(good)
        for _ in range(chance.randrange(5)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        with contextlib.suppress(Malformed):
            unpack(type(HELLO), memoryview(data))
