"""Nodes that archive their logs, and moments between statements."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nearql.server.backup.shipping import now_ms
from nearql.server.node import Node
from support.backups import running
from support.waiting import wait_for


@contextmanager
def archiving(directory: Path, copies: Path, **flags: Any) -> Iterator[Node]:
    """A node alone whose log goes to a directory."""
    flags.setdefault("backup__archive_interval_ms", 50)
    with running(directory, backup__archive=True, backup__repository=str(copies), **flags) as node:
        yield node


class Told:
    """In a logger's place: what was logged. (`capture_logs` would change logging for good.)"""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def __getattr__(self, level: str) -> Callable[..., None]:
        return lambda event, **members: self.lines.append({"event": event, **members})


def moment() -> int:
    """Now, in ms: later than all that was answered, earlier than all that begins from now on."""
    at = now_ms()
    while now_ms() <= at:
        time.sleep(0.0002)  # the clock's next tick, which is what is waited for
    return at


def shipped(node: Node) -> None:
    """Wait until the archive has everything up to now."""
    wanted, archiver = now_ms(), node.backups.archiver

    def is_there() -> bool:
        if not archiver.reaches(wanted):
            archiver.round_soon()  # a round that meets a write under way leaves it to the next
            return False
        return True

    wait_for(is_there, "everything is shipped", 120)


def killed(node: Node) -> None:
    """What a node has not shipped dies with it: it ships nothing when it ends."""
    node.backups.archiver._try = lambda given_up: None  # type: ignore[method-assign]
