"""Which indexes over an expression, or over some rows alone, a search may ask.

`CREATE INDEX half ON docs USING hnsw ((vec::halfvec(3)) halfvec_l2_ops)` makes
`ORDER BY vec::halfvec(3) <-> :q LIMIT k` a search. Without such an index it is computed for every
row. `CREATE INDEX english ON docs USING hnsw (vec) WHERE lang = 'en'` may be asked where what WHERE
asks implies its condition (see `implied`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from sqlglot import exp

from nearql.engine.derived import Derivation
from nearql.engine.errors import NearQLError
from nearql.engine.schema import Column, IndexDef, TableSchema
from nearql.engine.types import Metric
from nearql.query.binder import Binding, PendingDistance, Source, unwrapped
from nearql.query.dialect import bit_distance_of, distance_of
from nearql.query.implied import Form, PartialIndex, holds, normal, parameters_in
from nearql.query.index_terms import Made, in_schema, made_of, tree_of
from nearql.query.rules.common import Found, identity_of, put_column


@dataclass(frozen=True, slots=True)
class Permitted:
    """partial: those over some rows. whole: the name of one over an expression and all rows."""

    partial: tuple[PartialIndex, ...] = ()
    whole: str | None = None


def searchable_by_index(node: exp.Expr, binding: Binding) -> Found | None:
    """The distance that this node is, between an expression that an index is over and a constant.

    Over some rows alone: whether it may be asked is looked at later.
    """
    found = _expression_in(node, binding)
    return found if found is not None and any(_over(found)) else None


def permitted_indexes(found: Found, conditions: list[exp.Expr], binding: Binding) -> Permitted:
    """The indexes that a search with these conditions may ask, beside those of the column alone."""
    facts = [normal(condition) for condition in conditions]
    facts.append(("present", ("column", found.column.name.lower())))  # NULLs are never found
    partial: list[PartialIndex] = []
    whole: str | None = None
    for index in _over(found):
        if index.condition is None:
            whole = index.name if found.derived is not None else None
        elif (permitted := _permitted(index, facts)) is not None:
            partial.insert(0, permitted)  # the last declared is the first to be asked
        else:
            binding.note(
                f"index {index.name} is not used: WHERE doesn't imply its condition "
                f"{index.condition}"
            )
    return Permitted(tuple(partial), whole)


def replace_expressions(
    nodes: Iterable[exp.Expr], distance: PendingDistance, binding: Binding
) -> None:
    """Put the source's distance column where these nodes are that distance."""
    for node in list(nodes):
        is_distance = distance_of(node) or bit_distance_of(node)
        found = _expression_in(node, binding) if is_distance else None
        if found is not None and identity_of(found, binding) == distance.identity:
            put_column(node, found.source.refer(distance.name))


def note_unindexed(node: exp.Expr, binding: Binding) -> None:
    """Say that no index is over an expression that one could be over."""
    found = _expression_in(node, binding)
    if found is not None and found.source.is_free and not found.metric.is_of_bits:
        binding.note(
            f"{found.text}: no index is over this expression and compares by {found.metric}, so it "
            "is computed exactly for every row"
        )


def _expression_in(node: exp.Expr, binding: Binding) -> Found | None:
    """A distance between what an expression makes of a column and a constant."""
    parts = distance_of(unwrapped(node)) or _bit_distance(unwrapped(node))
    if parts is None:
        return None
    metric, left, right = parts
    for mine, other in ((left, right), (right, left)):
        made, source = _made(mine, binding)
        if made is None or source is None or source.opaque or not binding.is_constant(other):
            continue
        if made.derivation is not None and made.bits is metric.is_of_bits:
            derived = made.derivation
            return Found(unwrapped(node), metric, source, made.column, other, derived=derived)
    return None


def _made(node: exp.Expr, binding: Binding) -> tuple[Made | None, Source | None]:
    """What an expression makes of a base table's column, and whose that is."""
    owners: list[Source] = []

    def column_of(one: exp.Expr) -> Column | None:
        found = binding.column(one)
        if found is not None:
            owners.append(found[0])
        return None if found is None else found[1]

    made = made_of(node, column_of)
    return made, owners[0] if owners else None


def _over(found: Found) -> Iterable[IndexDef]:
    """The indexes that compare the same by the same metric, partial ones among them."""
    table = found.source.table
    for index in table.indexes:
        metric = index.metric if index.bits is None else Metric(index.bits)
        if metric is not found.metric or index.column.lower() != found.column.name.lower():
            continue
        if index.expression is None and index.condition is None and index.bits is None:
            continue
        of = index.expression
        if of is None and index.bits is not None:
            of = exp.column(exp.to_identifier(index.column, quoted=True)).sql()
        if _derivation_of(of, table.schema) == found.derived:
            yield index


def _bit_distance(node: exp.Expr) -> tuple[Metric, exp.Expr, exp.Expr] | None:
    parts = bit_distance_of(node)
    if parts is None:
        return None
    return Metric(parts[0].removeprefix("nq_")), parts[1], parts[2]


_UNKNOWN = Derivation((), -1)


@lru_cache(maxsize=1_024)
def _derivation_of(expression: str | None, schema: TableSchema) -> Derivation | None:
    """What an index is over; nothing that a statement could say where it isn't understood."""
    if expression is None:
        return None
    try:
        made = made_of(tree_of(expression), in_schema(schema))
    except NearQLError:
        return _UNKNOWN
    return _UNKNOWN if made is None else made.derivation


@lru_cache(maxsize=1_024)
def _condition(text: str) -> Form:
    return normal(tree_of(text))


def _permitted(index: IndexDef, facts: list[Form]) -> PartialIndex | None:
    assert index.condition is not None
    goal = _condition(index.condition)
    if holds(facts, goal):
        return PartialIndex(index.uuid, index.name)
    names = frozenset().union(*(parameters_in(fact) for fact in facts))
    if not names:
        return None
    return PartialIndex(index.uuid, index.name, tuple(facts), goal, tuple(sorted(names)))
