"""What three real processes promise those who ask them: acts of record, metrics that alerts know,
and a stop that loses nobody's request. Who may ask them: `test_access.py`.
"""

from __future__ import annotations

import http.client
import json
import signal
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from support.cluster_processes import ADMIN_KEY, PATIENCE_S, Process, Processes, answer_of
from support.monitoring import EXPRESSIONS, check_expression, series_of
from support.secured import write_key_set
from support.waiting import wait_for

pytestmark = pytest.mark.chaos
NAMES = ("n1", "n2", "n3")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    folder = tmp_path_factory.mktemp("cluster")
    write_key_set(folder / "keys.json")
    auth, patient = {"jwt_key_file": str(folder / "keys.json")}, {"shutdown_timeout_ms": 90_000}
    started = Processes(folder, 3, auth=auth, http=patient)
    try:
        started.start()
        started.write("CREATE TABLE docs (id BIGINT PRIMARY KEY, vec VECTOR(2))")
        started.write("INSERT INTO docs VALUES (1, '[1,2]')")
        yield started
    finally:
        started.stop()


def test_letting_a_disk_in_is_an_act_of_record(nodes: Processes) -> None:
    status, made = nodes["n2"].request("POST", "/v1/cluster/tokens", {})
    assert status == 200, made
    assert nodes["n2"].request("DELETE", "/v1/cluster/nodes/n9")[0] == 404
    text = (nodes.folder / "n2-data" / "audit.log").read_text()
    acts = [json.loads(line) for line in text.splitlines()]
    told = [(act["act"], act["target"], act["outcome"], act["user"]) for act in acts[-2:]]
    assert told == [
        ("create_join_token", "cluster", "done", "bootstrap"),
        ("remove_node", "n9", "undefined_node", "bootstrap"),
    ]
    assert made["token"] not in text


def test_alerts_ask_for_what_three_nodes_tell(nodes: Processes) -> None:
    nodes["n1"].sql("SELECT")
    nodes["n1"].request("GET", "/v1/tables/docs", headers={"Authorization": "Bearer wrong"})
    assert answer_of(urllib.request.Request(nodes["n1"].url, b"{}", method="TRACE"), 40)[0] >= 400
    found: list[str] = []

    def told() -> bool:
        found[:] = [node.get("/metrics")[1] for node in nodes.running()]
        return "nearql_copy_lag_seconds{" in "".join(found)

    wait_for(told, "a primary tells how far its replicas are", PATIENCE_S)
    series = series_of("".join(found))
    for name, text, legend in EXPRESSIONS:
        if "connections_cut" not in text:  # which has a series once something was cut
            check_expression(series, name, text, legend)
    assert {labels["node"] for labels in series["nearql_copy_lag_records"]} <= set(NAMES)


def test_a_node_that_is_stopped_answers_what_it_was_asked_and_hands_over(nodes: Processes) -> None:
    leader = nodes.leader()
    others = set(NAMES) - {leader}
    nodes.write("CREATE TABLE led (id BIGINT PRIMARY KEY)")
    body = b'{"sql": "SELECT 1 AS one"}'
    under_way = half_sent(nodes[leader], "/v1/sql", body)
    nodes[leader].send(signal.SIGTERM)
    wait_for(lambda: nodes[leader].get("/readyz")[0] != 200, "not ready any more", PATIENCE_S)
    under_way.send(body[len(body) // 2 :])
    answer = under_way.getresponse()
    told = json.loads(answer.read())
    under_way.close()
    assert (answer.status, told["rows"]) == (200, [[1]]), told
    assert nodes[leader].stop() == 0
    wait_for(lambda: nodes.leader() != leader, "another node leads", PATIENCE_S)
    nodes.write("INSERT INTO led VALUES (1)")
    wait_for(lambda: nodes.primary("led") in others, "others order its writes", PATIENCE_S)
    for node in nodes.running():  # any copy may be a moment behind
        shown = lambda node=node: node.sql("SELECT count(*) FROM led")[1].get("rows") == [[1]]  # noqa: E731
        wait_for(shown, f"{node.name} shows all that was stored", PATIENCE_S)
    nodes.start(leader)


def half_sent(node: Process, path: str, body: bytes) -> http.client.HTTPConnection:
    """A request of which the node has the headers, and half of the body."""
    address = urlsplit(node.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=PATIENCE_S)
    connection.putrequest("POST", path)
    connection.putheader("Authorization", f"Bearer {ADMIN_KEY}")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[: len(body) // 2])
    pending = "nearql_http_connections"
    wait_for(lambda: pending in node.get("/metrics")[1], "it answers others meanwhile", PATIENCE_S)
    return connection
