"""A shard's copy as replication drives it: what is committed, who writes, what survives."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nearql.engine.deadline import Deadline
from nearql.engine.errors import Conflict, NotFound, StatementTimeout, Unavailable, WriteUnknown
from nearql.engine.request_id import make_request_id
from nearql.engine.schema import Column, ColumnType
from nearql.engine.shard.copy import Appended
from nearql.engine.table import Table
from nearql.engine.types import Change, OnConflict
from nearql.engine.view import TableView
from support.copies import SETTINGS, HandCopy, commit, fetch, lead, ship, soon
from support.disks import SimulatedDisk
from support.tables import (
    SCHEMA,
    contents,
    definition,
    delete,
    insert,
    keys,
    one_thread,
    rows_of,
)

NOW = Deadline(0)


@pytest.fixture
def pair() -> tuple[HandCopy, HandCopy]:
    """A primary in epoch 1, ready for writers, and a replica that has everything."""
    primary, replica = HandCopy(), HandCopy()
    lead(primary, replica)
    return primary, replica


# ---- Commit ------------------------------------------------------------------------------


def test_a_write_is_visible_only_when_it_is_committed(pair: tuple[HandCopy, HandCopy]) -> None:
    primary, replica = pair
    written = primary.log([1, 2])
    primary.settle()
    assert primary.copy.durable_lsn == written.extra["lsn"]
    assert keys(primary.table) == set()
    ship(primary, replica)
    replica.settle()
    primary.copy.advance(written.extra["lsn"])
    primary.settle()
    assert keys(primary.table) == {1, 2}
    assert keys(replica.table) == set()
    replica.copy.advance(written.extra["lsn"])
    replica.settle()
    assert keys(replica.table) == {1, 2}
    assert primary.hashes() == replica.hashes()


def test_a_copy_applies_only_what_is_durable_on_its_own_disk(
    pair: tuple[HandCopy, HandCopy],
) -> None:
    primary, replica = pair
    written = primary.log([1])
    ship(primary, replica)
    replica.copy.advance(written.extra["lsn"])
    replica.steps.run()
    assert keys(replica.table) == set()
    replica.settle()
    assert keys(replica.table) == {1}


def test_a_commit_beyond_the_log_counts_up_to_its_end(pair: tuple[HandCopy, HandCopy]) -> None:
    primary, replica = pair
    end = replica.copy.end.lsn
    replica.copy.advance(end + 100)
    assert replica.copy.commit_lsn == end
    primary.log([1])
    ship(primary, replica)
    replica.settle()
    assert keys(replica.table) == set()
    replica.copy.advance(1)  # lower: changes nothing
    assert replica.copy.commit_lsn == end


def test_inserts_count_on_what_is_logged_but_not_committed(
    pair: tuple[HandCopy, HandCopy],
) -> None:
    primary, replica = pair
    primary.log([1])
    with pytest.raises(Conflict, match="primary key 1"):
        insert(primary.table, [1], timeout_ms=0)
    commit(primary, replica)
    assert keys(replica.table) == {1}


def _bump(view: TableView) -> Change:
    rows = view.scan(["id", "title"])
    n = int(rows.column("title")[0].as_py()) + 1
    return Change(np.empty(0, np.int64), rows_of([1], str(n)), updated=1)


def test_two_pipelined_updates_of_one_row_both_count(pair: tuple[HandCopy, HandCopy]) -> None:
    primary, replica = pair
    primary.log([1], "0")
    commit(primary, replica)
    done: list[int] = []

    def update() -> None:
        done.append(primary.table.modify(_bump, timeout_ms=20_000).updated)

    threads = [threading.Thread(target=update) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        primary.flusher.run()
        ship(primary, replica)
        replica.flusher.run()
        primary.copy.advance(primary.copy.end.lsn)  # who waits for it applies it
    assert done == [1, 1, 1]
    assert contents(primary.table.read_view())[1]["title"] == "3"
    commit(primary, replica)
    assert primary.hashes() == replica.hashes()


def test_what_is_skipped_for_an_uncommitted_row_waits_for_that(
    pair: tuple[HandCopy, HandCopy],
) -> None:
    primary, replica = pair
    lsn = primary.log([1]).extra["lsn"]
    with pytest.raises(WriteUnknown) as info:
        insert(primary.table, [1], on_conflict=OnConflict.NOTHING, timeout_ms=0)
    assert info.value.extra["lsn"] == lsn
    commit(primary, replica)
    insert(primary.table, [1], on_conflict=OnConflict.NOTHING, timeout_ms=0)
    assert primary.copy.end.lsn == lsn


def test_an_update_waits_for_the_tail_until_its_deadline(pair: tuple[HandCopy, HandCopy]) -> None:
    primary, _ = pair
    end = primary.log([1]).extra["lsn"]
    with pytest.raises(StatementTimeout, match="nothing was written"):
        primary.table.modify(lambda view: delete(view, 1), timeout_ms=0)
    assert primary.copy.end.lsn == end


def test_a_write_may_wait_for_the_primarys_disk_only(pair: tuple[HandCopy, HandCopy]) -> None:
    primary, _ = pair
    with pytest.raises(WriteUnknown):
        insert(primary.table, [1], timeout_ms=0, until="durable")
    thread = threading.Thread(target=insert, args=(primary.table, [2]), kwargs={"until": "durable"})
    thread.start()
    while thread.is_alive():
        primary.flusher.run()
    assert keys(primary.table) == set()
    assert primary.copy.commit_lsn < primary.copy.durable_lsn


# ---- Who writes ----------------------------------------------------------------------------


def test_a_following_copy_refuses_writers_and_logs_nothing(pair: tuple[HandCopy, HandCopy]) -> None:
    _, replica = pair
    end = replica.copy.end
    writes: list[Callable[[], object]] = [
        lambda: insert(replica.table, [1]),
        lambda: replica.table.modify(lambda view: delete(view, 1)),
        lambda: replica.table.truncate(),
    ]
    for write in writes:
        with pytest.raises(Unavailable, match="not the primary") as info:
            write()
        assert info.value.code == "not_primary"
        assert info.value.definite
    with pytest.raises(Unavailable), replica.table.altering(SCHEMA):
        pass
    assert replica.copy.end == end


def test_a_primary_may_be_told_to_refuse(pair: tuple[HandCopy, HandCopy]) -> None:
    primary, _ = pair
    end = primary.copy.end
    primary.copy.refuse_writes("its lease ran out")
    with pytest.raises(Unavailable, match="its lease ran out") as info:
        insert(primary.table, [1])
    assert info.value.code == "not_enough_replicas"
    assert primary.copy.end == end
    primary.copy.refuse_writes(None)
    primary.log([1])


def test_a_new_primary_admits_writers_when_it_has_applied_what_it_took_over(
    pair: tuple[HandCopy, HandCopy],
) -> None:
    primary, replica = pair
    request = make_request_id(b"a", b"b")
    primary.log([1], request_id=request)
    ship(primary, replica)
    primary.copy.follow()
    start = replica.copy.lead(2)
    with pytest.raises(Unavailable, match="not the primary"):
        insert(replica.table, [1], timeout_ms=0)
    replica.settle()
    with pytest.raises(Unavailable, match="not the primary"):
        insert(replica.table, [1], timeout_ms=0)
    replica.copy.advance(start)
    replica.settle()
    with pytest.raises(Conflict):
        insert(replica.table, [1], timeout_ms=0)
    repeated = insert(replica.table, [1], request_id=request, timeout_ms=0)
    assert repeated.repeated
    assert repeated.inserted == 1


def test_who_waits_when_the_primary_steps_down_does_not_know(
    pair: tuple[HandCopy, HandCopy],
) -> None:
    primary, _ = pair
    failed: list[BaseException] = []

    def write() -> None:
        try:
            insert(primary.table, [1])
        except WriteUnknown as error:
            failed.append(error)

    def update() -> None:
        try:
            primary.table.modify(lambda view: delete(view, 1))
        except Unavailable as error:
            failed.append(error)

    threads = [threading.Thread(target=write)]
    threads[0].start()
    while primary.copy.uncommitted_bytes == 0:
        primary.flusher.run()
    threads.append(threading.Thread(target=update))
    threads[1].start()
    primary.copy.follow()
    for thread in threads:
        thread.join()
    assert {type(error) for error in failed} == {WriteUnknown, Unavailable}
    unknown = next(error for error in failed if isinstance(error, WriteUnknown))
    assert unknown.extra["epoch"] == 1
    assert not unknown.definite
    assert primary.copy.uncommitted_bytes == 0


# ---- The log -------------------------------------------------------------------------------


def test_matching_records_are_skipped_and_contradicting_ones_reported(
    pair: tuple[HandCopy, HandCopy],
) -> None:
    primary, replica = pair
    primary.log([1])
    ship(primary, replica)
    end = replica.copy.end
    everything = primary.copy.read(1, 1 << 30)
    assert replica.copy.append(everything) == Appended(end)
    assert replica.copy.append([]) == Appended(end)
    other = HandCopy()
    lead(other, epoch=5)
    theirs = other.copy.read(1, 1 << 30)
    assert replica.copy.append(theirs) == Appended(end, mismatch=1)
    primary.log([2])
    primary.log([3])
    later = primary.copy.read(end.lsn + 2, 1 << 30)
    assert replica.copy.append(later) == Appended(end, gap=True)
    assert replica.copy.end == end


def test_a_cut_takes_back_what_was_never_committed(pair: tuple[HandCopy, HandCopy]) -> None:
    old, new = pair
    request = make_request_id(b"a", b"b")
    old.log([1])
    commit(old, new)
    end = old.copy.end
    old.log([2], request_id=request)
    old.log([3])
    old.flusher.run()
    new.copy.lead(2)
    new.settle()
    old.copy.follow()
    with pytest.raises(AssertionError, match="is committed"):
        old.copy.truncate(end.lsn - 1)
    old.copy.truncate(end.lsn)
    assert old.copy.end == end
    assert old.copy.epochs == ((1, 1),)
    commit(new, old)
    new.log([2], "new", request_id=request)  # not remembered: it never happened
    commit(new, old)
    assert contents(old.table.read_view())[2]["title"] == "new"
    assert keys(old.table) == {1, 2}
    assert old.copy.epochs == new.copy.epochs == ((1, 1), (2, end.lsn + 1))
    assert old.hashes() == new.hashes()


def test_a_statement_of_several_records_cut_in_the_middle_is_dropped(
    pair: tuple[HandCopy, HandCopy],
) -> None:
    old, new = pair
    old.log(range(600))  # several records
    records = old.copy.read(new.copy.end.lsn + 1, 1 << 30)
    assert len(records) > 3
    new.copy.append(records[:2])
    old.copy.follow()
    new.copy.lead(2)
    old.copy.truncate(records[1].lsn)
    commit(new, old)
    assert keys(old.table) == keys(new.table) == set()
    new.log([1])
    commit(new, old)
    assert keys(old.table) == keys(new.table) == {1}


def test_the_log_is_kept_for_the_slowest_replica(pair: tuple[HandCopy, HandCopy]) -> None:
    primary, replica = pair
    primary.copy.retain(2)
    for number in range(20):
        primary.log(range(number * 50, number * 50 + 50))
        commit(primary)
        primary.table.checkpoint()
    assert primary.copy.first_lsn <= 2
    primary.copy.retain(None)
    primary.table.checkpoint()
    assert primary.copy.first_lsn > replica.copy.end.lsn + 1
    primary.restart()  # what is in memory would still be there
    with pytest.raises(NotFound) as info:
        ship(primary, replica)
    assert info.value.code == "log_trimmed"


def test_waiting_for_a_session(pair: tuple[HandCopy, HandCopy]) -> None:
    primary, replica = pair
    lsn = primary.log([1]).extra["lsn"]
    assert not replica.copy.wait_applied(lsn, NOW)
    thread = threading.Thread(target=commit, args=(primary, replica))
    thread.start()
    assert replica.copy.wait_applied(lsn, soon())
    thread.join()
    assert keys(replica.table) == {1}


def test_listeners_hear_what_happens(pair: tuple[HandCopy, HandCopy]) -> None:
    heard: list[tuple[str, int]] = []

    class Listener:
        def logged(self, lsn: int) -> None:
            heard.append(("logged", lsn))

        def durable(self, lsn: int) -> None:
            heard.append(("durable", lsn))

        def applied(self, lsn: int) -> None:
            heard.append(("applied", lsn))

    primary, replica = pair
    replica.copy.listen(Listener())
    lsn = primary.log([1]).extra["lsn"]
    commit(primary, replica)
    assert heard == [("durable", lsn), ("applied", lsn)]
    heard.clear()
    replica.copy.listen(None)
    primary.copy.listen(Listener())
    lsn = primary.log([2]).extra["lsn"]
    commit(primary, replica)
    assert heard == [("logged", lsn), ("durable", lsn), ("applied", lsn)]


# ---- Restarts ------------------------------------------------------------------------------


def test_after_a_restart_only_the_checkpoint_is_applied_until_told_more(
    pair: tuple[HandCopy, HandCopy],
) -> None:
    primary, replica = pair
    primary.log([1])
    commit(primary, replica)
    replica.table.checkpoint()
    primary.log([2])
    commit(primary, replica)
    primary.log([3])
    ship(primary, replica)
    replica.flusher.run()
    end, base = replica.copy.end, replica.copy.base_lsn
    replica.restart()
    assert replica.copy.end == end
    assert replica.copy.epochs == primary.copy.epochs
    assert replica.copy.commit_lsn == replica.copy.applied_lsn == replica.copy.base_lsn == base
    assert keys(replica.table) == {1}
    replica.copy.advance(end.lsn)
    replica.settle()
    assert keys(replica.table) == {1, 2, 3}


def test_a_copy_may_be_called_as_its_table_says() -> None:
    one = HandCopy(alloc_id=b"a" * 16)
    assert one.copy.alloc_id == b"a" * 16
    assert one.copy.shard_uuid == HandCopy().copy.shard_uuid
    assert one.copy.alloc_id != HandCopy().copy.alloc_id


def test_sizes_of_what_can_be_sent(pair: tuple[HandCopy, HandCopy]) -> None:
    primary, _ = pair
    assert primary.copy.snapshot_bytes == 0
    primary.log(range(40))
    commit(primary)
    assert primary.copy.remembers(1)
    primary.table.checkpoint()
    assert primary.copy.snapshot_bytes > 1000
    end = primary.copy.end.lsn
    primary.restart()
    assert primary.copy.log_bytes > 0
    assert not primary.copy.remembers(end)
    assert primary.copy.remembers(end + 1)


def test_a_checkpoint_does_not_take_a_promise_away_while_it_is_written() -> None:
    one = HandCopy()
    disk = one.fs
    assert isinstance(disk, SimulatedDisk)
    rename = disk.rename

    def interrupted(source: Path, target: Path) -> None:
        if target.name == "shard.meta":
            one.table.checkpoint()
        rename(source, target)

    disk.rename = interrupted  # type: ignore[method-assign]
    one.copy.promise(3)
    assert one.copy.promised_epoch == 3


def test_stepping_down_while_an_applier_runs_applies_nothing_twice(
    pair: tuple[HandCopy, HandCopy],
) -> None:
    primary, replica = pair
    for number in range(3):
        primary.log([number])
        commit(primary, replica)
    primary.copy._gate.end()  # `follow` has begun, and waits for the lock that the applier has
    primary.copy._apply_soon()
    primary.steps.run()
    primary.copy.follow()
    primary.steps.run()
    assert keys(primary.table) == {0, 1, 2}


def test_a_promise_outlives_the_process() -> None:
    one = HandCopy()
    assert one.copy.promised_epoch == 0
    one.copy.promise(7)
    one.copy.promise(3)
    one.restart()
    assert one.copy.promised_epoch == 7
    with pytest.raises(AssertionError, match="promised"):
        one.copy.lead(6)


def test_a_nodes_own_table_becomes_a_copy_and_back() -> None:
    disk = SimulatedDisk()
    table = Table.create(Path("/data/table"), definition(), one_thread(SETTINGS, disk))
    insert(table, [1, 2])
    table.close()
    one = HandCopy(disk)  # what a node alone wrote is committed
    assert keys(one.table) == {1, 2}
    assert one.copy.first_lsn == one.copy.end.lsn + 1  # the log before is this node's own
    one.copy.lead(2)
    commit(one)
    one.log([3])
    commit(one)
    other = HandCopy()
    snapshot = one.copy.export()
    fetch(snapshot, other)
    assert other.hashes() == one.hashes()
    one.table.close()
    again = Table.open(Path("/data/table"), definition(), one_thread(SETTINGS, disk.after_kill()))
    assert keys(again) == {1, 2, 3}
    insert(again, [4])
    assert keys(again) == {1, 2, 3, 4}


# ---- Columns -------------------------------------------------------------------------------


def test_a_new_column_comes_with_the_primarys_log(pair: tuple[HandCopy, HandCopy]) -> None:
    primary, replica = pair
    primary.log([1])
    commit(primary, replica)
    added = Column(4, "lang", ColumnType("VARCHAR"), default="'en'")
    schema = replace(SCHEMA, columns=(*SCHEMA.columns, added), version=2)
    newer = definition(schema)
    replica.table.apply_schema(newer)
    assert contents(replica.table.read_view())[1]["lang"] == "en"
    thread = threading.Thread(target=primary.table.apply_schema, args=(newer,))
    thread.start()
    while thread.is_alive():
        primary.flusher.run()
        primary.copy.advance(primary.copy.end.lsn)
    commit(primary, replica)
    assert contents(replica.table.read_view())[1]["lang"] == "en"
    columns = [1, 2, 3, 4]
    lsn = primary.copy.applied_lsn
    assert primary.copy.content_hashes(lsn, columns, NOW) == replica.copy.content_hashes(
        lsn, columns, NOW
    )
