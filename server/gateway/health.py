"""Whether this node is ready for reads, and whether it is the one that takes writes."""

from __future__ import annotations

from nearql.engine.errors import Unavailable
from nearql.server.gateway.gateway import Gateway


def check_ready(gateway: Gateway) -> None:
    """Pass where metadata is recent and every copy here is in its in-sync set.

    Raises:
        Unavailable: `metadata_stale`, or `not_in_sync` with a table and how many shards there are.
    """
    if not gateway.cluster.ticking:
        raise Unavailable(
            "Metadata on this node is not current: its Raft process is silent.",
            code="metadata_stale",
        )
    here = gateway.cluster.node_id
    behind = [
        row.table.name
        for row in gateway.metadata.state.tables.values()
        for shard in row.shards
        if row.ready and here in shard.replicas and here not in shard.isr
    ]
    if behind:
        raise Unavailable(
            f"{len(behind)} copies on this node are not in sync yet.",
            code="not_in_sync", copies=len(behind),
        )  # fmt: skip


def check_leader(gateway: Gateway) -> None:
    """Pass on the leader.

    Raises:
        Unavailable: `follower`, or `no_leader`.
    """
    if gateway.cluster.leading:
        return
    if gateway.cluster.leader() is None:
        raise Unavailable("No leader is known at the moment.", code="no_leader")
    raise Unavailable("This node is a follower.", code="follower")
