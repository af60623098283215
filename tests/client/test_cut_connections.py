"""A connection cut at any byte of the answer: the write happens once, nobody notices the cut."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nearql.client import errors, http
from support.clients import Connect
from support.cutting_proxy import CuttingProxy
from support.server_process import ServerProcess


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("node") / "data") as started:
        yield started


@pytest.fixture
def proxy(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[CuttingProxy]:
    monkeypatch.setattr(http, "PAUSE_FIRST", 0.002)
    server.sql("DROP TABLE IF EXISTS t")
    server.sql("CREATE TABLE t (n BIGINT)")  # without a key: a second insert would be a second row
    with CuttingProxy(server.url) as started:
        yield started


def counted(server: ServerProcess) -> list[list[int]]:
    """Every n with how often it is there, if that is not once."""
    return server.rows("SELECT n, count(*) FROM t GROUP BY n HAVING count(*) <> 1")


def test_bulk_inserts_count_once(
    connect: Connect, proxy: CuttingProxy, server: ServerProcess
) -> None:
    with connect(proxy.url, timeout=10) as db:
        db.insert("t", {"n": [-1]})
        length = proxy.last_answer
        assert length > 100
        for n in range(length):
            proxy.cut_next(n)
            assert db.insert("t", {"n": [n]}).rows == 1
        assert proxy.cuts == length
    assert counted(server) == []
    assert server.rows("SELECT count(*) FROM t") == [[length + 1]]


def test_single_statements_count_once(
    connect: Connect, proxy: CuttingProxy, server: ServerProcess
) -> None:
    with connect(proxy.url, timeout=10) as db:
        db.sql("INSERT INTO t VALUES ($1)", -1)
        length = proxy.last_answer
        cuts = {*range(0, length, 7), length - 1}
        for n in cuts:
            proxy.cut_next(n)
            assert db.sql("INSERT INTO t VALUES ($1)", n).row_count == 1
    assert counted(server) == []
    assert server.rows("SELECT count(*) FROM t") == [[len(cuts) + 1]]


def test_updates_happen_once(connect: Connect, proxy: CuttingProxy, server: ServerProcess) -> None:
    server.sql("INSERT INTO t VALUES (0)")
    with connect(proxy.url, timeout=10) as db:
        for times in range(1, 40):
            proxy.cut_next(times * 5)
            db.sql("UPDATE t SET n = n + 1")
            assert server.rows("SELECT n FROM t") == [[times]]


def test_ddl_is_not_repeated_but_told(
    connect: Connect, proxy: CuttingProxy, server: ServerProcess
) -> None:
    server.sql("DROP TABLE IF EXISTS made")
    with connect(proxy.url, timeout=10) as db:
        proxy.cut_next(10)
        with pytest.raises(errors.OutcomeUnknown, match="may or may not have happened") as caught:
            db.sql("CREATE TABLE made (id BIGINT PRIMARY KEY)")
        assert caught.value.request_id
        assert db.sql("SELECT count(*) FROM made").fetchall() == [(0,)]


def test_reads_are_repeated(connect: Connect, proxy: CuttingProxy) -> None:
    with connect(proxy.url, timeout=10) as db:
        for after in range(0, 400, 13):
            proxy.cut_next(after)
            assert db.sql("SELECT 1").fetchall() == [(1,)]
