"""Restores of a node alone to moments between two backups."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from nearql.server.backup.shipping import now_ms
from nearql.server.node import Node
from support.backups import DOCS, backup, fill, hashes, repository, restore, run, running, seal
from support.waiting import wait_for


def archiving(directory: Path, copies: Path, **flags: Any) -> Any:
    """A node alone that archives."""
    return running(
        directory, backup__archive=True, backup__repository=str(copies),
        backup__archive_interval_ms=50, **flags,
    )  # fmt: skip


def moment() -> int:
    """Now, and no statement has the same millisecond as one behind it."""
    at = now_ms()
    while now_ms() <= at + 1:
        time.sleep(0.0005)
    return at + 1


def shipped(node: Node) -> None:
    """Wait until the archive has everything up to now."""
    wanted = now_ms()
    archiver = node.backups.archiver
    archiver.round_soon()
    reached = lambda: all(s.until_ms and s.until_ms > wanted for s in archiver._all())  # noqa
    wait_for(lambda: bool(archiver._all()) and reached(), "everything is shipped", 60)


def test_any_moment_behind_a_backup_comes_back(tmp_path: Path) -> None:
    place = repository(tmp_path / "copies")
    told: list[tuple[int, Any]] = []
    with archiving(tmp_path / "a", tmp_path / "copies") as node:
        run(node, DOCS)
        fill(node, 0, 50)
        told.append((moment(), hashes(node)))
        backup(node, place)
        for step in range(1, 6):
            fill(node, 100 * step, 7)
            run(node, f"DELETE FROM docs WHERE id = {step}")
            run(node, f"UPDATE docs SET title = 'step {step}' WHERE id < 30")
            told.append((moment(), hashes(node)))
            if step == 3:
                seal(node)
        run(node, "TRUNCATE docs")
        told.append((moment(), hashes(node)))
        shipped(node)
    with running(tmp_path / "b") as node:
        for number, (at, wanted) in enumerate(told[1:]):
            restore(node, place, to_ms=at, tables=("docs",), rename={"docs": f"d{number}"})
            assert hashes(node, f"d{number}") == wanted
