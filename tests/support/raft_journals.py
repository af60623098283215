"""What is in a voter's log."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from nearql.cluster.metadata.codec import decode_command
from nearql.cluster.metadata.raft.journal import RaftJournal
from nearql.cluster.metadata.raft.member import BARRIER
from nearql.cluster.metadata.raft.messages import REGULAR
from nearql.engine.storage.files import LocalFileSystem


def operations(path: Path) -> list[str]:
    """The commands in a log, by name and in order."""
    journal = RaftJournal(path, LocalFileSystem(), _fail)
    commands = [entry.command for entry in journal.entries if entry.command[0] == REGULAR]
    journal.close()
    return [type(decode_command(c[1:])).__name__ for c in commands if c[1:] != BARRIER]


def _fail(reason: str) -> NoReturn:
    pytest.fail(reason)
