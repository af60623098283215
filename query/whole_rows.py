"""`SELECT docs FROM docs`: a row as one value, without the helper columns that rules add."""

from __future__ import annotations

from sqlglot import exp

from nearql.query.binder import Binding, enclosing, from_items
from nearql.query.rules.common import put_column
from nearql.query.trees import all_of


def spell_rows(tree: exp.Expr, binding: Binding) -> None:
    """Replace such names of sources that have helper columns by a struct of the table's own."""
    for node in all_of(tree, exp.Column):
        select = next(enclosing(node), None)
        if node.table or select is None:
            continue
        for item in from_items(select):
            source = binding.source_of(item)
            if source is None or source.alias.lower() != node.name.lower() or not source.hidden():
                continue
            columns = source.table.schema.visible
            if node.name.lower() not in source.table.schema.by_name:
                fields = [
                    exp.PropertyEQ(
                        this=exp.to_identifier(column.name, quoted=True),
                        expression=source.refer(column.name),
                    )
                    for column in columns
                ]
                put_column(node, exp.Struct(expressions=fields))
