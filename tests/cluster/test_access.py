"""Who may do what is one thing in a cluster: taken away at one node, it is gone at all.

Real processes. A change is in the metadata's log when it is answered; the others apply it with the
leader's next message, a fraction of a second later, which is measured outside the tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.cluster_processes import PATIENCE_S, Processes, cluster
from support.secured import bearer, make_token, write_key_set
from support.waiting import wait_for

pytestmark = pytest.mark.chaos

NODES = ("n1", "n2", "n3")
NEW_SECRET = b"another secret of these tests, 32 bytes or more"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    folder = tmp_path_factory.mktemp("cluster")
    write_key_set(folder / "keys.json")
    with cluster(folder, auth={"jwt_key_file": str(folder / "keys.json")}) as started:
        for table in ("docs", "other"):
            started.write(f"CREATE TABLE {table} (id BIGINT PRIMARY KEY)")
            started.write(f"INSERT INTO {table} VALUES (1)")
        yield started


def asked(nodes: Processes, name: str, key: str, sql: str = "SELECT id FROM docs") -> int:
    """The status of a statement sent to this very node with this key."""
    return nodes[name].request("POST", "/v1/sql", {"sql": sql}, headers=bearer(key))[0]


def everywhere(nodes: Processes, key: str, status: int, sql: str = "SELECT id FROM docs") -> None:
    """Wait until all nodes answer so, each by itself."""
    wait_for(
        lambda: all(asked(nodes, name, key, sql) == status for name in NODES),
        f"each node answers {status}",
        PATIENCE_S,
    )


def made(nodes: Processes, name: str, **members: Any) -> dict[str, Any]:
    """A new key, asked for at a node."""
    status, body = nodes[name].request("POST", "/v1/keys", members)
    assert status == 200, body
    return dict(body)


@pytest.mark.parametrize("at", NODES)
def test_a_key_revoked_at_one_node_is_dead_at_all(nodes: Processes, at: str) -> None:
    """Also where it was used a moment before, and with the session that it opened."""
    made_at = NODES[NODES.index(at) - 1]
    key = made(nodes, made_at, user=f"user-of-{at}", role="reader")
    everywhere(nodes, key["key"], 200)
    status, session = nodes[made_at].request("POST", "/v1/login", headers=bearer(key["key"]))
    assert status == 200, session
    everywhere(nodes, session["token"], 200)
    assert nodes[at].request("DELETE", f"/v1/keys/{key['id']}")[0] == 200
    everywhere(nodes, key["key"], 401)
    everywhere(nodes, session["token"], 401)


@pytest.mark.parametrize("at", NODES)
def test_a_grant_taken_back_at_one_node_holds_at_none(nodes: Processes, at: str) -> None:
    key = made(nodes, at, user=f"granted-at-{at}", role="none")["key"]
    everywhere(nodes, key, 403)
    assert nodes[at].sql(f'GRANT SELECT ON docs TO "granted-at-{at}"')[0] == 200
    everywhere(nodes, key, 200)
    everywhere(nodes, key, 403, "SELECT id FROM other")
    assert nodes[at].sql(f'REVOKE SELECT ON docs FROM "granted-at-{at}"')[0] == 200
    everywhere(nodes, key, 403)


def test_a_user_dropped_at_one_node_is_gone_at_all(nodes: Processes) -> None:
    key = made(nodes, "n1", user="dora", role="writer")["key"]
    everywhere(nodes, key, 200)
    assert nodes["n3"].sql("DROP USER dora")[0] == 200
    everywhere(nodes, key, 401)


def test_a_key_ends_at_its_time_at_every_node(nodes: Processes) -> None:
    """None of them is asked anything: each has the time in its own metadata."""
    short = made(nodes, "n2", user="short", role="reader", expires_in_s=1)["key"]
    long = made(nodes, "n2", user="long", role="reader", expires_in_s=600)["key"]
    everywhere(nodes, short, 401)
    everywhere(nodes, long, 200)


def test_a_rotated_key_s_old_text_is_dead_at_all_without_grace(nodes: Processes) -> None:
    key = made(nodes, "n1", user="rota", role="reader")
    everywhere(nodes, key["key"], 200)
    body = {"grace_s": 0}
    status, new = nodes["n3"].request("POST", f"/v1/keys/{key['id']}/rotate", body)
    assert status == 200, new
    everywhere(nodes, key["key"], 401)
    everywhere(nodes, new["key"], 200)


def test_a_signed_token_is_one_thing_at_all_nodes(nodes: Processes) -> None:
    """Accepted by one, accepted by all; revoked at one, by its id or its subject, dead at all."""
    one, other = (make_token(role="reader", jti=name, sub=name) for name in ("one", "other"))
    everywhere(nodes, one, 200)
    everywhere(nodes, other, 200)
    everywhere(nodes, make_token(NEW_SECRET, role="admin"), 401)  # signed by somebody else
    assert nodes["n1"].request("POST", "/v1/revocations", {"jti": "one"})[0] == 200
    everywhere(nodes, one, 401)
    assert nodes["n2"].request("POST", "/v1/revocations", {"subject": "other"})[0] == 200
    everywhere(nodes, other, 401)


def test_a_new_key_set_counts_at_every_node(nodes: Processes) -> None:
    old, new = make_token(role="reader"), make_token(NEW_SECRET, role="reader")
    everywhere(nodes, old, 200)
    everywhere(nodes, new, 401)
    write_key_set(Path(nodes.folder / "keys.json"), NEW_SECRET)
    everywhere(nodes, new, 200)
    everywhere(nodes, old, 401)


def test_what_was_taken_away_stays_so_after_a_restart(nodes: Processes) -> None:
    key = made(nodes, "n1", user="gone", role="reader")
    assert nodes["n2"].request("DELETE", f"/v1/keys/{key['id']}")[0] == 200
    nodes["n3"].kill()
    nodes.start("n3")
    everywhere(nodes, key["key"], 401)
