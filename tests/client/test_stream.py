"""Large answers as batches: they are read while they arrive, and what breaks off is told."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import orjson
import pyarrow as pa
import pytest

import nearql
from nearql.client import Connection, errors, http
from support.clients import FORMS
from support.cutting_proxy import CuttingProxy
from support.scripted_server import (
    ARROW,
    ScriptedServer,
    in_turn,
    problem,
    rows,
)
from support.scripted_server import (
    http as answered,
)
from support.server_process import ServerProcess

QUERY = "SELECT i AS n, repeat('x', 100) AS text FROM range(:count) t(i) ORDER BY n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("node") / "data") as started:
        yield started


@pytest.fixture(scope="module", params=("http", "embedded"))
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "http":
        return str(request.getfixturevalue("server").url)
    return str(tmp_path_factory.mktemp("embedded") / "data")


def read(target: str, form: str, text: str, params: object = None) -> pa.Table:
    """The whole answer, read batch by batch."""
    return _blocking(target, text, params) if form == "blocking" else asyncio.run(
        _awaited(target, text, params)
    )  # fmt: skip


def _blocking(target: str, text: str, params: object) -> pa.Table:
    with nearql.connect(target) as db, db.stream(text, params) as batches:  # type: ignore[arg-type]
        return pa.Table.from_batches(list(batches), batches.schema)


async def _awaited(target: str, text: str, params: object) -> pa.Table:
    db = await nearql.aconnect(target)
    async with db, await db.stream(text, params) as batches:  # type: ignore[arg-type]
        return pa.Table.from_batches([batch async for batch in batches], batches.schema)


@pytest.mark.parametrize("form", FORMS)
def test_batches_are_the_answer(target: str, form: str) -> None:
    table = read(target, form, QUERY, {"count": 200_000})
    assert table.num_rows == 200_000
    assert table["n"].to_pylist() == list(range(200_000))


@pytest.mark.parametrize("form", FORMS)
def test_no_rows_and_a_refused_statement(target: str, form: str) -> None:
    assert read(target, form, "SELECT 1 AS n WHERE false").column_names == ["n"]
    with pytest.raises(errors.UndefinedColumn):
        read(target, form, "SELECT nonsense")


def test_what_it_says_before_its_rows(target: str) -> None:
    with nearql.connect(target) as db, db.stream(QUERY, {"count": 5}) as batches:
        assert batches.columns == ["n", "text"]
        assert [column.type for column in batches.columns] == ["BIGINT", "TEXT"]
        assert batches.row_count == 5
        assert batches.stats["node"]


def test_a_reader_for_other_libraries(target: str, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    with nearql.connect(target) as db, db.stream(QUERY, {"count": 100_000}) as batches:
        pq.write_table(batches.reader().read_all(), tmp_path / "x.parquet")
    assert pq.read_metadata(tmp_path / "x.parquet").num_rows == 100_000


def test_more_than_one_batch_travels(server: ServerProcess) -> None:
    with nearql.connect(server.url) as db, db.stream(QUERY, {"count": 200_000}) as batches:
        assert len(list(batches)) > 1


def pool(db: Connection) -> list[object]:
    """The idle connections."""
    assert isinstance(db.transport, http.HttpTransport)
    return [link for links in db.transport._blocking.idle.values() for link in links]


def test_the_connection_comes_back_after_the_last_batch(server: ServerProcess) -> None:
    with nearql.connect(server.url) as db:
        with db.stream(QUERY, {"count": 100_000}) as batches:
            assert not pool(db)
            list(batches)
            assert len(pool(db)) == 1
        with db.stream(QUERY, {"count": 200_000}) as batches:
            next(batches)
        assert not pool(db)  # left in the middle: closed
        assert list(batches) == []
        assert db.sql("SELECT 1").fetchall() == [(1,)]


def test_memory_stays_bounded() -> None:
    """The node sends the next batch only after the one before was taken: none is gathered."""
    taken = threading.Semaphore(1)  # the schema leaves with the first batch
    batch = pa.RecordBatch.from_pydict({"n": list(range(1000))})

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 16)
            head = f"HTTP/1.1 200 OK\r\ncontent-type: {ARROW}\r\nconnection: close\r\n\r\n"
            connection.sendall(head.encode())
            described = batch.schema.with_metadata({"nearql": orjson.dumps({"stats": {}})})
            with connection.makefile("wb") as file:
                writer = pa.ipc.new_stream(file, described)
                file.flush()
                for _ in range(20):
                    assert taken.acquire(timeout=60)
                    writer.write_batch(batch)
                    file.flush()
                writer.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with nearql.connect(url) as db, db.stream("SELECT n FROM t") as batches:
            for seen in batches:
                assert seen.num_rows == 1000
                taken.release()
        thread.join(60)


@pytest.mark.parametrize("form", FORMS)
def test_what_breaks_off_is_told_and_not_repaired(server: ServerProcess, form: str) -> None:
    with CuttingProxy(server.url) as proxy:
        proxy.cut_next(20_000_000)
        with pytest.raises(errors.ConnectionFailed, match="broke off .* Run the statement again"):
            read(proxy.url, form, QUERY, {"count": 300_000})
        assert proxy.cuts == 1


def test_what_breaks_before_the_rows_is_repeated(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "PAUSE_FIRST", 0.002)
    with CuttingProxy(server.url) as proxy:
        for after in range(0, 400, 19):
            proxy.cut_next(after)
            assert read(proxy.url, "blocking", QUERY, {"count": 10}).num_rows == 10
        assert proxy.cuts > 10


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"\xff\xff\xff\xff\x05", "ends in the middle"),
        (b"nonsense", "does not talk like a NearQL node"),
        (b"", "ends in the middle"),
    ],
)
def test_no_arrow_stream(body: bytes, said: str) -> None:
    with (
        ScriptedServer(in_turn(answered(200, body, ARROW))) as fake,
        nearql.connect(fake.url) as db,
        pytest.raises(errors.ProtocolError, match=said),
    ):
        db.stream("SELECT 1")


def test_problems_and_foreign_answers_while_streaming() -> None:
    replies = [problem(404, "no_such_table"), answered(200, b"<html>", "text/html")]
    with ScriptedServer(in_turn(*replies)) as fake, nearql.connect(fake.url) as db:
        with pytest.raises(errors.NotFound):
            db.stream("SELECT 1")
        with pytest.raises(errors.ProtocolError, match="text/html"):
            db.stream("SELECT 1")


def test_refused_streams_are_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "PAUSE_FIRST", 0.002)
    busy = problem(503, "no_leader", retryable=True, definite=True)
    with ScriptedServer(in_turn(busy, busy, rows())) as fake, nearql.connect(fake.url) as db:
        assert [batch["n"].to_pylist() for batch in db.stream("SELECT 1")] == [[1]]
    assert len(fake.received) == 3
