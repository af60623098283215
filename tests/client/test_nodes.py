"""Several nodes: reads in turn, writes to the leader, a dead one left alone; with a fake clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

import nearql
from nearql.client import errors, http, nodes
from nearql.client.network import Address
from nearql.client.nodes import OPEN_FIRST, OPEN_LONGEST, Nodes
from support.clients import Connect
from support.scripted_server import (
    HANG_UP,
    Received,
    Reply,
    ScriptedServer,
    problem,
    rows,
    stored,
)
from support.scripted_server import (
    http as answered,
)

A, B, C = (Address.parse(f"http://{name}:1") for name in "abc")


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def made(clock: Clock, *addresses: Address) -> Nodes:
    return Nodes(addresses or (A, B, C), clock, jitter=lambda: 1.0)


def reads(chosen: Nodes, count: int) -> Counter[Address]:
    return Counter(chosen.choose(writes=False) for _ in range(count))


# ---- choosing -------------------------------------------------------------------------------


def test_reads_take_turns(clock: Clock) -> None:
    assert reads(made(clock), 30) == {A: 10, B: 10, C: 10}


def test_writes_go_to_the_leader_once_it_is_known(clock: Clock) -> None:
    chosen = made(clock)
    chosen.leader = B
    assert {chosen.choose(writes=True) for _ in range(5)} == {B}
    assert chosen.choose(writes=True, tried={B}) != B
    chosen.failed(B)
    assert chosen.leader is None


def test_what_was_tried_comes_last(clock: Clock) -> None:
    chosen = made(clock)
    assert {chosen.choose(writes=False, tried={A, C}) for _ in range(5)} == {B}
    assert chosen.choose(writes=False, tried={A, B, C}) in (A, B, C)
    assert chosen.has_other({A})
    assert not chosen.has_other({A, B, C})


def test_a_dead_node_is_left_alone_and_tried_again_by_one_call(clock: Clock) -> None:
    chosen = made(clock)
    chosen.failed(A)
    assert reads(chosen, 20)[A] == 0
    clock.now += OPEN_FIRST
    assert reads(chosen, 20)[A] == 1
    chosen.answered(A)
    assert reads(chosen, 30)[A] == 10


def test_the_time_doubles_up_to_a_limit(clock: Clock) -> None:
    chosen = made(clock, A, B)
    waited = []
    for _ in range(9):
        chosen.failed(A)
        began = clock.now
        while reads(chosen, 2)[A] == 0:
            clock.now += OPEN_FIRST
        waited.append(clock.now - began)
    assert waited[:4] == [0.5, 1.0, 2.0, 4.0]
    assert waited[-1] == OPEN_LONGEST


def test_there_is_always_a_choice(clock: Clock) -> None:
    chosen = made(clock)
    for address in (A, B, C):
        chosen.failed(address)
        clock.now += 0.01
    assert chosen.choose(writes=False) == A  # its time is over first
    alone = made(clock, A)
    alone.failed(A)
    assert alone.choose(writes=False) == A


def test_a_node_given_twice_is_one(clock: Clock) -> None:
    assert made(clock, A, A).addresses == (A,)


# ---- what nodes tell of each other ----------------------------------------------------------


def told(*urls: str) -> str:
    return ", ".join(urls)


def test_a_nodes_address_is_enough_to_know_all(clock: Clock) -> None:
    chosen = made(clock, A)
    chosen.learn(told("http://a:1", "http://b:1", "http://c:1"))
    assert reads(chosen, 30) == {A: 10, B: 10, C: 10}
    assert chosen.given == (A,)
    chosen.learn(told("http://a:1", "http://c:1"))
    assert reads(chosen, 30) == {A: 15, C: 15}


def test_localhost_is_how_one_says_127_0_0_1(clock: Clock) -> None:
    near, other = Address.parse("http://localhost:8470"), Address.parse("http://127.0.0.1:8480")
    chosen = made(clock, near)
    chosen.learn(told("http://127.0.0.1:8470", "http://127.0.0.1:8480"))
    assert reads(chosen, 4) == {near: 2, other: 2}


def test_behind_a_balancer_its_address_stays_the_only_one(clock: Clock) -> None:
    chosen = made(clock, Address.parse("http://balancer:80"))
    chosen.learn(told("http://a:1", "http://b:1"))
    assert chosen.addresses == chosen.given
    assert chosen.is_cluster


def test_no_token_travels_unencrypted_to_a_node_that_was_told(clock: Clock) -> None:
    chosen = made(clock, Address.parse("https://a:1"))
    chosen.learn(told("https://a:1", "http://b:1", "https://c:1", "nonsense"))
    assert set(chosen.addresses) == {Address.parse("https://a:1"), Address.parse("https://c:1")}


# ---- a fake cluster -------------------------------------------------------------------------


class Cluster:
    """Three nodes; the first leads, the others redirect writes to it."""

    def __init__(self) -> None:
        self.nodes = [ScriptedServer(partial(self._answer, i)) for i in range(3)]
        self.dead: set[int] = set()
        self.leader = 0
        self.unknown = 0  # how many writes are answered that their outcome is not known
        self.tells = False  # redirects name all nodes
        self.leaderless = 0  # how many are refused, for a node is being replaced

    def _answer(self, number: int, received: Received) -> Reply:
        if number in self.dead:
            return HANG_UP
        write = received.target.startswith("/v1/tables") or b"INSERT" in received.body
        if write and number != self.leader:
            told: dict[str, Any] = {"NearQL_Nodes": ", ".join(self.urls)} if self.tells else {}
            return answered(307, location=self.nodes[self.leader].url + received.target, **told)
        if write and self.leaderless:
            self.leaderless -= 1
            return problem(503, "no_primary", retryable=True, definite=True)
        if write and self.unknown:
            self.unknown -= 1
            return problem(504, "write_unknown", retryable=True, definite=False)
        return stored(received) if received.target.startswith("/v1/tables") else rows()

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes]

    def counts(self) -> list[int]:
        return [len(node.received) for node in self.nodes]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr(http, "PAUSE_FIRST", 0.001)
    monkeypatch.setattr(nodes, "OPEN_FIRST", 1000.0)  # no circuit closes while a test runs
    monkeypatch.setattr(nodes, "OPEN_LONGEST", 1000.0)
    made = Cluster()
    with made.nodes[0], made.nodes[1], made.nodes[2]:
        yield made


def test_reads_are_spread(cluster: Cluster, connect: Connect) -> None:
    with connect(cluster.urls) as db:
        for _ in range(9):
            db.sql("SELECT 1")
    assert cluster.counts() == [3, 3, 3]


def test_a_list_and_commas_are_the_same(cluster: Cluster) -> None:
    with nearql.connect(",".join(cluster.urls)) as db:
        assert db.transport.name == ", ".join(cluster.urls)
        for _ in range(3):
            db.sql("SELECT 1")
    assert cluster.counts() == [1, 1, 1]


def test_writes_find_the_leader_and_keep_the_token(cluster: Cluster, connect: Connect) -> None:
    cluster.tells = True
    with connect(cluster.urls[1:], token="t0ken") as db:  # the leader is not among them
        for i in range(4):
            db.sql("INSERT INTO t VALUES ($1)", i)
        db.insert("t", {"id": [1]})
    assert cluster.counts()[0] == 5
    assert sum(cluster.counts()[1:]) == 1  # it was redirected once
    for node in cluster.nodes:
        assert {r.headers["authorization"] for r in node.received} <= {"Bearer t0ken"}


def test_a_dead_node_costs_one_attempt(cluster: Cluster, connect: Connect) -> None:
    cluster.dead = {1}
    with connect(cluster.urls) as db:
        for _ in range(12):
            assert db.sql("SELECT 1").fetchall() == [(1,)]
    assert cluster.counts()[1] == 1


def test_a_failover_of_the_leader(cluster: Cluster, connect: Connect) -> None:
    with connect(cluster.urls) as db:
        db.sql("INSERT INTO t VALUES (1)")
        cluster.dead, cluster.leader = {0}, 2
        assert db.insert("t", {"id": [2]}).inserted == 1
    batches = [r for node in cluster.nodes for r in node.received if b"INSERT" not in r.body]
    ids = [r.headers["nearql-request-id"] for r in batches]
    assert len(set(ids)) == 1  # every attempt of the batch under one id


def test_an_unknown_outcome_is_asked_for_again_under_its_id(
    cluster: Cluster, connect: Connect
) -> None:
    cluster.unknown = 2
    with connect(cluster.urls) as db:
        assert db.insert("t", {"id": [2]}).inserted == 1
    ids = [r.headers["nearql-request-id"] for node in cluster.nodes for r in node.received]
    assert len(set(ids)) == 1


def test_an_outcome_that_stays_unknown_is_raised_as_such(
    cluster: Cluster, connect: Connect
) -> None:
    cluster.unknown = 100
    with connect(cluster.urls, retries=2) as db, pytest.raises(errors.WriteUnknown) as told:
        db.sql("INSERT INTO t VALUES (1)")
    assert not told.value.definite


def test_a_cluster_gets_more_time_to_replace_a_node(cluster: Cluster, connect: Connect) -> None:
    cluster.leaderless = 9
    with connect(cluster.urls, retries=1) as db:
        assert isinstance(db.transport, http.HttpTransport)
        db.transport.nodes.is_cluster = True
        db.sql("INSERT INTO t VALUES (1)")
    cluster.leaderless = 9
    with connect(cluster.urls, retries=1) as db, pytest.raises(errors.Unavailable):
        db.sql("INSERT INTO t VALUES (1)")


def test_a_refusing_node_is_left_for_another(connect: Connect) -> None:
    busy = problem(503, "no_leader", retryable=True, definite=True)
    one, two = ScriptedServer(lambda _: busy), ScriptedServer(lambda _: rows())
    with one, two, connect([one.url, two.url]) as db:
        for _ in range(4):
            assert db.sql("SELECT 1").fetchall() == [(1,)]


def test_all_dead_names_each(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "PAUSE_FIRST", 0.001)
    with (
        connect(["http://127.0.0.1:1", "http://127.0.0.1:2"], retries=3) as db,
        pytest.raises(errors.ConnectionFailed) as told,
    ):
        db.sql("SELECT 1")
    assert "No NearQL node answers (tried 4 times)" in str(told.value)
    assert "http://127.0.0.1:1: connection refused" in str(told.value)
    assert "http://127.0.0.1:2: connection refused" in str(told.value)


def test_an_unknown_outcome_has_the_request_id(cluster: Cluster, connect: Connect) -> None:
    cluster.dead = {0, 1, 2}
    with (
        connect(cluster.urls, retries=2) as db,
        pytest.raises(errors.OutcomeUnknown, match="may or may not have happened") as told,
    ):
        db.sql("INSERT INTO t VALUES (1)")
    sent = {r.headers["nearql-request-id"] for node in cluster.nodes for r in node.received}
    assert sent == {told.value.request_id}
    assert not told.value.definite


# ---- who is not let in ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (None, r"http://.*: unauthenticated happened\. This connection brings none: give connect"),
        ("wrong", r"http://.*: unauthenticated happened\. Check the token that this connection"),
    ],
)
def test_a_missing_and_a_wrong_token(connect: Connect, token: str | None, said: str) -> None:
    node = ScriptedServer(lambda _: problem(401, "unauthenticated"))
    with node, connect(node.url, token=token) as db:
        with pytest.raises(errors.Unauthenticated, match=said) as told:
            db.sql("SELECT 1")
        with pytest.raises(errors.Unauthenticated, match=said):
            db.stream("SELECT 1")
    assert "wrong" not in str(told.value)
