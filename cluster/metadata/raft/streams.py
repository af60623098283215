"""Frames over TLS between nodes on the voters' port: a length, then so many bytes."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from dataclasses import dataclass
from typing import Any

import msgpack

from nearql.cluster.tls import TlsFiles

PROTOCOL = 1  # the newest that this version speaks
OLDEST_PROTOCOL = 1  # and the oldest: raised a release after the one that first spoke the newer
HELLO_BYTES = 4096
LENGTH = struct.Struct(">I")


class Refused(Exception):
    """A connection that is none of ours; the text is the reason's word."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: until a connection is given up, between pings, until a silent peer is gone."""

    connect_s: float = 1.0
    handshake_s: float = 3.0
    ping_s: float = 1.0
    silence_s: float = 5.0
    retry_s: float = 0.2


def spoken_with(hello: dict[str, Any]) -> int:
    """The newest protocol that both ends speak; 0 where there is none."""
    newest = hello.get("protocol")
    oldest = hello.get("oldest", newest)
    if type(newest) is not int or type(oldest) is not int:
        return 0
    common = min(newest, PROTOCOL)
    return common if common >= max(oldest, OLDEST_PROTOCOL) else 0


def dial(
    address: tuple[str, int], hello: dict[str, Any], tls: TlsFiles, patience: Patience
) -> tuple[ssl.SSLSocket, dict[str, Any]]:
    """Connect to `hello["to"]`, whose certificate must prove that name; the stream, and his answer.

    The host is resolved here, each time.

    Raises:
        OSError: absent, unreachable or gone. Refused: by him. InvalidRequest: our certificates.
    """
    context = tls.context(server=False)
    raw = socket.create_connection(address, timeout=patience.connect_s)
    try:
        prepare(raw, patience.handshake_s)
        stream = context.wrap_socket(raw, server_hostname=hello["to"])
    except BaseException:
        raw.close()
        raise
    try:
        send(stream, msgpack.packb(hello))
        answer = unpack_hello(receive(stream, HELLO_BYTES))
        if answer.get("refused"):
            raise Refused(str(answer["refused"])[:40])
    except BaseException:
        stream.close()
        raise
    return stream, answer


def family(host: str) -> socket.AddressFamily:
    """Of an address to listen on."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def prepare(connection: socket.socket, timeout_s: float) -> None:
    """No delay, and no waiting for the dead."""
    connection.settimeout(timeout_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 2000)


def abort(connection: socket.socket) -> None:
    """Wake up whoever reads from it; they close it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def send(stream: ssl.SSLSocket, data: bytes) -> None:
    """One frame."""
    stream.sendall(LENGTH.pack(len(data)) + data)


def receive(stream: ssl.SSLSocket, limit: int) -> bytes:
    """One frame; raises Refused for one beyond the limit, before a byte of it is read."""
    (length,) = LENGTH.unpack(_exactly(stream, LENGTH.size))
    if length > limit:
        raise Refused("oversized")
    return _exactly(stream, length)


def unpack_hello(data: bytes) -> dict[str, Any]:
    """A map of msgpack; raises Refused for anything else."""
    try:
        hello = msgpack.unpackb(data)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise Refused("malformed") from error
    if not isinstance(hello, dict):
        raise Refused("malformed")
    return hello


def _exactly(stream: ssl.SSLSocket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = stream.recv(min(size - len(data), 1 << 20))
        if not piece:
            raise OSError("closed by the peer")
        data += piece
    return bytes(data)
