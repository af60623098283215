"""Three real processes from empty disks: whoever dies, nothing acknowledged is lost; every change
of metadata is an entry in all three logs.
"""

from __future__ import annotations

import random
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from nearql.cluster.metadata.codec import decode_command
from nearql.cluster.metadata.raft.journal import RaftJournal
from nearql.cluster.metadata.raft.member import BARRIER
from nearql.cluster.metadata.raft.messages import REGULAR
from nearql.engine.storage.files import LocalFileSystem
from support.cluster_processes import PATIENCE_S, Process, Processes, cluster
from support.metadata_changes import BY_ITSELF, ROUTES, STATEMENTS
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


def test_every_change_of_metadata_is_in_all_three_logs(nodes: Processes) -> None:
    """Whatever support.metadata_changes lists; the deaths of the test before are among them."""
    nodes.write("CREATE TABLE kept (id BIGINT PRIMARY KEY)")
    wanted = set(BY_ITSELF)
    for statement, _, commands in STATEMENTS:
        nodes.write(statement)
        wanted |= set(commands)
    for route in ROUTES:
        wanted |= set(ROUTES[route])
    asked = {*ask_about_keys(nodes), *ask_for_sessions(nodes), *ask_of_operators(nodes)}
    assert asked == ROUTES.keys()
    settled(nodes)
    nodes.stop()
    logs = {name: operations(nodes.folder / f"{name}-data" / "metadata" / "log") for name in NAMES}
    for name, found in logs.items():
        assert wanted <= set(found), (name, wanted - set(found))
    shortest = min(map(len, logs.values()))
    assert len({tuple(found[:shortest]) for found in logs.values()}) == 1


Asked = Iterator[tuple[str, str]]


def ask(node: Process, method: str, path: str, body: Any = None, **options: Any) -> Any:
    """A request that must succeed."""
    status, answer = node.request(method, path, body, **options)
    assert 200 <= status < 300, (method, path, status, answer)
    return answer


def ask_about_keys(nodes: Processes) -> Asked:
    made = ask(nodes["n2"], "POST", "/v1/keys", {"user": "bob", "role": "reader"})
    yield "POST", "/v1/keys"
    ask(nodes["n3"], "POST", f"/v1/keys/{made['id']}/rotate", {})
    yield "POST", "/v1/keys/{key}/rotate"
    ask(nodes["n1"], "DELETE", f"/v1/keys/{made['id']}")
    yield "DELETE", "/v1/keys/{key}"
    ask(nodes["n1"], "POST", "/v1/revocations", {"subject": "mallory"})
    yield "POST", "/v1/revocations"


def ask_for_sessions(nodes: Processes) -> Asked:
    token = ask(nodes["n2"], "POST", "/v1/login", {})["token"]
    yield "POST", "/v1/login"
    ask(nodes["n3"], "DELETE", "/v1/login", headers={"Authorization": f"Bearer {token}"})
    yield "DELETE", "/v1/login"


def ask_of_operators(nodes: Processes) -> Asked:
    assert ask(nodes["n2"], "POST", "/v1/cluster/tokens", {})["token"]
    yield "POST", "/v1/cluster/tokens"
    job = ask(nodes["n1"], "POST", "/v1/cluster/failover", {"table": "kept"})["job"]
    wait_for(lambda: job_of(nodes, job)["state"] == "done", "the failover", PATIENCE_S)
    yield "POST", "/v1/cluster/failover"
    job = ask(nodes["n3"], "POST", "/v1/cluster/drain", {"node": "n3"})["job"]
    wait_for(lambda: bool(job_of(nodes, job)["detail"]), "what it waits for", PATIENCE_S)
    yield "POST", "/v1/cluster/drain"  # three copies on three nodes: it waits for a fourth
    ask(nodes["n1"], "DELETE", f"/v1/jobs/{job}")
    yield "DELETE", "/v1/jobs/{job}"


def job_of(nodes: Processes, name: str) -> Any:
    """A job as a node tells it."""
    return ask(nodes["n2"], "GET", f"/v1/jobs/{name}")


NAMES = ("n1", "n2", "n3")


def settled(nodes: Processes) -> None:
    """Wait until a change that is made now is known to every node: so are all before it."""
    nodes.write("CREATE VIEW last AS SELECT 1 AS one")
    for node in nodes.running():
        knows = lambda node=node: node.sql("SELECT one FROM last")[0] == 200  # noqa: E731
        wait_for(knows, f"{node.name} knows the last view", PATIENCE_S)


def operations(path: Path) -> list[str]:
    """The commands in a log, by name and in order."""
    journal = RaftJournal(path, LocalFileSystem(), _fail)
    commands = [entry.command for entry in journal.entries if entry.command[0] == REGULAR]
    journal.close()
    return [type(decode_command(c[1:])).__name__ for c in commands if c[1:] != BARRIER]


def _fail(reason: str) -> NoReturn:
    pytest.fail(reason)
