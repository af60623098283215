"""Type objects and constructors of PEP 249.

A column's type code is its SQL type as text, `DECIMAL(10,2)` say; it equals the type object of its
kind: `cursor.description[0][1] == NUMBER`.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterable

Date = datetime.date
Time = datetime.time
Timestamp = datetime.datetime
Binary = bytes


def DateFromTicks(ticks: float) -> datetime.date:
    """The local date of seconds since the epoch."""
    return Date(*time.localtime(ticks)[:3])


def TimeFromTicks(ticks: float) -> datetime.time:
    """The local time of seconds since the epoch."""
    return Time(*time.localtime(ticks)[3:6])


def TimestampFromTicks(ticks: float) -> datetime.datetime:
    """The local time and date of seconds since the epoch."""
    return Timestamp(*time.localtime(ticks)[:6])


class TypeObject:
    """Equal to the type codes of its kind."""

    def __init__(self, name: str, types: Iterable[str]) -> None:
        self.name = name
        self.types = frozenset(types)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            return not other.endswith("]") and base_of(other) in self.types
        return self is other

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return self.name


def base_of(sql_type: str) -> str:
    """`DECIMAL` of `DECIMAL(10,2)`."""
    return sql_type.partition("(")[0].strip().upper()


STRING = TypeObject("STRING", ["TEXT", "VARCHAR", "CHAR", "JSON", "UUID", "ENUM", "INTERVAL"])
BINARY = TypeObject("BINARY", ["BLOB"])
NUMBER = TypeObject(
    "NUMBER",
    ["BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT"]
    + ["UINTEGER", "UBIGINT", "UHUGEINT", "FLOAT", "DOUBLE", "DECIMAL"],
)
DATETIME = TypeObject(
    "DATETIME",
    ["DATE", "TIME", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"]
    + ["TIMESTAMP WITH TIME ZONE"],
)
ROWID = TypeObject("ROWID", ())
