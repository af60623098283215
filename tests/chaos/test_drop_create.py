"""A table is made and dropped again and again under one name, while nodes are killed at any step:
what was dropped never comes back, what was made stays, and no files are left that nobody owns.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.cluster_processes import PATIENCE_S, Process, Processes, cluster
from support.waiting import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]
ROUNDS = int(os.environ.get("NEARQL_DROP_ROUNDS", "2"))
CREATE = "CREATE TABLE IF NOT EXISTS d (id BIGINT PRIMARY KEY, vec VECTOR(2)) WITH (shards = 2)"
DROP = "DROP TABLE IF EXISTS d"


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Processes]:
    with cluster(tmp_path) as started:
        yield started


def test_what_is_dropped_stays_dropped_and_what_is_made_stays(nodes: Processes) -> None:
    chance = random.Random(9)
    for number in range(ROUNDS):
        killed_meanwhile(nodes, CREATE, victim(nodes, number), chance)
        rows = [[number * 100 + at] for at in range(20)]
        listed = ", ".join(f"({row[0]}, '[1,2]')" for row in rows)
        nodes.write(
            f"INSERT INTO d VALUES {listed}", f"00000000-0000-4000-8000-00000000000d:{number}"
        )
        for node in nodes.nodes.values():  # those of no table of this name before it
            shown = lambda node=node, rows=rows: ids(node) == rows  # noqa: E731
            wait_for(shown, f"{node.name} shows the rows of round {number}", PATIENCE_S)
        killed_meanwhile(nodes, DROP, victim(nodes, number + 1), chance)
        for node in nodes.nodes.values():
            wait_for(lambda node=node: ids(node) == [], f"{node.name} has no table", PATIENCE_S)  # type: ignore[misc]
    nodes.write("CREATE TABLE last (id BIGINT PRIMARY KEY)")
    wait_for(lambda: all(len(tables(nodes, name)) == 1 for name in nodes.nodes), "no orphans",
             PATIENCE_S)  # fmt: skip
    assert len({*map(str, (tables(nodes, name) for name in nodes.nodes))}) == 1


def victim(nodes: Processes, number: int) -> str:
    """The one that leads, another voter, or whoever is first in line."""
    leader = nodes.leader()
    others = sorted(nodes.nodes.keys() - {leader})
    return [leader, *others][number % 3]


def killed_meanwhile(nodes: Processes, text: str, name: str, chance: random.Random) -> None:
    """A statement that is repeated until some node answers 200; a node is killed at some step of it
    and started again.
    """
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            nodes.write(text)
        except AssertionError as error:
            failed.append(error)

    asking = threading.Thread(target=ask)
    pause = threading.Event()
    asking.start()
    pause.wait(chance.uniform(0.0, 0.2))  # at any step: none is waited for
    nodes[name].kill()
    asking.join()
    assert not failed, failed
    nodes.start(name)


def ids(node: Process) -> list[Any] | None:
    """What this node shows of the table, [] where there is none; None where it does not answer."""
    status, answer = node.sql("SELECT id FROM d ORDER BY id", settings={"read_level": "any"})
    if status == 404:
        return []
    return list(answer["rows"]) if status == 200 else None


def tables(nodes: Processes, name: str) -> list[str]:
    """The folders of tables on a node's disk."""
    return sorted(path.name for path in (nodes.folder / f"{name}-data" / "tables").iterdir())
