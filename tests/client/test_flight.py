"""Batches under way together: two at once, counted in order, and what an error leaves behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import nearql
from nearql.client import errors, http
from support.clients import Connect
from support.cutting_proxy import CuttingProxy
from support.scripted_server import (
    Received,
    Reply,
    ScriptedServer,
    problem,
    stored,
)
from support.server_process import ServerProcess


def first_id(received: Received) -> int:
    """Which batch it is."""
    value: int = pa.ipc.open_stream(received.body).read_all()["id"][0].as_py()
    return value


def ids(count: int) -> dict[str, Any]:
    """Ten rows are 80 bytes."""
    return {"id": np.arange(count)}


def test_two_batches_are_under_way_together(connect: Connect) -> None:
    """Each answer waits until both requests arrived: one at a time would never end."""
    both = threading.Barrier(2)

    def script(received: Received) -> Reply:
        both.wait(timeout=60)
        return stored(received)

    with ScriptedServer(script) as node, connect(node.url) as db:
        assert db.insert("t", ids(40), batch_bytes=80).inserted == 40


@pytest.mark.parametrize("options", [{"mode": "upsert"}, {"in_flight": 1}])
def test_an_upsert_keeps_the_order(connect: Connect, options: dict[str, Any]) -> None:
    lock = threading.Lock()
    together = []

    def script(received: Received) -> Reply:
        together.append(lock.acquire(blocking=False))
        reply = stored(received)
        lock.release()
        return reply

    with ScriptedServer(script) as node, connect(node.url) as db:
        db.insert("t", ids(40), batch_bytes=80, **options)
        assert [first_id(received) for received in node.received] == [0, 10, 20, 30]
    assert all(together)


def test_the_next_batch_is_made_while_one_is_under_way(connect: Connect) -> None:
    """The answer for the first batch is given when the second is being made."""
    made = threading.Event()

    def batches() -> Iterator[pa.Table]:
        yield pa.table({"id": [1]})
        made.set()
        yield pa.table({"id": [2]})

    def script(received: Received) -> Reply:
        assert made.wait(timeout=60)
        return stored(received)

    with ScriptedServer(script) as node, connect(node.url) as db:
        assert db.insert("t", batches(), mode="upsert").rows == 2


def test_answers_count_in_order_though_they_come_out_of_it(connect: Connect) -> None:
    later = threading.Event()

    def script(received: Received) -> Reply:
        if first_id(received) == 0:
            assert later.wait(timeout=60)
        else:
            later.set()
        failed = [{"row": 3, "code": "duplicate_key", "detail": "there"}]
        return stored(received, inserted=9, failed=failed)

    with ScriptedServer(script) as node, connect(node.url) as db:
        report = db.insert("t", ids(20), batch_bytes=80, errors="report")
    assert [failed.row for failed in report.failed] == [3, 13]


def test_an_error_ends_it_and_tells_what_is_stored(connect: Connect) -> None:
    second = threading.Event()

    def script(received: Received) -> Reply:
        batch = first_id(received) // 10
        if batch == 1:
            assert second.wait(timeout=60)
            return problem(507, "storage_full")
        if batch == 2:
            second.set()
        return stored(received)

    with ScriptedServer(script) as node, connect(node.url) as db:
        with pytest.raises(errors.StorageFull) as told:
            db.insert("t", ids(100), batch_bytes=80)
        assert sorted(map(first_id, node.received)) == [0, 10, 20]
    assert told.value.__notes__ == ["20 rows of this insert are stored."]


def test_data_that_breaks_in_the_middle(connect: Connect) -> None:
    def rows() -> Iterator[Any]:
        yield pa.table({"id": [1, 2]})
        raise RuntimeError("the source is gone")

    with ScriptedServer(stored) as node, connect(node.url) as db:
        with pytest.raises(RuntimeError, match="the source is gone") as told:
            db.insert("t", rows())
        assert len(node.received) == 1
    assert told.value.__notes__ == ["2 rows of this insert are stored."]


def test_a_cancelled_insert_leaves_no_task() -> None:
    arrived, ended = threading.Event(), threading.Event()

    def script(received: Received) -> Reply:
        arrived.set()
        ended.wait(60)
        return stored(received)

    async def main() -> int:
        async with await nearql.aconnect(node.url) as db:
            inserting = asyncio.create_task(db.insert("t", ids(100), batch_bytes=80))
            await asyncio.to_thread(arrived.wait, 60)
            inserting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await inserting
            return len(asyncio.all_tasks())

    with ScriptedServer(script) as node:
        assert asyncio.run(main()) == 1
        ended.set()


@pytest.mark.parametrize("wrong", [0, -1])
def test_a_wrong_count_is_refused(wrong: int) -> None:
    with nearql.connect("http://h") as db, pytest.raises(errors.UsageError, match="in_flight is"):
        db.insert("t", ids(1), in_flight=wrong)


def test_many_batches_through_cut_connections_count_once(
    connect: Connect, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at once, and every now and then one of the connections is cut."""
    monkeypatch.setattr(http, "PAUSE_FIRST", 0.002)
    with (
        ServerProcess(tmp_path_factory.mktemp("node") / "data") as server,
        CuttingProxy(server.url) as proxy,
        connect(proxy.url, timeout=20, retries=10) as db,
    ):
        server.sql("CREATE TABLE t (id BIGINT)")  # no key: a second time would be a second row
        for after in range(0, 1000, 83):
            proxy.cut_next(after)
            assert db.insert("t", ids(100), batch_bytes=160).inserted == 100
        times = len(range(0, 1000, 83))
        assert proxy.cuts > times // 2  # some may be after everything
        assert server.rows("SELECT count(*) FROM t") == [[100 * times]]
        assert server.rows("SELECT DISTINCT count(*) FROM t GROUP BY id") == [[times]]
