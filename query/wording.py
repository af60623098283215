"""How a statement was written: rules change its tree, EXPLAIN shows the user's words.

To write a tree as text takes as long as to plan it, and only EXPLAIN asks: until then what was
written is kept as the tree that nobody changes.
"""

from __future__ import annotations

from sqlglot import exp

from nearql.query.binder import TEXT
from nearql.query.dialect import to_nearql
from nearql.query.plan import INTERNAL
from nearql.query.rules.common import PARAMETER, conjuncts
from nearql.query.trees import all_of, copy_of


class Words:
    """The text of a tree that stays as it is, written when it is asked for."""

    def __init__(self, *trees: exp.Expr) -> None:
        self.trees = trees

    def __deepcopy__(self, memo: dict[int, object]) -> Words:
        """Itself: a node's copy was written as the node was."""
        del memo
        return self

    def __str__(self) -> str:
        return " AND ".join(written(tree) for tree in self.trees)


def mark_texts(tree: exp.Expr, original: exp.Expr) -> None:
    """Remember how each SELECT and each of its conditions was written, before rules change them.

    original: what `tree` is a copy of, with the same nodes in the same order.
    """
    for select, before in zip(all_of(tree, exp.Select), all_of(original, exp.Select), strict=True):
        select.meta[TEXT] = Words(before)
        for condition, as_was in zip(_conditions(select), _conditions(before), strict=True):
            condition.meta[TEXT] = Words(as_was)


def _conditions(select: exp.Select) -> list[exp.Expr]:
    where = select.args.get("where")
    return conjuncts(where.this if where else None)


def written(node: exp.Expr) -> str:
    """A tree as text for people."""
    text = PARAMETER.sub(r":\1", to_nearql(node))
    return f"({text})" if isinstance(node, exp.Or) else text


def text_of(tree: exp.Expr) -> Words | str:
    """A filter's conditions, or the whole query, as the user wrote it."""
    items = tree.expressions if isinstance(tree, exp.Select) else []
    where = tree.args.get("where")
    if where and items and isinstance(items[0], exp.Column) and items[0].name.startswith(INTERNAL):
        conditions = conjuncts(where.this)
        known = [one.meta.get(TEXT) or Words(copy_of(one)) for one in conditions]
        return Words(*(tree for part in known for tree in part.trees))
    marked: Words | str | None = tree.meta.get(TEXT)
    return marked or Words(copy_of(tree))
