"""Writers and readers at once: what a view shows belongs together, and no write is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nearql.engine.errors import Conflict
from nearql.engine.shard.tail import Pending
from nearql.engine.table import Table
from nearql.engine.types import ROW_COLUMN, Change, Metric, OnConflict, SearchRequest
from nearql.engine.view import TableView
from support.disks import WatchedFileSystem
from support.tables import SMALL, context, create, definition, insert, keys, row, table_of
from support.waiting import wait_for

ACCOUNTS = 40
SETTINGS = replace(SMALL, seal_rows=300, wal_file_bytes=1 << 16)


def run(*jobs: Callable[[], Any]) -> None:
    """Run all at once; the first error of any is raised."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        for future in [pool.submit(job) for job in jobs]:
            future.result()


def accounts(view: TableView) -> dict[int, float]:
    """Balances by id; asserts on the way that scan, take, search and count tell the same story."""
    scanned = view.scan(["id", "vec"])
    rows = np.array(scanned[ROW_COLUMN])
    assert len(rows) == view.row_count
    assert view.take(["vec"], rows)["vec"].to_pylist() == scanned["vec"].to_pylist()
    query = np.zeros((1, 3), np.float32)
    hits = view.search(SearchRequest("vec", Metric.L1, query, k=2 * ACCOUNTS))
    found = hits.rows[0][hits.rows[0] >= 0]
    assert sorted(found.tolist()) == sorted(rows.tolist())
    balances = [vector[0] for vector in scanned["vec"].to_pylist()]
    return dict(zip(scanned["id"].to_pylist(), balances, strict=True))


def transfer(view: TableView, chance: np.random.Generator) -> Change:
    """Move 1 from one account to another: the sum stays."""
    payer, payee = chance.choice(ACCOUNTS, 2, replace=False).tolist()
    old = {r["id"]: r["vec"] for r in view.scan(["id", "vec"]).to_pylist()}
    put = [
        row(payer) | {"vec": [old[payer][0] - 1, 0, 0]},
        row(payee) | {"vec": [old[payee][0] + 1, 0, 0]},
    ]
    return Change(np.empty(0, np.int64), table_of(put), updated=2)


def test_every_view_of_a_bank_shows_the_same_sum(tmp_path: Path) -> None:
    table = create(tmp_path / "t", context=context(SETTINGS))
    rows = [row(key) | {"vec": [100, 0, 0]} for key in range(ACCOUNTS)]
    table.insert(table_of(rows), OnConflict.ERROR)
    done = threading.Event()

    def write(seed: int) -> Callable[[], None]:
        chance = np.random.default_rng(seed)

        def job() -> None:
            for _ in range(150):
                table.modify(lambda view: transfer(view, chance))

        return job

    def read() -> None:
        while not done.is_set():
            balances = accounts(table.read_view())
            assert set(balances) == set(range(ACCOUNTS))
            assert sum(balances.values()) == 100 * ACCOUNTS

    def checkpoint() -> None:
        while not done.is_set():
            table.checkpoint()

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read), pool.submit(checkpoint)]
        try:
            run(write(1), write(2))
        finally:
            done.set()
        for reader in readers:
            reader.result()
    table.check_invariants()
    final = accounts(table.read_view())
    table.close()
    table = Table.open(tmp_path / "t", definition(), context(SETTINGS))
    assert accounts(table.read_view()) == final
    table.close()


def test_of_writers_racing_for_a_key_exactly_one_wins(tmp_path: Path) -> None:
    table = create(tmp_path / "t", definition=definition(shards=2), context=context(SETTINGS))
    won: list[tuple[int, int]] = []

    def job(writer: int) -> None:
        for key in range(60):
            try:
                insert(table, [key, 1000 * (writer + 1) + key], f"w{writer}")
            except Conflict:
                continue
            won.append((key, writer))

    run(*(partial(job, writer) for writer in range(4)))
    assert sorted(key for key, _ in won) == list(range(60))
    expected = set(range(60)) | {1000 * (writer + 1) + key for key, writer in won}
    assert keys(table) == expected, "a refused statement wrote nothing, in no shard"
    table.check_invariants()
    table.close()
    table = Table.open(tmp_path / "t", definition(shards=2), context(SETTINGS))
    assert keys(table) == expected
    table.close()


def test_writers_that_come_together_share_an_fsync(tmp_path: Path) -> None:
    """While one fsync runs the others queue, and the next covers them all."""
    fs = WatchedFileSystem()
    table = create(tmp_path / "t", context=context(replace(SMALL, seal_rows=10_000), fs=fs))
    insert(table, [-1])
    wal, before = table._shards[0].wal, fs.calls["fdatasync"]
    everybody = wal.last_lsn + 16
    fs.before_sync = lambda: wait_for(lambda: wal.last_lsn >= everybody, "16 appended records")
    run(*(partial(insert, table, [writer]) for writer in range(16)))
    assert 1 <= fs.calls["fdatasync"] - before <= 3
    assert table.read_view().row_count == 16 + 1
    table.check_invariants()
    table.close()


def test_the_same_request_from_many_threads_is_done_once(tmp_path: Path) -> None:
    table = create(tmp_path / "t", context=context(SETTINGS))
    outcomes = []

    def job() -> None:
        outcomes.append(insert(table, [1, 2, 3], request_id=b"r" * 16))

    run(*[job] * 8)
    assert sum(not outcome.repeated for outcome in outcomes) == 1
    assert {outcome.inserted for outcome in outcomes} == {3}
    assert {outcome.positions for outcome in outcomes} == {outcomes[0].positions}
    table.close()


def test_a_reader_never_waits_for_a_writer(tmp_path: Path) -> None:
    table = create(tmp_path / "t")
    insert(table, [1])
    seen: list[int] = []

    def evaluate(view: TableView) -> Change:
        reader = threading.Thread(target=lambda: seen.append(table.read_view().row_count))
        reader.start()
        reader.join(10)
        return Change(np.empty(0, np.int64), None)

    table.modify(evaluate)
    assert seen == [1]
    table.close()


def test_a_write_counts_as_applied_only_when_views_show_it(tmp_path: Path) -> None:
    """Its writer answers as soon as it does; the next read on any connection must find the row."""
    table = create(tmp_path / "t", context=context(SETTINGS))
    (shard,) = table.shards
    log, publish, logged = shard.log, shard.publish, []

    def logging(*given: Any) -> Pending:
        logged.append(log(*given))
        return logged[-1]

    def publishing() -> None:
        """What another thread sees in the moment before."""
        shown = shard.read_view().lsn
        told = [pending.statement.lsn for pending in logged if pending.applied]
        assert all(lsn <= shown for lsn in told)
        publish()

    shard.log = logging  # type: ignore[method-assign, assignment]
    shard.publish = publishing  # type: ignore[method-assign]
    for key in range(3):
        insert(table, [key])
    assert [pending.applied for pending in logged] == [True] * 3
    assert shard.read_view().lsn == logged[-1].statement.lsn
    table.close()
