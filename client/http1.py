"""HTTP/1.1 as a pure codec: bytes in, answer out, no sockets.

Why not httpx: one search costs the client 300 us of CPU through httpx, 148 us through httpcore,
69 us through http.client and 20 us through this file (one-row exchange over a kept-alive
connection, benchmarks/client_cpu.py), and one codec serves the blocking and the asyncio client.
It speaks only what a NearQL node needs: no proxies, no compression, no upgrade.

    parser = ResponseParser()
    while not parser.complete:
        parser.feed(socket.recv(65536))     # b"" = the peer closed
    parser.status, parser.headers, parser.body
"""

from __future__ import annotations

from collections.abc import Iterable

HEAD_BYTES = 65_536  # largest status line and headers that are accepted
_NO_BODY = frozenset({204, 304})


class BadResponse(ValueError):
    """The bytes are no HTTP/1.1 answer, or they end too early (`truncated`)."""

    def __init__(self, detail: str, *, truncated: bool = False) -> None:
        super().__init__(detail)
        self.truncated = truncated


def request_head(method: str, target: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """The bytes before the body. Raises ValueError for a value that would start another header."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{k}: {v}" for k, v in headers), "", ""]
    head = "\r\n".join(lines)
    if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1:
        raise ValueError("a header or the address contains a line break")
    return head.encode("latin-1")


class ResponseParser:
    """Gathers one answer. Invariant: nothing after its end is consumed (`surplus` then says so).

    status: None until the head is there. headers: lower-case names, repeated ones joined by ", ".
    """

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.complete = False
        self.started = False  # at least one byte of the answer arrived
        self.surplus = False  # bytes after the answer: the connection can't be used again
        self._buffer = bytearray()
        self._chunks: list[bytes] = []
        self._missing: int | None = None  # bytes still to come; None = until the peer closes
        self._chunked = False

    @property
    def body(self) -> bytes:
        """The body, whole once `complete`."""
        return self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)

    def take_body(self) -> bytes:
        """What came of the body since the last call; for answers that are read as they arrive."""
        data = self.body
        self._chunks.clear()
        return data

    @property
    def reusable(self) -> bool:
        """Whether the connection may carry the next request."""
        closing = self.headers.get("connection", "").lower() == "close"
        framed = self._chunked or self._missing is not None
        return self.complete and framed and not closing and not self.surplus

    def feed(self, data: bytes) -> None:
        """Take what the socket gave; b"" means that the peer closed.

        Raises:
            BadResponse: not HTTP/1.1, or closed in the middle.
        """
        if not data:
            return self._end()
        self.started = True
        if self.status is None or self._chunked:
            self._buffer += data
            if self.status is None and not self._read_head():
                return
            data = b"" if self._chunked else self._drain()
        self._read_body(data)

    def _drain(self) -> bytes:
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    def _end(self) -> None:
        if self.status is None or self._chunked or self._missing:
            raise BadResponse("the connection closed in the middle of the answer", truncated=True)
        self.complete = True

    def _read_head(self) -> bool:
        while True:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self._buffer) > HEAD_BYTES:
                    raise BadResponse(f"the answer's head is longer than {HEAD_BYTES} bytes")
                return self._plausible()
            lines = self._buffer[:end].decode("latin-1").split("\r\n")
            del self._buffer[: end + 4]
            status = _status(lines[0])
            if status >= 200:
                break  # 1xx answers only announce another one
        self._parse_headers(lines[1:])
        self.status = status
        self._choose_framing(status)
        return True

    def _plausible(self) -> bool:
        if not b"HTTP/1.".startswith(self._buffer[:7]):
            raise BadResponse(f"the answer starts with {bytes(self._buffer[:16])!r}, not HTTP/1.1")
        return False

    def _parse_headers(self, lines: list[str]) -> None:
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or not name or name != name.strip():
                raise BadResponse(f"malformed header {line[:60]!r}")
            key, value = name.lower(), value.strip()
            self.headers[key] = f"{self.headers[key]}, {value}" if key in self.headers else value

    def _choose_framing(self, status: int) -> None:
        length = self.headers.get("content-length")
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            self._chunked = True
        elif status in _NO_BODY:
            self._missing = 0
        elif length is not None:
            if not (length.isascii() and length.isdigit()):
                raise BadResponse(f"malformed Content-Length {length[:60]!r}")
            self._missing = int(length)

    def _read_body(self, data: bytes) -> None:
        if self._chunked:
            while self._read_chunk():
                pass
        elif self._missing is None:
            self._chunks.append(data)
        else:
            self.surplus = self.surplus or len(data) > self._missing
            if data:
                self._chunks.append(data[: self._missing])
            self._missing -= min(len(data), self._missing)
            self.complete = self._missing == 0

    def _read_chunk(self) -> bool:
        """Take one piece of a chunked body off the buffer; False where more bytes are needed."""
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_BYTES:
                raise BadResponse("a chunk's size line is too long")
            return False
        size = _chunk_size(bytes(self._buffer[:end]))
        if size == 0:
            return self._read_trailer(end)
        stop = end + 2 + size
        if len(self._buffer) < stop + 2:
            return False
        if self._buffer[stop : stop + 2] != b"\r\n":
            raise BadResponse("a chunk is not as long as it says")
        self._chunks.append(bytes(self._buffer[end + 2 : stop]))
        del self._buffer[: stop + 2]
        return True

    def _read_trailer(self, end: int) -> bool:
        last = self._buffer.find(b"\r\n\r\n", end)
        if last < 0:
            return False
        del self._buffer[: last + 4]
        self._chunked, self._missing = False, 0
        self.surplus, self.complete = bool(self._buffer), True
        return False


def _status(line: str) -> int:
    version, _, rest = line.partition(" ")
    code = rest[:3]
    if version not in ("HTTP/1.1", "HTTP/1.0") or not (code.isascii() and code.isdigit()):
        raise BadResponse(f"the answer starts with {line[:40]!r}, not HTTP/1.1")
    return int(code)


def _chunk_size(line: bytes) -> int:
    digits = line.split(b";", 1)[0].strip()
    if not digits or len(digits) > 15 or digits.strip(b"0123456789abcdefABCDEF"):
        raise BadResponse(f"malformed chunk size {line[:40]!r}")
    return int(digits, 16)
