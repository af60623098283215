"""Which nodes get the copies of a new table; pure.

All shards of a table lie on the same nodes, and one of them has all of its primaries: a statement
is then evaluated in one place. Nodes with the fewest copies come first, names decide ties.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from nearql.cluster.metadata.state import Metadata

DEFAULT_COPIES = 3


def default_copies(data_nodes: int) -> int:
    """How many copies a table has if its definition does not say."""
    return max(1, min(DEFAULT_COPIES, data_nodes))


def placeable(state: Metadata, alive: Collection[str]) -> list[str]:
    """Node ids that may get copies: known to be alive, neither fenced nor on their way out."""
    return [
        node.node_id
        for node in state.nodes.values()
        if node.node_id in alive and not node.fenced and not node.draining
    ]


def place(state: Metadata, alive: Collection[str], copies: int, first: str) -> tuple[str, ...]:
    """Node ids for the copies of each shard, the primary's first; () where there are too few nodes.

    Args:
        alive: node ids that answer now.
        copies: how many of each shard.
        first: a node that becomes the primary if it may get a copy: the one that is asked to make
            the table, so that rows made with it (CREATE TABLE AS) are written where they are.
    """
    nodes = placeable(state, alive)
    if len(nodes) < copies:
        return ()
    load = Counter(
        node for row in state.tables.values() for shard in row.shards for node in shard.replicas
    )
    nodes.sort(key=lambda node: (node != first, load[node], state.nodes[node].name))
    return tuple(nodes[:copies])


def loads(state: Metadata, sizes: Mapping[str, int]) -> Counter[str]:
    """What lies on each node, by node id. sizes: bytes of one copy of a table, by its uuid; a copy
    that is still empty counts for one.
    """
    load: Counter[str] = Counter()
    for uuid, row in state.tables.items():
        each = 1 + sizes.get(uuid, 0) // max(1, len(row.shards))
        for shard in row.shards:
            load.update(dict.fromkeys(shard.replicas, each))
    return load
