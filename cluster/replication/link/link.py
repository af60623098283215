"""A node's connections to all others.

    this node                                   another
    dialer log   ---- records ------------->    listener
    dialer beat  ---- heartbeats, acks ---->    listener
    dialer call  ---- requests, answers <-->    listener
    dialer bulk  ---- snapshots <---------->    listener

Each node dials each other one, so a pair has two connections per channel, and what goes one way
never depends on what comes the other way. Who is dialled or let in is told by `set_peers`: the
nodes that metadata knows. A peer's newest connection of a channel replaces his older one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from nearql.cluster.replication.link.connection import Connection
from nearql.cluster.replication.link.dialer import Dialer, Identity, Peer
from nearql.cluster.replication.link.frames import Frame, Kind
from nearql.cluster.replication.link.hello import Channel, Hello, Welcome, refusal
from nearql.cluster.replication.link.listener import Listener
from nearql.cluster.replication.link.loop import LoopThread
from nearql.cluster.replication.link.patience import Patience
from nearql.cluster.replication.link.resolver import Resolver
from nearql.cluster.tls import RenewedContext, TlsFiles

__all__ = ["Channel", "Link", "LinkConfig", "Patience", "Peer", "Source", "TlsFiles"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """cluster_id, incarnation: "" and 0 while this node has none. listen: (host, port)."""

    name: str
    node_id: str
    listen: tuple[str, int]
    tls: TlsFiles
    cluster_id: Callable[[], str]
    incarnation: Callable[[], int]
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True, slots=True)
class Source:
    """Whom a frame came from: a proved peer, over one of his connections."""

    peer: Peer
    incarnation: int
    session: int
    channel: Channel
    connection: Connection


@dataclass(frozen=True, slots=True)
class Totals:
    """Since the start; up: channels now."""

    up: int
    connects: int
    refused: int
    sent_bytes: int
    received_bytes: int


class Link:
    """See the module. `send` and the callbacks run in the loop; the rest in any thread.

    on_frame: by kind; on_change: a peer's channel came up or went down.
    """

    def __init__(self, config: LinkConfig, thread: LoopThread) -> None:
        """Listen; connections are made and taken after `start`.

        Raises:
            InvalidRequest: certificates. OSError: the address can't be had.
        """
        self.config, self.thread = config, thread
        self.on_frame: dict[Kind, Callable[[Source, Frame], None]] = {}
        self.on_change: Callable[[Peer, Channel, bool], None] = lambda peer, channel, up: None
        self.on_gone: list[Callable[[Connection], None]] = []
        self.counts: Counter[str] = Counter()
        self._peers: dict[str, Peer] = {}
        self._dialers: dict[tuple[str, Channel], Dialer] = {}
        self._tasks: dict[tuple[str, Channel], asyncio.Task[None]] = {}
        self._incoming: dict[tuple[str, Channel], Source] = {}
        self._resolver = Resolver()
        self._context = RenewedContext(config.tls, server=False)
        self._background: set[asyncio.Task[None]] = set()
        self._listener = Listener(
            config.listen, config.tls, config.patience,
            admit=self._admit, on_open=self._open, ours=self._welcome,
        )  # fmt: skip
        self.port = self._listener.port

    def start(self) -> None:
        """Accept, and dial the peers."""

        def begin() -> None:
            self._listener.start()
            self.background(self._keep_alive())

        self.thread.soon(begin)

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it beside, until it or the link ends. In the loop."""
        task = self.thread.loop.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a task of the link ended", exc_info=error)

    async def stop(self) -> None:
        """End every connection. In the loop."""
        tasks = [*self._background, *self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()
        for source in list(self._incoming.values()):
            source.connection.abort("stopped")

    def set_peers(self, peers: Mapping[str, Peer]) -> None:
        """The nodes to talk to, by node id; others are disconnected, and refused from now on."""
        self.thread.soon(self._set_peers, dict(peers))

    def _set_peers(self, peers: dict[str, Peer]) -> None:
        peers.pop(self.config.node_id, None)
        changed = {key for key in self._peers | peers if self._peers.get(key) != peers.get(key)}
        self._peers = peers
        for node_id in changed:
            for channel in Channel:
                self._redial(node_id, channel)

    def _redial(self, node_id: str, channel: Channel) -> None:
        key = node_id, channel
        if (task := self._tasks.pop(key, None)) is not None:
            task.cancel()
            del self._dialers[key]
        if (source := self._incoming.get(key)) is not None:
            source.connection.abort("removed")
        if (peer := self._peers.get(node_id)) is None:
            return
        dialer = Dialer(
            peer, channel, self.config.patience,
            resolver=self._resolver, context=self._context.current, ours=self._identity,
            on_frame=self._answered, on_change=self._changed, on_refused=self._refused,
        )  # fmt: skip
        self._dialers[key] = dialer
        task = self.thread.loop.create_task(dialer.run())
        self._tasks[key] = task
        task.add_done_callback(self._ended)

    # ---- Speaking ---------------------------------------------------------------------------

    def send(self, node_id: str, channel: Channel, kind: Kind, *parts: bytes | memoryview) -> bool:
        """Send a frame; False where there is no connection. In the loop."""
        dialer = self._dialers.get((node_id, channel))
        return dialer is not None and dialer.send(kind, *parts)

    def dialer(self, node_id: str, channel: Channel) -> Dialer | None:
        """The outgoing connection to a peer, up or not. In the loop."""
        return self._dialers.get((node_id, channel))

    def peer(self, node_id: str) -> Peer | None:
        """A peer by node id."""
        return self._peers.get(node_id)

    def _identity(self) -> Identity:
        config = self.config
        boot_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
        return Identity(
            config.cluster_id(), config.node_id, config.name, config.incarnation(), boot_ms
        )

    def _welcome(self) -> Welcome:
        return Welcome("", node_id=self.config.node_id, incarnation=self.config.incarnation())

    # ---- Listening --------------------------------------------------------------------------

    def _admit(self, hello: Hello, proved: set[str]) -> str:
        ours = self._identity()
        refused = refusal(hello, proved=proved, cluster=ours.cluster, node_id=ours.node_id)
        peer = self._peers.get(hello.node_id)
        if not refused and (peer is None or peer.name != hello.name):
            return "not_a_member"
        return refused

    def _open(self, connection: Connection, hello: Hello) -> None:
        channel = Channel(hello.channel)
        peer = self._peers[hello.node_id]
        source = Source(peer, hello.incarnation, hello.session, channel, connection)
        key = peer.node_id, channel
        old, self._incoming[key] = self._incoming.get(key), source
        if old is not None:
            old.connection.abort("replaced")
        connection.ended.add_done_callback(lambda ended: self._closed(key, source, ended.result()))
        connection.open(lambda frame: self._take(source, frame))

    def _closed(self, key: tuple[str, Channel], source: Source, reason: str) -> None:
        if self._incoming.get(key) is source:
            del self._incoming[key]
        self._note_end(source.connection, reason)

    def _note_end(self, connection: Connection, reason: str) -> None:
        self.counts[f"ended_{reason}"] += 1
        self.counts["received_bytes"] += connection.received_bytes
        self.counts["sent_bytes"] += connection.sent_bytes
        for listener in self.on_gone:
            listener(connection)

    def _answered(self, dialer: Dialer, frame: Frame) -> None:
        """A frame on a connection that this node dialled."""
        connection = dialer.connection
        if connection is not None:
            source = Source(dialer.peer, 0, dialer.session, dialer.channel, connection)
            self._take(source, frame)

    def _take(self, source: Source, frame: Frame) -> None:
        handler = self.on_frame.get(frame.kind)
        if handler is None:
            source.connection.abort("malformed")
        else:
            handler(source, frame)

    def _changed(self, dialer: Dialer) -> None:
        if dialer.connection is not None:
            connection = dialer.connection
            connection.ended.add_done_callback(
                lambda ended: self._note_end(connection, ended.result())
            )
            self.counts["connected"] += 1
        self.on_change(dialer.peer, dialer.channel, dialer.up)

    def _refused(self, reason: str) -> None:
        self.counts[f"refused_{reason}"] += 1

    # ---- Staying alive ----------------------------------------------------------------------

    async def _keep_alive(self) -> None:
        """Ping where nothing was said, and let go of who has not been heard."""
        patience, loop = self.config.patience, asyncio.get_running_loop()
        while True:
            await asyncio.sleep(patience.ping_s)
            now = loop.time()
            for connection in self._connections():
                if now - connection.heard_at > patience.silence_s:
                    connection.abort("silent")
                elif now - connection.spoke_at >= patience.ping_s / 2:
                    connection.send(Kind.PING)

    def _connections(self) -> list[Connection]:
        dialled = [dialer.connection for dialer in list(self._dialers.values())]
        incoming = [source.connection for source in list(self._incoming.values())]
        return [connection for connection in dialled if connection is not None] + incoming

    def heard(self) -> dict[str, float]:
        """Seconds since each peer was last heard on his beat connection; absent: no connection."""
        now = self.thread.loop.time()
        sources = list(self._incoming.values())
        return {
            source.peer.node_id: now - source.connection.heard_at
            for source in sources
            if source.channel == Channel.BEAT
        }

    def refused(self) -> dict[str, int]:
        """Connections that were refused here, by reason; and by peers, as `by_peer_<reason>`."""
        by_peers = {
            name.removeprefix("refused_"): count
            for name, count in self.counts.copy().items()
            if name.startswith("refused_")
        }
        return {**self._listener.refused.copy(), **by_peers}

    def channels_up(self) -> dict[str, list[str]]:
        """The channels on which each peer can be spoken to."""
        up: dict[str, list[str]] = {node_id: [] for node_id in list(self._peers)}
        for (node_id, channel), dialer in list(self._dialers.items()):
            if dialer.up and node_id in up:
                up[node_id].append(channel.value)
        return up

    def totals(self) -> Totals:
        """Of all connections since the start."""
        present = self._connections()
        return Totals(
            up=sum(len(channels) for channels in self.channels_up().values()),
            connects=self.counts["connected"],
            refused=sum(self._listener.refused.copy().values()),
            sent_bytes=self.counts["sent_bytes"] + sum(c.sent_bytes for c in present),
            received_bytes=self.counts["received_bytes"] + sum(c.received_bytes for c in present),
        )
