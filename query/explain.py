"""EXPLAIN: a plan as a tree of lines, or as JSON; with ANALYZE also what its run did and took.

Search docs.vec <-> :q (l2, k = 3)          one line per operator, what feeds it indented below
  Filter price < 5
    Scan docs (price)
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from sqlglot import exp

from nearql.engine.types import Metric, SearchStats
from nearql.query.changes import plan_change
from nearql.query.plan import (
    Access,
    KnnJoin,
    Made,
    Materialized,
    Nearest,
    Plan,
    Query,
    Relation,
    Scan,
    Step,
    SystemRelation,
    Value,
    Within,
)
from nearql.query.planner import plan_query
from nearql.query.result import Result, listing
from nearql.query.statements import CopyTo, Delete, Explain, Insert, Select, Statement, Update
from nearql.query.trace import Trace, measured_recalls
from nearql.query.writes import Write

_OPERATOR = {
    Metric.L2: "<->", Metric.INNER_PRODUCT: "<#>", Metric.COSINE: "<=>", Metric.L1: "<+>",
    Metric.HAMMING: "<~>", Metric.JACCARD: "<%>",
}  # fmt: skip
_SHOWN = 200  # characters of SQL in a line


@dataclass
class Node:
    """An operator. details: what EXPLAIN ANALYZE measured."""

    operator: str
    text: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    children: list[Node] = field(default_factory=list)

    def lines(self, depth: int = 0) -> list[str]:
        """Itself and its children, indented."""
        shown = ", ".join(f"{name} = {_value(value)}" for name, value in self.details.items())
        own = "  " * depth + " ".join(part for part in (self.operator, self.text) if part)
        return [f"{own}  [{shown}]" if shown else own] + [
            line for child in self.children for line in child.lines(depth + 1)
        ]

    def document(self) -> dict[str, Any]:
        """The same as plain values."""
        made: dict[str, Any] = {"operator": self.operator}
        if self.text:
            made["text"] = self.text
        made |= self.details
        if self.children:
            made["children"] = [child.document() for child in self.children]
        return made


def explain(
    statement: Explain,
    write: Write,
    dispatch: Callable[[Statement], Result],
) -> Result:
    """The plan of a statement; with ANALYZE it is run first, a write too."""
    inner = statement.statement
    if not isinstance(inner, Select):
        return _other(statement, write, dispatch)
    started = time.perf_counter()
    plan = plan_query(inner.tree, write.catalog)
    planned_ms = (time.perf_counter() - started) * 1000
    if not statement.analyze:
        return _answer(statement, tree_of(plan, Trace()), plan.notes, {})
    started = time.perf_counter()
    with write.execution() as run:
        run.searched = []
        rows = run.run(plan).row_count
        executed_ms = (time.perf_counter() - started) * 1000
        run.trace.recalls = measured_recalls(run.searched)
    measured = {"rows": rows, "planning_ms": planned_ms, "execution_ms": executed_ms}
    measured |= {f"{what}_ms": spent for what, spent in run.trace.times.items()}
    return _answer(statement, tree_of(plan, run.trace), plan.notes, measured)


def _other(statement: Explain, write: Write, dispatch: Callable[[Statement], Result]) -> Result:
    inner = statement.statement
    node = Node(type(inner).__name__, getattr(inner, "table", ""))
    plan = _plan_of_write(inner, write)
    if plan is not None:
        node.children.append(tree_of(plan, Trace()))
    measured: dict[str, Any] = {}
    if statement.analyze:
        started = time.perf_counter()
        result = dispatch(statement.statement)
        measured = {
            "rows": result.row_count,
            "execution_ms": (time.perf_counter() - started) * 1000,
        }
    return _answer(statement, node, plan.notes if plan else (), measured)


def _plan_of_write(statement: Statement, write: Write) -> Plan | None:
    """The query that a write evaluates first, if it has one."""
    if isinstance(statement, Update | Delete):
        return plan_change(statement, write)
    if isinstance(statement, Insert) and isinstance(statement.source, exp.Query):
        return plan_query(statement.source, write.catalog)
    if isinstance(statement, CopyTo):
        return plan_query(statement.query.tree, write.catalog)
    return None


def _answer(
    statement: Explain, node: Node, notes: tuple[str, ...], measured: dict[str, Any]
) -> Result:
    if statement.json:
        document = {"plan": node.document(), "notes": list(notes), **measured}
        lines = [json.dumps(document, indent=2, default=str)]
    else:
        lines = node.lines() + [f"Note: {note}" for note in notes]
        lines += [
            f"{name.replace('_', ' ').capitalize()}: {_value(value)}"
            for name, value in measured.items()
        ]
    return listing(pa.table({"plan": pa.array(lines, pa.string())}))


def _value(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


# ---- plans as nodes -------------------------------------------------------------------


def tree_of(plan: Plan, trace: Trace) -> Node:
    """The plan as operators; what `trace` knows of a run as details."""
    if plan.direct is not None:
        names = ", ".join(output.name for output in plan.direct)
        return Node("Project", f"({names}) without DuckDB", {}, [_step(plan.query.steps[0], trace)])
    return Node(
        "DuckDB",
        _short(str(plan.query.text)),
        {},
        [_step(step, trace) for step in plan.query.steps],
    )


def _query(operator: str, query: Query, trace: Trace) -> Node:
    return Node(operator, _short(str(query.text)), {}, [_step(step, trace) for step in query.steps])


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _step(step: Step, trace: Trace) -> Node:
    if isinstance(step, SystemRelation):
        return Node("SystemTable", f"nearql.{step.table}")
    if isinstance(step, Materialized):
        return _query("Materialize", step.query, trace)
    return _relation(step, trace)


def _relation(step: Relation, trace: Trace) -> Node:
    access = step.access
    node = _access(step, access)
    if isinstance(access, Scan):
        node.text += _computed(step)
    if step.name in trace.rows:
        node.details["rows"] = trace.rows[step.name]
    if (stats := trace.searches.get(step.name)) is not None:
        node.details |= _measured(stats, trace.recalls.get(step.name))
    if not isinstance(access, Within | Made) and access.filter is not None:
        node.children.append(_filter(step, access.filter, trace))
    if isinstance(access, KnnJoin):
        node.children.append(_query("Left", access.left, trace))
    for value in _queries(step):
        node.children.append(_query("QueryVector", value, trace))
    return node


def _access(step: Relation, access: Access) -> Node:
    table = step.table.name
    if isinstance(access, Scan):
        return Node("Scan", f"{table} ({', '.join(step.columns)})")
    if isinstance(access, KnnJoin):
        condition = " and conditions on both sides" if access.survivors else ""
        shown = (
            f"{table}.{access.column} ({access.metric}, k = {_count(access.limit, access.offset)})"
        )
        return Node("KnnJoin", f"{shown} as one batch{condition}")
    if isinstance(access, Made):
        return _made(table, access)
    distance = access.distance
    of = distance.shown or f"{table}.{distance.column}"
    shown = f"{of} {_OPERATOR[distance.metric]} {_shown(distance.query)}"
    if isinstance(access, Within):
        return Node("RangeSearch", f"{shown} ({distance.metric}, radius = {_shown(access.radius)})")
    until = ", more until the join gives as many" if access.survivors else ""
    count = _count(access.limit, access.offset)
    return Node("VectorSearch", f"{shown} ({distance.metric}, k = {count}{until}){_by(access)}")


def _by(access: Nearest) -> str:
    """Which of the indexes that aren't simply the column's serve."""
    names = [
        f"{one.name} (if its condition follows from the parameters)" if one.parameters else one.name
        for one in access.partial
    ]
    if access.index is not None:
        names.append(access.index)
    return f" by index {' or '.join(names)}" if names else ""


def _made(table: str, access: Made) -> Node:
    given = [_shown(value) for value in access.values]
    operator = {"kmeans": "KMeans", "mmr": "Diversify"}[access.function]
    shown = f"{table}.{access.column} ({access.metric}, {', '.join(given)})"
    return Node(operator, f"{shown} by {access.function}()")


def _computed(step: Relation) -> str:
    distances = [f"{d.column} {_OPERATOR[d.metric]} {_shown(d.query)}" for d in step.distances]
    computed = distances + [f"bm25({t.column}, {_shown(t.words)})" for t in step.texts]
    return f" computing {', '.join(computed)}" if computed else ""


def _count(limit: Value, offset: Value | None) -> str:
    return _shown(limit) + (f" + {_shown(offset)}" if offset is not None else "")


def _shown(value: Value) -> str:
    if value.parameter is not None:
        return f"${value.parameter}" if value.parameter.isdigit() else f":{value.parameter}"
    if value.query is not None:
        return f"({_short(str(value.query.text))})"
    if isinstance(value.literal, np.ndarray):
        return f"a vector of {len(value.literal)} dimensions"
    if isinstance(value.literal, str):
        return _short(repr(value.literal))
    return f"{value.literal:g}"


def _filter(step: Relation, query: Query, trace: Trace) -> Node:
    node = _query("Filter", query, trace)
    if step.name in trace.filters:
        rows, cached = trace.filters[step.name]
        node.details = {"rows": rows, "cached": cached}
    return node


def _queries(step: Relation) -> list[Query]:
    values = [one.query for one in step.distances] + [one.words for one in step.texts]
    if isinstance(step.access, Made):
        values += step.access.values
    asked = (value for value in values if value.parameter is None)
    return [value.query for value in asked if value.query is not None]


def _measured(stats: SearchStats, recall: float | None) -> dict[str, Any]:
    found = asdict(stats)
    del found["backend"]
    exact = stats.strategy.startswith("exact")
    return {**found, "strategy": stats.label, "recall": "exact" if exact else recall}
