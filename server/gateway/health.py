"""Whether this node is ready for reads, and whether it is the one that takes writes."""

from __future__ import annotations

from nearql.engine.errors import Unavailable
from nearql.server.gateway.gateway import Gateway


def check_ready(gateway: Gateway) -> None:
    """Pass where metadata is recent, this process is a member, and every copy here is in its
    in-sync set and complete.

    Raises:
        Unavailable: `metadata_stale`, `fenced`, or `not_in_sync` with how many copies are not.
    """
    if not gateway.cluster.ticking:
        raise metadata_stale()
    here, state = gateway.cluster.node_id, gateway.metadata.state
    row = state.nodes.get(here)
    if row is not None and row.fenced:
        raise Unavailable(
            "This process was declared dead while it was silent; it registers again.",
            code="fenced",
        )
    behind = _behind(gateway, here)
    if behind:
        raise Unavailable(
            f"{behind} copies on this node are not in sync yet.",
            code="not_in_sync", copies=behind,
        )  # fmt: skip


def metadata_stale() -> Unavailable:
    """What a node says whose own view of the metadata may be old: others may know better."""
    return Unavailable(
        "Metadata on this node is not current: its Raft process is silent. Ask again, or another "
        "node.",
        code="metadata_stale",
    )


def _behind(gateway: Gateway, here: str) -> int:
    """Copies that this node should have and that can't answer for all that is committed. One whose
    files are damaged has no copy here: its table says so, and the others are served.
    """
    own = gateway.replication.shards()
    shards = [
        shard
        for row in gateway.metadata.state.tables.values()
        for shard in row.shards
        if row.ready and here in shard.replicas
    ]
    return sum(
        here not in shard.isr or (shard.uuid in own and not own[shard.uuid].readable)
        for shard in shards
    )


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
