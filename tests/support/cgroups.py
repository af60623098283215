"""A group of processes that the kernel kills when they take more memory than they may."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_TOP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class MemoryGroup:
    """wrapper: a command that runs the one that follows as its arguments inside of the group."""

    path: Path

    @property
    def wrapper(self) -> list[str]:
        script = 'echo $$ > "$0" && exec "$@"'
        return ["/bin/sh", "-c", script, str(self.path / "cgroup.procs")]

    @property
    def kills(self) -> int:
        """How many processes the kernel has killed in it for lack of memory."""
        for name in ("memory.events", "memory.oom_control"):
            if (self.path / name).exists():
                words = (self.path / name).read_text().split()
                return int(words[words.index("oom_kill") + 1])
        raise AssertionError("a memory group without events")


@contextmanager
def memory_group(limit_bytes: int) -> Iterator[MemoryGroup | str]:
    """A new group with this hard limit, or why there is none."""
    try:
        group = _made(limit_bytes)
    except OSError as error:
        yield f"no memory group can be made here: {error}"
        return
    try:
        yield group
    finally:
        group.path.rmdir()


def _made(limit_bytes: int) -> MemoryGroup:
    top = _TOP / "memory" if (_TOP / "memory").is_dir() else _TOP
    path = top / f"nearql-test-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    path.mkdir()
    try:
        names = [name for name in ("memory.limit_in_bytes", "memory.max") if (path / name).exists()]
        if not names:
            raise OSError("the memory controller is not given to groups here")
        (path / names[0]).write_text(str(limit_bytes))
        swap = path / "memory.swap.max"
        if swap.exists():
            swap.write_text("0")
    except OSError:
        path.rmdir()
        raise
    return MemoryGroup(path)


def is_in_memory(path: Path) -> bool:
    """Whether files below `path` take memory instead of disk."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    above = [(len(at), kind) for at, kind in mounts if path.resolve().is_relative_to(at)]
    return max(above, default=(0, ""))[1] in ("tmpfs", "ramfs")
