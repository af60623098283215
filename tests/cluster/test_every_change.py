"""Each statement and each route that changes metadata, on real processes: every change of a table,
key, user, grant, setting, epoch, in-sync set or node is an entry in the logs of all three voters.

n1 to n3 vote; n4 joined with a token, so that copies can move. Which statements, routes and
commands there are, `support.metadata_changes` lists; a fast test holds that list to the code.
"""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.backups import repository
from support.cluster_processes import PATIENCE_S, Process, Processes
from support.metadata_changes import HARMLESS_ROUTES, ROUTES, STATEMENTS, wanted
from support.raft_journals import operations
from support.waiting import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

VOTERS = ("n1", "n2", "n3")
Asked = Iterator[tuple[str, str]]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Processes]:
    """The voters run; n4 does not yet."""
    processes = Processes(tmp_path, 4, voters=3)
    try:
        processes.start(*VOTERS)
        yield processes
    finally:
        processes.stop()


def test_every_change_of_metadata_is_in_all_three_logs(nodes: Processes) -> None:
    asked = {*ask_for_a_node(nodes)}
    nodes.write("CREATE TABLE kept (id BIGINT PRIMARY KEY, t TEXT) WITH (replicas = 3)")
    for statement, _, _ in STATEMENTS:
        wait_for_jobs(nodes, nodes.write(statement).get("notices", ()))
    for ask_about in (keys, sessions, moves, drains, failovers, backups, forgetting):
        asked |= {*ask_about(nodes)}
    assert asked == ROUTES.keys() | HARMLESS_ROUTES
    settled(nodes)
    nodes.stop()
    logs = {name: operations(nodes.folder / f"{name}-data" / "metadata" / "log") for name in VOTERS}
    for name, found in logs.items():
        assert not wanted() - Counter(found), (name, wanted() - Counter(found))
    shortest = min(map(len, logs.values()))
    assert len({tuple(found[:shortest]) for found in logs.values()}) == 1


# ---- What is asked ------------------------------------------------------------------------------


def ask_for_a_node(nodes: Processes) -> Asked:
    token = ask(nodes["n2"], "POST", "/v1/cluster/tokens", {})["token"]
    (nodes.folder / "token").write_text(token)
    config = yaml.safe_load(nodes["n4"].config.read_text())
    config["cluster"]["join_token_file"] = str(nodes.folder / "token")
    nodes["n4"].config.write_text(yaml.safe_dump(config))
    nodes.start("n4")
    yield "POST", "/v1/cluster/tokens"


def keys(nodes: Processes) -> Asked:
    made = ask(nodes["n2"], "POST", "/v1/keys", {"user": "bob", "role": "reader"})
    yield "POST", "/v1/keys"
    ask(nodes["n3"], "POST", f"/v1/keys/{made['id']}/rotate", {})
    yield "POST", "/v1/keys/{key}/rotate"
    ask(nodes["n1"], "DELETE", f"/v1/keys/{made['id']}")
    yield "DELETE", "/v1/keys/{key}"
    ask(nodes["n1"], "POST", "/v1/revocations", {"subject": "mallory"})
    yield "POST", "/v1/revocations"


def sessions(nodes: Processes) -> Asked:
    token = ask(nodes["n2"], "POST", "/v1/login", {})["token"]
    yield "POST", "/v1/login"
    ask(nodes["n3"], "DELETE", "/v1/login", headers={"Authorization": f"Bearer {token}"})
    yield "DELETE", "/v1/login"


def moves(nodes: Processes) -> Asked:
    """A copy that goes from a voter to n4, after a try that is cancelled."""
    ask(nodes["n1"], "POST", "/v1/sql", {"sql": ALONE})
    (source,) = holders(nodes, "alone")
    assert source != "n4"
    ask(nodes["n1"], "DELETE", f"/v1/jobs/{begin_what_can_not_end(nodes, source)}")
    yield "DELETE", "/v1/jobs/{job}"
    wait_for(lambda: holders(nodes, "alone") == {source}, "the move given up", PATIENCE_S)
    nodes["n4"].send(signal.SIGCONT)
    wait_for(lambda: lives(nodes, "n4"), "n4 heard again", PATIENCE_S)
    done(nodes, ask(nodes["n3"], "POST", "/v1/cluster/move", to_n4(source))["job"])
    assert holders(nodes, "alone") == {"n4"}
    yield "POST", "/v1/cluster/move"
    done(nodes, ask(nodes["n3"], "POST", "/v1/cluster/rebalance", {})["job"])
    yield "POST", "/v1/cluster/rebalance"


ALONE = "CREATE TABLE alone (id BIGINT PRIMARY KEY) WITH (replicas = 1)"


def to_n4(source: str) -> dict[str, str]:
    return {"table": "alone", "from": source, "to": "n4"}


def begin_what_can_not_end(nodes: Processes, source: str) -> str:
    """Move a copy to n4, which is stopped; the job, once the copy is listed. n4 counts as living
    for three more seconds: where the move has not begun by then, all is tried again.
    """
    jobs: list[str] = []

    def begun() -> bool:
        wait_for(lambda: lives(nodes, "n4"), "n4 heard", PATIENCE_S)
        nodes["n4"].send(signal.SIGSTOP)
        status, told = nodes["n2"].request("POST", "/v1/cluster/move", to_n4(source))
        if status == 200:
            jobs.append(told["job"])
            wait_for(lambda: has_begun(nodes) or is_late(nodes, jobs[-1]), "its fate", PATIENCE_S)
            if has_begun(nodes):
                return True
            ask(nodes["n2"], "DELETE", f"/v1/jobs/{jobs[-1]}")
        nodes["n4"].send(signal.SIGCONT)
        return False

    wait_for(begun, "a move to a node that is stopped", 3 * PATIENCE_S)
    return jobs[-1]


def has_begun(nodes: Processes) -> bool:
    return "n4" in holders(nodes, "alone")


def is_late(nodes: Processes, job: str) -> bool:
    """Whether it waits for a node that does not answer any more."""
    return detail(nodes, job) != ""


def drains(nodes: Processes) -> Asked:
    """n3 waits for a fifth node; n4 is emptied, and may have copies again."""
    nodes.write("CREATE TABLE wide (id BIGINT PRIMARY KEY) WITH (replicas = 4)")
    job = ask(nodes["n2"], "POST", "/v1/cluster/drain", {"node": "n3"})["job"]
    wait_for(lambda: detail(nodes, job) != "", "what it waits for", PATIENCE_S)
    ask(nodes["n1"], "DELETE", f"/v1/jobs/{job}")
    nodes.write("DROP TABLE wide")
    done(nodes, ask(nodes["n3"], "POST", "/v1/cluster/drain", {"node": "n4"})["job"])
    assert "n4" not in holders(nodes, "alone")
    ask(nodes["n1"], "POST", "/v1/cluster/drain", {"node": "n4", "cancel": True})
    nodes.write("DROP TABLE alone")
    yield "POST", "/v1/cluster/drain"


def failovers(nodes: Processes) -> Asked:
    """A primary gives its part away; files of a copy are lost; the copies in sync are all dead."""
    done(nodes, ask(nodes["n1"], "POST", "/v1/cluster/failover", {"table": "kept"})["job"])
    wait_for(lambda: len(tables_on_disks(nodes)) == 1, "the files of one table", PATIENCE_S)
    (kept,) = tables_on_disks(nodes)
    ask(nodes["n1"], "POST", "/v1/sql", {"sql": "CREATE TABLE risky (id BIGINT PRIMARY KEY)"})
    behind, other, last = sorted(holders(nodes, "risky"))
    assert last == "n4", "it had no copies"
    nodes[behind].kill()
    wait_for(lambda: in_sync(nodes, "risky") == {other, last}, "one left behind", PATIENCE_S)
    nodes[other].kill()
    nodes[last].kill()
    shutil.rmtree(nodes.folder / f"{behind}-data" / "tables" / kept)
    nodes[behind].start()
    unclean = {"table": "risky", "to": behind, "unclean": True}
    jobs: list[str] = []

    def taken() -> bool:
        status, told = nodes[behind].request("POST", "/v1/cluster/failover", unclean)
        jobs.extend([told["job"]] if status == 200 else [])
        return status == 200

    wait_for(taken, "an unclean failover", PATIENCE_S)
    done(nodes, jobs[0])
    nodes.start(other, last)
    yield "POST", "/v1/cluster/failover"


def backups(nodes: Processes) -> Asked:
    repository(nodes.folder / "copies")
    place = {"repository": str(nodes.folder / "copies")}
    done(nodes, ask(nodes["n2"], "POST", "/v1/backup", place)["job"], "n2")
    yield "POST", "/v1/backup"
    wish = {**place, "tables": ["kept"], "as": ["kept_before"]}
    done(nodes, ask(nodes["n3"], "POST", "/v1/restore", wish)["job"], "n3")
    yield "POST", "/v1/restore"


def forgetting(nodes: Processes) -> Asked:
    nodes.write("DROP TABLE risky")
    done(nodes, ask(nodes["n1"], "POST", "/v1/cluster/drain", {"node": "n4"})["job"])
    nodes["n4"].stop()
    ask(nodes["n1"], "DELETE", "/v1/cluster/nodes/n4")
    yield "DELETE", "/v1/cluster/nodes/{node}"


# ---- What is seen -------------------------------------------------------------------------------


def ask(node: Process, method: str, path: str, body: Any = None, **options: Any) -> Any:
    """A request that must succeed."""
    status, answer = node.request(method, path, body, **options)
    assert 200 <= status < 300, (method, path, status, answer)
    return answer


def wait_for_jobs(nodes: Processes, notices: list[str]) -> None:
    """Those that a statement began."""
    for notice in notices:
        if notice.startswith("Job "):
            done(nodes, notice.split()[1])


def done(nodes: Processes, job: str, asked: str | None = None) -> None:
    """Wait for the end of a job. asked: the node that has it, of one that metadata does not."""
    wait_for(lambda: told_of(nodes, job, asked)["state"] not in UNDER_WAY, job, 3 * PATIENCE_S)
    assert told_of(nodes, job, asked)["state"] == "done", told_of(nodes, job, asked)


UNDER_WAY = ("running", "waiting", "unknown")


def detail(nodes: Processes, job: str) -> str:
    return str(told_of(nodes, job)["detail"])


def told_of(nodes: Processes, job: str, asked: str | None = None) -> Any:
    for node in [nodes[asked]] if asked else voters_that_run(nodes):
        status, told = node.get(f"/v1/jobs/{job}")
        if status == 200:
            return told
    return {"state": "unknown", "detail": ""}


def voters_that_run(nodes: Processes) -> list[Process]:
    """n4 may be stopped, and then answers nothing."""
    return [node for node in nodes.running() if node.name in VOTERS]


def shard_of(nodes: Processes, table: str) -> Any:
    for node in voters_that_run(nodes):
        status, told = node.get("/v1/cluster/shards")
        if status == 200:
            return next(s for s in told["shards"] if s["table"] == table)
    return {"copies": [], "in_sync": []}


def holders(nodes: Processes, table: str) -> set[str]:
    return {copy["node"] for copy in shard_of(nodes, table)["copies"]}


def tables_on_disks(nodes: Processes) -> set[str]:
    """By uuid."""
    return {path.name for path in nodes.folder.glob("n?-data/tables/*")}


def in_sync(nodes: Processes, table: str) -> set[str]:
    return set(shard_of(nodes, table)["in_sync"])


def lives(nodes: Processes, name: str) -> bool:
    """Whether each voter hears a node, and metadata does not take it for dead."""
    told = [node.get("/v1/cluster/nodes")[1]["nodes"] for node in voters_that_run(nodes)]
    return all(n["alive"] for listed in told for n in listed if n["name"] == name)


def settled(nodes: Processes) -> None:
    """Wait until a change that is made now is known to every voter: so are all before it."""
    nodes.write("CREATE VIEW last AS SELECT 1 AS one")
    for node in voters_that_run(nodes):
        knows = lambda node=node: node.sql("SELECT one FROM last")[0] == 200  # noqa: E731
        wait_for(knows, f"{node.name} knows the last view", PATIENCE_S)
