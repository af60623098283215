"""A table of PostgreSQL with pgvector: its types, its vector indexes, its rows.

Everything is read in one REPEATABLE READ transaction, so that catalog and rows belong together.
Rows come through a server-side cursor, a few thousand at a time. Vectors come as `vector_send`
sends them, which NumPy reads without parsing text:

    int16 dimensions | int16 unused | dimensions x float32 (halfvec: float16), big-endian

What has no type here comes as text and is told; sparse vectors must be left out by name, because
text would not be searched.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from nearql.client.errors import ConnectionFailed, UsageError
from nearql.client.importing.source import (
    ROWS_AT_ONCE,
    ImportColumn,
    ImportIndex,
    ImportSource,
)

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
       pg_get_expr(d.adbin, d.adrelid), a.attgenerated <> '' OR a.attidentity <> ''
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"""
KEY = """
SELECT a.attname FROM pg_index i JOIN pg_attribute a
    ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
WHERE i.indrelid = %s::regclass AND i.indisprimary"""
INDEXES = """
SELECT c.relname, m.amname, a.attname, o.opcname, c.reloptions, i.indpred IS NOT NULL,
       i.indisprimary
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
     JOIN pg_opclass o ON o.oid = i.indclass[0]
     LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
WHERE i.indrelid = %s::regclass ORDER BY c.relname"""
CHECKS = """
SELECT conname FROM pg_constraint
WHERE conrelid = %s::regclass AND contype IN ('c', 'f', 'u') ORDER BY conname"""

_PLAIN = {
    "smallint": "SMALLINT", "integer": "INTEGER", "bigint": "BIGINT", "real": "FLOAT",
    "double precision": "DOUBLE", "text": "TEXT", "boolean": "BOOLEAN", "date": "DATE",
    "timestamp without time zone": "TIMESTAMP",
    "timestamp with time zone": "TIMESTAMP WITH TIME ZONE", "bytea": "BLOB",
}  # fmt: skip
_AS_TEXT = {
    "uuid": "UUID", "json": "JSON", "jsonb": "JSON", "character varying": "TEXT",
    "character": "TEXT", "name": "TEXT", "citext": "TEXT", "time without time zone": "TIME",
    "interval": "INTERVAL",
}  # fmt: skip
_REFUSED = ("bit varying", "sparsevec")
_VECTORS = {"vector": ("VECTOR", "f4"), "halfvec": ("HALFVEC", "f2")}
_KEY_TYPES = ("SMALLINT", "INTEGER", "BIGINT", "TEXT", "UUID")
_CONSTANT = re.compile(r"('(?:[^']|'')*'|-?\d+(?:\.\d+)?|true|false)(?:::[\w ]+)?(?:\(\d+\))?")
_FUNCTIONS = {"now()": "now()", "CURRENT_TIMESTAMP": "now()", "gen_random_uuid()": "uuid()"}
_SHAPE = re.compile(
    r"(?P<name>[^(\[]+?)\s*(?:\((?P<size>[\d,-]+)\)(?P<rest>[\w ]*))?(?P<list>(?:\[\])*)$"
)
_OPERATORS = re.compile(r"(?:vector|halfvec)_(?:l2|ip|cosine|l1)_ops")


@dataclass(frozen=True)
class _Field:
    """How a column is asked for and what becomes of it. element: of a vector, its NumPy type."""

    column: ImportColumn
    expression: str
    element: str | None = None
    arrow: str | None = None


@dataclass
class _Plan:
    fields: list[_Field] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def open_postgres(url: str, table: str | None, without: Sequence[str] = ()) -> ImportSource:
    """The table `table` of the database at `url` (libpq's form).

    Raises:
        UsageError: psycopg is missing; no such table; a column that can't be copied.
        ConnectionFailed: the database can't be reached.
    """
    if not table:
        raise UsageError("Name the table: nearql import postgres://... TABLE.")
    connection = _connect(url)
    try:
        return _described(connection, table, without)
    except BaseException:
        connection.close()
        raise


def _connect(url: str) -> Any:
    try:
        psycopg = importlib.import_module("psycopg")
    except ImportError as error:
        raise UsageError(
            "Importing from PostgreSQL needs the package psycopg: pip install 'nearql[postgres]'."
        ) from error
    try:
        connection = psycopg.connect(url, autocommit=False)
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    except psycopg.Error as error:
        raise ConnectionFailed(f"PostgreSQL at {place(url)}: {_first_line(error)}.") from error
    return connection


def place(url: str) -> str:
    """Where a URL leads, without its user and password."""
    parts = urlsplit(url)
    host = parts.hostname or "the local socket"
    return f"{host}{f':{parts.port}' if parts.port else ''}{unquote(parts.path)}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _described(connection: Any, table: str, without: Sequence[str]) -> ImportSource:
    psycopg = importlib.import_module("psycopg")
    try:
        found = connection.execute(COLUMNS, [table]).fetchall()
    except psycopg.Error as error:
        raise UsageError(f"PostgreSQL says: {_first_line(error)}.") from error
    unknown = set(without) - {row[0] for row in found}
    if unknown:
        raise UsageError(f"--without {min(unknown)}: no such column of {table}.")
    plan = _Plan()
    for name, kind, not_null, default, numbered in found:
        if name not in without:
            plan.fields.append(_field(connection, table, (name, kind, not_null), plan.notices))
            _default(plan, default, numbered)
    (rows,) = connection.execute(f"SELECT count(*) FROM {table_sql(connection, table)}").fetchone()
    return ImportSource(
        name=table.split(".")[-1].strip('"'),
        columns=[each.column for each in plan.fields],
        key=_key(connection, table, plan),
        indexes=_indexes(connection, table, plan),
        rows=rows,
        tables=lambda: _tables(connection, table, plan.fields),
        close=connection.close,
        notices=plan.notices,
    )


def table_sql(connection: Any, table: str) -> str:
    """The table's name as PostgreSQL itself writes it, which is safe in a statement."""
    text: str = connection.execute("SELECT %s::regclass::text", [table]).fetchone()[0]
    return text


def _field(
    connection: Any, table: str, column: tuple[str, str, bool], notices: list[str]
) -> _Field:
    name, kind, not_null = column
    schema, base, size, lists = _parts(kind)
    quoted = '"' + name.replace('"', '""') + '"'
    if base in _VECTORS and not lists:
        sql, element = _VECTORS[base]
        dimensions = size or _dimensions(connection, table, name, quoted)
        made = ImportColumn(name, f"{sql}({dimensions})", not_null)
        return _Field(made, f"{schema}{base}_send({quoted})", element)
    if base == "bit" and not lists:
        return _Field(ImportColumn(name, f"BIT({size})", not_null), f"{quoted}::text", arrow="TEXT")
    if base in ("bit", *_REFUSED, *_VECTORS):
        raise UsageError(
            f"Column {name!r} is {kind}, which has no type here; leave it out: --without {name}."
        )
    if base == "numeric":
        return _numeric(ImportColumn(name, lists, not_null), quoted, size, notices)
    if base in _PLAIN:
        sql = _PLAIN[base] + lists
        return _Field(ImportColumn(name, sql, not_null), quoted, arrow=sql)
    sql = _AS_TEXT.get(base, "TEXT") + lists
    if base not in _AS_TEXT:
        notices.append(f"Column {name!r} is {kind} and becomes {sql}.")
    as_text = f"{quoted}::text{lists}"
    return _Field(ImportColumn(name, sql, not_null), as_text, arrow="TEXT" + lists)


def _parts(kind: str) -> tuple[str, str, str, str]:
    """("ext.", "vector", "3", "[]") of a type as `format_type` writes it."""
    shape = _SHAPE.match(kind)
    if shape is None:
        return "", kind, "", ""
    schema, dot, name = shape["name"].rpartition(".")
    return schema + dot, name + (shape["rest"] or ""), shape["size"] or "", shape["list"]


def _numeric(column: ImportColumn, quoted: str, size: str, notices: list[str]) -> _Field:
    """DECIMAL where it fits, else DOUBLE; the column's type is so far only its brackets."""
    name, lists, not_null = column.name, column.type, column.not_null
    precision, _, scale = size.partition(",")
    if size and int(precision) <= 38 and not scale.startswith("-"):
        made = ImportColumn(name, f"DECIMAL({precision},{scale or 0}){lists}", not_null)
        return _Field(made, f"{quoted}::text{lists}", arrow=f"TEXT{lists}")
    notices.append(
        f"Column {name!r} is numeric without a precision that fits and becomes DOUBLE{lists}: "
        "about 16 digits."
    )
    made = ImportColumn(name, f"DOUBLE{lists}", not_null)
    return _Field(made, f"{quoted}::double precision{lists}", arrow=made.type)


def _dimensions(connection: Any, table: str, name: str, quoted: str) -> int:
    """Of a column of plain `vector`, which says nothing itself."""
    text = f"SELECT DISTINCT vector_dims({quoted}) FROM {table_sql(connection, table)} "
    found = [row[0] for row in connection.execute(text + f"WHERE {quoted} IS NOT NULL LIMIT 3")]
    if len(found) == 1:
        return int(found[0])
    held = ", ".join(map(str, sorted(found))) or "none"
    raise UsageError(
        f"Column {name!r} holds vectors of several dimensions ({held}), and a column here has one; "
        f"leave it out: --without {name}."
    )


def _default(plan: _Plan, default: str | None, numbered: bool) -> None:
    """Keep a constant or a known function; tell anything else."""
    last = plan.fields[-1]
    name = last.column.name
    if default is None and not numbered:
        return
    constant = _CONSTANT.fullmatch(default or "")
    kept = constant[1] if constant else _FUNCTIONS.get(default or "")
    if numbered or kept is None:
        shown = (
            "its numbering" if numbered or "nextval" in (default or "") else f"DEFAULT {default}"
        )
        plan.notices.append(f"Column {name!r}: {shown} is left out; its values are copied.")
        return
    column = ImportColumn(name, last.column.type, last.column.not_null, kept)
    plan.fields[-1] = _Field(column, last.expression, last.element, last.arrow)


def _key(connection: Any, table: str, plan: _Plan) -> str | None:
    names = [row[0] for row in connection.execute(KEY, [table])]
    types = {each.column.name: each.column.type for each in plan.fields}
    if len(names) == 1 and types.get(names[0]) in _KEY_TYPES:
        return str(names[0])
    what = f"the primary key ({', '.join(names)})" if names else "no primary key"
    plan.notices.append(f"{table} has {what}; here rows get a hidden id.")
    return None


def _indexes(connection: Any, table: str, plan: _Plan) -> list[ImportIndex]:
    made, others = [], []
    columns = {each.column.name for each in plan.fields}
    for name, kind, column, operators, options, partial, primary in connection.execute(
        INDEXES, [table]
    ):
        if kind in ("hnsw", "ivfflat") and column in columns and not partial:
            pairs = (option.split("=", 1) for option in options or ())
            if _OPERATORS.fullmatch(operators):
                sizes = {key: int(value) for key, value in pairs if value.isdigit()}
                made.append(ImportIndex(name, column, kind, operators, sizes))
                continue
        if not primary:
            others.append(name)
    others += [row[0] for row in connection.execute(CHECKS, [table]) if row[0] not in others]
    if others:
        plan.notices.append(f"Indexes and constraints left out: {', '.join(others)}.")
    return made


def _tables(connection: Any, table: str, fields: Sequence[_Field]) -> Iterator[pa.Table]:
    import pyarrow as pa

    psycopg = importlib.import_module("psycopg")
    asked = ", ".join(each.expression for each in fields)
    with connection.cursor(name="nearql_import", binary=True) as cursor:
        cursor.itersize = ROWS_AT_ONCE
        cursor.execute(f"SELECT {asked} FROM {table_sql(connection, table)}")
        while True:
            try:
                rows = cursor.fetchmany(ROWS_AT_ONCE)
            except psycopg.Error as error:
                raise UsageError(f"PostgreSQL says: {_first_line(error)}.") from error
            if not rows:
                return
            values = zip(*rows, strict=True)
            arrays = {
                each.column.name: _array(each, list(column))
                for each, column in zip(fields, values, strict=True)
            }
            yield pa.table(arrays)


def _array(each: _Field, values: list[Any]) -> pa.Array:
    import pyarrow as pa

    if each.element is not None:
        return _vectors(values, each.element)
    try:
        return pa.array(values, _arrow_type(each.arrow or "TEXT"))
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise UsageError(f"Column {each.column.name!r} can't be copied: {error}.") from error


def _arrow_type(sql: str) -> pa.DataType:
    import pyarrow as pa

    if sql.endswith("[]"):
        return pa.list_(_arrow_type(sql.removesuffix("[]")))
    made: dict[str, Callable[[], pa.DataType]] = {
        "SMALLINT": pa.int16, "INTEGER": pa.int32, "BIGINT": pa.int64, "FLOAT": pa.float32,
        "DOUBLE": pa.float64, "TEXT": pa.string, "BOOLEAN": pa.bool_, "DATE": pa.date32,
        "TIMESTAMP": lambda: pa.timestamp("us"), "BLOB": pa.binary,
        "TIMESTAMP WITH TIME ZONE": lambda: pa.timestamp("us", "UTC"),
    }  # fmt: skip
    return made[sql]()


def _vectors(values: Sequence[bytes | None], element: str) -> pa.Array:
    """Vectors as sent, to a fixed-size list column; NULL where there is none."""
    import numpy as np
    import pyarrow as pa

    first = next((value for value in values if value is not None), None)
    if first is None:
        return pa.nulls(len(values))
    dimensions = int.from_bytes(first[:2], "big")
    blank = bytes(len(first))
    joined = b"".join(blank if value is None else value for value in values)
    row = np.dtype([("head", ">i2", 2), ("vector", f">{element}", dimensions)])
    flat = np.frombuffer(joined, row)["vector"].astype(f"<{element}").reshape(-1)
    mask = pa.array([value is None for value in values])
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), dimensions, mask=mask)


__all__ = ["open_postgres", "place"]
