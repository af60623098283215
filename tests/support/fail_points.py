"""Named places in a node at which a test can have it killed: `faulty_node` installs them.

What a point wraps is a function of the product; nothing in the product knows of it. A file `die` of
the node's folder arms one of them, as `NAME before 3`: killed as the third call begins, or `after`:
as it has returned, with nothing of what its caller does next.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

POLL_S = 0.05
_ENGINE, _REPLICATION = "nearql.engine", "nearql.cluster.replication"
# name -> module, what holds the function ("" = the module itself), the function
FUNCTIONS = {
    "disk.pwritev": (f"{_ENGINE}.storage.files", "LocalFileSystem", "pwritev"),
    "disk.fdatasync": (f"{_ENGINE}.storage.files", "LocalFileSystem", "fdatasync"),
    "disk.allocate": (f"{_ENGINE}.storage.files", "LocalFileSystem", "allocate"),
    "disk.rename": (f"{_ENGINE}.storage.files", "LocalFileSystem", "rename"),
    "disk.unlink": (f"{_ENGINE}.storage.files", "LocalFileSystem", "unlink"),
    "disk.sync_directory": (f"{_ENGINE}.storage.files", "LocalFileSystem", "sync_directory"),
    "disk.make_directory": (f"{_ENGINE}.storage.files", "LocalFileSystem", "make_directory"),
    "log.append": (f"{_ENGINE}.storage.wal_shared", "SharedWal", "append"),
    "log.append_raw": (f"{_ENGINE}.storage.wal_shared", "SharedWal", "append_raw"),
    "log.truncate": (f"{_ENGINE}.storage.wal_shared", "SharedWal", "truncate"),
    "log.trim": (f"{_ENGINE}.storage.wal_shared", "SharedWal", "trim"),
    "log.write_hint": (f"{_ENGINE}.storage.wal", "Wal", "write_hint"),
    "shard.apply_all": (f"{_ENGINE}.shard.shard", "Shard", "apply_all"),
    "shard.publish": (f"{_ENGINE}.shard.shard", "Shard", "publish"),
    "shard.checkpoint": (f"{_ENGINE}.shard.shard", "Shard", "checkpoint"),
    "checkpoint.write": (f"{_ENGINE}.shard.checkpoint", "CheckpointStore", "write"),
    "copy.promise": (f"{_ENGINE}.shard.local_copy", "LocalCopy", "promise"),
    "copy.lead": (f"{_ENGINE}.shard.local_copy", "LocalCopy", "lead"),
    "copy.follow": (f"{_ENGINE}.shard.local_copy", "LocalCopy", "follow"),
    "copy.advance": (f"{_ENGINE}.shard.local_copy", "LocalCopy", "advance"),
    "copy.write_meta": (f"{_ENGINE}.shard.local_copy", "", "write_meta"),
    "snapshot.open": (f"{_ENGINE}.shard.snapshot_export", "Exports", "open"),
    "snapshot.write": (f"{_ENGINE}.shard.snapshot_import", "Import", "write"),
    "snapshot.install": (f"{_ENGINE}.shard.snapshot_import", "Import", "install"),
    "node.attach": (f"{_REPLICATION}.node", "Replication", "attach"),
    "keeper.open": ("nearql.server.keeper", "Keeper", "_open_or_make"),
}  # fmt: skip
# What a copy's core tells it to do; of `runner._CARRY_OUT`.
EFFECTS = (
    "Send", "Ship", "PersistPromise", "Lead", "Admit", "Follow", "AppendRecords", "Truncate",
    "SetCommit", "Answer", "Propose", "FetchSnapshot", "StartAnew",
)  # fmt: skip
NAMES = (*FUNCTIONS, *(f"effect.{name}" for name in EFFECTS))


class FailPoints:
    """Of this process; `folder` has the file that arms one."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "die"
        self._armed: tuple[str, str] | None = None
        self._left = 0
        self._lock = threading.Lock()

    def install(self) -> None:
        """Wrap all of them, and look for the file from now on."""
        for name, (module, holder, function) in FUNCTIONS.items():
            place: Any = importlib.import_module(module)
            place = getattr(place, holder) if holder else place
            setattr(place, function, self._wrapped(name, getattr(place, function)))
        runner: Any = importlib.import_module(f"{_REPLICATION}.runner")
        for kind, function in list(runner._CARRY_OUT.items()):
            if kind.__name__ in EFFECTS:
                runner._CARRY_OUT[kind] = self._wrapped(f"effect.{kind.__name__}", function)
        self._look()
        threading.Thread(target=self._poll, name="fail-points", daemon=True).start()

    def _wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*given: Any, **named: Any) -> Any:
            if self._armed is None:
                return function(*given, **named)
            self._reached(name, "before")
            result = function(*given, **named)
            self._reached(name, "after")
            return result

        return wrapped

    def _reached(self, name: str, when: str) -> None:
        with self._lock:
            if self._armed != (name, when):
                return
            self._left -= 1
            if self._left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def _poll(self) -> None:
        while True:
            time.sleep(POLL_S)
            self._look()

    def _look(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            name, when, times = self._file.read_text().split()
            if self._armed != (name, when):
                with self._lock:
                    self._armed, self._left = (name, when), int(times)
            return
        self._armed = None
