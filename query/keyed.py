"""UPDATE and DELETE of rows that WHERE names by their primary key: found by it, without a scan.

    UPDATE docs SET title = 'x' WHERE id = :id AND title <> 'x'
    DELETE FROM docs WHERE id IN (SELECT unnest(:ids))

The keys that one condition names are a superset of the rows that the statement can touch. So its
query runs over those few rows instead of the table, its WHERE asked of each of them as ever, and
says the same: `id = 7 AND FALSE` still finds none. What isn't certainly such a condition (a value
of another type, a sub-query, OR) names no keys, and the table is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pyarrow as pa
from sqlglot import exp

from nearql.engine.schema import Column, TableDef
from nearql.query.binder import unwrapped
from nearql.query.parameters import Parameters, parameter_name
from nearql.query.plan import Plan, Relation, Scan, relations
from nearql.query.rules.common import conjuncts

_SHARE = 8  # a scan reads faster than this share of a table's rows is looked up one by one
_LISTED_TEXT = re.compile(r"'((?:[^']|'')*+)'")


class _Unsure(Exception):
    """A value whose comparison with a key is DuckDB's affair."""


def keys_named(
    where: exp.Expr | None, table: TableDef, alias: str | None, parameters: Parameters
) -> pa.Array | None:
    """Keys in storage type, each once: rows of others can't satisfy WHERE. None = any row may."""
    key = table.schema.key
    if key.hidden:
        return None
    for condition in conjuncts(where):
        sides = _named(condition, {(alias or table.name).lower(), ""}, key.name.lower())
        if sides is None:
            continue
        try:
            values = {
                _key(value, key.type.name) for one in sides for value in _values(one, parameters)
            }
            return pa.array(sorted(values - {None}), key.type.storage)
        except (_Unsure, ValueError, OverflowError):  # no number or text of Arrow, or of Python
            continue
    return None


def is_worth(keys: pa.Array | None, rows: int) -> bool:
    """Whether looking these keys up is less than reading a table of so many rows."""
    return keys is not None and len(keys) * _SHARE <= rows


def reads_once(plan: Plan, table: TableDef) -> bool:
    """Whether the plan reads the table in one place, and all that it asks of it is its columns."""
    found = [step for step in relations(plan) if step.table.uuid == table.uuid]
    return len(found) == 1 and _is_plain(found[0])


def columns_read(plan: Plan, table: TableDef) -> list[Column]:
    """The columns that a plan of which `reads_once` is true asks of the table; and the key."""
    (step,) = [step for step in relations(plan) if step.table.uuid == table.uuid]
    names = {*step.columns, *(one.column for one in step.distances), table.schema.key.name}
    return [column for column in table.schema.columns if column.name in names]


def _is_plain(step: Relation) -> bool:
    return isinstance(step.access, Scan) and step.access.filter is None and not step.texts


def _named(condition: exp.Expr, tables: set[str], key: str) -> list[exp.Expr] | None:
    """What a condition compares the key with, where it says that the key is one of these."""
    node = unwrapped(condition)
    if isinstance(node, exp.EQ):
        for mine, other in ((node.this, node.expression), (node.expression, node.this)):
            if _is_key(mine, tables, key):
                return [unwrapped(other)]
    if isinstance(node, exp.In) and _is_key(node.this, tables, key):
        query = node.args.get("query")
        return [_unnested(query)] if query is not None else [unwrapped(n) for n in node.expressions]
    return None


def _is_key(node: exp.Expr, tables: set[str], key: str) -> bool:
    node = unwrapped(node)
    if not isinstance(node, exp.Column) or node.args.get("db"):
        return False
    return node.name.lower() == key and node.table.lower() in tables


def _unnested(query: exp.Expr) -> exp.Expr:
    """The list of `(SELECT unnest(list))`, as something that is any of it."""
    while isinstance(query, exp.Subquery):
        query = query.this
    items = query.expressions if isinstance(query, exp.Select) else []
    only = len(items) == 1 and not any(
        value for name, value in query.args.items() if name != "expressions"
    )
    call = items[0] if only else None
    if isinstance(call, exp.Anonymous) and call.name.lower() == "unnest" and call.expressions:
        return exp.Any(this=call.expressions[0]) if len(call.expressions) == 1 else query
    return query


def _values(node: exp.Expr, parameters: Parameters) -> Iterator[Any]:
    """The values that a node stands for, in Python.

    Raises:
        _Unsure: it stands for something that only DuckDB can tell.
    """
    if isinstance(node, exp.Any):
        yield from _listed(unwrapped(node.this), parameters)
    elif isinstance(node, exp.Var):
        yield from _written_list(str(node.this))
    else:
        yield _value(node, parameters)


def _listed(node: exp.Expr, parameters: Parameters) -> Iterator[Any]:
    if isinstance(node, exp.Array):
        for one in node.expressions:
            yield _value(unwrapped(one), parameters)
        return
    name = parameter_name(node)
    given = parameters.value(name) if name is not None else None
    if not isinstance(given, list | tuple):
        raise _Unsure
    yield from given


def _value(node: exp.Expr, parameters: Parameters) -> Any:
    if (name := parameter_name(node)) is not None:
        return parameters.value(name)
    if isinstance(node, exp.Null):
        return None
    negative = isinstance(node, exp.Neg)
    literal = unwrapped(node.this) if negative else node
    if not isinstance(literal, exp.Literal) or (literal.is_string and negative):
        raise _Unsure
    if literal.is_string:
        return literal.name
    if not literal.name.isdigit():
        raise _Unsure
    return -int(literal.name) if negative else int(literal.name)


def _written_list(text: str) -> Iterator[Any]:
    """The values of a long list that was kept as text."""
    if "'" in text:
        if _LISTED_TEXT.sub("", text).strip(" \n\t\r,"):
            raise _Unsure
        yield from (found.replace("''", "'") for found in _LISTED_TEXT.findall(text))
        return
    for number in text.split(","):
        if not number.strip().lstrip("-").isdigit():
            raise _Unsure
        yield int(number)


def _key(value: Any, kind: str) -> Any:
    """A value as a key; None for NULL, which is nobody's.

    Raises:
        _Unsure: DuckDB would convert one of the two to compare them.
    """
    if value is None:
        return None
    if kind == "UUID":
        try:
            return str(value if isinstance(value, UUID) else UUID(value))
        except (ValueError, TypeError, AttributeError) as error:
            raise _Unsure from error
    wanted = str if kind == "VARCHAR" else int
    if type(value) is not wanted:
        raise _Unsure
    return value
