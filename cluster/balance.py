"""Which copies and primaries should go elsewhere so that all nodes carry alike: pure.

Copies are moved, the one that helps most first, as long as that brings the loads of two nodes
nearer to each other and these are further apart than `TOLERANCE` of a node's share. Each step
makes the sum of the squared loads smaller, so it ends. What goes from a to b and on to c goes from
a to c at once. Primaries are then spread over the nodes that will have copies; that moves no rows.

Example, copies of equal tables t, u, v:  a: t u v   b: t u v   c: (new)
    moves: t from a to c, u from b to c   a: u v     b: t v     c: t u
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from nearql.cluster.metadata.jobs import Lead, Move

TOLERANCE = 0.1  # of a node's fair share


@dataclass(frozen=True, slots=True)
class Placed:
    """A table and where it lies; node ids. weight: bytes of one copy, or 1 where it is empty.

    primary: who orders its writes; None where nobody does just now, or several do.
    """

    uuid: str
    nodes: frozenset[str]
    weight: int
    primary: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """moves: copies; leads: primaries, once these are done."""

    moves: tuple[Move, ...] = ()
    leads: tuple[Lead, ...] = ()


def rebalance(tables: Iterable[Placed], nodes: Sequence[str]) -> Plan:
    """The plan for these nodes: those that may have copies. What lies on others stays there."""
    before = sorted(tables, key=lambda table: table.uuid)
    after = _spread(before, sorted(set(nodes)))
    moves = [
        Move(was.uuid, source, target)
        for was, new in zip(before, after, strict=True)
        for source, target in zip(
            sorted(was.nodes - new.nodes), sorted(new.nodes - was.nodes), strict=True
        )
    ]
    moved = {(move.table_uuid, move.source): move.target for move in moves}
    settled = [
        replace(table, primary=moved.get((table.uuid, table.primary or ""), table.primary))
        for table in after
    ]
    return Plan(tuple(moves), tuple(_leads(settled, sorted(set(nodes)))))


def _spread(tables: Sequence[Placed], nodes: Sequence[str]) -> list[Placed]:
    placed = list(tables)
    load = Counter(dict.fromkeys(nodes, 0))
    for table in placed:
        load.update({node: table.weight for node in table.nodes if node in load})
    slack = TOLERANCE * sum(load.values()) / max(1, len(nodes))
    while (found := _best(placed, load, slack)) is not None:
        at, source, target = found
        table = placed[at]
        placed[at] = replace(table, nodes=table.nodes - {source} | {target})
        load[source] -= table.weight
        load[target] += table.weight
    return placed


def _best(
    tables: Sequence[Placed], load: Counter[str], slack: float
) -> tuple[int, str, str] | None:
    """(number of the table, from, to) of the move that evens loads out most; None = none helps."""
    best, found = 0, None
    for at, table in enumerate(tables):
        holding = [node for node in load if node in table.nodes]
        lacking = [node for node in load if node not in table.nodes]
        if not holding or not lacking:
            continue
        source = max(holding, key=lambda node: (load[node], node))
        target = min(lacking, key=lambda node: (load[node], node))
        gap = load[source] - load[target]
        gain = table.weight * (gap - table.weight)
        if gap > slack and gain > best:
            best, found = gain, (at, source, target)
    return found


def _leads(tables: Sequence[Placed], nodes: Sequence[str]) -> list[Lead]:
    """Give primaries to nodes with fewer of them, among those that have copies."""
    primary = {table.uuid: table.primary for table in tables}
    count = Counter(dict.fromkeys(nodes, 0))
    count.update(node for node in primary.values() if node is not None and node in count)
    changed = True
    while changed:
        changed = False
        for table in tables:
            here = primary[table.uuid]
            others = [node for node in nodes if node in table.nodes and node != here]
            if here is None or here not in count or not others:
                continue
            target = min(others, key=lambda node: (count[node], node))
            if count[here] - count[target] > 1:
                primary[table.uuid] = target
                count[here] -= 1
                count[target] += 1
                changed = True
    return [
        Lead(table.uuid, node)
        for table in tables
        if (node := primary[table.uuid]) is not None and node != table.primary
    ]
