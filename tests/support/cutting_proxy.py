"""A TCP proxy that cuts a connection after a given number of bytes of the answer."""

from __future__ import annotations

import socket
import struct
import threading
from urllib.parse import urlsplit

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST, as a crash or a firewall would


class CuttingProxy:
    """Stands before a server; `cut_next(n)` lets n bytes of the next answer through, then cuts."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "", parts.port or 0)
        self._lock = threading.Lock()  # one connection at a time counts its bytes
        self._left: int | None = None  # bytes of the answer that still pass
        self._for_good = False
        self.cuts = 0
        self.last_answer = 0  # bytes that the server sent in its last answer

    def __enter__(self) -> CuttingProxy:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def cut_next(self, after: int) -> None:
        """Cut the next answer after so many of its bytes."""
        self._left = after

    def cut_always_after(self, after: int) -> None:
        """Let so many bytes of answers through, then cut every connection for ever."""
        self._left = after
        self._for_good = True

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed: the test is over
                return
            server = socket.create_connection(self._target)
            threading.Thread(target=self._requests, args=(client, server), daemon=True).start()
            threading.Thread(target=self._answers, args=(server, client), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while data := client.recv(1 << 16):
                self.last_answer = 0
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)
        except OSError:  # cut
            pass

    def _answers(self, server: socket.socket, client: socket.socket) -> None:
        with server, client:
            try:
                while data := server.recv(1 << 16):
                    self.last_answer += len(data)
                    if self._cut(client, data):
                        return
            except OSError:  # the client went away
                return

    def _cut(self, client: socket.socket, data: bytes) -> bool:
        """Send what may pass; whether the connection was cut."""
        with self._lock:
            cut, piece = self._passing(data)
        client.sendall(piece)
        if cut:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.shutdown(socket.SHUT_RD)  # wakes the other thread, which holds the socket open
        return cut

    def _passing(self, data: bytes) -> tuple[bool, bytes]:
        """(whether to cut now, what passes before)."""
        if self._left is None:
            return False, data
        piece = data[: self._left]
        self._left -= len(piece)
        if self._left > 0:
            return False, piece
        if not self._for_good:
            self._left = None
        self.cuts += 1
        return True, piece
