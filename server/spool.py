"""Where a body waits until it is known to be whole: in memory, then in a file without a name.

All requests share one memory budget (`limits.spool_memory`). A spool that gets no more of it
moves to a temporary file in the data directory, which has no name there, so that a crash leaves
nothing behind. What was received is read back as one Arrow buffer, memory-mapped where it is a
file.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import pyarrow as pa

from nearql.engine.errors import StorageFull

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class SpoolMemory:
    """Bytes that all spools may hold in memory together. Thread-safe."""

    def __init__(self, total: int) -> None:
        self._free = total
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Whether `size` bytes were left; then they are taken."""
        with self._lock:
            if size > self._free:
                return False
            self._free -= size
            return True

    def overdraw(self, size: int) -> None:
        """Take what is not left: for what cannot be refused any more."""
        with self._lock:
            self._free -= size

    def give(self, size: int) -> None:
        """Back what was taken."""
        with self._lock:
            self._free += size


class Spool:
    """Bytes in the order they were added. Used by one thread at a time; `with` frees them.

    Args:
        directory: where the file goes.
        reserve: bytes of the device that stay free (`engine.disk_reserve`).
    """

    def __init__(self, memory: SpoolMemory, directory: Path, reserve: int) -> None:
        self._memory = memory
        self._directory = directory
        self._reserve = reserve
        self._parts: list[bytes] = []
        self._taken = 0
        self._file: BinaryIO | None = None
        self.size = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def in_file(self) -> bool:
        """Whether memory did not suffice; adding then writes to a disk and may block."""
        return self._file is not None

    def fits(self, size: int) -> bool:
        """Whether `size` more bytes can be added without touching a disk; then memory is taken."""
        if self._file is None and self._memory.take(size):
            self._taken += size
            return True
        return False

    def keep(self, part: bytes) -> None:
        """Add bytes for which `fits` took memory."""
        self._parts.append(part)
        self.size += len(part)

    def write(self, part: bytes | memoryview) -> None:
        """Add bytes to the file, which gets what was in memory first.

        Raises:
            StorageFull: the device has no more room; nothing was stored in any table.
        """
        try:
            if self._file is None:
                self._move_to_file()
            assert self._file is not None
            self._check_room(len(part))
            self._file.write(part)
        except OSError as error:
            raise _storage_error(error, self._directory) from error
        self.size += len(part)

    def _move_to_file(self) -> None:
        self._file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115
        self._check_room(self.size)
        for part in self._parts:
            self._file.write(part)
        self._release()

    def _check_room(self, size: int) -> None:
        state = os.statvfs(self._directory)
        if state.f_bavail * state.f_frsize - size < self._reserve:
            raise OSError(errno.ENOSPC, "the reserve (engine.disk_reserve) is reached")

    def buffer(self) -> pa.Buffer:
        """Everything, as one buffer that stays valid after `close`."""
        if self._file is not None:
            if not self.size:
                return pa.py_buffer(b"")
            return pa.py_buffer(mmap.mmap(self._file.fileno(), self.size, access=mmap.ACCESS_READ))
        whole = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts = [whole]
        return pa.py_buffer(whole)

    def close(self) -> None:
        """Give the memory back and let go of the file."""
        self._release()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _release(self) -> None:
        self._parts = []
        self._memory.give(self._taken)
        self._taken = 0


def _storage_error(error: OSError, directory: Path) -> Exception:
    if error.errno not in _FULL:
        return error
    return StorageFull(
        f"The device of {directory} has no room for this body; nothing was stored. Free some space "
        "or send smaller parts."
    )
