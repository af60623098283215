"""What a node of a cluster tells Prometheus: who leads, where its copies stand, what was refused.

A node tells of its own copies; a primary also how far its replicas are behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from nearql.cluster.metadata.shards import ShardRow
from nearql.server.cluster_ports import CopyStatusPort
from nearql.server.gateway.gateway import Gateway
from nearql.server.gateway.placement import name_of

_SHARD = ("table", "shard")
_COPY = ("table", "shard", "node")


@dataclass
class _Families:
    """The metrics of copies, filled shard by shard. Their names are part of docs/operating.md."""

    primary: GaugeMetricFamily = field(
        default_factory=lambda: _gauge("nearql_shard_primary", "Whether the primary is here.")
    )
    epoch: GaugeMetricFamily = field(
        default_factory=lambda: _gauge("nearql_shard_epoch", "Epoch of the copy here.")
    )
    commit: GaugeMetricFamily = field(
        default_factory=lambda: _gauge("nearql_shard_commit_lsn", "Commit LSN known here.")
    )
    applied: GaugeMetricFamily = field(
        default_factory=lambda: _gauge("nearql_shard_applied_lsn", "LSN that readers here see.")
    )
    in_sync: GaugeMetricFamily = field(
        default_factory=lambda: _gauge("nearql_shard_in_sync", "Members of the in-sync set.")
    )
    copies: GaugeMetricFamily = field(
        default_factory=lambda: _gauge("nearql_shard_copies", "Copies that the shard should have.")
    )
    fenced: CounterMetricFamily = field(
        default_factory=lambda: CounterMetricFamily(
            "nearql_shard_fenced_messages", "Messages refused: their epoch is over.", labels=_SHARD
        )
    )
    sync_done: GaugeMetricFamily = field(
        default_factory=lambda: _gauge("nearql_shard_sync_bytes", "Bytes received of a sync.")
    )
    sync_total: GaugeMetricFamily = field(
        default_factory=lambda: _gauge("nearql_shard_sync_total_bytes", "Bytes that it takes.")
    )
    lsn: GaugeMetricFamily = field(
        default_factory=lambda: _gauge("nearql_copy_lsn", "LSN durable on a copy.", _COPY)
    )
    lag: GaugeMetricFamily = field(
        default_factory=lambda: _gauge(
            "nearql_copy_lag_records", "Records that a copy lacks, told by its primary.", _COPY
        )
    )
    lag_s: GaugeMetricFamily = field(
        default_factory=lambda: _gauge(
            "nearql_copy_lag_seconds", "Age of what a copy lacks, told by its primary.", _COPY
        )
    )


def _gauge(name: str, text: str, labels: tuple[str, ...] = _SHARD) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=labels)


class ClusterMetrics(Collector):
    """Read when Prometheus asks; asks no other node."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def describe(self) -> list[Metric]:
        return []  # so that registering reads nothing

    def collect(self) -> Iterator[Metric]:
        cluster = self._gateway.cluster
        for name, text, value in (
            ("nearql_node_leader", "Whether this node leads.", cluster.leading),
            (
                "nearql_leader_known",
                "Whether a leader is known here.",
                cluster.leader() is not None,
            ),
            ("nearql_raft_term", "Term of the metadata's leader.", cluster.term),
            ("nearql_metadata_current", "Whether metadata here is recent.", cluster.ticking),
            ("nearql_nodes_alive", "Nodes heard of lately.", self._alive()),
        ):
            yield GaugeMetricFamily(name, text, value=float(value))
        status = self._gateway.replication.status()
        families = _Families()
        for row in self._gateway.metadata.state.tables.values():
            for number, shard in enumerate(row.shards):
                copy = status.shards.get(shard.uuid)
                if copy is not None:
                    self._add(families, (row.table.name, str(number)), shard, copy)
        yield from vars(families).values()
        for name, text, counted, is_total in (*cluster.counts(), *status.counts):
            kind = CounterMetricFamily if is_total else GaugeMetricFamily
            yield kind(f"nearql_{name}", text, value=counted)

    def _alive(self) -> int:
        return sum(node.alive for node in self._gateway.cluster.nodes())

    def _add(
        self, to: _Families, at: tuple[str, str], shard: ShardRow, copy: CopyStatusPort
    ) -> None:
        here = self._gateway.cluster.node_id
        to.primary.add_metric(at, shard.primary == here)
        to.epoch.add_metric(at, copy.epoch)
        to.commit.add_metric(at, copy.commit_lsn)
        to.applied.add_metric(at, copy.applied_lsn)
        to.in_sync.add_metric(at, len(shard.isr))
        to.copies.add_metric(at, len(shard.replicas))
        to.fenced.add_metric(at, copy.fenced)
        if copy.sync is not None:
            to.sync_done.add_metric(at, copy.sync.done)
            to.sync_total.add_metric(at, copy.sync.total)
        self._add_copies(to, at, copy)

    def _add_copies(self, to: _Families, at: tuple[str, str], copy: CopyStatusPort) -> None:
        state = self._gateway.metadata.state
        here = (*at, name_of(state, self._gateway.cluster.node_id))
        to.lsn.add_metric(here, copy.durable_lsn)
        for node, peer in copy.peers.items():
            there = (*at, name_of(state, node))
            to.lsn.add_metric(there, peer.durable_lsn)
            to.lag.add_metric(there, max(0, copy.end_lsn - peer.durable_lsn))
            if peer.lag_ms is not None:
                to.lag_s.add_metric(there, peer.lag_ms / 1000)
