"""CREATE TABLE."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from nearql.engine.errors import SqlError
from nearql.engine.schema import TableDef, TableSchema, key_column
from nearql.query.ddl.columns import (
    check_columns,
    checked_conditions,
    invalid_option,
    with_default,
)
from nearql.query.ddl.names import LIMITS, at, check_new_name, done, taken
from nearql.query.dialect import did_you_mean
from nearql.query.ports import Database
from nearql.query.result import Result
from nearql.query.statements import CreateTable, Statement

REPLICAS_DEFAULT = 3  # where there are as many nodes


def create_table(statement: CreateTable, database: Database) -> Result:
    """Validate and create. The query of CREATE TABLE AS has become columns before."""
    catalog = database.catalog()
    if statement.table.lower() in catalog.tables:
        if statement.if_not_exists:
            return done(_exists(statement))
        raise taken(statement, "table", statement.table)
    if statement.table.lower() in catalog.views:
        raise taken(statement, "view", statement.table)
    check_new_name(statement, "table", statement.table)
    placement, notices = _placement(statement, database)
    definition = TableDef(
        uuid=str(uuid.uuid4()), name=statement.table, schema=_schema(statement, database),
        shards=placement.shards, replicas=placement.replicas, write_concern=placement.write_concern,
    )  # fmt: skip
    if not database.create_table(definition, if_not_exists=statement.if_not_exists):
        return done(_exists(statement))
    return done(*statement.notices, *notices)


def _exists(statement: CreateTable) -> str:
    return f"Table {statement.table!r} exists already; nothing was done."


def _schema(statement: CreateTable, database: Database) -> TableSchema:
    if not statement.columns:
        raise SqlError("A table needs at least one column.", position=statement.offset + 1)
    check_columns(statement, statement.columns, statement.key)
    columns = [with_default(statement, column, database) for column in statement.columns]
    checks = checked_conditions(statement, statement.checks, columns, statement.table)
    if statement.key is None:
        hidden = key_column(max(column.number for column in columns) + 1)
        return TableSchema((hidden, *columns), hidden.number, checks)
    key = next(column for column in columns if column.name.lower() == statement.key.lower())
    made = tuple(replace(column, not_null=True) if column is key else column for column in columns)
    return TableSchema(made, key.number, checks)


@dataclass(frozen=True, slots=True)
class _Placement:
    shards: int
    replicas: int
    write_concern: str | None


def _placement(statement: CreateTable, database: Database) -> tuple[_Placement, list[str]]:
    given = dict(statement.options)
    for name in given:
        if name not in _OPTIONS:
            raise SqlError(
                f"CREATE TABLE has no option {name!r}.{did_you_mean(name, _OPTIONS)}",
                code="invalid_option", sqlstate="22023", position=at(statement, name),
            )  # fmt: skip
    options = {name: _OPTIONS[name](statement, value) for name, value in given.items()}
    nodes = known_nodes(database)
    replicas = options.get("replicas", min(REPLICAS_DEFAULT, nodes))
    notices = []
    if replicas > nodes:
        there = (
            "there is 1 node: 1 copy" if nodes == 1 else f"there are {nodes} nodes: {nodes} copies"
        )
        notices.append(f"replicas = {replicas}, but {there} of each shard for now.")
    placement = _Placement(options.get("shards", 1), replicas, options.get("write_concern"))
    return placement, notices


def known_nodes(database: Database) -> int:
    """How many nodes there are; at least this one."""
    nodes = database.system_table("nodes")
    return max(1, nodes.num_rows if nodes is not None else 1)


def _shards(statement: Statement, value: Any) -> int:
    return _whole(statement, "shards", value, LIMITS.shards)


def replicas_of(statement: Statement, value: Any) -> int:
    """The option of a number of copies. Raises InvalidValue."""
    return _whole(statement, "replicas", value, 1_000)


def _whole(statement: Statement, name: str, value: Any, high: int) -> int:
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= high:
        raise invalid_option(statement, name, f"a whole number from 1 to {high}")
    return value


def _concern(statement: Statement, value: Any) -> str:
    text = str(value).lower()
    copies = not isinstance(value, bool) and text.isdigit() and int(text) > 0
    if text not in ("one", "majority", "all") and not copies:
        raise invalid_option(statement, "write_concern", "one, majority, all or a number of copies")
    return text


_OPTIONS: dict[str, Callable[[Statement, Any], Any]] = {
    "shards": _shards,
    "replicas": replicas_of,
    "write_concern": _concern,
}
