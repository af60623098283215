"""A client that costs next to nothing, so that what is timed is the server: bytes out, bytes in."""

from __future__ import annotations

import socket

_END = b"\r\n\r\n"


class LeanConnection:
    """One kept-alive HTTP/1.1 connection to a server on this machine."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def post(self, request: bytes) -> bytes:
        """Send what `post_request` made; the answer's body. Exits unless it is a 200."""
        self._socket.sendall(request)
        got = self._socket.recv(1 << 16)
        while _END not in got:
            got += self._socket.recv(1 << 16)
        head, _, body = got.partition(_END)
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        while len(body) < length:
            body += self._socket.recv(1 << 16)
        assert head.startswith(b"HTTP/1.1 200"), got
        return body


def post_request(path: str, body: bytes) -> bytes:
    """The bytes of a POST of JSON."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
