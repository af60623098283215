"""The plan of a rebalance: what must hold for any placement, and one example by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from nearql.cluster.balance import TOLERANCE, Placed, Plan, rebalance

NODES = ("a", "b", "c", "d", "e")


def applied(tables: Sequence[Placed], plan: Plan) -> list[Placed]:
    found = {table.uuid: table for table in tables}
    for move in plan.moves:
        table = found[move.table_uuid]
        assert move.source in table.nodes
        assert move.target not in table.nodes
        primary = move.target if table.primary == move.source else table.primary
        nodes = table.nodes - {move.source} | {move.target}
        found[move.table_uuid] = replace(table, nodes=nodes, primary=primary)
    for lead in plan.leads:
        table = found[lead.table_uuid]
        assert lead.node_id in table.nodes
        found[lead.table_uuid] = replace(table, primary=lead.node_id)
    return [found[table.uuid] for table in tables]


def loads(tables: Sequence[Placed], nodes: Sequence[str]) -> Counter[str]:
    load = Counter(dict.fromkeys(nodes, 0))
    for table in tables:
        load.update({node: table.weight for node in table.nodes if node in load})
    return load


@st.composite
def placements(draw: st.DrawFn) -> tuple[list[Placed], list[str]]:
    nodes = draw(st.lists(st.sampled_from(NODES), unique=True, max_size=5))
    tables = []
    for number in range(draw(st.integers(0, 12))):
        holders = draw(st.lists(st.sampled_from(NODES), unique=True, min_size=1, max_size=3))
        weight = draw(st.integers(1, 1000))
        primary = draw(st.sampled_from([None, *holders]))
        tables.append(Placed(f"t{number}", frozenset(holders), weight, primary))
    return tables, nodes


@given(placements())
def test_a_plan_can_be_carried_out_and_leaves_nothing_to_plan(
    placement: tuple[list[Placed], list[str]],
) -> None:
    tables, nodes = placement
    plan = rebalance(tables, nodes)
    after = applied(tables, plan)
    assert [len(t.nodes) for t in after] == [len(t.nodes) for t in tables]
    assert all({m.source, m.target} <= set(nodes) for m in plan.moves)
    assert all(lead.node_id in nodes for lead in plan.leads)
    again = rebalance(after, nodes)
    assert again == Plan()


@given(placements())
def test_a_plan_never_makes_the_fullest_node_fuller_and_moves_no_table_in_vain(
    placement: tuple[list[Placed], list[str]],
) -> None:
    tables, nodes = placement
    plan = rebalance(tables, nodes)
    before, after = loads(tables, nodes), loads(applied(tables, plan), nodes)
    if nodes:
        assert max(after.values()) <= max(before.values())
        assert min(after.values()) >= min(before.values())
    if plan.moves:
        squares = sum(load**2 for load in before.values())
        assert sum(load**2 for load in after.values()) < squares
    sources = {(move.table_uuid, move.source) for move in plan.moves}
    assert not sources & {(move.table_uuid, move.target) for move in plan.moves}


@given(st.integers(2, 5), st.integers(1, 40))
def test_equal_tables_are_spread_evenly(nodes: int, tables: int) -> None:
    names = NODES[:nodes]
    placed = [Placed(f"t{n:02}", frozenset("a"), 100, "a") for n in range(tables)]
    after = applied(placed, rebalance(placed, names))
    counts = loads(after, names)
    share = 100 * tables / nodes
    assert max(counts.values()) - min(counts.values()) <= max(100, TOLERANCE * share)
    primaries = Counter(dict.fromkeys(names, 0))
    primaries.update(t.primary for t in after if t.primary)
    assert max(primaries.values()) - min(primaries.values()) <= 1 + TOLERANCE * tables


def test_a_new_node_takes_copies_of_different_tables_from_different_nodes() -> None:
    tables = [Placed(uuid, frozenset("ab"), 10, "a") for uuid in "tuv"]
    plan = rebalance(tables, "abc")
    assert len(plan.moves) == 2
    assert {move.target for move in plan.moves} == {"c"}
    assert {move.source for move in plan.moves} == {"a", "b"}
    assert len({move.table_uuid for move in plan.moves}) == 2
    primaries = Counter(table.primary for table in applied(tables, plan))
    assert max(primaries.values()) == 1


def test_a_cluster_in_balance_is_left_alone() -> None:
    tables = [
        Placed("t", frozenset("ab"), 100, "a"), Placed("u", frozenset("bc"), 104, "b"),
        Placed("v", frozenset("ca"), 97, "c"),
    ]  # fmt: skip
    assert rebalance(tables, "abc") == Plan()
