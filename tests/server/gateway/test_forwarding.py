"""Requests that another node answers: they end with their client, count its time, and hold up no
thread that searches need.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from nearql.server.workers import Workers
from support.cluster_edges import MakePair, Pair
from support.http_node import Call, FakeResult
from support.waiting import wait_for

INSERT = "INSERT INTO docs (id) VALUES (1)"
SELECT = "SELECT id FROM docs"
PATIENCE_S = 60.0


def together(pair: Pair, ask: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    """Several requests at a time to `here`, in one event loop."""

    async def run() -> None:
        transport = httpx.ASGITransport(pair.here.client.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
            await ask(client)

    asyncio.run(run())


async def sql(client: httpx.AsyncClient, text: str) -> httpx.Response:
    return await client.post("/v1/sql", json={"sql": text}, timeout=PATIENCE_S)


async def until(condition: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(wait_for, condition, what, PATIENCE_S)


def test_a_client_that_goes_away_ends_its_statement_on_the_other_node(make_pair: MakePair) -> None:
    with make_pair(1, primary=2) as pair:
        began, ended = threading.Event(), threading.Event()

        def run(call: Call) -> Any:
            began.set()
            assert call.stop is not None
            wait_for(lambda: call.stop is not None and call.stop.asked, "the stop", PATIENCE_S)
            ended.set()
            return FakeResult()

        pair.there.session.answers[INSERT] = run

        async def ask(client: httpx.AsyncClient) -> None:
            asked = asyncio.create_task(sql(client, INSERT))
            await asyncio.to_thread(began.wait, PATIENCE_S)
            asked.cancel()
            assert await asyncio.to_thread(ended.wait, PATIENCE_S)

        together(pair, ask)


def test_the_time_that_a_client_has_waited_counts_there(make_pair: MakePair) -> None:
    with make_pair(1, primary=2) as pair:
        workers = pair.here.client.app.state.edge.remote_workers = Workers(1, 8)
        first, second = threading.Event(), threading.Event()

        async def ask(client: httpx.AsyncClient) -> None:
            held = asyncio.create_task(workers.run(lambda: first.wait(PATIENCE_S)))
            waiting = asyncio.create_task(sql(client, INSERT))
            await until(lambda: workers.pending == 2, "the request waits")
            await asyncio.to_thread(second.wait, 0.05)  # what it certainly waits for its thread
            first.set()
            assert (await waiting).status_code == 200
            assert await held

        together(pair, ask)
        (call,) = pair.there.session.calls
        assert 0.05 <= call.waited_s < PATIENCE_S


def test_what_waits_for_another_node_holds_no_search_up(make_pair: MakePair) -> None:
    with make_pair(1, primary=2) as pair:
        pair.here.client.app.state.edge.workers = Workers(1, 8)
        answered = threading.Event()

        def run(call: Call) -> Any:
            assert answered.wait(PATIENCE_S)
            return FakeResult()

        pair.there.session.answers[INSERT] = run

        async def ask(client: httpx.AsyncClient) -> None:
            writes = [asyncio.create_task(sql(client, INSERT)) for _ in range(3)]
            await until(lambda: len(pair.mesh.calls) == len(writes), "all are passed on")
            assert (await sql(client, SELECT)).status_code == 200
            answered.set()
            assert [(await write).status_code for write in writes] == [200] * 3

        together(pair, ask)


def test_a_heavy_statement_of_another_node_waits_among_those_here(make_pair: MakePair) -> None:
    with make_pair(1, primary=2) as pair:
        pair.there.session.heavy.add(INSERT)
        edge = pair.there.client.app.state.edge
        edge.heavy_workers, release = Workers(1, 8), threading.Event()

        async def ask(client: httpx.AsyncClient) -> None:
            edge.loop = asyncio.get_running_loop()
            held = asyncio.create_task(edge.heavy_workers.run(lambda: release.wait(PATIENCE_S)))
            asked = asyncio.create_task(sql(client, INSERT))
            await until(lambda: edge.heavy_workers.pending == 2, "it waits")
            assert not pair.there.session.calls
            release.set()
            assert (await asked).status_code == 200
            assert await held

        together(pair, ask)
        assert len(pair.there.session.calls) == 1


def test_heavy_statements_of_other_nodes_leave_threads_for_their_light_ones(
    make_pair: MakePair,
) -> None:
    """Half of the 32 threads for other nodes may wait for a heavy statement's turn."""
    with make_pair(1, primary=2) as pair:
        pair.there.session.heavy.add(INSERT)
        edge = pair.there.client.app.state.edge
        half = edge.config.replication.call_threads // 2
        edge.heavy_workers, release = Workers(1, 2 * half), threading.Event()
        pair.here.client.app.state.edge.remote_workers = Workers(2 * half, 8)
        light = INSERT.replace("1", "2")

        async def ask(client: httpx.AsyncClient) -> None:
            edge.loop = asyncio.get_running_loop()
            held = asyncio.create_task(edge.heavy_workers.run(lambda: release.wait(PATIENCE_S)))
            asked = [asyncio.create_task(sql(client, INSERT)) for _ in range(half)]
            await until(lambda: edge.heavy_workers.pending == half + 1, "as many as may wait")
            refused = await sql(client, INSERT)
            assert refused.status_code == 429
            assert refused.json()["definite"]
            assert "replication.call_threads" in refused.json()["detail"]
            assert (await sql(client, light)).status_code == 200
            release.set()
            assert [(await one).status_code for one in asked] == [200] * half
            assert (await sql(client, INSERT)).status_code == 200
            assert await held

        together(pair, ask)
