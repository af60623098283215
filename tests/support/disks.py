"""A disk in memory that loses power, tears writes, fails and fills up, as real ones do.

It keeps apart what the kernel shows (cached) and what would be there after a power loss (durable):
- a write is durable after `fdatasync`; before that each of its 512-byte sectors may or may not be;
- a name is durable after `sync_directory`; before that a prefix of the changes may be;
- a failed `fdatasync` drops what it should have written, while the cache goes on showing it.
"""

from __future__ import annotations

import errno
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nearql.engine.storage.files import Buffer, LocalFileSystem

SECTOR = 512


class PowerLoss(BaseException):
    """The machine stopped in the middle of an operation."""


@dataclass(frozen=True)
class Change:
    """Bytes written at an offset, or (data None) a new length."""

    offset: int
    data: bytes | None

    def apply(self, content: bytearray) -> None:
        if self.data is None:
            del content[self.offset :]
            content.extend(bytes(self.offset - len(content)))
            return
        end = self.offset + len(self.data)
        content.extend(bytes(max(0, end - len(content))))
        content[self.offset : end] = self.data


@dataclass(eq=False)
class Inode:
    """A file: what the kernel shows, what the disk has, and the changes between."""

    cached: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    dirty: list[Change] = field(default_factory=list)

    def change(self, change: Change) -> None:
        change.apply(self.cached)
        self.dirty.append(change)

    def sync(self) -> None:
        for change in self.dirty:
            change.apply(self.durable)
        self.dirty.clear()

    def after_power_loss(self, survives: Callable[[], bool]) -> Inode:
        content = bytearray(self.durable)
        for change in self.dirty:
            if change.data is None:
                if survives():
                    change.apply(content)
                continue
            for start, sector in _sectors(change.offset, change.data):
                if survives() and start + len(sector) <= max(len(content), len(self.cached)):
                    Change(start, sector).apply(content)
        return Inode(bytearray(content), content)


def _sectors(offset: int, data: bytes) -> list[tuple[int, bytes]]:
    """The data cut where the disk's sectors end."""
    pieces = []
    start = 0
    while start < len(data):
        size = min(SECTOR - (offset + start) % SECTOR, len(data) - start)
        pieces.append((offset + start, data[start : start + size]))
        start += size
    return pieces


@dataclass(frozen=True)
class NameChange:
    """A name that now stands for a file, or (None) for none."""

    path: Path
    inode: Inode | None


class SimulatedDisk:
    """`FileSystem` in memory. `calls` counts operations; `fail` makes the named ones raise.

    crash_at: power is lost in the middle of this operation, counted from 1, among those that change
    something. torn: if that is a write, only a prefix of it is done, as when the process is killed.
    """

    def __init__(self, crash_at: int | None = None, torn: random.Random | None = None) -> None:
        self.names_cached: dict[Path, Inode] = {}
        self.names_durable: dict[Path, Inode] = {}
        self.name_changes: list[NameChange] = []
        self.handles: dict[int, Inode] = {}
        self.next_handle = 3
        self.calls: Counter[str] = Counter()
        self.fail: dict[str, int] = {}
        self.free = 1 << 40
        self.boot = 1
        self.steps = 0
        self.crash_at = crash_at
        self.torn = torn

    # ---- What happens to it ------------------------------------------------------------

    def after_power_loss(self, chance: random.Random) -> SimulatedDisk:
        """The disk after the machine came back."""
        odds = chance.choice((0.0, 0.5, 0.9, 1.0))

        def survives() -> bool:
            return chance.random() < odds

        disk = SimulatedDisk()
        names = dict(self.names_durable)
        for change in self.name_changes[: chance.randint(0, len(self.name_changes))]:
            _rename(names, change)
        kept: dict[Inode, Inode] = {}
        for path, inode in names.items():
            kept.setdefault(inode, inode.after_power_loss(survives))
            disk.names_cached[path] = disk.names_durable[path] = kept[inode]
        disk.boot = self.boot + 1
        return disk

    def after_kill(self) -> SimulatedDisk:
        """The disk after the process died: the kernel still has everything."""
        self.handles.clear()
        self.crash_at = self.torn = None
        self.fail.clear()
        return self

    def copy(self) -> SimulatedDisk:
        """Another disk with what the kernel shows of this one, all of it durable."""
        disk = SimulatedDisk()
        for path, inode in self.names_cached.items():
            content = bytearray(inode.cached)
            disk.names_cached[path] = disk.names_durable[path] = Inode(bytearray(content), content)
        disk.boot = self.boot
        return disk

    def content(self, path: Path) -> bytearray:
        """What the kernel shows of a file, to be changed behind its back."""
        return self.names_cached[path].cached

    def _step(self, operation: str) -> None:
        self.calls[operation] += 1
        if operation in self.fail:
            raise OSError(self.fail[operation], os.strerror(self.fail[operation]))
        self.steps += 1

    def _crash(self) -> None:
        if self.crash_at is not None and self.steps >= self.crash_at:
            raise PowerLoss

    def is_durable(self, path: Path) -> bool:
        """Whether a power loss now would leave this file as it is."""
        inode = self.names_cached.get(path)
        return inode is self.names_durable.get(path) and (inode is None or not inode.dirty)

    # ---- FileSystem --------------------------------------------------------------------

    def open(self, path: Path, *, create: bool = False) -> int:
        self.calls["open"] += 1
        if create:
            self._step("create")
            if path in self.names_cached:
                raise FileExistsError(errno.EEXIST, str(path))
            self._rename(path, Inode())
            self._crash()
        elif path not in self.names_cached:
            raise FileNotFoundError(errno.ENOENT, str(path))
        self.next_handle += 1
        self.handles[self.next_handle] = self.names_cached[path]
        return self.next_handle

    def close(self, handle: int) -> None:
        del self.handles[handle]

    def pread(self, handle: int, size: int, offset: int) -> bytes:
        return bytes(self.handles[handle].cached[offset : offset + size])

    def pwritev(self, handle: int, buffers: Sequence[Buffer], offset: int) -> None:
        self._step("pwritev")
        data = b"".join(bytes(b) for b in buffers)
        if self.torn is not None and self.steps == self.crash_at:
            data = data[: self.torn.randint(0, len(data))]
        growth = offset + len(data) - len(self.handles[handle].cached)
        if growth > self.free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.free -= max(0, growth)
        self.handles[handle].change(Change(offset, data))
        self._crash()

    def fdatasync(self, handle: int) -> None:
        if "fdatasync" in self.fail:
            self.handles[handle].dirty.clear()
        self._step("fdatasync")
        self._crash()
        self.handles[handle].sync()

    def drop_cache(self, handle: int) -> None:
        self.calls["drop_cache"] += 1

    def allocate(self, handle: int, size: int) -> None:
        self._step("allocate")
        inode = self.handles[handle]
        growth = size - len(inode.cached)
        if growth > self.free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if growth > 0:
            self.free -= growth
            inode.change(Change(size, None))
        self._crash()

    def truncate(self, handle: int, size: int) -> None:
        self._step("truncate")
        self.handles[handle].change(Change(size, None))
        self._crash()

    def map(self, path: Path) -> memoryview:
        if path not in self.names_cached:
            raise FileNotFoundError(errno.ENOENT, str(path))
        return memoryview(bytes(self.names_cached[path].cached))

    def size(self, path: Path) -> int:
        return len(self.names_cached[path].cached)

    def exists(self, path: Path) -> bool:
        return path in self.names_cached

    def names(self, directory: Path) -> list[str]:
        return sorted(path.name for path in self.names_cached if path.parent == directory)

    def make_directory(self, directory: Path) -> None:
        """Directories need no care of their own here."""

    def rename(self, source: Path, target: Path) -> None:
        self._step("rename")
        inode = self.names_cached[source]
        self._rename(target, inode)
        # A crash between the two leaves both names, which callers must bear as well.
        self.name_changes.append(NameChange(source, None))
        del self.names_cached[source]
        self._crash()

    def unlink(self, path: Path) -> None:
        if path in self.names_cached:
            self._step("unlink")
            self._rename(path, None)
            self._crash()

    def sync_directory(self, directory: Path) -> None:
        self._step("sync_directory")
        self._crash()
        for change in self.name_changes:
            if change.path.parent == directory:
                _rename(self.names_durable, change)
        self.name_changes = [c for c in self.name_changes if c.path.parent != directory]

    def free_bytes(self, directory: Path) -> int:
        return self.free

    def boot_id(self) -> bytes:
        return self.boot.to_bytes(16, "little")

    def _rename(self, path: Path, inode: Inode | None) -> None:
        change = NameChange(path, inode)
        _rename(self.names_cached, change)
        self.name_changes.append(change)


def _rename(names: dict[Path, Inode], change: NameChange) -> None:
    if change.inode is None:
        names.pop(change.path, None)
    else:
        names[change.path] = change.inode


class WatchedFileSystem(LocalFileSystem):
    """The machine's disk with calls counted, failures on demand and free space of one's choice."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.fail: dict[str, int] = {}
        self.free: int | None = None
        self.buffers: list[Buffer] = []
        self.before_sync: Callable[[], None] | None = None

    def _call(self, operation: str) -> None:
        self.calls[operation] += 1
        if operation in self.fail:
            raise OSError(self.fail[operation], os.strerror(self.fail[operation]))

    def pwritev(self, handle: int, buffers: Sequence[Buffer], offset: int) -> None:
        self._call("pwritev")
        self.buffers += buffers
        super().pwritev(handle, buffers, offset)

    def fdatasync(self, handle: int) -> None:
        if self.before_sync is not None:
            self.before_sync()
        self._call("fdatasync")
        super().fdatasync(handle)

    def allocate(self, handle: int, size: int) -> None:
        self._call("allocate")
        super().allocate(handle, size)

    def rename(self, source: Path, target: Path) -> None:
        self._call("rename")
        super().rename(source, target)

    def sync_directory(self, directory: Path) -> None:
        self._call("sync_directory")
        super().sync_directory(directory)

    def free_bytes(self, directory: Path) -> int:
        return super().free_bytes(directory) if self.free is None else self.free
