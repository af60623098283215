"""A cluster of three processes is backed up by one follower and restored by another."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from nearql.server.backup.care import Quiet, verify
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
