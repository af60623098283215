"""Small messages between nodes that may be lost: a topic and its bytes, over the beat channel."""

from __future__ import annotations

import struct
from collections.abc import Callable

from nearql.cluster.replication.link.frames import Frame, Kind
from nearql.cluster.replication.link.link import Channel, Link, Source

MAX_NOTICE_BYTES = 64 << 10
_LENGTH = struct.Struct(">H")

Listener = Callable[[str, bytes], None]


class Notices:
    """Sends and hears notices. A listener is called in the loop: it must return at once."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._listeners: dict[str, Listener] = {}
        link.on_frame[Kind.NOTICE] = self._take

    def tell(self, node_id: str, topic: str, payload: bytes) -> bool:
        """Send it, from any thread; False where there is no connection."""
        assert len(payload) <= MAX_NOTICE_BYTES, f"a notice of {len(payload)} bytes"
        dialer = self._link.dialer(node_id, Channel.BEAT)
        if dialer is None or not dialer.up:
            return False
        name = topic.encode()
        head = _LENGTH.pack(len(name)) + name
        return self._link.thread.soon(dialer.send, Kind.NOTICE, head, payload)

    def hear(self, topic: str, listener: Listener) -> None:
        """Call `listener` with the node id and each payload of this topic, from now on."""
        self._listeners[topic] = listener

    def heard(self) -> dict[str, float]:
        """Seconds since anything came from each node over its beat connection."""
        return self._link.heard()

    def _take(self, source: Source, frame: Frame) -> None:
        payload = frame.payload
        end = _LENGTH.size
        if len(payload) >= end:
            end += _LENGTH.unpack_from(payload)[0]
        if not _LENGTH.size <= end <= len(payload) <= end + MAX_NOTICE_BYTES:
            source.connection.abort("malformed")
            return
        topic = bytes(payload[_LENGTH.size : end]).decode(errors="replace")
        listener = self._listeners.get(topic)
        if listener is None:
            self._link.counts["unknown_notices"] += 1
        else:
            listener(source.peer.node_id, bytes(payload[end:]))
