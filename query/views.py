"""Views in a statement: each name of one is replaced by its query, before anything is bound.

What a view means was settled when it was made. Its tables are looked up in the catalog, never
among the common table expressions of the statement that reads it; its columns are those that it
had, so a column added to a table doesn't appear in `SELECT *` of an older view. After the
replacement a view is a sub-query like any other, and the rules push searches through it
(`rules/merge_subquery.py`).
"""

from __future__ import annotations

from functools import lru_cache

from sqlglot import exp

from nearql.engine.errors import SqlError
from nearql.engine.named_query import ViewDef
from nearql.query import guard
from nearql.query.binder import CLOSED, TEXT, common, qualify
from nearql.query.dialect import parse
from nearql.query.ports import CatalogView
from nearql.query.statements import Select
from nearql.query.trees import all_of, copy_of, nodes_of
from nearql.query.wording import mark_texts

EXPANSIONS = 100  # views in one statement, those inside views too: they may double at each level
_KEPT_BODIES = 256
_FROM_CLAUSE = ("joins", "laterals", "pivots", "sample")


def view_named(node: exp.Table, catalog: CatalogView) -> ViewDef | None:
    """The view that a table node names."""
    if not isinstance(node.this, exp.Identifier) or not catalog.views:
        return None
    if node.text("db").lower() not in ("", "main", "public") or common(node) is not None:
        return None
    return catalog.views.get(node.name.lower())


def expand(tree: exp.Query, catalog: CatalogView) -> exp.Query:
    """Replace every view in `tree`, those inside views too.

    Raises:
        SqlError: code `statement_too_complex`; there are more than EXPANSIONS.
    """
    if not catalog.views:
        return tree
    waiting = all_of(tree, exp.Table)
    count = 0
    while waiting:
        node = waiting.pop()
        view = view_named(node, catalog)
        if view is None:
            continue
        count += 1
        if count > EXPANSIONS:
            raise SqlError(
                f"The statement reads more than {EXPANSIONS} views, those inside views counted.",
                code="statement_too_complex", sqlstate="54001",
            )  # fmt: skip
        made = _reading(view, catalog)
        waiting.extend(all_of(made, exp.Table))
        node.replace(_item(node, view, made))
    return tree


def _item(node: exp.Table, view: ViewDef, query: exp.Query) -> exp.Subquery:
    alias = node.args.get("alias")
    if alias is None or not alias.this:
        alias = exp.TableAlias(this=exp.to_identifier(view.name, quoted=True))
    item = exp.Subquery(this=query, alias=alias)
    for key in _FROM_CLAUSE:
        if node.args.get(key):
            item.set(key, node.args[key])
    return item


def _reading(view: ViewDef, catalog: CatalogView) -> exp.Query:
    """The view's query, returning the columns that the view has, by their names."""
    body = copy_of(_body(view.query))
    body.meta[CLOSED] = True
    guard.check_query(body, catalog)
    if _is_named(body, view) and all(one.name == one.source for one in view.columns):
        return body
    items = [
        exp.alias_(exp.column(exp.to_identifier(one.source, quoted=True)), one.name, quoted=True)
        for one in view.columns
    ]
    alias = exp.TableAlias(this=exp.to_identifier(view.name, quoted=True))
    wrapped = exp.Select(expressions=items)
    wrapped.set("from_", exp.From(this=exp.Subquery(this=body, alias=alias)))
    wrapped.meta[TEXT], wrapped.meta[CLOSED] = view.query, True
    return wrapped


def _outermost(body: exp.Query) -> exp.Expr:
    while isinstance(body, exp.SetOperation | exp.Subquery):
        body = body.this
    return body


def _is_named(body: exp.Query, view: ViewDef) -> bool:
    """Give each column of the query the name that it was found to have; False where a star may
    stand for other columns than it did.
    """
    select = _outermost(body)
    items = select.expressions if isinstance(select, exp.Select) else []
    if len(items) != len(view.columns) or any(item.is_star for item in items):
        return False
    for item, column in zip(items, view.columns, strict=True):
        if not isinstance(item, exp.Alias | exp.Column):
            item.replace(exp.alias_(copy_of(item), column.source, quoted=True, copy=False))
    return True


@lru_cache(maxsize=_KEPT_BODIES)
def _body(text: str) -> exp.Query:
    """A view's query as a tree; callers copy it. Its places say nothing about their statement."""
    [statement] = parse(text)
    assert isinstance(statement, Select)
    mark_texts(statement.tree, copy_of(statement.tree))
    qualify(statement.tree)
    for node in nodes_of(statement.tree):
        for key in ("start", "end", "line", "col"):
            node.meta.pop(key, None)
    return statement.tree
