"""Requests between nodes, over three channels that do not wait for each other.

call    statements and remote reads
beat    small questions about who lives, beside the heartbeats
bulk    snapshots
"""

from __future__ import annotations

from nearql.cluster.replication.link.calling import Answer, Caller, Watching
from nearql.cluster.replication.link.connection import Connection
from nearql.cluster.replication.link.frames import Frame, Kind
from nearql.cluster.replication.link.link import Channel, Link, Source
from nearql.cluster.replication.link.serving import THREADS, Handler, Request, Server

__all__ = ["Answer", "Calls", "Handler", "Request"]

_THREADS = {Channel.CALL: THREADS, Channel.BEAT: 4, Channel.BULK: 2}
_ASKING = (Kind.CALL, Kind.CALL_PART, Kind.CALL_CANCEL, Kind.CALL_CREDIT)
_ANSWERING = (Kind.ANSWER_PART, Kind.ANSWER_END, Kind.ANSWER_ERROR)


class Calls:
    """The calls of a node. `serve`, `call` and `stream` are for threads."""

    def __init__(self, link: Link, *, threads: int = THREADS) -> None:
        counts = {**_THREADS, Channel.CALL: threads}
        self._callers = {channel: Caller(link, channel) for channel in counts}
        self.servers = {
            channel: Server(link, threads=count, name=channel.value)
            for channel, count in counts.items()
        }
        for kind in _ASKING:
            link.on_frame[kind] = self._asked
        for kind in _ANSWERING:
            link.on_frame[kind] = self._answered
        link.on_gone.append(self._gone)

    def serve(
        self, method: str, handler: Handler,
        *, channel: Channel = Channel.CALL, long: bool = False,
    ) -> None:  # fmt: skip
        """Let `handler` answer this method; it runs in a thread of the channel's pool. long: it
        does what users ask for, and leaves threads to others.
        """
        self.servers[channel].serve(method, handler, long=long)

    def call(
        self, node_id: str, method: str, payload: bytes,
        *, timeout_ms: int, channel: Channel = Channel.CALL, watching: Watching | None = None,
    ) -> bytes:  # fmt: skip
        """Another node's answer.

        watching: given what ends the call early, a block in which that is called once nobody waits.

        Raises:
            Unavailable: code `node_unreachable`; certainly not done. WriteUnknown: code
            `call_lost`; perhaps done. NearQLError: what the handler raised.
        """
        return self._callers[channel].call(
            node_id, method, payload, timeout_ms=timeout_ms, watching=watching
        )

    def stream(
        self, node_id: str, method: str, payload: bytes,
        *, timeout_ms: int, channel: Channel = Channel.CALL,
    ) -> Answer:  # fmt: skip
        """Another node's answer, part by part as it comes. Close it. Raises: as `call`."""
        return self._callers[channel].stream(node_id, method, payload, timeout_ms=timeout_ms)

    def close(self) -> None:
        """End all calls, both ways. In the loop."""
        for caller in self._callers.values():
            caller.close()
        for server in self.servers.values():
            server.close()

    def _asked(self, source: Source, frame: Frame) -> None:
        _take(self.servers.get(source.channel), source, frame)

    def _answered(self, source: Source, frame: Frame) -> None:
        _take(self._callers.get(source.channel), source, frame)

    def _gone(self, connection: Connection) -> None:
        for caller in self._callers.values():
            caller.gone(connection)
        for server in self.servers.values():
            server.gone(connection)


def _take(end: Caller | Server | None, source: Source, frame: Frame) -> None:
    if end is None:
        source.connection.abort("malformed")
    else:
        end.take(source, frame)
