"""The hot path: a statement that is one search for plain columns is answered without DuckDB."""

from __future__ import annotations

from sqlglot import exp

from nearql.query.binder import Binding, PendingNearest, Source, from_items, unwrapped
from nearql.query.plan import Output


def direct_outputs(tree: exp.Expr, binding: Binding) -> tuple[Output, ...] | None:
    """The select list, if the statement is nothing but one search for plain columns."""
    if not isinstance(tree, exp.Select) or tree.args.get("with_") or tree.args.get("where"):
        return None
    items = from_items(tree)
    source = binding.source_of(items[0]) if len(items) == 1 else None
    if source is None or source.opaque or not isinstance(source.access, PendingNearest):
        return None
    outputs: list[Output] = []
    for item in tree.expressions:
        found = _outputs(item, source, binding)
        if found is None:
            return None
        outputs.extend(found)
    return tuple(outputs)


def _minuend(node: exp.Expr, distance: str) -> int | None:
    """The 1 of `1 - distance`, 0 for `-distance`; FLOAT like the distance itself, as in DuckDB."""
    if isinstance(node, exp.Neg):
        whole, subtrahend = 0, unwrapped(node.this)
    elif isinstance(node, exp.Sub) and node.this.is_int:
        whole, subtrahend = int(node.this.name), unwrapped(node.expression)
    else:
        return None
    is_distance = isinstance(subtrahend, exp.Column) and subtrahend.name == distance
    return whole if is_distance and abs(whole) < 1 << 24 else None


def _outputs(item: exp.Expr, source: Source, binding: Binding) -> list[Output] | None:
    if isinstance(item, exp.Star) or (
        isinstance(item, exp.Column) and isinstance(item.this, exp.Star)
    ):
        star = item.this if isinstance(item, exp.Column) else item
        if any(star.args.get(key) for key in ("except_", "replace", "rename", "ilike")):
            return None
        columns = source.table.schema.visible
        if any(column.type.bits is not None for column in columns):
            return None
        return [Output(column.name, column.name) for column in columns]
    access = source.access
    assert isinstance(access, PendingNearest)
    node = unwrapped(item)
    if (minuend := _minuend(node, access.distance.name)) is not None:
        return [Output(item.alias_or_name, None, minuend)]
    if not isinstance(node, exp.Column):
        return None
    if node.name == access.distance.name:
        return [Output(item.alias_or_name, None)]
    found = binding.column(node)
    if found is None or found[0] is not source or found[1].type.bits is not None:
        return None
    name = item.alias if isinstance(item, exp.Alias) else found[1].name
    return [Output(name, found[1].name)]
