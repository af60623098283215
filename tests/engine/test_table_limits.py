"""What a statement may take: records, space, queues and time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nearql.engine.deadline import Deadline
from nearql.engine.errors import (
    Conflict,
    Overloaded,
    StatementTimeout,
    StorageFull,
    TooLarge,
    Unavailable,
    WriteUnknown,
)
from nearql.engine.table import Table
from nearql.engine.types import Change
from nearql.engine.view import TableView
from support.disks import WatchedFileSystem
from support.tables import (
    SMALL,
    context,
    create,
    definition,
    delete,
    insert,
    keys,
)
from support.waiting import wait_for

NONE = np.empty(0, np.int64)
REQUEST = b"request-number-1"


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    made = create(tmp_path / "t")
    yield made
    made.check_invariants()
    made.close()


# ---- Records -------------------------------------------------------------------------------------


def test_a_statement_larger_than_a_record_is_one_statement(tmp_path: Path) -> None:
    table = create(tmp_path / "t", settings=replace(SMALL, wal_record_bytes=1024))
    outcome = insert(table, range(300))
    assert outcome.inserted == 300
    assert outcome.positions[0].lsn > 10
    table.close()
    table = Table.open(tmp_path / "t", definition(), context())
    assert keys(table) == set(range(300))
    assert table.modify(lambda view: delete(view, *range(299))).deleted == 299
    table.close()
    table = Table.open(tmp_path / "t", definition(), context())
    assert keys(table) == {299}
    table.close()


def test_a_row_larger_than_a_record_is_refused_by_size(table: Table) -> None:
    with pytest.raises(TooLarge, match="engine.wal_record_bytes"):
        insert(table, range(100), "x" * SMALL.wal_record_bytes)
    assert keys(table) == set()


def test_a_statement_that_a_full_disk_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    fs = WatchedFileSystem()
    settings = replace(SMALL, wal_record_bytes=1024)
    table = create(tmp_path / "t", context=context(settings, fs=fs))
    insert(table, [1])
    asked = 0
    real = fs.free_bytes

    def full_after_three(directory: Path) -> int:
        nonlocal asked
        asked += 1
        return real(directory) if asked <= 3 else 0

    fs.free_bytes = full_after_three  # type: ignore[method-assign]
    with pytest.raises(StorageFull) as caught:
        insert(table, range(10, 300))
    assert asked == 4
    assert caught.value.definite
    fs.free_bytes = real  # type: ignore[method-assign]
    insert(table, [2])
    assert keys(table) == {1, 2}
    table.close()
    table = Table.open(tmp_path / "t", definition(), context())
    assert keys(table) == {1, 2}
    table.close()


def test_a_write_that_only_some_shards_logged_is_not_definite(tmp_path: Path) -> None:
    fs = WatchedFileSystem()
    table = create(tmp_path / "t", definition=definition(shards=2), context=context(fs=fs))
    real, asked = fs.free_bytes, list[int]()

    def one_then_full(directory: Path) -> int:
        asked.append(1)
        return real(directory) if len(asked) == 1 else 0

    fs.free_bytes = one_then_full  # type: ignore[method-assign]
    with pytest.raises(StorageFull) as caught:
        insert(table, range(20))
    assert not caught.value.definite
    fs.free_bytes = real  # type: ignore[method-assign]
    table.close()


# ---- Limits and time -----------------------------------------------------------------------------


def blocked(fs: WatchedFileSystem) -> tuple[threading.Event, threading.Event]:
    """Make the next fsync wait: (it waits, let it go on)."""
    waits, go_on = threading.Event(), threading.Event()

    def before_sync() -> None:
        waits.set()
        assert go_on.wait(20)

    fs.before_sync = before_sync
    return waits, go_on


def test_a_wait_that_ends_early_is_unknown_and_the_write_appears_later(tmp_path: Path) -> None:
    fs = WatchedFileSystem()
    table = create(tmp_path / "t", context=context(fs=fs))
    _, go_on = blocked(fs)
    with pytest.raises(WriteUnknown) as caught:
        insert(table, [1], timeout_ms=50, request_id=REQUEST)
    assert not caught.value.definite
    assert caught.value.extra["lsn"] > 0
    assert keys(table) == set(), "not durable, so not visible"
    go_on.set()
    again = insert(table, [1], request_id=REQUEST)  # attaches to the one under way
    assert (again.inserted, again.repeated) == (1, True)
    assert keys(table) == {1}
    table.close()


def test_a_write_that_nobody_waits_for_is_seen_by_a_later_reader(tmp_path: Path) -> None:
    fs = WatchedFileSystem()
    table = create(tmp_path / "t", context=context(fs=fs))
    _, go_on = blocked(fs)
    with pytest.raises(WriteUnknown):
        insert(table, [1], timeout_ms=20)
    go_on.set()
    shard = table._shards[0]
    assert shard.wal.wait_durable(shard.wal.last_lsn, 10_000)
    assert keys(table) == {1}
    table.close()


def test_pending_keys_conflict_before_they_are_durable(tmp_path: Path) -> None:
    fs = WatchedFileSystem()
    table = create(tmp_path / "t", context=context(fs=fs))
    _, go_on = blocked(fs)
    with pytest.raises(WriteUnknown):
        insert(table, [1], timeout_ms=20)
    with pytest.raises(Conflict):
        insert(table, [1], timeout_ms=20)
    go_on.set()
    table.close()


def test_a_statement_that_gets_no_turn_was_certainly_not_done(tmp_path: Path) -> None:
    fs = WatchedFileSystem()
    table = create(tmp_path / "t", context=context(fs=fs))
    _, go_on = blocked(fs)
    with pytest.raises(WriteUnknown):
        insert(table, [1], timeout_ms=20)
    with pytest.raises(StatementTimeout) as caught:
        table.modify(lambda view: delete(view, 1), timeout_ms=20)
    assert caught.value.definite
    go_on.set()
    table.close()


def test_a_statement_evaluated_too_long_was_certainly_not_done(table: Table) -> None:
    insert(table, [1])

    def evaluate(view: TableView) -> Change:
        wait_for(lambda: deadline.left_s == 0, "the time is up")
        return delete(view, 1)

    deadline = Deadline(30)
    with pytest.raises(StatementTimeout, match="nothing was written") as caught:
        table.modify(evaluate, timeout_ms=20)
    assert caught.value.definite
    assert keys(table) == {1}


def test_a_full_write_queue_answers_overloaded(tmp_path: Path) -> None:
    fs = WatchedFileSystem()
    settings = replace(SMALL, write_queue_batches=2)
    table = create(tmp_path / "t", context=context(settings, fs=fs))
    waits, go_on = blocked(fs)
    threads = [threading.Thread(target=insert, args=(table, [key])) for key in (1, 2)]
    for thread in threads:
        thread.start()
    assert waits.wait(20)
    wait_for(lambda: table._admission._batches == 2, "both writes are under way")
    with pytest.raises(Overloaded, match="write_queue_batches"):
        insert(table, [3])
    go_on.set()
    for thread in threads:
        thread.join()
    insert(table, [3])
    assert keys(table) == {1, 2, 3}
    table.close()


def test_one_write_alone_is_let_in_however_large(tmp_path: Path) -> None:
    table = create(tmp_path / "t", settings=replace(SMALL, write_queue_bytes=10))
    insert(table, range(50))
    assert table.read_view().row_count == 50
    table.close()


def test_a_closed_table_says_so(tmp_path: Path) -> None:
    table = create(tmp_path / "t")
    table.close()
    table.close()
    with pytest.raises(Unavailable, match="closed"):
        table.read_view()
    with pytest.raises(Unavailable, match="closed"):
        insert(table, [1])
