"""Where a request must run, by what metadata says: pure functions over one state.

The shards of a table lie on the same nodes and have their primaries on one of them, so a statement
runs whole on one node. A failover may part the primaries for a moment; then writes wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from nearql.cluster.metadata.shards import ShardRow
from nearql.cluster.metadata.state import Metadata, TableRow
from nearql.engine.errors import Unavailable, Unsupported


def tables_named(state: Metadata, names: Iterable[str]) -> Iterator[TableRow]:
    """The tables of these names (in lower case) that there are, each once."""
    wanted = set(names)
    return (row for row in state.tables.values() if row.table.name.lower() in wanted)


def primary_of(state: Metadata, names: Iterable[str]) -> str | None:
    """The node that orders the writes of all these tables; None where none of them is there yet.

    Raises:
        Unavailable: `no_primary`, or `primaries_apart` in one table.
        Unsupported: two tables have theirs on different nodes.
    """
    found: dict[str, str] = {}
    for row in tables_named(state, names):
        found[row.table.name] = _of_table(state, row)
    nodes = set(found.values())
    if len(nodes) > 1:
        where = ", ".join(f"{table} on {name_of(state, node)}" for table, node in found.items())
        raise Unsupported(
            "One request writes tables whose primaries are on different nodes "
            f"({where}). Send its statements in separate requests."
        )
    return nodes.pop() if nodes else None


def _of_table(state: Metadata, row: TableRow) -> str:
    primaries = {shard.primary for shard in row.shards}
    if None in primaries:
        number = next(n for n, shard in enumerate(row.shards) if shard.primary is None)
        raise no_primary(row.table.name, number)
    if len(primaries) > 1:
        raise Unavailable(
            f"The primaries of table {row.table.name!r} are on different nodes while they are "
            "moved; nothing was written. Retry shortly.",
            code="primaries_apart",
        )
    primary = primaries.pop()
    assert primary is not None
    return primary


def no_primary(table: str, shard: int) -> Unavailable:
    """The 503 for a shard that has lost its primary and has no new one yet."""
    return Unavailable(
        f"Shard {shard} of table {table!r} has no primary at the moment; nothing was written. "
        "Retry shortly; `nearql cluster status` shows its copies.",
        code="no_primary", table=table, shard=shard,
    )  # fmt: skip


def reader_of(
    state: Metadata, names: Iterable[str], here: str, usable: Callable[[str, ShardRow], bool]
) -> str:
    """The node that can read all these tables: this one if it can, else that of a primary, which
    surely has every row, else any that can.

    usable: whether a node's copy of a shard may be read, as far as is known here.

    Raises:
        Unavailable: `shard_unavailable`, with the table and shard that nobody can read, or that
            not all of them are on one node.
    """
    rows = list(tables_named(state, names))
    primaries = [shard.primary for row in rows for shard in row.shards if shard.primary]
    for node in dict.fromkeys((here, *primaries, *sorted(state.nodes))):
        if all(usable(node, shard) for row in rows for shard in row.shards):
            return node
    for row in rows:
        for number, shard in enumerate(row.shards):
            if not any(usable(node, shard) for node in shard.replicas):
                raise missing(row.table.name, number)
    names_found = ", ".join(sorted(row.table.name for row in rows))
    raise Unavailable(
        f"No node has readable copies of all of {names_found}. Read them one by one.",
        code="shard_unavailable",
    )


def missing(table: str, shard: int) -> Unavailable:
    """The 503 for a shard that can't be read: an answer without it would be wrong."""
    return Unavailable(
        f"Shard {shard} of table {table!r} can't be read at the moment: no copy of it is "
        "reachable and complete. An answer without it would be wrong.",
        code="shard_unavailable", table=table, shard=shard,
    )  # fmt: skip


def name_of(state: Metadata, node_id: str) -> str:
    """What people call a node."""
    row = state.nodes.get(node_id)
    return row.name if row is not None else node_id
