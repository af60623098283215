"""A node whose disk and wall clock obey a test: `python faulty_node.py FOLDER serve --config ...`.

The product has no switch for this: its file system's class is changed here, before it starts. What
goes wrong lies in FOLDER as files that come and go (`support.chaos_disk` writes them):

    eio       every sync of a file fails
    slow      syncs take so many seconds longer
    clock     the wall clock is wrong by so many seconds
    die       a fail point: see `fail_points`
    undo/     what stood where something was written that is not synced yet, in the order of the
              writes: who kills the process may take them back, as a loss of power would
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nearql.__main__ import main
from nearql.engine.storage.files import Buffer, LocalFileSystem
from support.fail_points import FailPoints

POLL_S = 0.05
_PWRITEV, _FDATASYNC = LocalFileSystem.pwritev, LocalFileSystem.fdatasync


class Faults:
    """What is wrong now, and what a loss of power would take back."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._undo = folder, folder / "undo"
        self._undo.mkdir(parents=True, exist_ok=True)
        for left in self._undo.iterdir():  # of a former life, whose bytes the kernel kept
            left.unlink()
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._unsynced: dict[tuple[int, int], list[Path]] = {}  # by device and inode

    def text(self, name: str) -> str | None:
        """What a file says; None where it is not there."""
        with contextlib.suppress(OSError):
            return (self._folder / name).read_text()
        return None

    def written(self, handle: int, size: int, offset: int) -> None:
        """Keep what stands there: something is written over it now."""
        status = os.fstat(handle)
        path = os.readlink(f"/proc/self/fd/{handle}")
        head = {"path": path, "offset": offset, "size": size, "file": status.st_size}
        with self._lock:
            note = self._undo / f"{next(self._numbers):012d}"
            note.write_bytes(json.dumps(head).encode() + b"\n" + os.pread(handle, size, offset))
            self._unsynced.setdefault((status.st_dev, status.st_ino), []).append(note)

    def synced(self, handle: int) -> list[Path]:
        """Notes of a file that is synced now; to be dropped once it is."""
        status = os.fstat(handle)
        with self._lock:
            return self._unsynced.pop((status.st_dev, status.st_ino), [])


def obey(folder: Path) -> None:
    """From now on the disk and the clock do as the folder says."""
    faults = Faults(folder)

    def pwritev(fs: Any, handle: int, buffers: Sequence[Buffer], offset: int) -> None:
        faults.written(handle, sum(memoryview(buffer).nbytes for buffer in buffers), offset)
        _PWRITEV(fs, handle, buffers, offset)

    def fdatasync(fs: Any, handle: int) -> None:
        notes = faults.synced(handle)
        if (seconds := faults.text("slow")) is not None:
            time.sleep(float(seconds or 0))
        if faults.text("eio") is not None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        _FDATASYNC(fs, handle)
        for note in notes:
            note.unlink()

    changed: Any = LocalFileSystem
    changed.pwritev, changed.fdatasync = pwritev, fdatasync
    _obey_clock(faults)
    FailPoints(folder).install()


def _obey_clock(faults: Faults) -> None:
    """`time.time` is wrong by what the folder says, looked up now and then."""
    true, true_ns, wrong = time.time, time.time_ns, [0.0]

    def follow() -> None:
        while True:
            with contextlib.suppress(ValueError):  # half written
                wrong[0] = float(faults.text("clock") or 0.0)
            time.sleep(POLL_S)

    time.time = lambda: true() + wrong[0]
    time.time_ns = lambda: true_ns() + int(wrong[0] * 1e9)
    threading.Thread(target=follow, name="wrong-clock", daemon=True).start()


if __name__ == "__main__":
    obey(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
