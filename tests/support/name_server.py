"""A name server that the test controls: addresses that change, names that take long to resolve.

It speaks as much DNS as a resolver of the C library asks for: A and AAAA of the names it was given,
with a time to live of 0. What it does not know does not exist.
"""

from __future__ import annotations

import socket
import struct
import threading

_HEADER = struct.Struct(">HHHHHH")
_ANSWER, _NO_SUCH_NAME, _A = 0x8580, 0x8583, 1


class NameServer:
    """Answers on UDP until it is closed; changes hold from the next question on."""

    def __init__(self, host: str, port: int = 53) -> None:
        self.addresses: dict[str, str] = {}
        self.delays_s: dict[str, float] = {}  # by name, known or not
        self.asked: list[str] = []
        self._closed = threading.Event()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, port))
        self._thread = threading.Thread(target=self._run, name="name-server", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        self._closed.set()
        self._socket.sendto(b"", self._socket.getsockname())  # wakes the thread up
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        while not self._closed.is_set():
            question, sender = self._socket.recvfrom(1500)
            if len(question) <= _HEADER.size:
                continue
            name, kind, end = parsed(question)
            self.asked.append(name)
            reply = self._answer(question[:end], name, kind)
            timer = threading.Timer(self.delays_s.get(name, 0.0), self._send, (reply, sender))
            timer.daemon = True
            timer.start()

    def _answer(self, question: bytes, name: str, kind: int) -> bytes:
        address = self.addresses.get(name)
        number = struct.unpack_from(">H", question)[0]
        flags = _NO_SUCH_NAME if address is None else _ANSWER
        body = b""
        if address is not None and kind == _A:
            record = struct.pack(">HHHIH", 0xC00C, _A, 1, 0, 4)  # the name is the question's
            body = record + socket.inet_aton(address)
        header = _HEADER.pack(number, flags, 1, 1 if body else 0, 0, 0)
        return header + question[_HEADER.size :] + body

    def _send(self, reply: bytes, receiver: tuple[str, int]) -> None:
        if not self._closed.is_set():
            self._socket.sendto(reply, receiver)


def parsed(question: bytes) -> tuple[str, int, int]:
    """(name in lower case, type, where the question ends)."""
    labels, at = [], _HEADER.size
    while question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]].decode("ascii").lower())
        at += 1 + question[at]
    return ".".join(labels), struct.unpack_from(">H", question, at + 1)[0], at + 5
