"""Ends of replication's links, over real sockets on loopback, and strangers who knock at them."""

from __future__ import annotations

import queue
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgpack

from nearql.cluster.replication.link.frames import HEADER_BYTES, Frame, Kind, pack
from nearql.cluster.replication.link.hello import Hello, Welcome, unpack
from nearql.cluster.replication.link.link import Channel, Link, LinkConfig, Patience, Peer, Source
from nearql.cluster.replication.link.loop import LoopThread
from nearql.cluster.tls import TlsFiles

# Nothing here may depend on how fast the machine is: what must happen happens soon, what must not
# happen would take minutes.
QUICK = Patience(
    connect_s=30, handshake_s=60, ping_s=0.05, silence_s=60, retry_s=0.01, retry_limit_s=0.05
)
CLUSTER = "8d3f6a7e-0000-4000-8000-000000000001"
HELLO = Hello(1, 1, 0, CLUSTER, "id-b", "b", 1, "id-a", "log", 7, 1)


def tls(folder: Path, name: str) -> TlsFiles:
    """The files of a node, as `make_certificates` names them."""
    return TlsFiles(folder / "ca.pem", folder / f"{name}.pem", folder / f"{name}.key")


class End:
    """A link, what it heard, and which channels came up or went down."""

    def __init__(self, name: str, folder: Path, **changes: Any) -> None:
        options: dict[str, Any] = {
            "cluster_id": lambda: CLUSTER, "incarnation": lambda: 1, "patience": QUICK,
        } | changes  # fmt: skip
        self.name, self.node_id = name, f"id-{name}"
        self.thread = LoopThread(f"replication-{name}")
        self.heard: queue.Queue[tuple[str, Channel, bytes]] = queue.Queue()
        self.changes: queue.Queue[tuple[str, Channel, bool]] = queue.Queue()
        config = LinkConfig(name, self.node_id, ("127.0.0.1", 0), tls(folder, name), **options)
        self.link = Link(config, self.thread)
        self.link.on_frame[Kind.SHARD] = self._take
        self.link.on_change = lambda peer, channel, up: self.changes.put((peer.name, channel, up))

    def _take(self, source: Source, frame: Frame) -> None:
        self.heard.put((source.peer.name, source.channel, bytes(frame.payload)))

    def peer(self, **changes: Any) -> Peer:
        """How others reach this end."""
        return replace(Peer(self.name, self.node_id, "127.0.0.1", self.link.port), **changes)

    def knows(self, *peers: Peer) -> End:
        """Tell it its peers."""
        self.link.set_peers({peer.node_id: peer for peer in peers})
        return self

    def send(self, to: End, data: bytes, channel: Channel = Channel.LOG) -> bool:
        """Send a shard message, from the loop."""

        async def work() -> bool:
            return self.link.send(to.node_id, channel, Kind.SHARD, data)

        return self.thread.run(work())

    def until_up(self, *channels: Channel, peer: str = "") -> None:
        """Wait until these channels came up; what else changes meanwhile is forgotten."""
        missing = set(channels or Channel)
        while missing:
            name, channel, up = self.changes.get(timeout=60)
            if up and peer in ("", name):
                missing.discard(channel)

    def until_down(self) -> None:
        """Wait until a channel goes down."""
        while self.changes.get(timeout=60)[2]:
            pass

    def close(self) -> None:
        """End it."""
        self.thread.run(self.link.stop())
        self.thread.close()


@contextmanager
def stranger(end: End, files: TlsFiles, *, wanted: str = "a") -> Iterator[ssl.SSLSocket]:
    """A TLS connection to an end, by hand."""
    with (
        socket.create_connection(("127.0.0.1", end.link.port), timeout=60) as raw,
        files.context(server=False).wrap_socket(raw, server_hostname=wanted) as stream,
    ):
        yield stream


def frame_bytes(kind: Kind, payload: bytes) -> bytes:
    """A frame as it lies on the wire."""
    return b"".join(pack(kind, [payload]))


def say_hello(stream: ssl.SSLSocket, **changes: Any) -> Welcome:
    """Send a hello of node b with these fields changed; the answer.

    Raises:
        OSError: the connection was ended instead.
    """
    stream.sendall(frame_bytes(Kind.HELLO, msgpack.packb({**asdict(HELLO), **changes})))
    return read_welcome(stream)


def read_welcome(stream: ssl.SSLSocket) -> Welcome:
    """The answer to a hello; OSError where the connection was ended instead."""
    header = exactly(stream, HEADER_BYTES)
    size = int.from_bytes(header[4:8], "big")
    return unpack(Welcome, memoryview(exactly(stream, size)))


def exactly(stream: ssl.SSLSocket, size: int) -> bytes:
    """So many bytes; OSError where they do not come."""
    data = b""
    while len(data) < size:
        piece = stream.recv(size - len(data))
        if not piece:
            raise ConnectionResetError("closed by the peer")
        data += piece
    return data


def is_ended(stream: ssl.SSLSocket) -> bool:
    """Whether the other end ends the connection; waits for it, reading what still comes."""
    try:
        while stream.recv(1 << 16):
            pass
    except OSError:
        return True
    return True
