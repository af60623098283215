"""`nearql.shards` and `nearql.nodes` of a cluster, as Arrow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from nearql.server.gateway import status
from nearql.server.gateway.gateway import Gateway
from nearql.server.system_tables import NODES, SHARDS, build


def shards(gateway: Gateway) -> pa.Table:
    """A row per copy, whichever node is asked."""
    return build(SHARDS, _shards(gateway))


def _shards(gateway: Gateway) -> Iterator[tuple[Any, ...]]:
    for shard in status.shard_statuses(gateway, status.all_reports(gateway)):
        for copy in shard.copies:
            yield (
                shard.table.table.name, shard.number, shard.row.uuid, shard.row.epoch,
                shard.primary, list(shard.in_sync), shard.commit_lsn, copy.node, copy.state,
                copy.lsn, copy.lag_records, copy.lag_ms,
            )  # fmt: skip


def nodes(gateway: Gateway) -> pa.Table:
    """Every registered node, as seen from here."""
    rows = (
        (
            node.name, node.role, node.url, node.alive, node.last_seen_ms, node.incarnation,
            node.fenced, node.draining,
        )
        for node in gateway.cluster.nodes()
    )  # fmt: skip
    return build(NODES, rows)
