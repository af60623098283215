"""Copies go where operators send them, while rows are written: four real processes.

n1 to n3 vote; n4 joined with a token. A writer inserts numbers all the time and repeats what was
not answered under the same request id: at the end every number that was answered is there once, on
every copy.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.cluster_jobs import JOB_S, Writer, copies, ended, job, started
from support.cluster_processes import PATIENCE_S, Process, Processes
from support.waiting import wait_for

pytestmark = pytest.mark.chaos


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Four nodes that run."""
    folder = tmp_path_factory.mktemp("moves")
    processes = Processes(folder, 4, voters=3)
    try:
        processes.start("n1", "n2", "n3")
        status, made = processes["n1"].request("POST", "/v1/cluster/tokens", {})
        assert status == 200, made
        (folder / "token").write_text(made["token"])
        config = yaml.safe_load(processes["n4"].config.read_text())
        config["cluster"]["join_token_file"] = str(folder / "token")
        processes["n4"].config.write_text(yaml.safe_dump(config))
        processes.start("n4")
        yield processes
    finally:
        processes.stop()


def create(nodes: Processes, table: str, replicas: int = 2, shards: int = 2) -> None:
    nodes.write(
        f"CREATE TABLE {table} (id BIGINT PRIMARY KEY, title TEXT, vec VECTOR(2)) "
        f"WITH (shards = {shards}, replicas = {replicas})"
    )


def all_there(nodes: Processes, table: str, writer: Writer) -> None:
    """Every copy shows each row that was answered, once."""
    assert not writer.errors, writer.errors
    wanted = {str(number) for number in writer.answered}
    settings = {"read_level": "linearizable"}
    found: list[Any] = []

    def read() -> bool:
        for node in nodes.running():
            status, told = node.sql(f"SELECT id FROM {table}", settings=settings)
            if status == 200:
                found[:] = [str(row[0]) for row in told["rows"]]
                return True
        return False

    wait_for(read, "a linearizable read", PATIENCE_S)
    assert len(found) == len(set(found))
    assert wanted <= set(found)


def other(nodes: Processes, taken: set[str]) -> str:
    return min(set(nodes.nodes) - taken)


def primary(nodes: Processes, table: str) -> Process:
    found: list[str] = []

    def known() -> bool:
        found[:] = [name for name in [nodes.primary(table)] if name and name != "None"]
        return bool(found)

    wait_for(known, f"a primary of {table}", PATIENCE_S)
    return nodes[found[0]]


def test_the_primary_moves_to_another_node_while_rows_are_written(nodes: Processes) -> None:
    create(nodes, "moved")
    with Writer(nodes, "moved") as writer:
        writer.written(20)
        before = copies(nodes, "moved")
        source, target = primary(nodes, "moved").name, other(nodes, before)
        name = started(nodes, "move", table="moved", **{"from": source, "to": target})
        told = ended(nodes, name)
        writer.written(20)
    assert told["state"] == "done", told
    assert copies(nodes, "moved") == before - {source} | {target}
    all_there(nodes, "moved", writer)


def test_a_drain_survives_the_death_of_everybody_who_takes_part(nodes: Processes) -> None:
    create(nodes, "drained")
    with Writer(nodes, "drained") as writer:
        writer.written(10)
        source = primary(nodes, "drained").name
        name = started(nodes, "drain", node=source)
        for victim in (nodes.leader(), other(nodes, copies(nodes, "drained")), source):
            nodes[victim].kill()
            nodes.start(victim)
        told = ended(nodes, name)
        writer.written(10)
    assert told["state"] == "done", told
    assert source not in copies(nodes, "drained")
    all_there(nodes, "drained", writer)
    assert job(nodes, started(nodes, "drain", node=source, cancel=True))["kind"] == "drain"


def test_a_switchover_moves_the_primary_and_loses_nothing(nodes: Processes) -> None:
    create(nodes, "switched", replicas=3)
    with Writer(nodes, "switched") as writer:
        writer.written(10)
        source = primary(nodes, "switched").name
        target = min(copies(nodes, "switched") - {source})
        told = ended(nodes, started(nodes, "failover", table="switched", to=target))
        writer.written(10)
    assert told["state"] == "done", told
    assert primary(nodes, "switched").name == target
    all_there(nodes, "switched", writer)


def test_copies_are_compared_and_their_number_changes_while_rows_are_written(
    nodes: Processes,
) -> None:
    create(nodes, "counted", replicas=2)
    with Writer(nodes, "counted") as writer:
        writer.written(10)

        def checked() -> bool:
            rows = nodes.write("CHECK TABLE counted")["rows"]
            states = {row[3] for row in rows}
            assert states <= {"ok", "unknown"}, rows  # unknown: a starved copy is not in sync
            return len(rows) == 4 and states == {"ok"}

        wait_for(checked, "four copies that hold the same", PATIENCE_S)
        for replicas in (4, 1):
            told = nodes.write(f"ALTER TABLE counted SET (replicas = {replicas})")
            name = told["notices"][0].split()[1]
            assert ended(nodes, name)["state"] == "done"
            assert len(copies(nodes, "counted")) == replicas
            writer.written(10)
    all_there(nodes, "counted", writer)


def test_a_rebalance_spreads_copies_while_rows_are_written(nodes: Processes) -> None:
    for number in range(3):
        create(nodes, f"spread{number}")
    with Writer(nodes, "spread0") as writer:
        writer.written(5)
        told = ended(nodes, started(nodes, "rebalance"))
        writer.written(5)
    assert told["state"] == "done", told
    assert all(len(copies(nodes, f"spread{number}")) == 2 for number in range(3))
    all_there(nodes, "spread0", writer)


def test_a_node_that_stays_away_is_replaced(tmp_path: Path) -> None:
    processes = Processes(tmp_path, 3, voters=3, cluster={"replace_after_s": 2})
    try:
        processes.start()
        create(processes, "kept")
        with Writer(processes, "kept") as writer:
            writer.written(10)
            dead = primary(processes, "kept")
            before = copies(processes, "kept")
            dead.stop(signal.SIGKILL)
            wanted = before - {dead.name} | {other(processes, before)}
            wait_for(lambda: copies(processes, "kept") == wanted, "the copy is made anew", JOB_S)
            writer.written(10)
        all_there(processes, "kept", writer)
    finally:
        processes.stop()
