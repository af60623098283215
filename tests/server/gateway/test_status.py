"""/v1/cluster*, nearql.shards and the metrics: true on whichever node one asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from nearql.server.gateway.metrics import ClusterMetrics
from support.cluster_edges import MakePair, Pair
from support.doc_pages import tables_below
from support.fake_cluster import CopyStatus, PeerStatus, Sync
from support.http_node import DOCS

SHARD = f"{DOCS.uuid}/0"


def told(pair: Pair) -> None:
    """n1, there, is primary at LSN 20; n2, here, has 18; n3 is silent and had 11."""
    pair.there.replication.told.shards[SHARD] = CopyStatus(
        "primary_active", commit_lsn=18, applied_lsn=18, durable_lsn=20, end_lsn=20,
        peers={"id-2": PeerStatus(17, 5), "id-3": PeerStatus(11, 900)},
    )  # fmt: skip
    pair.here.replication.told.shards[SHARD] = CopyStatus(
        "isr", commit_lsn=17, applied_lsn=17, durable_lsn=18, end_lsn=18, fenced=3
    )


def test_every_copy_is_shown_wherever_one_asks(make_pair: MakePair) -> None:
    with make_pair(2) as pair:
        told(pair)
        shown: dict[str, Any] = pair.here.client.get("/v1/cluster").json()
        assert (shown["leader"], shown["term"], shown["moves"]) == ("n1", 7, [])
        assert [(n["name"], n["role"]) for n in shown["nodes"]] == [
            ("n1", "leader"), ("n2", "follower"), ("n3", "follower")
        ]  # fmt: skip
        [shard] = shown["shards"]
        assert (shard["table"], shard["shard"], shard["primary"]) == ("docs", 0, "n1")
        assert shard["in_sync"] == ["n1", "n2", "n3"]
        assert shard["copies"] == [
            copy("n1", 20, 0, 0),
            copy("n2", 18, 2, 5),
            copy("n3", 11, 9, 900),
        ]
        assert pair.here.client.get("/v1/cluster/shards").json()["shards"] == [shard]


def copy(node: str, lsn: int | None, lag: int | None, ms: int | None) -> dict[str, Any]:
    """One copy as /v1/cluster shows it."""
    return {"node": node, "lsn": lsn, "lag_records": lag, "lag_ms": ms}


def test_the_tables_in_sql_say_more(make_pair: MakePair) -> None:
    with make_pair(2) as pair:
        told(pair)
        shards = pair.here.node.system_table("shards")
        assert shards is not None
        assert shards["state"].to_pylist() == ["primary_active", "isr", None]
        assert shards["commit_lsn"].to_pylist() == [18, 18, 18]
        nodes = pair.here.node.system_table("nodes")
        assert nodes is not None
        assert nodes["fenced"].to_pylist() == [False, False, False]


def test_without_its_primary_a_shards_lag_is_not_known(make_pair: MakePair) -> None:
    with make_pair(2) as pair:
        told(pair)
        pair.mesh.cut.add("id-1")
        pair.metadata.change_shard(DOCS, 0, primary=None)
        [shard] = pair.here.client.get("/v1/cluster/shards").json()["shards"]
        assert shard["primary"] is None
        assert shard["copies"] == [
            copy("n1", None, None, None),
            copy("n2", 18, None, None),
            copy("n3", None, None, None),
        ]


def test_a_primary_is_never_behind_itself(make_pair: MakePair) -> None:
    with make_pair(1) as pair:
        status = CopyStatus("primary_active", durable_lsn=19, end_lsn=20)
        pair.here.replication.told.shards[SHARD] = status
        [shard] = pair.here.client.get("/v1/cluster/shards").json()["shards"]
        assert shard["copies"][0] == copy("n1", 19, 0, 0)


def test_what_an_earlier_reign_knew_is_left_out(make_pair: MakePair) -> None:
    with make_pair(2) as pair:
        told(pair)
        pair.metadata.change_shard(DOCS, 0, epoch=2)
        [shard] = pair.here.client.get("/v1/cluster/shards").json()["shards"]
        assert [c["lag_records"] for c in shard["copies"]] == [None, None, None]
        assert shard["copies"][2]["lsn"] is None


def test_moves_are_shown(make_pair: MakePair) -> None:
    with make_pair(2) as pair:
        pair.metadata.change_shard(DOCS, 0, adding="id-3", removing="id-1")
        assert pair.here.client.get("/v1/cluster").json()["moves"] == [
            {"table": "docs", "shard": 0, "adding": "n3", "removing": "n1"}
        ]


def test_metrics_of_a_primary_and_a_replica(make_pair: MakePair) -> None:
    with make_pair(2) as pair:
        told(pair)
        pair.here.replication.told.counts = (("link_reconnects", "Links made anew.", 4, True),)
        pair.there.replication.told.shards[SHARD] = CopyStatus(
            "primary_active", durable_lsn=20, end_lsn=20, peers={"id-2": PeerStatus(17, 500)},
            sync=Sync("full", 5, 9),
        )  # fmt: skip
        here, there = series(pair.here.client), series(pair.there.client)
        at = (("shard", "0"), ("table", "docs"))
        assert here["nearql_node_leader", ()] == 0
        assert there["nearql_node_leader", ()] == 1
        assert here["nearql_raft_term", ()] == 7
        assert here["nearql_shard_primary", at] == 0
        assert there["nearql_shard_primary", at] == 1
        assert here["nearql_shard_fenced_messages_total", at] == 3
        assert here["nearql_link_reconnects_total", ()] == 4
        replica = (("node", "n2"), *at)
        assert there["nearql_copy_lag_records", replica] == 3
        assert there["nearql_copy_lag_seconds", replica] == 0.5
        assert (there["nearql_shard_sync_bytes", at], there["nearql_shard_in_sync", at]) == (5, 3)


def test_every_metric_of_a_cluster_is_listed(make_pair: MakePair) -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "operating.md"
    listed = {row[0].strip("`"): row[1] for row in tables_below(page, "### Metrics of a cluster")}
    with make_pair(1) as pair:
        found = {metric.name: metric for metric in ClusterMetrics(pair.here.gateway).collect()}
        served = {
            f"{name}_total" if metric.type == "counter" else name: metric.type
            for name, metric in found.items()
        }
    assert listed == served


def series(client: Any) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Values by name and labels."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }
