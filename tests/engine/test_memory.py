"""The memory budget: who takes much asks first; relief comes before refusal, that before work."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nearql.engine.context import EngineContext
from nearql.engine.deadline import Deadline
from nearql.engine.errors import Overloaded
from nearql.engine.memory import MemoryBudget, anonymous_bytes
from nearql.engine.storage.files import LocalFileSystem
from nearql.engine.table import Table
from nearql.engine.types import Metric, OnConflict, SearchRequest
from support.tables import SMALL, create, delete, insert, keys, one_thread, rows_of

NEVER = Deadline(None)


class Used:
    """What the process takes, as a test wants it."""

    def __init__(self, nbytes: int = 0) -> None:
        self.nbytes = nbytes

    def __call__(self) -> int:
        return self.nbytes


@pytest.fixture(autouse=True)
def always_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A measurement is never fresh enough, and relief always due."""
    monkeypatch.setattr("nearql.engine.memory._FRESH_S", -1)
    monkeypatch.setattr("nearql.engine.memory._RELIEF_S", -1)


def test_what_the_process_takes_is_counted_without_files(tmp_path: Path) -> None:
    """Other threads of the tests' process may give or take some beside it."""
    before = anonymous_bytes()
    taken = np.ones(128 << 20, np.uint8)
    assert anonymous_bytes() - before >= 64 << 20
    taken.tofile(tmp_path / "file")
    mapped = np.memmap(tmp_path / "file", np.uint8, "r")
    between = anonymous_bytes()
    assert int(mapped[::4096].sum()) == 128 << 20 >> 12
    assert anonymous_bytes() - between < 64 << 20


def test_work_that_nobody_waits_for_waits_for_room_itself() -> None:
    used, checks = Used(60), []

    def check() -> None:
        checks.append(budget.reserved_bytes)
        used.nbytes -= 10

    budget = MemoryBudget(100, used, patience_s=0)
    with budget.awaited(70, check):
        assert budget.reserved_bytes == 70
    assert (used.nbytes, checks, budget.reserved_bytes) == (30, [0, 0, 0], 0)
    assert (budget.waits, budget.refusals) == (1, 0)


def test_waiting_ends_when_it_is_called_off() -> None:
    def check() -> None:
        raise KeyboardInterrupt

    budget = MemoryBudget(100, Used(60), patience_s=0)
    waiting = budget.awaited(70, check)
    with pytest.raises(KeyboardInterrupt):
        waiting.__enter__()
    assert budget.reserved_bytes == 0


def test_promises_count_until_they_are_kept() -> None:
    budget = MemoryBudget(100, Used(40), patience_s=0)
    with budget.reserved(50, "One", NEVER):
        assert budget.reserved_bytes == 50
        too_much = budget.reserved(11, "Two", NEVER)
        with pytest.raises(Overloaded, match="Two needs about 11 bytes .* 40 are in use, 50 prom"):
            too_much.__enter__()
        with budget.reserved(10, "Three", NEVER):
            assert budget.reserved_bytes == 60
    assert budget.reserved_bytes == 0
    assert (budget.waits, budget.refusals) == (1, 1)


def test_a_failing_block_keeps_no_promise() -> None:
    budget = MemoryBudget(100, Used())
    with pytest.raises(ZeroDivisionError), budget.reserved(100, "It", NEVER):
        raise ZeroDivisionError
    with budget.reserved(100, "It", NEVER):
        pass


def test_reads_may_go_an_eighth_beyond() -> None:
    used = Used(110)
    budget = MemoryBudget(100, used, patience_s=0)
    budget.check(2, "A search")
    with pytest.raises(Overloaded) as info:
        budget.check(3, "A search")
    assert (info.value.code, info.value.http_status) == ("memory_limit_reached", 429)
    assert info.value.retry_after_s


def test_relief_comes_before_refusal() -> None:
    used = Used(100)
    budget = MemoryBudget(100, used, patience_s=0)

    def relief() -> None:
        used.nbytes = 10

    budget.on_pressure("cache", relief)
    with budget.reserved(90, "It", NEVER):
        pass
    used.nbytes = 100
    budget.forget("cache")
    with pytest.raises(Overloaded), budget.reserved(90, "It", NEVER):
        pass


def test_room_that_others_leave_is_waited_for() -> None:
    budget = MemoryBudget(100, Used(), patience_s=60)
    inside, done = threading.Event(), threading.Event()

    def second() -> None:
        inside.wait(60)
        with budget.reserved(60, "Two", NEVER):
            done.set()

    thread = threading.Thread(target=second)
    thread.start()
    with budget.reserved(60, "One", NEVER):
        inside.set()
        while budget.waits == 0:  # it came and found no room
            threading.Event().wait(0.001)
        assert not done.is_set()
    assert done.wait(60)
    thread.join()


def test_nobody_waits_longer_than_its_statement_may_take() -> None:
    budget = MemoryBudget(100, Used(200), patience_s=3600)
    with pytest.raises(Overloaded), budget.reserved(1, "It", Deadline(0)):
        pass


# ---- In a table ----------------------------------------------------------------------------------


def made(directory: Path, used: Used, limit: int) -> tuple[Table, EngineContext]:
    alone = one_thread(replace(SMALL, seal_rows=10_000), LocalFileSystem())
    alone.memory = MemoryBudget(limit, used, patience_s=0)
    return create(directory / "t", context=alone), alone


def test_a_write_without_room_is_refused_with_nothing_done(tmp_path: Path) -> None:
    used = Used()
    table, _ = made(tmp_path, used, 100_000)
    insert(table, range(10))
    used.nbytes = 99_900
    with pytest.raises(Overloaded, match="A write to table docs needs about"):
        insert(table, range(10, 20))
    with pytest.raises(Overloaded):
        table.insert(rows_of(range(10)), OnConflict.REPLACE)
    used.nbytes = 100_001
    with pytest.raises(Overloaded):
        table.modify(lambda view: delete(view, 1))
    assert keys(table) == set(range(10)), "reads go on"
    used.nbytes = 0
    insert(table, range(10, 20))
    assert keys(table) == set(range(20))
    table.close()


def test_reads_without_room_are_refused(tmp_path: Path) -> None:
    used = Used()
    table, _ = made(tmp_path, used, 100_000)
    insert(table, range(10))
    used.nbytes = 120_000
    view = table.read_view()
    with pytest.raises(Overloaded, match="A scan"):
        view.scan(["id"])
    with pytest.raises(Overloaded, match="A search"):
        view.search(SearchRequest("vec", Metric.L2, np.zeros((1, 3), np.float32), 1))
    table.close()


def test_short_memory_makes_files_of_rows_that_are_in_memory_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nearql.engine.maintenance.RELIEF_BYTES", 500)
    used = Used()
    table, alone = made(tmp_path, used, 100_000)
    insert(table, range(100))
    assert [s.sealed for s in table.stats().segments] == [False]
    used.nbytes = 100_000
    with pytest.raises(Overloaded):
        insert(table, [1000])
    assert [s.sealed for s in table.stats().segments] == [True]
    used.nbytes = 0
    insert(table, [1000])
    table.close()
    used.nbytes = 100_000
    with pytest.raises(Overloaded), alone.memory.reserved(1, "It", NEVER):
        pass  # a closed table isn't asked any more
