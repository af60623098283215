"""A cluster of three processes is backed up by one follower and restored by another."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from nearql.server.backup.care import Quiet, verify
from nearql.server.backup.moment import moment_text
from support.archives import moment
from support.backups import repository
from support.cluster_processes import Process, cluster
from support.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

CONTENT = "SELECT count(*), sum(id), sum(id * length(title)) FROM {}"


def job(node: Process, route: str, body: dict[str, Any]) -> dict[str, Any]:
    """What a job came to, asked for on the node that does it."""
    status, told = node.request("POST", route, body)
    assert status == 200, told

    def ended() -> bool:
        told.update(node.request("GET", f"/v1/jobs/{told['job']}")[1])
        return told["state"] not in ("waiting", "running")

    wait_for(ended, route, 120.0)
    assert told["state"] == "done", told
    found: dict[str, Any] = told
    return found


def test_any_node_takes_one_backup_of_all_and_brings_it_back(tmp_path: Path) -> None:
    place = repository(tmp_path / "copies")
    where = {"repository": place.location, "repository_id": place.id}
    with cluster(tmp_path) as nodes:
        for name in ("a", "b"):
            nodes.write(f"CREATE TABLE {name} (id BIGINT PRIMARY KEY, title TEXT) WITH (shards=2)")
        nodes.write("INSERT INTO a SELECT range, 'row ' || range FROM range(1000, 3000)")
        leader = nodes.leader()
        alone = "CREATE TABLE c (id BIGINT PRIMARY KEY, title TEXT) WITH (shards=2, replicas=1)"
        assert nodes[leader].sql(alone)[0] == 200  # those who are asked for backups have no copy
        nodes.write("INSERT INTO c SELECT range, 'c ' || range FROM range(3000)")
        one, two = (node for name, node in nodes.nodes.items() if name != leader)
        ended, written = threading.Event(), threading.Event()

        def write() -> None:
            """Into `a`, which is answered, then into `b`."""
            for number in range(900):
                if ended.is_set():
                    return
                nodes.write(f"INSERT INTO a VALUES ({number}, 'x')")
                nodes.write(f"INSERT INTO b VALUES ({number}, 'x')")
                written.set()

        writer = threading.Thread(target=write)
        writer.start()
        try:
            assert written.wait(120)
            job(one, "/v1/backup", where)
        finally:
            ended.set()
            writer.join()
        assert [found.problem for found in verify(place, "all", Quiet())] == [""]
        names = {"tables": ["a", "b", "c"], "as": ["a1", "b1", "c1"]}
        done = job(two, "/v1/restore", {**where, **names})
        counted = {one["name"]: one["rows"] for one in done["result"]["tables"]}
        assert counted["a1"] >= 2001
        lost = nodes.write("SELECT count(*) FROM b1 WHERE id NOT IN (SELECT id FROM a1)")
        assert lost["rows"] == [[0]]
        assert counted["a1"] - 2000 - counted["b1"] in (0, 1)
        told = [job["job"] for job in nodes[leader].request("GET", "/v1/jobs")[1]["jobs"]]
        assert done["job"] in told
        wait_for(nodes.in_sync, "three copies of what was restored", 120.0)
        assert nodes.write(CONTENT.format("c1"))["rows"] == nodes.write(CONTENT.format("c"))["rows"]
        same = nodes.write(CONTENT.format("a1 WHERE id >= 1000"))["rows"]
        assert same == nodes.write(CONTENT.format("a WHERE id >= 1000"))["rows"]


def test_a_moment_of_a_cluster_whose_primary_was_killed_comes_back(tmp_path: Path) -> None:
    place = repository(tmp_path / "copies")
    log = {"repository": place.location, "archive": True, "archive_interval_ms": 200}
    with cluster(tmp_path, backup=log) as nodes:
        nodes.write("CREATE TABLE docs (id BIGINT PRIMARY KEY, title TEXT) WITH (shards=2)")
        nodes.write("INSERT INTO docs SELECT range, 'first ' || range FROM range(500)")
        primary = nodes.primary("docs")
        assert primary is not None
        others = [node for name, node in nodes.nodes.items() if name != primary]
        job(others[0], "/v1/backup", {})
        model = {number: f"first {number}" for number in range(500)}
        told: list[tuple[int, list[int]]] = []

        def step(number: int) -> None:
            """Something is written and answered; what is true then."""
            nodes.write(f"INSERT INTO docs VALUES ({1000 + number}, 'step {number}')")
            nodes.write(f"UPDATE docs SET title = 'new {number}' WHERE id % 7 = {number % 7}")
            nodes.write(f"DELETE FROM docs WHERE id = {number}")
            model[1000 + number] = f"step {number}"
            model.update({key: f"new {number}" for key in model if key % 7 == number % 7})
            del model[number]
            sums = sum(model), sum(key * len(title) for key, title in model.items())
            told.append((moment(), [len(model), *sums]))

        for number in range(4):
            step(number)
        nodes[primary].kill()
        for number in range(4, 8):
            step(number)
        nodes.start(primary)
        step(8)
        nodes.write("DROP TABLE docs")
        for number in (0, 3, 5, 8):
            at_ms, wanted = told[number]
            names = {"tables": ["docs"], "as": [f"docs{number}"]}
            ask = {**names, "to_time": moment_text(at_ms)}
            node = others[number % 2]
            restored(node, ask)
            status, told_back = node.sql(CONTENT.format(f"docs{number}"))
            assert status == 200, told_back
            assert told_back["rows"] == [wanted]


def restored(node: Process, ask: dict[str, Any]) -> None:
    """A restore, as soon as the archive reaches that moment."""

    def done() -> bool:
        status, told = node.request("POST", "/v1/restore", ask)
        assert status == 200, told
        wait_for(lambda: ended(node, told), "the restore", 120.0)
        assert told["state"] == "done" or told["code"] == "archive_ends", told
        return bool(told["state"] == "done")

    wait_for(done, "the archive reaches the moment", 60.0)


def ended(node: Process, told: dict[str, Any]) -> bool:
    """Whether a job has ended; `told` is renewed."""
    told.update(node.request("GET", f"/v1/jobs/{told['job']}")[1])
    return told["state"] not in ("waiting", "running")
