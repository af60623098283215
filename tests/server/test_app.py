"""The edge as a whole: routing errors, health, load, shutdown; over a real socket."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from nearql.engine.errors import Corruption, Overloaded, StorageFull, WriteUnknown
from nearql.server.app import create_app, uvicorn_config
from nearql.server.config import AuthSection, ConfigError
from support.http_node import FakeNode, FakeResult, Served, make_config, serve
from support.waiting import wait_for


def problem(answer: httpx.Response) -> dict[str, Any]:
    """The problem document of an answer."""
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["request_id"] == answer.headers["x-request-id"]
    return found


def test_an_unknown_route_is_a_problem(served: Served) -> None:
    for method, path in (("GET", "/nope"), ("POST", "/v1/sqll"), ("GET", "/v1/tables/")):
        answer = served.client.request(method, path)
        assert (answer.status_code, problem(answer)["code"]) == (404, "no_such_route")
        assert path in answer.json()["detail"]


def test_a_wrong_method_is_a_problem_with_allow(served: Served) -> None:
    answer = served.client.get("/v1/sql")
    assert (answer.status_code, problem(answer)["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"
    answer = served.client.put("/v1/tables")
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


def test_head_answers_without_a_body(served: Served) -> None:
    for path, status in (("/livez", 200), ("/nope", 404), ("/v1/sql", 405)):
        answer = served.client.head(path)
        assert (answer.status_code, answer.content) == (status, b"")
    assert served.client.head("/nope").headers["content-type"] == "application/problem+json"


def test_a_request_id_is_made_where_none_is_sent_or_where_it_is_not_safe(served: Served) -> None:
    for sent in (None, "has space", "x" * 200, "a;b"):
        headers = {} if sent is None else {"X-Request-Id": sent}
        answer = served.client.get("/livez", headers=headers)
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
    echoed = served.client.get("/livez", headers={"X-Request-Id": "job-7/a"})
    assert echoed.headers["x-request-id"] == "job-7/a"


def test_an_unexpected_error_tells_its_id_and_nothing_else(served: Served) -> None:
    def explode(call: Any) -> Any:
        raise RuntimeError("secret path /var/lib")

    served.session.answers["X"] = explode
    answer = served.sql("X")
    found = problem(answer)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert (found["code"], found["sqlstate"]) == ("internal_error", "XX000")
    assert (found["definite"], found["retryable"]) == (False, False)


def test_running_out_of_memory_is_503_by_name(served: Served) -> None:
    def explode(call: Any) -> Any:
        raise MemoryError

    served.session.answers["X"] = explode
    answer = served.sql("X")
    assert (answer.status_code, problem(answer)["code"]) == (503, "out_of_memory")
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("error", "status", "definite", "retryable", "retry_after"),
    [
        (Overloaded("x"), 429, True, True, "1"),
        (WriteUnknown("x"), 504, False, True, None),
        (StorageFull("x"), 507, True, True, None),
        (Corruption("x"), 500, True, False, None),
    ],
)
def test_errors_keep_their_status_and_say_whether_to_retry(
    served: Served, error: Exception, status: int, definite: bool, retryable: bool,
    retry_after: str | None,
) -> None:  # fmt: skip
    def refuse(call: Any) -> Any:
        raise error

    served.session.answers["X"] = refuse
    answer = served.sql("X")
    found = problem(answer)
    assert answer.status_code == status == found["status"]
    assert (found["definite"], found["retryable"]) == (definite, retryable)
    assert answer.headers.get("retry-after") == retry_after


def test_health_routes(served: Served) -> None:
    assert served.client.get("/livez").json() == {"status": "live"}
    assert served.client.get("/readyz").json() == {"status": "ready", "failed_tables": 0}
    assert served.client.get("/leaderz").status_code == 200


def test_pages_of_other_sites_are_refused_and_our_own_are_not(served: Served) -> None:
    def post(**headers: str) -> int:
        return served.client.post("/v1/sql", json={"sql": "X"}, headers=headers).status_code

    assert post() == 200
    assert post(Origin=served.url) == 200
    assert post(Origin="http://evil.example") == 403
    assert post(Origin="null") == 403
    assert post(**{"Sec-Fetch-Site": "cross-site"}) == 403
    assert post(**{"Sec-Fetch-Site": "same-origin"}) == 200
    assert len(served.session.calls) == 3
    assert served.client.get("/livez", headers={"Origin": "http://evil.example"}).is_success


def test_metrics_count_by_route_never_by_path(served: Served) -> None:
    served.sql("X")
    served.client.get("/v1/tables/unknown-name-in-a-path")
    served.client.get("/some/path")
    text = served.client.get("/metrics").text
    assert 'requests_total{method="POST",route="/v1/sql",status="200"} 1.0' in text
    assert 'route="/v1/tables/{table}",status="404"} 1.0' in text
    assert 'requests_total{method="any",route="none",status="404"} 1.0' in text
    assert "unknown-name" not in text
    assert "nearql_build_info" in text
    assert "process_resident_memory_bytes" in text


def test_64_requests_at_once_are_all_answered(served: Served) -> None:
    gate = threading.Barrier(4)  # http.workers of the fixture: four run at once

    def meet(call: Any) -> FakeResult:
        gate.wait(10)
        return FakeResult()

    served.session.answers["X"] = meet
    with ThreadPoolExecutor(64) as pool, httpx.Client(base_url=served.url, timeout=30) as client:
        sent = [pool.submit(client.post, "/v1/sql", json={"sql": "X"}) for _ in range(64)]
        assert {each.result().status_code for each in sent} == {200}


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[Served]:
    """One thread and a queue of one."""
    config = make_config(tmp_path)
    config = replace(config, http=replace(config.http, workers=1, queue=1))
    with serve(FakeNode(config), config) as running:
        yield running


def test_a_full_queue_is_429_and_health_still_answers(narrow: Served) -> None:
    release = threading.Event()
    narrow.session.answers["WAIT"] = lambda call: release.wait(20) and FakeResult()
    with ThreadPoolExecutor(2) as pool:
        held = [pool.submit(narrow.sql, "WAIT") for _ in range(2)]
        edge = narrow.server.config.app.state.edge  # type: ignore[union-attr]
        wait_for(lambda: edge.workers.pending == 2, "one runs, one waits")
        answer = narrow.sql("WAIT")
        assert (answer.status_code, problem(answer)["code"]) == (429, "queue_full")
        assert answer.headers["retry-after"] == "1"
        assert narrow.client.get("/livez").status_code == 200
        assert "nearql_statements_pending 2.0" in narrow.client.get("/metrics").text
        assert narrow.client.get("/readyz").status_code == 200
        release.set()
        assert [each.result().status_code for each in held] == [200, 200]
    assert narrow.sql("X").status_code == 200


def test_a_stop_finishes_requests_in_flight_and_refuses_new_ones(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    started, release = threading.Event(), threading.Event()

    def hold(call: Any) -> FakeResult:
        started.set()
        release.wait(20)
        return FakeResult(row_count=7)

    with serve(FakeNode(config), config) as running, ThreadPoolExecutor(1) as pool:
        running.session.answers["WAIT"] = hold
        held = pool.submit(running.sql, "WAIT")
        assert started.wait(10)
        running.server.should_exit = True
        edge = running.server.config.app.state.edge  # type: ignore[union-attr]
        wait_for(lambda: edge.draining, "the stop begins")
        with pytest.raises(httpx.TransportError):
            httpx.get(running.url + "/readyz", timeout=5)
        release.set()
        assert held.result().json()["row_count"] == 7
        running.thread.join(20)
        assert not running.thread.is_alive()


def test_required_auth_refuses_to_start_rather_than_letting_everybody_in(tmp_path: Path) -> None:
    config = replace(make_config(tmp_path), auth=AuthSection(mode="required"))
    with pytest.raises(ConfigError, match=r"auth\.mode = required"):
        create_app(FakeNode(config), config)


def test_a_client_that_goes_away_stops_its_statement(narrow: Served) -> None:
    stopped = threading.Event()

    def wait_for_stop(call: Any) -> FakeResult:
        with call.stop.watching(stopped.set):
            assert stopped.wait(20)
        return FakeResult()

    narrow.session.answers["WAIT"] = wait_for_stop
    with pytest.raises(httpx.ReadTimeout):
        narrow.client.post("/v1/sql", json={"sql": "WAIT"}, timeout=0.3)
    assert stopped.wait(10)
    assert narrow.sql("X").status_code == 200


def test_a_slow_answer_does_not_hold_up_others(served: Served) -> None:
    release = threading.Event()
    served.session.answers["WAIT"] = lambda call: release.wait(20) and FakeResult()
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(served.sql, "WAIT")
        began = time.perf_counter()
        assert served.sql("X").status_code == 200
        assert time.perf_counter() - began < 10
        assert not held.done()
        release.set()
        assert held.result().status_code == 200


def test_a_stop_in_a_cluster_leaves_time_to_hand_over(tmp_path: Path) -> None:
    alone = make_config(tmp_path)
    member = replace(alone, cluster=replace(alone.cluster, enabled=True))
    patience = [
        uvicorn_config(create_app(FakeNode(config), config), config).timeout_graceful_shutdown
        for config in (alone, member)
    ]
    assert patience == [30, 20]
