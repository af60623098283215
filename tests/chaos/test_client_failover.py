"""Applications on a real cluster: what they meet over plain HTTP, and through the client while the
node that takes their writes is killed.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pyarrow as pa
import pytest

import nearql
from support.cluster_processes import ADMIN_KEY, Process, Processes, cluster
from support.waiting import wait_for

pytestmark = pytest.mark.chaos
IDENTITY = "6f1c2f0e-6f0c-4c5e-9d0e-2f6a1b3c4d5e"
ROWS = 40  # written before the kill, and after it
BATCHES, BATCH_ROWS = 40, 5  # of an insert that meets a kill


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Three nodes whose followers redirect, with a table."""
    settings = {"write_routing": "redirect"}
    with cluster(tmp_path_factory.mktemp("cluster"), cluster=settings) as started:
        started.write("CREATE TABLE docs (id BIGINT PRIMARY KEY, n INT, vec VECTOR(3))")
        yield started
        for node in started.running():  # a stop would hand over, which takes its time at the end
            node.kill()


def post(node: Process, text: str, **headers: str) -> httpx.Response:
    """A statement by a plain HTTP client that follows no redirect, and comes again after a 503."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    sent["Authorization"] = f"Bearer {ADMIN_KEY}"
    answers: list[httpx.Response] = []

    def answered() -> bool:
        url = f"{node.url}/v1/sql"
        answers.append(httpx.post(url, json={"sql": text}, headers=sent, timeout=60))
        return answers[-1].status_code != 503

    wait_for(answered, text, 60)
    return answers[-1]


def roles(nodes: Processes) -> tuple[Process, list[Process]]:
    """The leader and the followers."""
    leader = nodes.leader()
    return nodes[leader], [node for node in nodes.running() if node.name != leader]


def test_followers_send_writers_to_the_leader_and_answer_readers(nodes: Processes) -> None:
    leader, followers = roles(nodes)
    written = post(leader, "INSERT INTO docs VALUES (1, 0, '[1,2,3]')")
    assert written.status_code == 200, written.text
    token = written.json()["stats"]["session"]
    for node in followers:
        answer = post(node, "INSERT INTO docs VALUES (2, 0, NULL)", Host="evil.example")
        assert answer.status_code == 307
        assert answer.headers["Location"] == f"{leader.url}/v1/sql"
        assert (answer.headers["NearQL-Leader"], answer.headers["NearQL-Role"]) == (
            leader.name, "follower"
        )  # fmt: skip
        text = "SELECT id FROM docs ORDER BY vec <-> '[1,2,3]' LIMIT 1"
        read = post(node, text, NearQL_Session=token)
        assert read.status_code == 200, read.text
        assert read.json()["rows"] == [[1]]
    assert [node.get("/leaderz")[0] for node in (leader, *followers)] == [200, 503, 503]


@pytest.mark.parametrize(("concern", "copies"), [("one", 1), ("majority", 2), ("all", 3), ("3", 3)])
def test_a_concern_is_met_when_it_is_answered(nodes: Processes, concern: str, copies: int) -> None:
    leader, _ = roles(nodes)
    text = f"SET write_concern = '{concern}'; UPDATE docs SET n = n + 1 WHERE id = 1"
    answer = post(leader, text)
    assert answer.status_code == 200, answer.text
    write = answer.json()["stats"]["write"]
    assert write["concern"] == concern
    assert write["copies"] >= copies
    assert write["committed"] or concern == "one"


def test_a_retry_gets_the_same_answer_and_does_nothing(nodes: Processes) -> None:
    leader, _ = roles(nodes)
    text = "UPDATE docs SET n = 100 + n WHERE id = 1"
    answers = [post(leader, text, NearQL_Request_Id=f"{IDENTITY}:1").json() for _ in range(2)]
    assert answers[0]["row_count"] == answers[1]["row_count"] == 1
    shards = [answer["stats"]["shards"] for answer in answers]
    assert shards[0] == shards[1]
    [[n]] = post(leader, "SELECT n FROM docs WHERE id = 1").json()["rows"]
    assert n < 200


@pytest.mark.parametrize("level", ["any", "session", "linearizable"])
def test_levels_are_served_by_every_node(nodes: Processes, level: str) -> None:
    for node in nodes.running():
        text = f"SET read_level = '{level}'; SELECT count(*) FROM docs"
        answer = post(node, text)
        assert answer.status_code == 200, answer.text
        assert answer.json()["rows"] == [[1]]


def test_every_node_tells_the_same_of_all_copies(nodes: Processes) -> None:
    leader, followers = roles(nodes)
    for node in (leader, *followers):
        status, told = node.get("/v1/cluster")
        assert (status, told["leader"]) == (200, leader.name)
        assert [n["name"] for n in told["nodes"]] == ["n1", "n2", "n3"]
        [shard] = [s for s in told["shards"] if s["table"] == "docs"]
        assert shard["in_sync"] == ["n1", "n2", "n3"]
        assert len({copy["lsn"] is not None for copy in shard["copies"]}) == 1


def test_a_write_that_runs_out_of_time_is_unknown_and_its_retry_tells(nodes: Processes) -> None:
    leader, followers = roles(nodes)
    paused = next(node for node in followers if node.name != nodes.primary("docs"))
    text = "SET write_timeout_ms = 200; UPDATE docs SET n = n + 1000 WHERE id = 1"
    paused.send(signal.SIGSTOP)  # its acknowledgement is needed until the in-sync set has shrunk
    try:
        answer = post(leader, text, NearQL_Request_Id=f"{IDENTITY}:2")
    finally:
        paused.send(signal.SIGCONT)
    told = answer.json()
    assert (answer.status_code, told["code"]) == (504, "write_unknown")
    assert (told["definite"], told["request_id"]) == (False, f"{IDENTITY}:2")
    assert told["epoch"] >= 1
    assert told["lsn"] >= 1
    assert settled(leader, text, f"{IDENTITY}:2")["row_count"] == 1
    [[n]] = post(leader, "SELECT n FROM docs WHERE id = 1").json()["rows"]
    assert 1000 <= n < 2000  # it was done once


def settled(node: Process, text: str, request_id: str) -> dict[str, Any]:
    """The answer of a request that is sent again until its outcome is known."""
    answers: list[httpx.Response] = []

    def known() -> bool:
        answers.append(post(node, text, NearQL_Request_Id=request_id))
        return answers[-1].status_code == 200

    wait_for(known, "an outcome", 60)
    told: dict[str, Any] = answers[-1].json()
    return told


def test_an_application_sees_a_failover_as_a_delay(nodes: Processes) -> None:
    """The primary's node is killed in the middle of writes: nothing is lost, nothing twice."""
    failed: list[BaseException] = []
    with nearql.connect(roles(nodes)[1][0].url, token=ADMIN_KEY) as db:  # one address of three
        db.execute("CREATE TABLE log (n BIGINT, vec VECTOR(2))")  # no key: a repeat would show
        ended = threading.Event()
        reader = threading.Thread(target=_read, args=(db.transport.name, ended, failed))
        reader.start()
        try:
            for n in range(2 * ROWS):
                if n == ROWS:
                    _kill(nodes, str(nodes.primary("log")))
                db.sql("INSERT INTO log VALUES ($1, $2)", n, [n, 1.0])
                [[seen]] = db.sql("SELECT count(*) FROM log").fetchall()
                assert seen == n + 1  # it reads its own writes, whichever node answers
        finally:
            ended.set()
            reader.join()
        found = db.sql("SELECT count(*), count(DISTINCT n), sum(n) FROM log").fetchone()
    assert found == (2 * ROWS, 2 * ROWS, sum(range(2 * ROWS)))
    assert failed == []


def test_an_insert_sees_a_failover_as_a_delay(nodes: Processes) -> None:
    """The leader's node is killed while two batches are under way, which go to it: none is lost,
    none is stored twice, and the next read, on whichever node, shows them all.
    """
    down = [name for name, node in nodes.nodes.items() if not node.runs]
    nodes.start(*down) if down else None
    leader, followers = roles(nodes)

    def batches() -> Iterator[pa.RecordBatch]:
        for at in range(BATCHES):
            if at == BATCHES // 2:
                leader.kill()
            first = at * BATCH_ROWS
            rows = [[float(n), 1.0] for n in range(first, first + BATCH_ROWS)]
            columns = {"n": range(first, first + BATCH_ROWS), "vec": rows}
            yield pa.RecordBatch.from_pydict(columns)

    with nearql.connect(followers[0].url, token=ADMIN_KEY) as db:
        db.execute("CREATE TABLE bulk (n BIGINT, vec VECTOR(2))")  # no key: a repeat would show
        report = db.insert("bulk", batches())
        wanted = BATCHES * BATCH_ROWS
        assert (report.rows, report.inserted, report.failed) == (wanted, wanted, [])
        for _ in range(4):  # the reads go round
            found = db.sql("SELECT count(*), count(DISTINCT n), sum(n) FROM bulk").fetchone()
            assert found == (wanted, wanted, sum(range(wanted)))


def _kill(nodes: Processes, name: str) -> None:
    nodes[name].kill()


def _read(url: str, ended: threading.Event, failed: list[BaseException]) -> None:
    """Read until the end; no read may fail."""
    try:
        with nearql.connect(url, token=ADMIN_KEY) as db:
            db.sql("SELECT count(*) FROM docs")
            while not ended.wait(0.02):
                db.sql("SELECT count(*) FROM docs")
    except nearql.client.errors.Error as error:
        failed.append(error)
