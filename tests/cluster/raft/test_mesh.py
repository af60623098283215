"""The links between voters, over real sockets on loopback: who is heard, and what others cost."""

from __future__ import annotations

import queue
import resource
import socket
import ssl
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import msgpack
import pytest

from nearql.cluster.certificates import make_certificates
from nearql.cluster.metadata.raft import mesh as meshes
from nearql.cluster.metadata.raft import messages, streams
from nearql.cluster.metadata.raft.mesh import Mesh, MeshConfig
from nearql.cluster.metadata.raft.streams import Patience
from nearql.cluster.tls import TlsFiles
from nearql.engine.errors import InvalidRequest
from support.waiting import wait_for

QUICK = Patience(connect_s=30.0, handshake_s=60.0, ping_s=0.05, silence_s=60.0, retry_s=0.02)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a, b and c, and of an authority of somebody else's."""
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder / "ours", ["a", "b", "c"])
    make_certificates(folder / "theirs", ["a", "b"])
    return folder


def tls(folder: Path, name: str) -> TlsFiles:
    return TlsFiles(folder / "ca.pem", folder / f"{name}.pem", folder / f"{name}.key")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class End:
    """A mesh and what it heard."""

    def __init__(self, config: MeshConfig, cluster: str = "") -> None:
        self.heard: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.links: queue.Queue[tuple[str, bool]] = queue.Queue()
        self.mesh = Mesh(
            config,
            lambda name, data: self.heard.put((name, data)),
            lambda name, up: self.links.put((name, up)),
            lambda: cluster,
        )

    def start(self) -> End:
        self.mesh.start()
        return self


Pair = Callable[..., tuple[End, End]]


@pytest.fixture
def pair(certificates: Path) -> Iterator[Pair]:
    """Make a and b, that talk to each other; options change b."""
    ends: list[End] = []

    def make(*, clusters: tuple[str, str] = ("", ""), **changes: object) -> tuple[End, End]:
        ours = certificates / "ours"
        a = MeshConfig("a", {"b": ("127.0.0.1", 0)}, ("127.0.0.1", 0), tls(ours, "a"), QUICK)
        b = replace(a, me="b", peers={"a": ("127.0.0.1", 0)}, tls=tls(ours, "b"))
        b = replace(b, **changes)  # type: ignore[arg-type]
        first, second = End(a, clusters[0]), End(b, clusters[1])
        ends.extend((first, second))
        for end, other in ((first, second), (second, first)):
            (name,) = end.mesh.config.peers
            address = {name: ("127.0.0.1", other.mesh.port)}
            end.mesh.config = replace(end.mesh.config, peers=address)
        return first.start(), second.start()

    yield make
    for end in ends:
        end.mesh.close()


def test_messages_arrive_whole_and_in_order(pair: Pair) -> None:
    a, b = pair()
    assert a.links.get(timeout=60) == ("b", True)
    sent = [bytes([n % 256]) * (n * 37 % 5000 + 1) for n in range(300)]
    assert all(a.mesh.send("b", data) for data in sent)
    assert [b.heard.get(timeout=60) for _ in sent] == [("a", data) for data in sent]


def test_nothing_is_sent_where_there_is_no_connection(certificates: Path) -> None:
    config = MeshConfig(
        "a", {"b": ("127.0.0.1", free_port())}, ("127.0.0.1", 0), tls(certificates / "ours", "a")
    )
    end = End(config).start()
    try:
        assert not end.mesh.send("b", b"x")
    finally:
        end.mesh.close()


def test_an_idle_link_is_pinged_and_its_first_message_arrives(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Group 7: the stock library loses the first vote after a quiet time, and with it seconds."""
    frames: queue.Queue[bytes] = queue.Queue()
    receive = streams.receive

    def watched(stream: ssl.SSLSocket, limit: int) -> bytes:
        data = receive(stream, limit)
        frames.put(data)
        return data

    monkeypatch.setattr(meshes, "receive", watched)
    a, b = pair()
    assert a.links.get(timeout=60)[1]
    pings = 0
    while pings < 10:
        pings += not frames.get(timeout=60)
    assert a.links.empty()
    assert a.mesh.send("b", b"vote")
    assert b.heard.get(timeout=60) == ("a", b"vote")


def test_the_stock_library_loses_the_first_message_after_a_quiet_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Group 7: it looks at its idle timeout when it sends, and closes instead."""
    from pysyncobj import tcp_connection
    from pysyncobj.poller import createPoller

    now = [0.0]
    monkeypatch.setattr(tcp_connection, "monotonicTime", lambda: now[0])
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setblocking(False)
        link = tcp_connection.TcpConnection(createPoller("auto"), socket=ours, timeout=3.5)
        now[0] = 60.0
        link.send({"type": "request_vote"})
        assert link.state == tcp_connection.CONNECTION_STATE.DISCONNECTED
        assert theirs.recv(100) == b""


def test_a_peer_that_falls_silent_is_let_go(pair: Pair, certificates: Path) -> None:
    a, b = pair(patience=replace(QUICK, silence_s=0.1))
    a.mesh.close()
    with stranger(b, tls(certificates / "ours", "a"), "b") as stream:
        streams.send(stream, msgpack.packb({"protocol": 1, "name": "a", "to": "b", "cluster": ""}))
        assert msgpack.unpackb(streams.receive(stream, 4096))["refused"] == ""
        assert stream.recv(1) == b""


def test_a_peer_that_comes_back_elsewhere_is_found(pair: Pair, certificates: Path) -> None:
    """Group 10: a pod with a new address; names are resolved for each connection."""
    a, b = pair()
    assert a.links.get(timeout=60)[1]
    b.mesh.close()
    assert a.links.get(timeout=60) == ("b", False)
    again = End(replace(b.mesh.config, listen=("127.0.0.1", 0))).start()
    try:
        moved = {"b": ("127.0.0.1", again.mesh.port)}
        a.mesh.config = replace(a.mesh.config, peers=moved)
        assert a.links.get(timeout=60) == ("b", True)
        assert a.mesh.send("b", b"hello")
        assert again.heard.get(timeout=60) == ("a", b"hello")
    finally:
        again.mesh.close()


def test_a_peer_that_started_anew_elsewhere_is_found_before_its_old_address_is_dead(
    pair: Pair,
) -> None:
    """Group 10: a pod's new address, and the old one a black hole that nobody has noticed yet."""
    a, b = pair()
    assert a.links.get(timeout=60) == ("b", True)
    b.mesh._links["a"].stop()  # it is gone, and its socket for what a sends is not closed
    again = End(replace(b.mesh.config, listen=("127.0.0.1", 0)))
    a.mesh.config = replace(a.mesh.config, peers={"b": ("127.0.0.1", again.mesh.port)})
    again.start()
    try:
        assert a.links.get(timeout=60) == ("b", False)
        assert a.links.get(timeout=60) == ("b", True)
        assert a.mesh.send("b", b"hello")
        assert again.heard.get(timeout=60) == ("a", b"hello")
        assert a.mesh.send("b", b"again")
        assert again.heard.get(timeout=60) == ("a", b"again")
    finally:
        again.mesh.close()


def test_a_peer_of_the_same_life_is_not_dialled_again(pair: Pair, certificates: Path) -> None:
    a, b = pair()
    assert a.links.get(timeout=60) == ("b", True)
    wait_for(lambda: "a" in b.mesh._incoming, "a's stream", 60)
    with b.mesh._lock:
        streams.abort(b.mesh._incoming["a"][0])  # as if only this direction had broken
    assert a.links.get(timeout=60) == ("b", False)
    assert a.links.get(timeout=60) == ("b", True)
    assert b.mesh.send("a", b"still the first stream")
    assert a.heard.get(timeout=60) == ("b", b"still the first stream")
    assert b.links.get(timeout=60) == ("a", True)
    assert b.links.empty()


@pytest.mark.parametrize(
    ("newest", "oldest", "spoken"), [(1, 1, 1), (3, 1, 1), (3, 2, 0), (0, 0, 0), ("1", 1, 0)]
)
def test_the_newest_protocol_that_both_speak_is_spoken(
    newest: object, oldest: object, spoken: int
) -> None:
    assert streams.spoken_with({"protocol": newest, "oldest": oldest}) == spoken


def test_a_slow_resolver_and_a_black_hole_delay_nobody_else(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Group 10: the link to c never comes up; what goes to b does not notice."""
    real = socket.getaddrinfo
    released = queue.Queue[None]()

    def resolve(host: str, *rest: object, **options: object) -> object:
        if host == "slow.example":
            released.get(timeout=60)
        return real(host, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    a, b = pair()
    config = replace(a.mesh.config, me="c", listen=("127.0.0.1", 0))
    link = meshes._OutgoingLink(a.mesh, "c")
    a.mesh.config = replace(a.mesh.config, peers={**a.mesh.config.peers, "c": ("slow.example", 1)})
    a.mesh._links["c"] = link
    meshes._thread("slow", link.run)
    assert a.links.get(timeout=60) == ("b", True)
    for n in range(20):
        assert a.mesh.send("b", b"%d" % n)
        assert b.heard.get(timeout=60) == ("a", b"%d" % n)
    assert not a.mesh.send("c", b"x")
    assert config.me == "c"
    released.put(None)


def test_a_black_hole_is_given_up_after_a_second(
    certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Group 8: and tried again at once, whatever the kernel's back-off has come to."""
    tried: queue.Queue[float] = queue.Queue()

    def connect(_address: object, timeout: float) -> NoReturn:
        tried.put(timeout)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", connect)
    files = tls(certificates / "ours", "a")
    end = End(MeshConfig("a", {"b": ("192.0.2.1", 1)}, ("127.0.0.1", 0), files)).start()
    try:
        assert [tried.get(timeout=60) for _ in range(3)] == [1.0] * 3
    finally:
        end.mesh.close()


def refusals(end: End) -> dict[str, int]:
    return dict(end.mesh.refused)


def test_another_cluster_is_refused_on_both_sides(pair: Pair) -> None:
    a, b = pair(clusters=("one", "two"))
    wait_for(lambda: b.mesh.refused["cluster"] > 0, "the expected count", 100)
    wait_for(lambda: a.mesh.refused["by_peer_cluster"] > 0, "the expected count", 100)
    assert a.links.empty()
    assert b.heard.empty()


def test_a_certificate_of_another_authority_is_refused(pair: Pair, certificates: Path) -> None:
    a, b = pair(tls=tls(certificates / "theirs", "b"))
    wait_for(lambda: a.mesh.refused["tls"] > 0, "the expected count", 100)
    assert a.links.empty()
    assert b.links.empty()


def test_a_certificate_of_another_name_is_refused(pair: Pair, certificates: Path) -> None:
    """c has a good certificate of ours, and says it were b."""
    a, _ = pair(tls=tls(certificates / "ours", "c"))
    wait_for(lambda: a.mesh.refused["name"] > 0, "the expected count", 100)
    assert a.links.empty()


def stranger(end: End, files: TlsFiles, name: str = "a") -> ssl.SSLSocket:
    """A connection to a mesh with TLS and a good certificate."""
    return files.context(server=False).wrap_socket(nobody(end), server_hostname=name)


def nobody(end: End) -> socket.socket:
    """A connection without a word."""
    return socket.create_connection(("127.0.0.1", end.mesh.port), timeout=60)


EXPLOIT = b"cbuiltins\nexec\n(Vimport sys; sys.nearql_exploited = True\ntR."  # a pickle, by hand


def exploited() -> bool:
    """Whether somebody has unpickled EXPLOIT since the last look."""
    return bool(vars(sys).pop("nearql_exploited", False))


def test_bytes_of_a_stranger_reach_no_decoder(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Group 13: the exploit, an unauthenticated `add` and `readonly`, a 2 GB frame, a zlib bomb."""
    a, b = pair()
    assert a.links.get(timeout=60)[1]
    assert b.links.get(timeout=60)[1]  # b's own hello is behind us
    decoded: list[bytes] = []
    monkeypatch.setattr(meshes, "unpack_hello", decoded.append)
    payloads = [
        zlib.compress(EXPLOIT),
        zlib.compress(b"]X\x03\x00\x00\x00addaX\x06\x00\x00\x00evil:1a."),
        zlib.compress(b"X\x08\x00\x00\x00readonly."),
        zlib.compress(bytes(1 << 20)),
    ]
    before = a.mesh.refused["tls"]
    for payload in payloads:
        with nobody(a) as raw:
            raw.sendall(struct.pack("<i", len(payload)) + payload)
    with nobody(a) as raw:
        raw.sendall(struct.pack(">I", (2 << 30) - 1) + bytes(4096))
    wait_for(
        lambda: a.mesh.refused["tls"] + a.mesh.refused["connection"] >= before + 5,
        "the expected count",
    )
    assert decoded == []
    assert not exploited()


def test_the_stock_library_runs_a_strangers_code() -> None:
    """Group 13: what the message above does to PySyncObj's own connection, before any password."""
    from pysyncobj.poller import createPoller
    from pysyncobj.tcp_connection import TcpConnection

    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        connection = TcpConnection(createPoller("auto"), socket=ours, timeout=30.0)
        connection.setOnMessageReceivedCallback(lambda _message: None)
        payload = zlib.compress(EXPLOIT)
        theirs.sendall(struct.pack("i", len(payload)) + payload)
        poller = connection._TcpConnection__poller
        wait_for(
            lambda: bool(poller.poll(0.1)) or hasattr(sys, "nearql_exploited"), "the exploit", 100
        )
        connection.disconnect()
    assert exploited()


def test_an_oversized_frame_is_refused_before_it_is_read(pair: Pair, certificates: Path) -> None:
    a, b = pair()
    b.mesh.close()
    with stranger(a, tls(certificates / "ours", "b")) as stream:
        stream.sendall(struct.pack(">I", streams.HELLO_BYTES + 1))
        wait_for(lambda: a.mesh.refused["oversized"] > 0, "the expected count", 100)


@pytest.mark.parametrize(
    "hello",
    [
        b"\xc1",
        msgpack.packb([1, 2]),
        msgpack.packb({"protocol": 9, "name": "b", "to": "a", "cluster": ""}),
        msgpack.packb({"protocol": 1, "name": "b", "to": "z", "cluster": ""}),
        msgpack.packb({"protocol": 1, "name": ["b"], "to": "a", "cluster": ""}),
    ],
    ids=["not msgpack", "a list", "another protocol", "for another", "a wrong name"],
)
def test_a_wrong_hello_is_refused_and_counted(pair: Pair, certificates: Path, hello: bytes) -> None:
    a, b = pair()
    b.mesh.close()
    before = sum(a.mesh.refused.values())
    with stranger(a, tls(certificates / "ours", "b")) as stream:
        stream.sendall(struct.pack(">I", len(hello)) + hello)
        wait_for(lambda: sum(a.mesh.refused.values()) > before, "the expected count", 100)


def test_a_thousand_idle_strangers_keep_no_voter_out(pair: Pair) -> None:
    """The oldest of too many makes room: b reconnects while they all wait."""
    a, b = pair()
    assert a.links.get(timeout=60)[1]
    assert b.links.get(timeout=60)[1]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    crowd: list[socket.socket] = []
    try:
        for _ in range(1000):
            crowd.append(nobody(a))
        flood = 1000 - meshes.PENDING
        wait_for(lambda: a.mesh.refused["flood"] >= flood, "the expected count", 100)
        with a.mesh._lock:
            streams.abort(a.mesh._incoming["b"][0])
        assert b.links.get(timeout=60) == ("a", False)
        assert b.links.get(timeout=60) == ("a", True)
        assert b.mesh.send("a", b"still here")
        assert a.heard.get(timeout=60) == ("b", b"still here")
    finally:
        for connection in crowd:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_certificates_are_taken_anew_for_each_connection(
    pair: Pair, certificates: Path, tmp_path: Path
) -> None:
    """A rotation needs no restart."""
    mine = tmp_path / "b"
    mine.mkdir()
    for name in ("ca.pem", "b.pem", "b.key"):
        (mine / name).write_bytes((certificates / "theirs" / name).read_bytes())
    a, b = pair(tls=tls(mine, "b"))
    wait_for(lambda: a.mesh.refused["tls"] > 0, "the expected count", 100)
    for name in ("ca.pem", "b.pem", "b.key"):
        (mine / name).write_bytes((certificates / "ours" / name).read_bytes())
    assert a.links.get(timeout=60) == ("b", True)
    assert b.links.get(timeout=60) == ("a", True)


def test_missing_certificates_say_how_to_make_some(tmp_path: Path) -> None:
    config = MeshConfig("a", {}, ("127.0.0.1", 0), tls(tmp_path, "a"))
    with pytest.raises(InvalidRequest, match="nearql cluster certs"):
        End(config)


@pytest.mark.parametrize(
    "data",
    [
        EXPLOIT,
        b"",
        msgpack.packb({"type": "add", "node": "evil:1"}),
        msgpack.packb({"type": "response_vote", "term": -1}),
        msgpack.packb({"type": "response_vote", "term": 1, "more": 2}),
        msgpack.packb(
            {
                "type": "request_vote",
                "term": 1,
                "last_log_index": 1,
                "last_log_term": 1,
                "called": 0,
            }
        ),
        msgpack.packb({"type": "apply_command", "command": b"\x02membership"}),
        msgpack.packb({"type": "apply_command", "command": b"\x00" + bytes(300 << 10)}),
        msgpack.packb({"type": ["x"]}),
    ],
)
def test_a_malformed_message_is_none(data: bytes) -> None:
    """Also from a voter: one stolen node must not run code on the others."""
    with pytest.raises(messages.Malformed):
        messages.decode(data)
    assert not exploited()


def test_entries_with_gaps_or_falling_terms_are_malformed() -> None:
    def append(*found: tuple[bytes, int, int]) -> bytes:
        return messages.encode(
            {"type": "append_entries", "term": 5, "commit_index": 1, "entries": found,
             "prevLogIdx": 1, "prevLogTerm": 1}
        )  # fmt: skip

    assert messages.decode(append((b"\x00", 2, 1), (b"\x01", 3, 5)))
    for wrong in (
        append((b"\x00", 3, 1)),
        append((b"\x00", 2, 3), (b"\x00", 3, 2)),
        append((b"\x00", 2, 6)),
        append((b"\x03", 2, 2)),
    ):
        with pytest.raises(messages.Malformed):
            messages.decode(wrong)


def test_a_member_leaves_the_library_no_pickle() -> None:
    """The library's own pickle is gone once a member exists."""
    import pysyncobj.syncobj as syncobj

    from support.raft_stage import on_stage

    with on_stage(), pytest.raises(RuntimeError, match="no use for that"):
        syncobj.pickle.loads(b"N.")
