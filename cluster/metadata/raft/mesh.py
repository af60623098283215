"""The voters' links: one outgoing TLS 1.3 stream to each, both ends with certificates.

    stream   hello -> | <- answer | frame | frame | ...
    frame    length 4 | message           an empty one each second says "still here"

Who connects proves its name by its certificate before a byte of it is decoded, and says in its
hello the same name, whom it wants, and its cluster. Anything else is refused, counted, and costs a
few kilobytes: at most `PENDING` connections may be on their way, and the oldest makes room for the
newest, so that a flood of silent strangers keeps no voter out for longer than its own handshake.

Names are resolved anew for each connection, in the link's own thread: a slow resolver, a black hole
or an absent peer delays nobody else, and a pod that came back with another address is found at
once. An idle link is kept alive, so that the first vote after a quiet hour is not lost.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgpack

from nearql.cluster.metadata.raft.messages import MAX_MESSAGE_BYTES
from nearql.cluster.tls import TlsFiles, certified_names
from nearql.engine.errors import InvalidRequest

PROTOCOL = 1
HELLO_BYTES = 4096
PENDING = 64
QUEUE_BYTES = 64 << 20
_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: until a connection is given up, between pings, until a silent peer is gone."""

    connect_s: float = 1.0
    handshake_s: float = 3.0
    ping_s: float = 1.0
    silence_s: float = 5.0
    retry_s: float = 0.2


@dataclass(frozen=True, slots=True)
class MeshConfig:
    """me: this voter's name; peers: the others' (host, port) by name; listen: (host, port)."""

    me: str
    peers: Mapping[str, tuple[str, int]]
    listen: tuple[str, int]
    tls: TlsFiles
    patience: Patience = Patience()


class Mesh:
    """Implements `member.Link`. `send` may be called from any thread."""

    def __init__(
        self,
        config: MeshConfig,
        on_message: Callable[[str, bytes], None],
        on_link: Callable[[str, bool], None],
        cluster_id: Callable[[], str],
    ) -> None:
        """Listen; links come up after `start`. The callbacks are called from the links' threads.

        cluster_id: this member's cluster, "" while it knows none.

        Raises:
            InvalidRequest: certificates. OSError: the address can't be had.
        """
        self.config, self.cluster_id = config, cluster_id
        self.on_message, self.on_link = on_message, on_link
        self.refused: Counter[str] = Counter()  # connections, by reason
        config.tls.context(server=True)
        self._listener = socket.create_server(config.listen, family=_family(config.listen[0]))
        self.port: int = self._listener.getsockname()[1]
        self.peer_clusters: dict[str, str] = {}  # what each peer last said of its cluster
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._pending: deque[tuple[float, socket.socket]] = deque()
        self._incoming: dict[str, socket.socket] = {}
        self._links = {name: _OutgoingLink(self, name) for name in config.peers}
        self._server_context: tuple[tuple[float, ...], ssl.SSLContext] | None = None

    def start(self) -> None:
        """Connect to everybody, and accept."""
        for link in self._links.values():
            _thread(f"raft-to-{link.name}", link.run)
        _thread("raft-accept", self._accept)

    def send(self, receiver: str, data: bytes) -> bool:
        """See `member.Link`."""
        return self._links[receiver].put(data)

    def links_up(self) -> list[str]:
        """Names of the peers that this member can talk to."""
        return [name for name, link in self._links.items() if link.up]

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._ended.is_set()

    def close(self) -> None:
        """End every connection."""
        self._ended.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for link in self._links.values():
            link.stop()
        with self._lock:
            waiting = [connection for _, connection in self._pending]
            for connection in [*waiting, *self._incoming.values()]:
                _abort(connection)

    # ---- incoming ---------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self.closed:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                self._ended.wait(0.05)  # out of file descriptors: some come back soon
                continue
            self._make_room(connection)
            _thread("raft-from", lambda c=connection: self._greet(c))  # type: ignore[misc]

    def _make_room(self, connection: socket.socket) -> None:
        """Remember a connection as pending; drop what is too old, and the oldest of too many."""
        oldest = time.monotonic() - self.config.patience.handshake_s
        with self._lock:
            self._pending.append((time.monotonic(), connection))
            while len(self._pending) > PENDING or self._pending[0][0] < oldest:
                self.refused["flood"] += 1
                _abort(self._pending.popleft()[1])

    def _greet(self, connection: socket.socket) -> None:
        """From a connection to a proved name, then its messages."""
        name = ""
        try:
            _prepare(connection, self.config.patience.handshake_s)
            with self._context().wrap_socket(connection, server_side=True) as stream:
                name = self._proved_name(stream)
                self._replace_incoming(name, stream)
                self._forget_pending(connection)
                stream.settimeout(self.config.patience.silence_s)
                self._read(name, stream)
        except _Refused as refusal:
            self.refused[str(refusal)] += 1
        except (ssl.SSLError, InvalidRequest):
            self.refused["tls"] += 1
        except OSError:
            if not name and not self.closed:
                self.refused["connection"] += 1
        finally:
            self._forget_pending(connection)
            connection.close()

    def _context(self) -> ssl.SSLContext:
        """The server's context, made anew when a file has changed."""
        with self._lock:
            stamp = self.config.tls.stamp()
            if self._server_context is None or self._server_context[0] != stamp:
                self._server_context = stamp, self.config.tls.context(server=True)
            return self._server_context[1]

    def _proved_name(self, stream: ssl.SSLSocket) -> str:
        """Read the hello, check it against the certificate, and answer it."""
        hello = _unpack_hello(_receive(stream, HELLO_BYTES))
        name = hello.get("name")
        ours, theirs = self.cluster_id(), hello.get("cluster")
        refusal = ""
        if not isinstance(name, str) or name not in certified_names(stream.getpeercert()):
            refusal = "name"
        elif name not in self.config.peers or hello.get("to") != self.config.me:
            refusal = "not_a_voter"
        elif hello.get("protocol") != PROTOCOL:
            refusal = "protocol"
        elif ours and theirs and ours != theirs:
            refusal = "cluster"
        _send(stream, msgpack.packb({"refused": refusal, "cluster": ours}))
        if refusal:
            raise _Refused(refusal)
        return str(name)

    def _replace_incoming(self, name: str, stream: ssl.SSLSocket) -> None:
        """A peer has one stream to us; an older one is dead, or will never be heard again."""
        with self._lock:
            old, self._incoming[name] = self._incoming.get(name), stream
        if old is not None:
            _abort(old)

    def _forget_pending(self, connection: socket.socket) -> None:
        with self._lock:
            kept = [item for item in self._pending if item[1] is not connection]
            self._pending = deque(kept)

    def _read(self, name: str, stream: ssl.SSLSocket) -> None:
        while not self.closed:
            data = _receive(stream, MAX_MESSAGE_BYTES)
            with self._lock:
                current = self._incoming.get(name) is stream
            if not current:
                return
            if data:
                self.on_message(name, data)


class _OutgoingLink:
    """The stream to one peer, and what waits for it."""

    def __init__(self, mesh: Mesh, name: str) -> None:
        self.name, self.up = name, False
        self._mesh, self._patience = mesh, mesh.config.patience
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._stopped = False

    def put(self, data: bytes) -> bool:
        """Queue a message; False while there is no connection."""
        with self._changed:
            if not self.up:
                return False
            self._waiting.append(data)
            self._waiting_bytes += len(data)
            self._changed.notify()
            return True

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def run(self) -> None:
        """Connect again and again, until stopped."""
        while not self._stopped:
            try:
                with self._connect() as stream:
                    self._set_up(True)
                    self._pump(stream)
            except _Refused as refusal:
                self._mesh.refused[f"by_peer_{refusal}"] += 1
            except (OSError, InvalidRequest):
                pass  # absent, unreachable or gone: that is what the next try is for
            self._set_up(False)
            with self._changed:
                self._changed.wait_for(lambda: self._stopped, self._patience.retry_s)

    def _connect(self) -> ssl.SSLSocket:
        host, port = self._mesh.config.peers[self.name]
        context = self._mesh.config.tls.context(server=False)
        raw = socket.create_connection((host, port), timeout=self._patience.connect_s)
        try:
            _prepare(raw, self._patience.handshake_s)
            stream = context.wrap_socket(raw, server_hostname=self.name)
        except BaseException:
            raw.close()
            raise
        try:
            self._greet(stream)
        except BaseException:
            stream.close()
            raise
        return stream

    def _greet(self, stream: ssl.SSLSocket) -> None:
        ours = self._mesh.cluster_id()
        hello = {
            "protocol": PROTOCOL,
            "name": self._mesh.config.me,
            "to": self.name,
            "cluster": ours,
        }
        _send(stream, msgpack.packb(hello))
        answer = _unpack_hello(_receive(stream, HELLO_BYTES))
        if answer.get("refused"):
            raise _Refused(str(answer["refused"])[:40])
        self._mesh.peer_clusters[self.name] = str(answer.get("cluster", ""))
        if ours and answer.get("cluster") and answer["cluster"] != ours:
            raise _Refused("cluster")

    def _pump(self, stream: ssl.SSLSocket) -> None:
        """Send what waits, and a ping when nothing does."""
        while not self._stopped:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._waiting or self._stopped, self._patience.ping_s
                )
                batch = [*self._waiting]
                too_much = self._waiting_bytes > QUEUE_BYTES
                self._waiting.clear()
                self._waiting_bytes = 0
            if too_much:
                raise OSError("the peer reads too slowly")
            stream.sendall(b"".join(_LENGTH.pack(len(m)) + m for m in batch or [b""]))

    def _set_up(self, up: bool) -> None:
        with self._changed:
            changed, self.up = self.up != up, up
            self._waiting.clear()
            self._waiting_bytes = 0
        if changed:
            self._mesh.on_link(self.name, up)


class _Refused(Exception):
    """A connection that is none of ours; the text is the reason's word."""


def _thread(name: str, target: Callable[[], None]) -> None:
    threading.Thread(target=target, name=name, daemon=True).start()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _prepare(connection: socket.socket, timeout_s: float) -> None:
    connection.settimeout(timeout_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 2000)


def _abort(connection: socket.socket) -> None:
    """Wake up whoever reads from it; they close it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _send(stream: ssl.SSLSocket, data: bytes) -> None:
    stream.sendall(_LENGTH.pack(len(data)) + data)


def _receive(stream: ssl.SSLSocket, limit: int) -> bytes:
    """One frame; raises _Refused for one beyond the limit, before a byte of it is read."""
    (length,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    if length > limit:
        raise _Refused("oversized")
    return _exactly(stream, length)


def _exactly(stream: ssl.SSLSocket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = stream.recv(min(size - len(data), 1 << 20))
        if not piece:
            raise OSError("closed by the peer")
        data += piece
    return bytes(data)


def _unpack_hello(data: bytes) -> dict[str, Any]:
    try:
        hello = msgpack.unpackb(data)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise _Refused("malformed") from error
    if not isinstance(hello, dict):
        raise _Refused("malformed")
    return hello
