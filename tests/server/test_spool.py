"""Where bodies wait: memory with a budget, then a nameless file, and a full device."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from nearql.engine.errors import StorageFull
from nearql.server.spool import Spool, SpoolMemory


def fill(spool: Spool, *parts: bytes) -> None:
    """Add parts as the rows route does."""
    for part in parts:
        if spool.fits(len(part)):
            spool.keep(part)
        else:
            spool.write(part)


def test_within_the_budget_nothing_touches_the_disk(tmp_path: Path) -> None:
    memory = SpoolMemory(10)
    with Spool(memory, tmp_path, 0) as spool:
        fill(spool, b"12345", b"67890")
        assert not spool.in_file
        assert not memory.take(1)
        assert spool.buffer().to_pybytes() == b"1234567890"
        assert spool.buffer().to_pybytes() == b"1234567890"
    assert memory.take(10)


def test_one_byte_beyond_the_budget_moves_all_to_a_file_without_a_name(tmp_path: Path) -> None:
    memory = SpoolMemory(10)
    with Spool(memory, tmp_path, 0) as spool:
        fill(spool, b"1234567890", b"x", b"y" * 5)
        assert spool.in_file
        assert memory.take(10), "what was in memory is given back"
        memory.give(10)
        assert list(tmp_path.iterdir()) == []
        whole = spool.buffer()
    assert whole.to_pybytes() == b"1234567890x" + b"y" * 5
    assert spool.size == 16


def test_an_empty_body_is_an_empty_buffer(tmp_path: Path) -> None:
    with Spool(SpoolMemory(0), tmp_path, 0) as spool:
        assert spool.buffer().size == 0
        spool.write(b"")
        assert spool.buffer().size == 0


def test_the_reserve_of_the_device_is_kept(tmp_path: Path) -> None:
    state = os.statvfs(tmp_path)
    reserve = state.f_bavail * state.f_frsize
    memory = SpoolMemory(5)
    with Spool(memory, tmp_path, reserve + (1 << 30)) as spool:
        spool.fits(5)
        spool.keep(b"12345")
        with pytest.raises(StorageFull, match="nothing was stored"):
            spool.write(b"x")
    assert memory.take(5), "the budget is whole again"


def test_a_device_that_fills_up_is_507_and_other_faults_stay_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, expected in ((errno.ENOSPC, StorageFull), (errno.EIO, OSError)):

        def fail(*_: object, code: int = number) -> None:
            raise OSError(code, os.strerror(code))

        with Spool(SpoolMemory(0), tmp_path, 0) as spool:
            monkeypatch.setattr(spool, "_move_to_file", fail)
            with pytest.raises(expected):
                spool.write(b"x")


def test_a_directory_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with Spool(SpoolMemory(0), tmp_path / "gone", 0) as spool, pytest.raises(FileNotFoundError):
        spool.write(b"x")
