"""How a statement was written: rules change its tree, EXPLAIN shows the user's words."""

from __future__ import annotations

from sqlglot import exp

from nearql.query.binder import TEXT
from nearql.query.dialect import to_nearql
from nearql.query.plan import INTERNAL
from nearql.query.rules.common import PARAMETER, conjuncts


def mark_texts(tree: exp.Expr) -> None:
    """Remember how each SELECT and each of its conditions was written, before rules change them."""
    for select in tree.find_all(exp.Select):
        select.meta[TEXT] = written(select)
        where = select.args.get("where")
        for condition in conjuncts(where.this if where else None):
            condition.meta[TEXT] = written(condition)


def written(node: exp.Expr) -> str:
    """A tree as text for people."""
    text = PARAMETER.sub(r":\1", to_nearql(node))
    return f"({text})" if isinstance(node, exp.Or) else text


def text_of(tree: exp.Expr) -> str:
    """A filter's conditions, or the whole query, as the user wrote it."""
    items = tree.expressions if isinstance(tree, exp.Select) else []
    where = tree.args.get("where")
    if where and items and isinstance(items[0], exp.Column) and items[0].name.startswith(INTERNAL):
        conditions = conjuncts(where.this)
        return " AND ".join(one.meta.get(TEXT) or written(one) for one in conditions)
    return str(tree.meta.get(TEXT) or written(tree))
