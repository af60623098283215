"""What a node says of its cluster, over metadata that is told what to say."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from nearql.cluster.cluster import ALIVE_S, Cluster
from nearql.cluster.metadata import commands as c
from nearql.cluster.metadata import nodes as n
from nearql.cluster.metadata import state as s
from nearql.engine.errors import Conflict
from support.doc_pages import ROOT, tables_below


@pytest.fixture
def cluster() -> Cluster:
    """As of node a; a and b vote, c does not; b leads, and a does not hear c."""
    state = s.Metadata()
    for name, voter in (("a", True), ("b", True), ("c", False)):
        command = c.RegisterNode(
            request_id=name, node_id=f"id-{name}", name=name, url=f"http://{name}", voter=voter
        )
        state, _ = s.apply(state, command)
    status = {"leader": "b", "term": 3, "log_bytes": 9, "links_up": ["b"], "refused": {"tls": 2}}
    metadata: Any = SimpleNamespace(
        node_id="id-a", state=state, status=status, ticking=True, leading=False, restarts=1,
        refused_registrations={}, clock=SimpleNamespace(jumps=0),
    )  # fmt: skip
    made = Cluster.__new__(Cluster)
    made.metadata, made.hears = metadata, lambda: {"id-b": 0.25, "id-c": 9.0}
    made.decided = Counter({"Promote": 4})
    return made


def test_everybody_by_name_with_part_and_life(cluster: Cluster) -> None:
    told = {node.name: (node.role, node.alive, node.last_seen_ms) for node in cluster.nodes()}
    assert told == {
        "a": ("follower", True, 0), "b": ("leader", True, 250), "c": ("member", False, 9000),
    }  # fmt: skip
    assert cluster.alive() == {"id-a", "id-b"}
    leader = cluster.leader()
    assert leader is not None
    assert (leader.name, leader.url) == ("b", "http://b")


def test_nobody_leads_while_the_metadata_may_be_old(cluster: Cluster) -> None:
    cluster.metadata.ticking = False  # type: ignore[misc]
    assert cluster.leader() is None


def test_the_fenced_do_not_live_whoever_hears_them(cluster: Cluster) -> None:
    fence = n.FenceNode(request_id="f", node_id="id-b", incarnation=1)
    cluster.metadata.state, _ = s.apply(cluster.metadata.state, fence)  # type: ignore[misc]
    assert cluster.alive() == {"id-a"}


def test_a_voter_that_runs_can_not_leave(cluster: Cluster) -> None:
    asked: list[c.Command] = []

    def agree(command: c.Command, *, timeout_ms: int = 0) -> c.Result:
        asked.append(command)
        return c.Result()

    cluster.metadata.propose = agree  # type: ignore[method-assign]
    for name in ("a", "b"):  # itself, and one that is heard
        with pytest.raises(Conflict, match="stop it") as told:
            cluster.remove(name)
        assert told.value.code == "voter_runs"
    assert not asked
    cluster.hears = lambda: {"id-b": ALIVE_S, "id-c": 0.0}
    for name in ("b", "c"):  # silent, or no voter
        cluster.remove(name)
    assert [getattr(command, "node_id", "") for command in asked] == ["id-b", "id-c"]


def test_what_is_counted_is_on_the_page(cluster: Cluster) -> None:
    page = ROOT / "docs" / "operating.md"
    listed = {row[0].strip("`"): row[1] for row in tables_below(page, "### Metrics of agreement")}
    counted = {
        f"nearql_{name}_total" if is_total else f"nearql_{name}": (value, is_total)
        for name, _, value, is_total in cluster.counts()
    }
    assert listed == {name: "counter" if t else "gauge" for name, (_, t) in counted.items()}
    assert counted["nearql_metadata_refused_connections_total"][0] == 2
    assert counted["nearql_controller_promotions_total"][0] == 4
    assert counted["nearql_metadata_links"][0] == 1
