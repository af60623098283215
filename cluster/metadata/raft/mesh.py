"""The voters' links: one outgoing TLS 1.3 stream to each, both ends with certificates.

    stream   hello -> | <- answer | frame | frame | ...
    frame    length 4 | message           an empty one each second says "still here"

Who connects proves its name by its certificate before a byte of it is decoded, and says in its
hello the same name, whom it wants, its cluster and its disk (`node`): who has the name of a peer
that is connected from another disk is a second one, and stays out. Anything else is refused,
counted, and costs a few kilobytes: at most `PENDING` connections may be on their way, and the
oldest makes room for the newest, so that a flood of silent strangers keeps no voter out for longer
than its own handshake.

Names are resolved anew for each connection, in the link's own thread: a slow resolver, a black hole
or an absent peer delays nobody else. A peer that comes in under a new *life* has started anew,
perhaps at another address: our stream to its former life is given up at once, rather than when
the kernel finds it dead. An idle link is kept alive, so that the first vote after a quiet hour is
not lost.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgpack

from nearql.cluster.metadata.codec import MAX_BYTES
from nearql.cluster.metadata.raft.messages import MAX_MESSAGE_BYTES
from nearql.cluster.metadata.raft.streams import (
    HELLO_BYTES,
    LENGTH,
    OLDEST_PROTOCOL,
    PROTOCOL,
    Patience,
    Refused,
    abort,
    dial,
    family,
    prepare,
    receive,
    send,
    spoken_with,
    unpack_hello,
)
from nearql.cluster.tls import TlsFiles, certified_names
from nearql.engine.errors import InvalidRequest

PENDING = 64
QUEUE_BYTES = 64 << 20
GUEST_BYTES = MAX_BYTES + 1024  # a guest's request: one command

# (name, request, send) -> "" or a refusal
Serve = Callable[[str, list[Any], Callable[..., None]], str]


@dataclass(frozen=True, slots=True)
class MeshConfig:
    """me: this voter's name; peers: the others' (host, port) by name; listen: (host, port)."""

    me: str
    peers: Mapping[str, tuple[str, int]]
    listen: tuple[str, int]
    tls: TlsFiles
    patience: Patience = Patience()
    node_id: str = ""  # of this disk


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
        self.life = secrets.token_hex(8)  # of this process
        config.tls.context(server=True)
        self._listener = socket.create_server(config.listen, family=family(config.listen[0]))
        self.port: int = self._listener.getsockname()[1]
        self.peer_clusters: dict[str, str] = {}  # what each peer last said of its cluster
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._pending: deque[tuple[float, socket.socket]] = deque()
        self._incoming: dict[str, tuple[socket.socket, str]] = {}  # with the disk's node id
        self._links = {name: _OutgoingLink(self, name) for name in config.peers}
        self.guests: Serve | None = None  # answers nodes that are no voters
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
            incoming = [connection for connection, _ in self._incoming.values()]
            for connection in [*waiting, *incoming]:
                abort(connection)

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
                abort(self._pending.popleft()[1])

    def _greet(self, connection: socket.socket) -> None:
        """From a connection to a proved name, then its messages."""
        name = ""
        try:
            prepare(connection, self.config.patience.handshake_s)
            with self._context().wrap_socket(connection, server_side=True) as stream:
                hello = self._proved_hello(stream)
                name = hello["name"]
                if self._is_guest(hello):
                    self._serve_guest(name, connection, stream)
                    return
                self._replace_incoming(name, stream, str(hello.get("node", "")))
                self._links[name].lives(hello.get("life"))
                self._forget_pending(connection)
                stream.settimeout(self.config.patience.silence_s)
                try:
                    self._read(name, stream)
                finally:
                    self._forget_incoming(name, stream)
        except Refused as refusal:
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

    def _proved_hello(self, stream: ssl.SSLSocket) -> dict[str, Any]:
        """Read the hello, check it against the certificate, and answer it."""
        hello = unpack_hello(receive(stream, HELLO_BYTES))
        refusal, ours = self._refusal(hello, stream), self.cluster_id()
        answer = {"refused": refusal, "cluster": ours, "life": self.life}
        send(stream, msgpack.packb({**answer, "protocol": spoken_with(hello)}))
        if refusal:
            raise Refused(refusal)
        return hello

    def _refusal(self, hello: dict[str, Any], stream: ssl.SSLSocket) -> str:
        """Why who says this is not let in; "" if it is."""
        name, theirs, ours = hello.get("name"), hello.get("cluster"), self.cluster_id()
        if not isinstance(name, str) or name not in certified_names(stream.getpeercert()):
            return "name"
        known = name in self.config.peers or self._is_guest(hello)
        if not known or hello.get("to") != self.config.me:
            return "not_a_voter"
        if not spoken_with(hello):
            return "protocol"
        if ours and theirs and ours != theirs:
            return "cluster"
        return "duplicate_name" if self._is_second(name, hello) else ""

    def _is_second(self, name: str, hello: dict[str, Any]) -> bool:
        """Whether a peer of this name is connected from another disk."""
        with self._lock:
            there = self._incoming.get(name, (None, ""))[1]
        theirs = hello.get("node", "")
        return bool(there and theirs) and there != theirs and not self._is_guest(hello)

    def _is_guest(self, hello: dict[str, Any]) -> bool:
        return bool(hello.get("guest")) and self.guests is not None

    def _serve_guest(self, name: str, connection: socket.socket, stream: ssl.SSLSocket) -> None:
        """One request of a node that does not vote."""
        assert self.guests is not None
        request = msgpack.unpackb(receive(stream, GUEST_BYTES))
        self._forget_pending(connection)
        stream.settimeout(self.config.patience.silence_s)
        if not isinstance(request, list) or not request:
            raise Refused("malformed")
        refusal = self.guests(name, request, lambda *frame: send(stream, msgpack.packb(frame)))
        if refusal:
            send(stream, msgpack.packb(["refused", refusal]))
            raise Refused(refusal)

    def _replace_incoming(self, name: str, stream: ssl.SSLSocket, node_id: str) -> None:
        """A peer has one stream to us; an older one is dead, or will never be heard again."""
        with self._lock:
            old, self._incoming[name] = self._incoming.get(name), (stream, node_id)
        if old is not None:
            abort(old[0])

    def _forget_incoming(self, name: str, stream: ssl.SSLSocket) -> None:
        with self._lock:
            if self._is_current(name, stream):
                del self._incoming[name]

    def _is_current(self, name: str, stream: ssl.SSLSocket) -> bool:
        return self._incoming.get(name, (None, ""))[0] is stream

    def _forget_pending(self, connection: socket.socket) -> None:
        with self._lock:
            kept = [item for item in self._pending if item[1] is not connection]
            self._pending = deque(kept)

    def _read(self, name: str, stream: ssl.SSLSocket) -> None:
        while not self.closed:
            data = receive(stream, MAX_MESSAGE_BYTES)
            with self._lock:
                current = self._is_current(name, stream)
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
        self._to: tuple[ssl.SSLSocket, str] | None = None  # the stream, and whose life it ends in

    def put(self, data: bytes) -> bool:
        """Queue a message; False while there is no connection."""
        with self._changed:
            if not self.up:
                return False
            self._waiting.append(data)
            self._waiting_bytes += len(data)
            self._changed.notify()
            return True

    def lives(self, life: object) -> None:
        """The peer has come in, in this life of its: a stream to another one leads nowhere."""
        with self._changed:
            if self._to is not None and isinstance(life, str) and self._to[1] not in ("", life):
                abort(self._to[0])
                self._to = None
                self._changed.notify()

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
            except Refused as refusal:
                self._mesh.refused[f"by_peer_{refusal}"] += 1
            except (OSError, InvalidRequest):
                pass  # absent, unreachable or gone: that is what the next try is for
            self._set_up(False)
            with self._changed:
                self._changed.wait_for(lambda: self._stopped, self._patience.retry_s)

    def _connect(self) -> ssl.SSLSocket:
        config, ours = self._mesh.config, self._mesh.cluster_id()
        hello = {
            "protocol": PROTOCOL, "oldest": OLDEST_PROTOCOL, "name": config.me, "to": self.name,
            "cluster": ours, "life": self._mesh.life, "node": config.node_id,
        }  # fmt: skip
        stream, answer = dial(config.peers[self.name], hello, config.tls, self._patience)
        self._mesh.peer_clusters[self.name] = str(answer.get("cluster", ""))
        if ours and answer.get("cluster") and answer["cluster"] != ours:
            stream.close()
            raise Refused("cluster")
        with self._changed:
            self._to = stream, str(answer.get("life", ""))
        return stream

    def _pump(self, stream: ssl.SSLSocket) -> None:
        """Send what waits, and a ping when nothing does."""
        while not self._stopped:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._waiting or self._stopped or self._to is None,
                    self._patience.ping_s,
                )
                if self._to is None:
                    raise OSError("the peer has started anew")
                batch = [*self._waiting]
                too_much = self._waiting_bytes > QUEUE_BYTES
                self._waiting.clear()
                self._waiting_bytes = 0
            if too_much:
                raise OSError("the peer reads too slowly")
            stream.sendall(b"".join(LENGTH.pack(len(m)) + m for m in batch or [b""]))

    def _set_up(self, up: bool) -> None:
        with self._changed:
            changed, self.up = self.up != up, up
            self._to = self._to if up else None
            self._waiting.clear()
            self._waiting_bytes = 0
        if changed:
            self._mesh.on_link(self.name, up)


def _thread(name: str, target: Callable[[], None]) -> None:
    threading.Thread(target=target, name=name, daemon=True).start()
