"""The dialect: PostgreSQL's way of writing SQL, our own way of connecting and of describing tables.

    nearql://[:token@]host[:port][?tls=true&ca_file=...&timeout=60&target_recall=0.95]
    nearql:///directory            the engine in this process (a relative path; four / for absolute)

What the client's `connect` takes is an option, everything else a setting of each statement. Every
statement commits by itself: SQLAlchemy's rollback after a write raises NotSupportedError, unless
the engine has `isolation_level="AUTOCOMMIT"`.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from sqlalchemy import types
from sqlalchemy.dialects.postgresql import INTERVAL
from sqlalchemy.dialects.postgresql.base import (
    PGCompiler,
    PGDDLCompiler,
    PGDialect,
    PGIdentifierPreparer,
    PGTypeCompiler,
)
from sqlalchemy.engine import default
from sqlalchemy.engine.interfaces import ConnectArgsType
from sqlalchemy.engine.url import URL
from sqlalchemy.exc import ArgumentError, NoSuchTableError
from sqlalchemy.sql.compiler import InsertmanyvaluesSentinelOpts

from nearql.client import dbapi
from nearql.client.alchemy import reflection
from nearql.client.errors import NotFound

DEFAULT_PORT = 8470
_OPTIONS: Mapping[str, Callable[[str], Any]] = {
    "timeout": float, "connect_timeout": float, "max_connections": int, "retries": int,
    "ca_file": str,
}  # fmt: skip


class _Uuid(types.Uuid[Any]):
    """UUIDs come as text."""

    def bind_processor(self, dialect: Any) -> Any:
        return lambda value: None if value is None else str(value)

    def result_processor(self, dialect: Any, coltype: object) -> Any:
        if not self.as_uuid:
            return lambda value: None if value is None else str(value)
        return lambda value: None if value is None else uuid.UUID(str(value))


class _Interval(INTERVAL):
    """Intervals come as months, days and nanoseconds; without months that is a timedelta."""

    def result_processor(self, dialect: Any, coltype: object) -> Any:
        return _timedelta

    @classmethod
    def adapt_emulated_to_native(  # type: ignore[override]  # INTERVAL's own does the same
        cls, interval: types.Interval, **_: Any
    ) -> _Interval:
        return cls(precision=interval.second_precision)


def _timedelta(value: Any) -> Any:
    if value is None or value.months:
        return value
    return datetime.timedelta(days=value.days, microseconds=value.nanoseconds // 1000)


class _TypeCompiler(PGTypeCompiler):
    """FLOAT alone has 64 bits in PostgreSQL and in Python, and 32 here."""

    def visit_FLOAT(self, type_: Any, **_: Any) -> str:
        return "REAL" if (type_.precision or 53) <= 24 else "DOUBLE PRECISION"


class NearQLDialect(default.DefaultDialect):
    """What `create_engine("nearql://...")` uses."""

    name = "nearql"
    driver = "nearql"
    default_paramstyle = "qmark"
    supports_statement_cache = True
    supports_alter = True
    max_identifier_length = 63
    supports_native_boolean = True
    supports_native_uuid = True
    supports_native_decimal = True
    supports_sane_rowcount = True
    supports_sane_multi_rowcount = True
    supports_default_values = True
    supports_default_metavalue = True
    supports_empty_insert = False
    supports_multivalues_insert = True
    supports_identity_columns = True
    supports_smallserial = True
    postfetch_lastrowid = False
    returns_native_bytes = True
    insert_returning = update_returning = delete_returning = True
    use_insertmanyvalues = True
    use_insertmanyvalues_wo_returning = True
    insertmanyvalues_implicit_sentinel = InsertmanyvaluesSentinelOpts.NOT_SUPPORTED

    statement_compiler = PGCompiler
    ddl_compiler = PGDDLCompiler
    type_compiler_cls = _TypeCompiler
    preparer = PGIdentifierPreparer
    colspecs = {**PGDialect.colspecs, types.Uuid: _Uuid, types.Interval: _Interval}
    # What PostgreSQL's compilers ask their dialect.
    _backslash_escapes = False
    _supports_create_index_concurrently = True
    _supports_drop_index_concurrently = True
    _supports_jsonb_subscripting = True
    supports_virtual_generated_columns = False
    _json_serializer = None
    _json_deserializer = None

    @classmethod
    def import_dbapi(cls) -> ModuleType:
        """PEP 249's module."""
        return dbapi

    def create_connect_args(self, url: URL) -> ConnectArgsType:
        """(arguments, options) of `dbapi.connect`. Raises ArgumentError for a wrong option."""
        query = {name: _single(name, value) for name, value in url.query.items()}
        scheme = "https" if query.pop("tls", "false").lower() in ("true", "1", "yes") else "http"
        options: dict[str, Any] = {}
        for name in _OPTIONS.keys() & query.keys():
            try:
                options[name] = _OPTIONS[name](query.pop(name))
            except ValueError as error:
                raise ArgumentError(f"{name} in the URL: {error}.") from error
        if query:
            options["settings"] = query
        if url.host is None:
            if not url.database:
                raise ArgumentError("Name a host, nearql://host:8470, or a directory, nearql:///.")
            return (url.database,), options
        if url.password is not None:
            options["token"] = url.password
        host = f"[{url.host}]" if ":" in url.host else url.host
        return (f"{scheme}://{host}:{url.port or DEFAULT_PORT}",), options

    # ---- transactions: there are none ------------------------------------------------------

    def get_isolation_level_values(self, dbapi_connection: Any) -> Any:
        return ["AUTOCOMMIT"]

    def get_isolation_level(self, dbapi_connection: Any) -> Any:
        return "AUTOCOMMIT"

    def set_isolation_level(self, dbapi_connection: Any, level: str) -> None:
        dbapi_connection.autocommit = level == "AUTOCOMMIT"

    def get_default_isolation_level(self, dbapi_connection: Any) -> Any:
        return "AUTOCOMMIT"

    def reset_isolation_level(self, dbapi_connection: Any) -> None:
        dbapi_connection.autocommit = False

    # ---- tables that are there -------------------------------------------------------------

    def has_table(
        self, connection: Any, table_name: str, schema: str | None = None, **_: Any
    ) -> bool:
        return _table(connection, table_name) is not None

    def get_table_names(self, connection: Any, schema: str | None = None, **_: Any) -> list[str]:
        return sorted(each["name"] for each in _database(connection).tables())

    def get_columns(
        self, connection: Any, table_name: str, schema: str | None = None, **_: Any
    ) -> Any:
        return reflection.columns_of(_existing(connection, table_name))

    def get_pk_constraint(
        self, connection: Any, table_name: str, schema: str | None = None, **_: Any
    ) -> Any:
        key = reflection.key_of(_existing(connection, table_name))
        return {"constrained_columns": key, "name": None}

    def get_indexes(
        self, connection: Any, table_name: str, schema: str | None = None, **_: Any
    ) -> Any:
        return reflection.indexes_of(_existing(connection, table_name))

    def _nothing(self, connection: Any, *_: Any, **__: Any) -> Any:
        return []

    get_foreign_keys = get_unique_constraints = get_check_constraints = _nothing
    get_view_names = get_materialized_view_names = get_schema_names = _nothing
    get_sequence_names = get_temp_table_names = get_temp_view_names = _nothing

    def get_table_comment(
        self, connection: Any, table_name: str, schema: str | None = None, **_: Any
    ) -> Any:
        return {"text": None}


def _single(name: str, value: str | Sequence[str]) -> str:
    if isinstance(value, str):
        return value
    raise ArgumentError(f"{name} is given {len(value)} times in the URL.")


def _database(connection: Any) -> Any:
    return connection.connection.dbapi_connection.database


def _table(connection: Any, name: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = _database(connection).table(name)
    except NotFound:
        return None
    return found


def _existing(connection: Any, name: str) -> dict[str, Any]:
    found = _table(connection, name)
    if found is None:
        raise NoSuchTableError(name)
    return found
