"""Loads and searches have their own threads, large JSON a bounded memory; nobody waits in vain."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from nearql.engine.errors import InvalidValue, Overloaded, StatementTimeout, Unavailable
from nearql.query.watchdog import Stop
from nearql.server.edge import Edge, Short
from nearql.server.routes import rows
from support.http_node import (
    FakeNode,
    FakeOutcome,
    FakeResult,
    Served,
    make_config,
    rows_result,
    serve,
)
from support.waiting import wait_for

ROWS = b'{"id": 1, "title": "x", "vec": [1, 2, 3, 4]}\n'


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """One thread for loads, two for heavy statements, one place in their queues; small limits."""
    config = make_config(
        tmp_path, json_memory=1 << 20, statement_timeout_ms=30_000,
        result_bytes=1 << 20, answer_memory=1 << 20,
    )  # fmt: skip
    http = replace(
        config.http, bulk_workers=1, bulk_queue=1, heavy_workers=2, heavy_queue=1, small_body=1024
    )
    config = replace(config, http=http)
    with serve(FakeNode(config), config) as running:
        yield running


def load(served: Served) -> httpx.Response:
    return httpx.post(
        f"{served.url}/v1/tables/docs/rows", content=ROWS, timeout=60,
        headers={"Content-Type": "application/x-ndjson"},
    )  # fmt: skip


def test_searches_are_answered_while_loads_are_refused(served: Served) -> None:
    gate, begun = threading.Event(), threading.Semaphore(0)

    def hold(call: Any) -> FakeOutcome:
        begun.release()
        gate.wait(60)
        return FakeOutcome(inserted=1)

    served.session.on_insert = hold
    edge = served.server.config.app.state.edge  # type: ignore[union-attr]
    with ThreadPoolExecutor(2) as pool:
        try:
            held = [pool.submit(load, served) for _ in range(2)]
            assert begun.acquire(timeout=60)
            wait_for(lambda: edge.bulk_workers.pending == 2, "one load runs, one waits", 60)
            refused = load(served)
            assert (refused.status_code, refused.json()["code"]) == (429, "queue_full")
            assert refused.headers["retry-after"] == "1"
            for _ in range(20):
                assert served.sql("SELECT 1").status_code == 200
            large = served.sql("SELECT 1" + " " * 2000)
            assert large.status_code == 429
            text = served.client.get("/metrics").text
            assert "nearql_bulk_pending 2.0" in text
        finally:
            gate.set()
        assert [one.result().status_code for one in held] == [200, 200]


def test_searches_are_answered_while_heavy_statements_are_refused(served: Served) -> None:
    gate, begun = threading.Event(), threading.Semaphore(0)

    def hold(call: Any) -> FakeResult:
        begun.release()
        gate.wait(60)
        return FakeResult()

    served.session.heavy = {"JOIN"}
    served.session.answers["JOIN"] = hold
    edge = served.server.config.app.state.edge  # type: ignore[union-attr]
    with ThreadPoolExecutor(3) as pool:
        try:
            ask = lambda: httpx.post(f"{served.url}/v1/sql", json={"sql": "JOIN"}, timeout=60)  # noqa: E731
            held = [pool.submit(ask) for _ in range(3)]
            assert begun.acquire(timeout=60)
            assert begun.acquire(timeout=60)
            wait_for(lambda: edge.heavy_workers.pending == 3, "two run, one waits", 60)
            refused = served.sql("JOIN")
            assert (refused.status_code, refused.json()["code"]) == (429, "queue_full")
            assert "http.heavy_workers" in refused.json()["detail"]
            for _ in range(20):
                assert served.sql("SELECT 1").status_code == 200
            assert "nearql_heavy_pending 3.0" in served.client.get("/metrics").text
        finally:
            gate.set()
        assert [one.result().status_code for one in held] == [200, 200, 200]
    waited = [call.waited_s for call in served.session.calls if call.text == "JOIN"]
    assert len(waited) == 3
    assert min(waited) > 0


def test_large_answers_share_a_memory(served: Served) -> None:
    edge = served.server.config.app.state.edge  # type: ignore[union-attr]
    rows = pa.table({"x": pa.array(range(100_000))})
    served.session.answers["READ"] = lambda call: rows_result(rows, "BIGINT")
    served.session.answers["WRITE"] = lambda call: rows_result(rows, "BIGINT", write={"copies": 1})
    assert served.sql("READ").status_code == 200
    total = 1 << 20  # limits.answer_memory of this server
    assert edge.answer_memory.take(total)  # everything was given back
    refused = served.sql("READ")
    assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
    assert "limits.answer_memory" in refused.json()["detail"]
    assert served.sql("SELECT 1").status_code == 200
    assert served.sql("WRITE").status_code == 200  # what is written is not refused any more
    edge.answer_memory.give(total)
    assert served.sql("READ").status_code == 200
    wait_for(lambda: edge.answer_memory.take(total), "everything was given back", 60)
    edge.answer_memory.give(total)


def test_an_answer_that_nobody_takes_gives_its_memory_back(served: Served) -> None:
    edge = served.server.config.app.state.edge  # type: ignore[union-attr]
    rows = pa.table({"x": pa.array(["y" * 1000] * 700)})
    gate, begun = threading.Event(), threading.Event()

    def hold(call: Any) -> FakeResult:
        begun.set()
        gate.wait(60)
        return rows_result(rows, "TEXT")

    served.session.answers["READ"] = hold
    body = b'{"sql": "READ"}'
    head = f"POST /v1/sql HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.port), 60) as connection:
        connection.sendall(head.encode() + body)
        assert begun.wait(60)
    gate.set()
    wait_for(lambda: edge.workers.pending == 0, "the statement has ended", 60)

    def is_free() -> bool:
        taken: bool = edge.answer_memory.take(1 << 20)
        if taken:
            edge.answer_memory.give(1 << 20)
        return taken

    wait_for(is_free, "the answer's memory is given back", 60)


def test_large_json_bodies_share_a_memory(served: Served) -> None:
    edge = served.server.config.app.state.edge  # type: ignore[union-attr]
    body = b'{"sql": "SELECT 1", "params": {"x": "' + b"y" * 600_000 + b'"}}'
    headers = {"Content-Type": "application/json"}
    answer = served.client.post("/v1/sql", content=body, headers=headers)
    assert answer.status_code == 200
    assert edge.json_memory.take(500_000)
    refused = served.client.post("/v1/sql", content=body, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
    edge.json_memory.give(500_000)
    assert served.client.post("/v1/sql", content=body, headers=headers).status_code == 200
    assert edge.json_memory.take(1 << 20)  # everything was given back
    edge.json_memory.give(1 << 20)


def test_a_load_whose_client_went_away_stops_between_batches(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops: list[Stop] = []

    def new_stop() -> Stop:
        stops.append(Stop())
        return stops[-1]

    monkeypatch.setattr(rows, "Stop", new_stop)
    gate, begun = threading.Event(), threading.Event()

    def hold(call: Any) -> FakeOutcome:
        begun.set()
        gate.wait(60)
        return FakeOutcome(inserted=call.rows.num_rows)

    served.session.on_insert = hold
    edge = served.server.config.app.state.edge  # type: ignore[union-attr]
    many = ROWS * 200_000
    head = (
        "POST /v1/tables/docs/rows HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n"
        f"Content-Length: {len(many)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", served.port), 60) as connection:
        connection.sendall(head.encode() + many)
        assert begun.wait(60)
    wait_for(lambda: any(stop.asked for stop in stops), "the server saw the connection close", 60)
    gate.set()
    wait_for(lambda: edge.bulk_workers.pending == 0, "the load has ended", 60)
    assert served.session.stored < 200_000


def test_what_nobody_waits_for_any_more_is_not_begun(served: Served) -> None:
    from nearql.server.routes import sql as route

    edge = served.server.config.app.state.edge  # type: ignore[union-attr]
    question = route.Question(
        body=b'{"sql": "X"}', content_type="", request_id=None, session=None, arrow=False,
        started=-1e9, stop=Stop(), node=served.node, principal=None,  # type: ignore[arg-type]
    )  # fmt: skip
    with pytest.raises(Overloaded, match="statement_timeout_ms"):
        route.answer(edge, question)
    question.stop.stop()
    with pytest.raises(StatementTimeout, match="went away"):
        route.answer(edge, question)
    assert served.session.calls == []


def test_loads_let_short_statements_by_but_not_for_long() -> None:
    short, begun, went_on = Short(patience_s=3600), threading.Event(), threading.Event()

    def load() -> None:
        begun.set()
        short.wait()
        went_on.set()

    short.wait()  # nobody is under way
    short.begin()
    short.begin()
    loader = threading.Thread(target=load)
    loader.start()
    begun.wait(60)
    short.end()
    assert not went_on.is_set()
    short.end()
    loader.join()
    assert went_on.is_set()
    short.begin()
    Short(patience_s=0).wait()


def test_every_way_out_of_a_short_statement_lets_loads_begin(served: Served) -> None:
    edge = served.server.config.app.state.edge  # type: ignore[union-attr]

    def fail(call: Any) -> Any:
        raise StatementTimeout("no")

    served.session.answers["SELECT 1"] = fail
    assert served.sql("SELECT 1").status_code == 504
    edge.short._patience_s = 3600
    assert load(served).is_success


def test_what_an_error_held_is_free_once_it_is_answered(served: Served) -> None:
    kept: list[weakref.ref[Held]] = []

    def fail(call: Any) -> Any:
        held = Held()
        kept.append(weakref.ref(held))
        try:
            raise KeyError("the reason")
        except KeyError as reason:
            wrong = InvalidValue("wrong")
            held.error = wrong  # error -> traceback -> this frame -> held -> error
            raise wrong from reason

    served.session.answers["SELECT 1"] = fail
    gc.disable()
    try:
        for _ in range(3):
            assert served.sql("SELECT 1").status_code == 400
        wait_for(lambda: [one() for one in kept] == [None] * 3, "nothing holds them", 60)
    finally:
        gc.enable()


class Held:
    """What a frame holds."""

    error: Exception | None = None


def test_what_waits_for_a_server_that_ends_is_told(served: Served) -> None:
    """Another node's heavy statement, from the thread that answers it; before, in and after."""
    edge: Edge = served.server.config.app.state.edge  # type: ignore[union-attr]
    loop = asyncio.new_event_loop()
    assert edge.run_heavy(lambda: 5) == 5
    edge.loop = loop
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(edge.run_heavy, lambda: 5)
        wait_for(lambda: bool(loop._ready), "it waits")  # type: ignore[attr-defined]
        loop.close()  # which never turned
        with pytest.raises(Unavailable) as told:
            waiting.result(60)
    assert told.value.code == "shutting_down"
    with pytest.raises(Unavailable):
        edge.run_heavy(lambda: 5)
    edge.loop, edge.draining = None, True
    with pytest.raises(Unavailable):
        edge.run_heavy(lambda: 5)
