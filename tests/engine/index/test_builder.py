"""The thread that builds: fair, called off in time, never in the way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nearql.engine.index import catalog
from nearql.engine.index.base import BuildWatch, IndexKind
from nearql.engine.index.builder import Builder
from nearql.engine.index.files import INDEX_DIRECTORY
from nearql.engine.index.registry import index_kinds
from nearql.engine.memory import MemoryBudget
from nearql.engine.storage.files import LocalFileSystem
from nearql.engine.table import Table
from support.indexes import SETTINGS, UUID, filled, found, ids, index_def, packages, put
from support.tables import context
from support.waiting import wait_for

PATIENCE_S = 60.0


class Jobs:
    """Something to build that says when it is built, and waits for leave."""

    def __init__(self, name: str, count: int, log: list[str]) -> None:
        self.name, self.left, self.log = name, count, log
        self.begun, self.leave = threading.Event(), threading.Event()
        self.done = threading.Event()

    def build_next(self) -> bool:
        if not self.left:
            self.done.set()
            return False
        self.begun.set()
        assert self.leave.wait(PATIENCE_S)
        self.left -= 1
        self.log.append(self.name)
        return True


@pytest.fixture
def builder() -> Iterator[Builder]:
    made = Builder()
    yield made
    made.close()


def test_tables_take_turns(builder: Builder) -> None:
    log: list[str] = []
    large, small = Jobs("large", 4, log), Jobs("small", 1, log)
    builder.ask(large)
    assert large.begun.wait(PATIENCE_S)
    builder.ask(small)
    small.leave.set()
    large.leave.set()
    assert large.done.wait(PATIENCE_S)
    assert small.done.wait(PATIENCE_S)
    assert log.index("small") <= 1
    assert log.count("large") == 4


def test_forgetting_waits_for_the_build_under_way_and_no_other_begins(builder: Builder) -> None:
    log: list[str] = []
    jobs = Jobs("one", 5, log)
    builder.ask(jobs)
    assert jobs.begun.wait(PATIENCE_S)
    forgotten = threading.Event()

    def forget() -> None:
        builder.forget(jobs)
        forgotten.set()

    thread = threading.Thread(target=forget)
    thread.start()
    assert not forgotten.is_set()
    jobs.leave.set()
    assert forgotten.wait(PATIENCE_S)
    thread.join()
    assert 1 <= len(log) <= 5
    before = len(log)
    builder.forget(jobs)
    assert len(log) == before


def test_a_failure_ends_no_other_build(builder: Builder, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def build_next(self) -> bool:
            raise RuntimeError("no such luck")

    log: list[str] = []
    jobs = Jobs("one", 1, log)
    jobs.leave.set()
    builder.ask(Broken())
    builder.ask(jobs)
    assert jobs.done.wait(PATIENCE_S)
    assert log == ["one"]
    assert "no such luck" in caplog.text


def test_closing_without_any_build() -> None:
    Builder().close()


# ---- With a table --------------------------------------------------------------------------


class Slow:
    """A kind whose build waits at its first step until it may go on."""

    def __init__(self, kind: IndexKind) -> None:
        self.began, self.go_on, self.ended = (threading.Event() for _ in range(3))
        self._build = kind.build
        self.kind = replace(kind, build=self.build)

    def build(self, source: Any, metric: Any, options: Any, watch: BuildWatch) -> Any:
        watch.step("training", 0)
        self.began.set()
        assert self.go_on.wait(PATIENCE_S)
        try:
            return self._build(source, metric, options, watch)
        finally:
            self.ended.set()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    pytest.importorskip("faiss", reason="FAISS isn't installed")
    made = Slow(index_kinds()["hnsw"])
    monkeypatch.setattr(catalog, "kind_for", lambda *asked: made.kind)
    return made


@pytest.fixture
def table(tmp_path: Path, slow: Slow) -> Iterator[Table]:
    settings = replace(SETTINGS, seal_rows=2000)
    made = filled(tmp_path / "t", context(settings), np.ascontiguousarray(packages()[:600, :16]))
    yield made
    slow.go_on.set()
    made.close()
    made._context.index_builder.close()


def began(table: Table, slow: Slow) -> None:
    table.declare_indexes([index_def("hnsw")])
    assert slow.began.wait(PATIENCE_S)


def left(table: Table) -> list[str]:
    folder = table._shards[0].directory / INDEX_DIRECTORY
    return LocalFileSystem().names(folder)


def test_reads_and_writes_go_on_during_a_build(table: Table, slow: Slow) -> None:
    began(table, slow)
    assert table.index_progress()[UUID].phase == "training"
    put(table, [600], [np.full(16, 9, np.float32)])
    view = table.read_view()
    assert ids(view, found(view, np.full(16, 9, np.float32), 1)) == [600]
    assert found(view, packages()[5, :16].copy(), 3).stats.strategy == "exact"


CALLED_OFF: dict[str, Callable[[Table], Any]] = {
    "drop": lambda table: table.declare_indexes([]),
    "truncate": lambda table: table.truncate(),
}


@pytest.mark.parametrize("how", CALLED_OFF)
def test_a_build_is_called_off(table: Table, slow: Slow, how: str) -> None:
    began(table, slow)
    CALLED_OFF[how](table)
    slow.go_on.set()
    assert slow.ended.wait(PATIENCE_S)
    table._context.index_builder.forget(table._indexes)
    assert left(table) == []
    assert not any(segment.data.indexes for segment in table.read_view()._shards[0].segments)


def test_closing_calls_it_off_and_opening_builds_it(table: Table, slow: Slow) -> None:
    began(table, slow)
    closing = threading.Thread(target=table.close)
    closing.start()
    slow.go_on.set()
    closing.join(PATIENCE_S)
    assert not closing.is_alive()
    finished = any("segment" in name for name in left(table))
    slow.began.clear()
    directory = table._shards[0].directory.parent
    again = Table.open(directory, table.definition, context(SETTINGS))
    assert finished or slow.began.wait(PATIENCE_S)
    again.close()
    again._context.index_builder.close()


def test_a_build_that_waits_for_memory_holds_up_no_other_table(tmp_path: Path) -> None:
    """It queues up again, says that it waits, and is built when there is memory."""
    pytest.importorskip("faiss", reason="FAISS isn't installed")
    rows, memory = np.ascontiguousarray(packages()[:600, :16]), threading.Event()
    large = filled(tmp_path / "large", context(SETTINGS), rows)
    large._context.memory = MemoryBudget(1 << 30, lambda: 0 if memory.is_set() else 1 << 30)
    log: list[str] = []
    small = Jobs("small", 3, log)
    small.leave.set()
    try:
        large.declare_indexes([index_def("hnsw")])
        wait_for(lambda: large.index_progress()[UUID].phase == "waiting", "it waits", PATIENCE_S)
        large._context.index_builder.ask(small)
        assert small.done.wait(PATIENCE_S)
        assert large.index_progress()[UUID].phase != "ready"
        memory.set()
        wait_for(lambda: large.index_progress()[UUID].phase == "ready", "it is built", PATIENCE_S)
    finally:
        large.close()
        large._context.index_builder.close()
