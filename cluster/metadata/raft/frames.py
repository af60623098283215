"""Frames between the data process and its sidecar: a length, then a msgpack list, both ways.

Both ends are ours and the socket has no name in the file system, so a frame that can't be read is a
bug and ends the connection.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Sequence
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
        self._buffered = connection.makefile("rb", 1 << 16)
        self._writing = threading.Lock()

    def write(self, *frame: Any) -> None:
        """Send one frame; raises Closed."""
        self.write_all([frame])

    def write_all(self, frames: Sequence[tuple[Any, ...]]) -> None:
        """Send frames together; raises Closed."""
        packed = [msgpack.packb(frame) for frame in frames]
        data = b"".join(_LENGTH.pack(len(frame)) + frame for frame in packed)
        try:
            with self._writing:
                self._connection.sendall(data)
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
        self._buffered.close()
        self._connection.close()

    def abort(self) -> None:
        """Wake up whoever reads."""
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it is closed already

    def _exactly(self, size: int) -> bytes:
        try:
            data: bytes = self._buffered.read(size)
        except OSError as error:
            raise Closed from error
        if len(data) < size:
            raise Closed
        return data
