"""Three real processes from empty disks: whoever dies, nothing acknowledged is lost."""

from __future__ import annotations

import os
import random
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.cluster_processes import PATIENCE_S, Process, Processes, cluster
from support.waiting import wait_for

pytestmark = pytest.mark.chaos
RAFT = {"election_timeout_ms": [1000, 2500]}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with cluster(tmp_path_factory.mktemp("cluster"), raft=RAFT) as started:
        yield started


def rows_on(node: Process, table: str) -> list[Any] | None:
    """What this very node shows; None where it does not answer."""
    status, answer = node.sql(
        f"SELECT id, t, vec FROM {table} ORDER BY id", settings={"read_level": "any"}
    )
    return list(answer["rows"]) if status == 200 else None


def all_show(nodes: Processes, table: str, expected: list[Any]) -> None:
    """Wait until each node that runs shows exactly these rows."""
    for node in nodes.running():
        shown = lambda node=node: rows_on(node, table) == expected  # noqa: E731
        wait_for(shown, f"{node.name} shows all {len(expected)} rows", PATIENCE_S)


def insert(nodes: Processes, table: str, ids: range) -> list[Any]:
    """Rows that a majority has when this returns; each is sent under one request id."""
    made = []
    for number in ids:
        made.append([number, f"t{number}", [float(number), 1.0]])
        request_id = f"{uuid.uuid4()}:1"
        statement = f"INSERT INTO {table} VALUES ({number}, 't{number}', '[{number},1]')"
        assert nodes.write(statement, request_id)["row_count"] == 1
    return made


def test_what_a_majority_has_survives_the_primary_the_leader_and_all(nodes: Processes) -> None:
    nodes.write("CREATE TABLE docs (id BIGINT PRIMARY KEY, t TEXT, vec VECTOR(2))")
    rows = insert(nodes, "docs", range(10))
    all_show(nodes, "docs", rows)
    dead = {nodes.leader(), nodes.primary("docs")}
    assert None not in dead
    for name in sorted(dead, key=str)[:1]:
        nodes[str(name)].kill()
        rows += insert(nodes, "docs", range(10, 20))
        assert nodes.primary("docs") != name
        nodes.start(str(name))
    all_show(nodes, "docs", rows)
    for node in nodes.nodes.values():
        node.send(signal.SIGKILL)
    for node in nodes.nodes.values():
        node.stop()
    nodes.start()
    rows += insert(nodes, "docs", range(20, 25))
    all_show(nodes, "docs", rows)
    found = nodes["n1"].sql("SELECT id FROM docs ORDER BY vec <-> '[7,1]' LIMIT 1")
    assert found[1]["rows"] == [[7]]


def test_a_search_over_several_shards_is_exact_on_every_node(nodes: Processes) -> None:
    """Also for the one nearest row, which lies in one shard of four."""
    nodes.write(
        "CREATE TABLE many (id BIGINT PRIMARY KEY, t TEXT, vec VECTOR(2)) WITH (shards = 4)"
    )
    chance = random.Random(6)
    points = {key: [chance.randint(-99, 99), chance.randint(-99, 99)] for key in range(300)}
    values = ", ".join(f"({key}, 'x', '{point}')" for key, point in points.items())
    nodes.write(f"INSERT INTO many VALUES {values}", f"{uuid.uuid4()}:1")
    all_show(nodes, "many", [[key, "x", [float(x), float(y)]] for key, (x, y) in points.items()])
    for k in (1, 1, 1, 7, 299):
        x, y = chance.randint(-120, 120), chance.randint(-120, 120)
        far = {key: (a - x) ** 2 + (b - y) ** 2 for key, (a, b) in points.items()}
        nearest = sorted(points, key=lambda key: (far[key], key))[:k]
        for node in nodes.running():
            text = f"SELECT id FROM many ORDER BY vec <-> '[{x},{y}]', id LIMIT {k}"
            status, answer = node.sql(text, settings={"read_level": "any"})
            assert (status, answer["rows"]) == (200, [[key] for key in nearest])


def changes(chance: random.Random) -> Iterator[str]:
    """A stream of all that changes rows, columns and indexes of table `stream`."""
    for step in range(48):
        low = chance.randrange(200)
        rows = ", ".join(
            f"({key}, {chance.randrange(9)}, '[{key % 7}, {step}]')" for key in range(low, low + 20)
        )
        insert = f"INSERT INTO stream (id, n, vec) VALUES {rows}"
        copied = f"INSERT INTO stream (id, n) SELECT id + 1000, n FROM stream WHERE id < {low}"
        added = "ON CONFLICT (id) DO UPDATE SET n = stream.n + EXCLUDED.n"
        texts = {
            "insert": [f"{insert} ON CONFLICT (id) DO NOTHING"],
            "upsert": [f"{insert} {added}, vec = EXCLUDED.vec"],
            "copy": [f"{copied} {added}"],
            "update": [f"UPDATE stream SET n = n * 3 - id WHERE id % 5 = {step % 5}"],
            "delete": [f"DELETE FROM stream WHERE id BETWEEN {low} AND {low + 8}"],
            "truncate": ["TRUNCATE stream", insert],
            "index": [
                f"CREATE INDEX i{step} ON stream USING hnsw (vec vector_l2_ops)",
                f"DROP INDEX i{step}",
            ],
            "column": [
                f"ALTER TABLE stream ADD COLUMN c{step} TEXT",
                f"UPDATE stream SET c{step} = 'at {step}' WHERE id % 2 = 0",
            ],
        }
        yield from texts[chance.choice(sorted(texts))]


def test_any_stream_of_changes_is_the_same_on_every_node(nodes: Processes) -> None:
    nodes.write("CREATE TABLE stream (id BIGINT PRIMARY KEY, n BIGINT, vec VECTOR(2))")
    made = 0
    for text in changes(random.Random(8)):
        nodes.write(text, f"{uuid.uuid4()}:1")
        made += 1
    assert made > 48
    settings = {"read_level": "any"}

    def shown(node: Process) -> Any:
        status, answer = node.sql("SELECT * FROM stream ORDER BY id", settings=settings)
        return (answer["columns"], answer["rows"]) if status == 200 else None

    first = nodes.running()[0]
    wait_for(
        lambda: shown(first) is not None and all(shown(n) == shown(first) for n in nodes.running()),
        "all nodes show the same", PATIENCE_S,
    )  # fmt: skip
    assert shown(first)[1]


def test_a_primary_whose_voter_is_silent_takes_no_writes(nodes: Processes) -> None:
    """Whichever node is asked; it may have been replaced without knowing."""
    nodes.write("CREATE TABLE quiet (id BIGINT PRIMARY KEY)")
    nodes.write("INSERT INTO quiet VALUES (1)")
    primary = nodes[str(nodes.primary("quiet"))]
    voter = sidecar_of(primary)
    os.kill(voter, signal.SIGSTOP)
    try:
        stale = lambda: "metadata_stale" in str(primary.get("/readyz")[1])  # noqa: E731
        wait_for(stale, "two seconds without a tick", PATIENCE_S)
        for number, node in enumerate(nodes.running(), 2):
            status, answer = node.sql(f"INSERT INTO quiet VALUES ({number})")
            assert (status, answer["definite"]) == (503, True), answer
    finally:
        os.kill(voter, signal.SIGCONT)
    nodes.write("INSERT INTO quiet VALUES (9)")
    all_show_ids(nodes, [1, 9])


def sidecar_of(node: Process) -> int:
    """The process id of a node's voter."""
    children = Path(f"/proc/{node.pid}/task").glob("*/children")
    pids = [int(pid) for path in children for pid in path.read_text().split()]
    (found,) = (p for p in pids if "raft.sidecar" in Path(f"/proc/{p}/cmdline").read_text())
    return found


def all_show_ids(nodes: Processes, expected: list[int]) -> None:
    text, settings = "SELECT id FROM quiet ORDER BY id", {"read_level": "any"}
    for node in nodes.running():
        shown = lambda node=node: (  # noqa: E731
            node.sql(text, settings=settings)[1].get("rows") == [[n] for n in expected]
        )
        wait_for(shown, f"{node.name} shows {expected}", PATIENCE_S)
