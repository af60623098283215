"""SET, SHOW, DESCRIBE, WAIT: statements about the server rather than about rows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from nearql.engine.errors import Unavailable
from nearql.engine.named_query import ViewColumn
from nearql.engine.schema import TableDef
from nearql.query.guard import names_of, undefined_table
from nearql.query.ports import CatalogView, Database
from nearql.query.replicas import Position, Replicas
from nearql.query.result import Result, empty, listing
from nearql.query.settings import VARIABLES, Variables, unknown_setting
from nearql.query.statements import (
    ChangeGrants,
    CreateExtension,
    CreateUser,
    Describe,
    DropUser,
    SetVariable,
    Show,
    Wait,
)

_SYSTEM = ("columns", "indexes", "shards", "nodes", "segments", "devices", "queries", "views")


def set_variable(statement: SetVariable, variables: Variables) -> Result:
    """SET and RESET; holds for the rest of the request."""
    if statement.name == "all" and statement.value is None:
        variables.values.clear()
        return empty("utility")
    variables.set(statement.name, statement.value)
    why = VARIABLES[statement.name].ignored
    if why is None or statement.value is None:
        return empty("utility")
    return replace(empty("utility"), notices=(f"SET {statement.name} changes nothing: {why}.",))


def show(statement: Show, database: Database, catalog: CatalogView, variables: Variables) -> Result:
    """SHOW TABLES, SETTINGS, CLUSTER, SHARDS, ... or one setting.

    Raises:
        SqlError: nothing of that name, with the nearest.
    """
    what = statement.what
    if what == "tables":
        return _system(database, "tables")
    if what == "settings":
        return _settings(database, variables)
    if what == "cluster":
        return _system(database, "nodes")
    if what in _SYSTEM:
        return _system(database, what)
    if what in VARIABLES:
        return _one(what, variables.get(what))
    settings = database.describe_settings()
    if what in settings:
        return _one(what, settings[what])
    raise unknown_setting(what, [*settings, "tables", "settings", "cluster", "shards"])


def _system(database: Database, name: str) -> Result:
    table = database.system_table(name)
    if table is None:
        raise Unavailable(f"This node has no table nearql.{name} yet.", code="unavailable")
    return listing(table, *(sql_type(kind) for kind in table.schema.types))


def _settings(database: Database, variables: Variables) -> Result:
    """Variables of the request first, then the node's settings."""
    rows = [(name, _text(variables.get(name)), one.help) for name, one in VARIABLES.items()]
    described = database.system_table("settings")
    if described is not None:
        rows += [tuple(row.values()) for row in described.to_pylist()]
    else:
        rows += [(name, _text(value), "") for name, value in database.describe_settings().items()]
    columns = zip(*rows, strict=True)
    return listing(
        pa.table(dict(zip(("name", "value", "description"), map(list, columns), strict=True)))
    )


def _one(name: str, value: Any) -> Result:
    return listing(pa.table({name: pa.array([_text(value)], pa.string())}))


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def sql_type(kind: pa.DataType) -> str:
    """The SQL type that people see for an Arrow type of a system table."""
    names = {
        pa.string(): "TEXT", pa.int64(): "BIGINT", pa.int32(): "INTEGER", pa.bool_(): "BOOLEAN",
        pa.float64(): "DOUBLE", pa.float32(): "FLOAT",
    }  # fmt: skip
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMP WITH TIME ZONE" if kind.tz else "TIMESTAMP"
    return names[kind]


def describe(statement: Describe, database: Database, catalog: CatalogView) -> Result:
    """DESCRIBE: the columns of a table, or of a system table.

    Raises:
        NotFound: no such table, with the nearest name.
    """
    name = statement.table.lower()
    system = (
        database.system_table(name.removeprefix("nearql.")) if name.startswith("nearql.") else None
    )
    if system is not None:
        return _described([_described_field(field) for field in system.schema])
    if (view := catalog.views.get(name)) is not None:
        return _described([_described_column(one) for one in view.columns])
    table = catalog.tables.get(name)
    if table is None:
        raise undefined_table(statement.table, names_of(catalog).values())
    schema = table.schema
    rows = [
        {
            "name": column.name,
            "type": column.type.display,
            "nullable": not (column.not_null or column.number == schema.key_number),
            "default": "identity" if column.identity else column.default,
            "primary_key": column.number == schema.key_number,
        }
        for column in schema.visible
    ]
    return _described(rows)


def _described_column(column: ViewColumn) -> dict[str, Any]:
    return {"name": column.name, "type": column.type, "nullable": True, "primary_key": False}


def _described_field(field: pa.Field) -> dict[str, Any]:
    kind = sql_type(field.type)
    return {"name": field.name, "type": kind, "nullable": field.nullable, "primary_key": False}


def _described(rows: list[dict[str, Any]]) -> Result:
    kinds = [("name", pa.string()), ("type", pa.string()), ("nullable", pa.bool_()),
             ("default", pa.string()), ("primary_key", pa.bool_())]  # fmt: skip
    listed = pa.Table.from_pylist(rows, pa.schema(kinds))
    return listing(listed, "TEXT", "TEXT", "BOOLEAN", "TEXT", "BOOLEAN")


def wait(statement: Wait, written: Sequence[Position], replicas: Replicas) -> Result:
    """How many copies hold everything that this session wrote, and whether it is committed."""
    until = time.monotonic() + statement.timeout_ms / 1000
    found = replicas.wait(written, statement.copies, until)
    columns = {"copies": pa.array([found.copies], pa.int64()), "committed": [found.committed]}
    return listing(pa.table(columns), "BIGINT", "BOOLEAN")


def change_access(
    statement: ChangeGrants | CreateUser | DropUser, database: Database, catalog: CatalogView
) -> Result:
    """GRANT, REVOKE, CREATE USER, DROP USER.

    Raises:
        NotFound: no such table or user. Conflict: the user exists already.
    """
    if isinstance(statement, CreateUser):
        database.access.create_user(statement.name, statement.role)
    elif isinstance(statement, DropUser):
        database.access.drop_user(statement.name, if_exists=statement.if_exists)
    else:
        tables = [_granted(name, catalog) for name in statement.tables]
        for user in statement.users:
            for table in tables:
                database.access.change_grants(
                    user, table, statement.actions, revoke=statement.revoke
                )
    return empty("ddl")


def _granted(name: str, catalog: CatalogView) -> TableDef:
    table = catalog.tables.get(name.lower())
    if table is None:
        raise undefined_table(name, [known.name for known in catalog.tables.values()])
    return table


def extension_notices(statement: CreateExtension) -> tuple[str, ...]:
    """CREATE EXTENSION vector is accepted: its types and operators are built in."""
    what = f"{statement.action} EXTENSION {statement.name}"
    return (f"{what}: vectors are built in; nothing was done.",)
