"""Nodes, repositories and stores that fail, for tests of backups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nearql.server.backup.manifest import BackupManifest
from nearql.server.backup.rebuild import hashes_of
from nearql.server.backup.repository import Repository
from nearql.server.backup.restore import Restored, Wish
from nearql.server.backup.service import Job
from nearql.server.backup.store import DirectoryStore, Store, Stored
from nearql.server.config import load_config
from nearql.server.node import Node

DOCS = "CREATE TABLE docs (id BIGINT PRIMARY KEY, title TEXT, vec VECTOR(3)) WITH (shards = 2)"


@contextmanager
def running(directory: Path, **flags: Any) -> Iterator[Node]:
    """A node alone."""
    named = {name.replace("__", "."): value for name, value in flags.items()}
    node = Node.open(
        load_config(
            environment={},
            flags={"node.data_dir": str(directory), "engine.backend": "numpy", **named},
        )
    )
    try:
        yield node
    finally:
        node.close()


def run(node: Node, *texts: str) -> list[dict[str, Any]]:
    """The rows of the last statement."""
    rows: list[dict[str, Any]] = []
    for text in texts:
        rows = node.session().execute(text).table.to_pylist()
    return rows


def fill(node: Node, first: int, count: int, table: str = "docs") -> None:
    """Rows that their ids determine."""
    run(
        node,
        f"INSERT INTO {table} SELECT range, 'row ' || range, [range, 1, 2]::FLOAT[3] "
        f"FROM range({first}, {first + count})",
    )


def seal(node: Node, table: str = "docs") -> None:
    """Write a table's rows to files."""
    node.copies.table(node.catalog().tables[table].uuid).checkpoint()


def hashes(node: Node, table: str = "docs") -> tuple[int, tuple[int, ...]]:
    """What a table holds, as numbers."""
    found = node.copies.table(node.catalog().tables[table].uuid)
    return hashes_of([shard.read_view() for shard in found.shards], found.definition.schema)


def repository(directory: Path) -> Repository:
    """In a directory, made if it is not there."""
    directory.mkdir(exist_ok=True)
    return Repository.open_or_make(DirectoryStore(directory))


def backup(node: Node, place: Repository) -> BackupManifest:
    """Take one."""
    return node.backups.take_here(Job("backup", ""), place)


def restore(node: Node, place: Repository, **wish: Any) -> Restored:
    """Bring it back."""
    return node.backups.restore_here(Job("restore", ""), place, Wish(**wish))


class Killed(BaseException):
    """The process ends here."""


class KilledStore:
    """A store whose process is killed before its `nth` change, or in the middle of it."""

    def __init__(self, inner: Store, nth: int, *, before: bool) -> None:
        self._inner, self._left, self._before = inner, nth, before

    @property
    def location(self) -> str:
        return self._inner.location

    def put(self, name: str, parts: Iterable[bytes | memoryview]) -> int:
        self._left -= 1
        if self._left < 0 or (self._left == 0 and self._before):
            raise Killed
        if self._left == 0:
            return self._inner.put(name, self._broken_off(parts))
        return self._inner.put(name, parts)

    def _broken_off(self, parts: Iterable[bytes | memoryview]) -> Iterator[bytes]:
        for part in parts:
            yield bytes(part)[: len(part) // 2]
            raise Killed

    def get(self, name: str) -> Iterator[bytes]:
        return self._inner.get(name)

    def size(self, name: str) -> int | None:
        return self._inner.size(name)

    def list(self, prefix: str) -> list[Stored]:
        return self._inner.list(prefix)

    def remove(self, name: str) -> None:
        if self._left <= 0:
            return  # a dead process releases no lock
        self._inner.remove(name)
