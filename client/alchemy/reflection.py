"""Columns and indexes of tables that are there, as SQLAlchemy describes them."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import types
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import TypeEngine

from nearql.client.alchemy.types import VECTORS

_SIZED = re.compile(r"(?P<name>\w+)\((?P<sizes>\d+(?:,\s*\d+)*)\)")
_TYPES: dict[str, TypeEngine[Any]] = {
    "TINYINT": types.SMALLINT(), "SMALLINT": types.SMALLINT(), "INTEGER": types.INTEGER(),
    "BIGINT": types.BIGINT(), "UTINYINT": types.SMALLINT(), "USMALLINT": types.INTEGER(),
    "UINTEGER": types.BIGINT(), "UBIGINT": types.NUMERIC(20, 0), "FLOAT": types.REAL(),
    "DOUBLE": types.DOUBLE_PRECISION(), "TEXT": types.TEXT(), "VARCHAR": types.TEXT(),
    "BOOLEAN": types.BOOLEAN(), "BLOB": types.LargeBinary(), "DATE": types.DATE(),
    "TIME": types.TIME(), "TIMESTAMP": types.TIMESTAMP(), "TIMESTAMP_S": types.TIMESTAMP(),
    "TIMESTAMP_MS": types.TIMESTAMP(), "TIMESTAMP_NS": types.TIMESTAMP(),
    "TIMESTAMP WITH TIME ZONE": types.TIMESTAMP(timezone=True), "UUID": types.UUID(),
    "JSON": types.JSON(), "INTERVAL": types.Interval(),
}  # fmt: skip


def type_of(sql: str) -> TypeEngine[Any]:
    """The SQLAlchemy type of a column's SQL type; NullType where there is none."""
    if sql.endswith("[]"):
        base = sql.rstrip("[]")
        return ARRAY(type_of(base), dimensions=(len(sql) - len(base)) // 2)
    sized = _SIZED.fullmatch(sql)
    if sized is None:
        return _TYPES.get(sql, types.NullType())
    sizes = [int(each) for each in sized["sizes"].split(",")]
    if sized["name"] == "DECIMAL":
        return types.NUMERIC(sizes[0], sizes[1])
    made = VECTORS.get(sized["name"])
    return made(*sizes) if made else types.NullType()


def columns_of(table: dict[str, Any]) -> list[dict[str, Any]]:
    """As `Inspector.get_columns`."""
    return [
        {
            "name": column["name"],
            "type": type_of(column["type"]),
            "nullable": column["nullable"],
            "default": column["default"] or None,
            "autoincrement": bool(column.get("identity")),
        }
        for column in table["schema"]["columns"]
    ]


def key_of(table: dict[str, Any]) -> list[str]:
    """The primary key's column, if there is one."""
    return [column["name"] for column in table["schema"]["columns"] if column["primary_key"]]


def indexes_of(table: dict[str, Any]) -> list[dict[str, Any]]:
    """As `Inspector.get_indexes`."""
    return [
        {
            "name": index["name"],
            "column_names": [index["column"]],
            "unique": False,
            "dialect_options": {"postgresql_using": index["kind"]},
        }
        for index in table["indexes"]
    ]
