"""Frames between the data process and its sidecar: a length, then a msgpack list, both ways.

Both ends are ours and the socket has no name in the file system, so a frame that can't be read is a
bug and ends the connection.
"""

from __future__ import annotations

import socket
import struct
import threading
from typing import Any

import msgpack

MAX_FRAME_BYTES = 512 << 20  # a whole state fits
_LENGTH = struct.Struct("<I")


class Closed(Exception):
    """The other end has gone."""


class Frames:
    """One end of the connection. Many threads may write, one reads."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._writing = threading.Lock()

    def write(self, *frame: Any) -> None:
        """Send one frame; raises Closed."""
        data = msgpack.packb(frame)
        try:
            with self._writing:
                self._connection.sendall(_LENGTH.pack(len(data)) + data)
        except OSError as error:
            raise Closed from error

    def read(self) -> list[Any]:
        """The next frame; raises Closed."""
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        if length > MAX_FRAME_BYTES:
            raise Closed
        frame = msgpack.unpackb(self._exactly(length), strict_map_key=False)
        return frame if isinstance(frame, list) else []

    def close(self) -> None:
        """End the connection; the other end notices."""
        self._connection.close()

    def abort(self) -> None:
        """Wake up whoever reads."""
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it is closed already

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                piece = self._connection.recv(min(size - len(data), 1 << 20))
            except OSError as error:
                raise Closed from error
            if not piece:
                raise Closed
            data += piece
        return bytes(data)
