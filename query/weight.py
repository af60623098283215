"""Which statements are light: a vector search, or next to nothing. The others are DuckDB's work.

What DuckDB runs may join, sort and group without an end that anybody could tell before; a search
is bounded by the rows of one table. Who serves both keeps the heavy ones out of the searches' way:
he asks for a request to be run only if it is light, and gets `Deferred` where it is not.

    light   a search of one table, its filter and its query vector read from one table each
            a select list without tables; one system table; what only plans, sets or tells
            INSERT of VALUES; DDL, but for CREATE TABLE AS
    heavy   every other query, UPDATE, DELETE, EXPLAIN ANALYZE
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlglot import exp

from nearql.query.plan import Nearest, Plan, Query, Relation, Scan, SystemRelation, queries_of
from nearql.query.statements import (
    AlterTable,
    ChangeGrants,
    CreateExtension,
    CreateIndex,
    CreateTable,
    CreateUser,
    CreateView,
    Describe,
    DropIndex,
    DropTable,
    DropUser,
    DropView,
    Explain,
    Insert,
    Kill,
    Reindex,
    Select,
    SetVariable,
    Show,
    Statement,
    Transaction,
    Wait,
)
from nearql.query.trees import all_of

_LIGHT = (
    SetVariable, Show, Describe, Transaction, Kill, Wait, CreateExtension, ChangeGrants, CreateUser,
    DropUser, DropTable, AlterTable, CreateIndex, DropIndex, Reindex, CreateView, DropView,
)  # fmt: skip
_HARMLESS = (Select, SetVariable, Show, Describe)  # done twice, they do the same
_SOURCES = 3  # the search's own, its filter's and its query vector's


class Deferred(Exception):
    """A request was to be run only if light, and is not; it has done nothing. prepared: its text,
    parsed.
    """

    def __init__(self, prepared: Any) -> None:
        super().__init__("the request is heavy")
        self.prepared = prepared


def may_begin(statements: Sequence[Statement]) -> bool:
    """Whether a request may be begun before all of its statements were weighed: whatever is done
    before a heavy one is found can be done again.
    """
    return len(statements) == 1 or all(isinstance(one, _HARMLESS) for one in statements)


def is_light(statement: Statement, plan: Callable[[], Plan]) -> bool:
    """Whether a statement is light. plan: of a SELECT, made when it is asked for."""
    if isinstance(statement, Select):
        return _is_light_query(statement.tree, plan())
    if isinstance(statement, Insert):
        return statement.source is None or (
            isinstance(statement.source, exp.Values) and statement.source.find(exp.From) is None
        )
    if isinstance(statement, Explain):
        return not statement.analyze
    if isinstance(statement, CreateTable):
        return statement.source is None
    return isinstance(statement, _LIGHT)


def _is_light_query(tree: exp.Expr, plan: Plan) -> bool:
    sources = sum(1 for _ in all_of(tree, exp.From))
    if sources == 0:
        return True
    if sources > _SOURCES or any(all_of(tree, exp.Join, exp.Lateral, exp.SetOperation)):
        return False
    steps = plan.query.steps
    if len(steps) != 1:
        return False
    step = steps[0]
    return isinstance(step, SystemRelation) or (isinstance(step, Relation) and _is_search(step))


def _is_search(step: Relation) -> bool:
    access = step.access
    return (
        isinstance(access, Nearest)
        and access.survivors is None
        and all(_reads_one_table(query) for query in queries_of(step))
    )


def _reads_one_table(query: Query) -> bool:
    return len(query.steps) <= 1 and all(
        isinstance(step, Relation) and isinstance(step.access, Scan) and not queries_of(step)
        for step in query.steps
    )
