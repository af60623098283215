"""Searches that the event loop answers in a cluster: as recent as any other read, on each node."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from nearql.query.plan_cache import Pace
from support.cluster_processes import PATIENCE_S, Process, Processes
from support.waiting import wait_for

pytestmark = pytest.mark.chaos
SEARCH = "SELECT id FROM docs ORDER BY vec <-> :q LIMIT 1"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    started = Processes(tmp_path_factory.mktemp("cluster"), 3)
    try:
        started.start()
        started.write("CREATE TABLE docs (id BIGINT PRIMARY KEY, vec VECTOR(2))")
        yield started
    finally:
        started.stop()


def asked(node: Process, at: int, token: str) -> Any:
    body = {"sql": SEARCH, "params": {"q": [at, 0]}}
    status, answer = node.request("POST", "/v1/sql", body, headers={"NearQL-Session": token})
    assert status == 200, answer
    return answer


def answered_shortly(node: Process) -> float:
    """How many searches the event loop of a node answered."""
    (line,) = [
        one for one in node.get("/metrics")[1].splitlines()
        if one.startswith("nearql_short_searches_total ")
    ]  # fmt: skip
    return float(line.split()[1])


def test_a_session_sees_what_it_wrote_on_every_node(nodes: Processes) -> None:
    """Asked so often that the loop answers, and at once after each write."""
    for at in range(12):
        written = nodes.write(f"INSERT INTO docs VALUES ({at}, '[{at},0]')")
        for node in nodes.running():
            for _ in range(Pace.RUNS + 2 if at == 0 else 2):
                answer = asked(node, at, written["stats"]["session"])
                assert answer["rows"] == [[at]], (node.name, at)
    for node in nodes.running():
        wait_for(partial(soon, node), f"the loop of {node.name} answers", PATIENCE_S)


def soon(node: Process) -> bool:
    asked(node, 3, "")
    return answered_shortly(node) > 0
