"""Columns, types and tables as plain values: what metadata records and every layer reads.

A scalar type is spelled as DuckDB spells it. Storage is Arrow: each type has one Arrow type in
which segments and the WAL hold it (`ColumnType.storage`) and one DuckDB type as which SQL sees it
(`ColumnType.duck`). Columns are known by number inside the data, so that a rename touches no row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import pyarrow as pa

from nearql.engine.errors import InvalidValue, UndefinedColumn, Unsupported
from nearql.engine.types import KEY_COLUMN, Metric

MAX_DIMENSIONS = 16_384
MAX_BITS = 64_000

_STORAGE: dict[str, pa.DataType] = {
    "BOOLEAN": pa.bool_(),
    "TINYINT": pa.int8(),
    "SMALLINT": pa.int16(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "UTINYINT": pa.uint8(),
    "USMALLINT": pa.uint16(),
    "UINTEGER": pa.uint32(),
    "UBIGINT": pa.uint64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "VARCHAR": pa.string(),
    "BLOB": pa.binary(),
    "DATE": pa.date32(),
    "TIME": pa.time64("us"),
    "TIMESTAMP": pa.timestamp("us"),
    "TIMESTAMP_S": pa.timestamp("s"),
    "TIMESTAMP_MS": pa.timestamp("ms"),
    "TIMESTAMP_NS": pa.timestamp("ns"),
    "TIMESTAMP WITH TIME ZONE": pa.timestamp("us", tz="UTC"),
    "INTERVAL": pa.month_day_nano_interval(),
    "UUID": pa.string(),
    "JSON": pa.string(),
}
_ALIASES = {
    "BOOL": "BOOLEAN", "LOGICAL": "BOOLEAN",
    "INT1": "TINYINT", "INT2": "SMALLINT", "SHORT": "SMALLINT",
    "INT": "INTEGER", "INT4": "INTEGER", "SIGNED": "INTEGER",
    "INT8": "BIGINT", "LONG": "BIGINT",
    "REAL": "FLOAT", "FLOAT4": "FLOAT", "FLOAT8": "DOUBLE", "DOUBLE PRECISION": "DOUBLE",
    "TEXT": "VARCHAR", "STRING": "VARCHAR", "CHAR": "VARCHAR", "BPCHAR": "VARCHAR",
    "CHARACTER VARYING": "VARCHAR", "CHARACTER": "VARCHAR",
    "BYTEA": "BLOB", "VARBINARY": "BLOB", "BINARY": "BLOB",
    "TIMESTAMPTZ": "TIMESTAMP WITH TIME ZONE", "DATETIME": "TIMESTAMP",
    "TIMESTAMP WITHOUT TIME ZONE": "TIMESTAMP", "TIME WITHOUT TIME ZONE": "TIME",
    "JSONB": "JSON", "NUMERIC": "DECIMAL",
}  # fmt: skip
_DECIMAL = re.compile(r"^DECIMAL(?:\s*\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\))?$")
_VECTOR = re.compile(r"^(VECTOR|HALFVEC)\s*\(\s*(\d+)\s*\)$")
_FLOAT = re.compile(r"^FLOAT\s*\(\s*(\d+)\s*\)$")
_BITS = re.compile(r"^BIT\s*\(\s*(\d+)\s*\)$")
_NO_SPARSE = (
    "SPARSEVEC is not offered: store VECTOR(n) or HALFVEC(n), zeros included (up to "
    f"{MAX_DIMENSIONS} dimensions), or the pairs as rows of a table of their own."
)
_LENGTH = re.compile(r"^(VARCHAR|CHAR|BPCHAR|CHARACTER VARYING|CHARACTER|TEXT)\s*\(\s*\d+\s*\)$")
KEY_TYPES = frozenset(
    {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
     "VARCHAR", "UUID"}
)  # fmt: skip


@dataclass(frozen=True)
class ColumnType:
    """A column's type; make one with `ColumnType.parse`.

    name: canonical DuckDB spelling for scalars (`DECIMAL(18,3)`, `BIGINT[]`), `VECTOR(384)`,
    `HALFVEC(384)` for vectors, `BIT(1024)` for bit strings of one length.
    """

    name: str

    @classmethod
    def parse(cls, text: str) -> ColumnType:
        """The type that a SQL spelling names.

        Raises:
            Unsupported: a type that columns can't have, with the alternative.
            InvalidValue: a vector without a dimension count, or one out of range.
        """
        return cls(_canonical(" ".join(text.upper().split())))

    @cached_property
    def dimensions(self) -> int | None:
        """Vector length; None for a scalar."""
        match = _VECTOR.match(self.name)
        return int(match[2]) if match else None

    @property
    def is_vector(self) -> bool:
        """Whether this is VECTOR or HALFVEC."""
        return self.dimensions is not None

    @property
    def element(self) -> Literal["float32", "float16"]:
        """NumPy dtype name of a vector's elements."""
        return "float16" if self.name.startswith("HALFVEC") else "float32"

    @cached_property
    def bits(self) -> int | None:
        """Length of a bit string; None for any other type."""
        match = _BITS.match(self.name)
        return int(match[1]) if match else None

    @cached_property
    def storage(self) -> pa.DataType:
        """The Arrow type in segments and in the WAL: a fixed-size list for vectors; for bits eight
        to a byte, the first in the highest place, zeros behind the last.
        """
        if self.bits is not None:
            return pa.binary((self.bits + 7) // 8)
        if self.dimensions is not None:
            return pa.list_(
                pa.float16() if self.element == "float16" else pa.float32(), self.dimensions
            )
        if self.name.endswith("[]"):
            return pa.list_(ColumnType(self.name[:-2]).storage)
        if match := _DECIMAL.match(self.name):
            return pa.decimal128(int(match[1]), int(match[2]))
        return _STORAGE[self.name]

    @cached_property
    def duck(self) -> str:
        """The DuckDB type as which SQL sees the column."""
        if self.bits is not None:
            return "BIT"
        return f"FLOAT[{self.dimensions}]" if self.is_vector else self.name

    @property
    def display(self) -> str:
        """The name in answers and in DESCRIBE: VARCHAR is shown as TEXT."""
        return self.name.replace("VARCHAR", "TEXT")


def _canonical(text: str) -> str:
    if text.endswith("[]"):
        inner = _canonical(text[:-2].rstrip())
        if _VECTOR.match(inner) or _BITS.match(inner):
            raise Unsupported(
                f"A list of vectors ({text}) is no column type; use a row per vector."
            )
        return inner + "[]"
    if match := _VECTOR.match(text):
        return _checked_vector(match[1], int(match[2]))
    if text in ("VECTOR", "HALFVEC"):
        raise InvalidValue(f"A {text} column needs its number of dimensions, as in {text}(384).")
    if text == "BIT" or (match := _BITS.match(text)):
        return _checked_bits(int(match[1]) if text != "BIT" and match else 1)
    if text.partition("(")[0].strip() == "SPARSEVEC":
        raise Unsupported(_NO_SPARSE)
    if _LENGTH.match(text):
        return "VARCHAR"  # as DuckDB: the length is accepted and not enforced
    if match := _FLOAT.match(text):
        return _checked_float(text, int(match[1]))
    head, _, tail = text.partition("(")
    head = _ALIASES.get(head.strip(), head.strip())
    if head == "DECIMAL":
        return _decimal(f"DECIMAL({tail}" if tail else "DECIMAL")
    if head in _STORAGE and (not tail or head in ("TIMESTAMP", "TIME")):
        return head
    raise Unsupported(
        f"Columns can't have the type {text}. Offered: {', '.join(sorted(_STORAGE))}, "
        "DECIMAL(p,s), lists of these, VECTOR(n), HALFVEC(n) and BIT(n)."
    )


def _checked_float(text: str, digits: int) -> str:
    """As PostgreSQL: binary digits that the type must hold."""
    if not 1 <= digits <= 53:
        raise InvalidValue(f"{text}: the precision must be 1 to 53 binary digits.")
    return "FLOAT" if digits <= 24 else "DOUBLE"


def _checked_bits(bits: int) -> str:
    if not 1 <= bits <= MAX_BITS:
        raise InvalidValue(f"BIT({bits}): the length must be 1 to {MAX_BITS}.")
    return f"BIT({bits})"


def _checked_vector(kind: str, dimensions: int) -> str:
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise InvalidValue(f"{kind}({dimensions}): dimensions must be 1 to {MAX_DIMENSIONS}.")
    return f"{kind}({dimensions})"


def _decimal(text: str) -> str:
    match = _DECIMAL.match(text)
    if not match:
        raise InvalidValue(f"{text} is no decimal type; write DECIMAL(precision, scale).")
    precision = int(match[1] or 18)
    scale = int(match[2] or (0 if match[1] else 3))
    if not 1 <= precision <= 38 or scale > precision:
        raise InvalidValue(f"{text}: precision must be 1 to 38 and scale at most the precision.")
    return f"DECIMAL({precision},{scale})"


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `number` never changes and is never used again; `default` is SQL text or None."""

    number: int
    name: str
    type: ColumnType
    not_null: bool = False
    default: str | None = None
    identity: bool = False  # numbers given out in blocks by metadata; gaps permitted
    hidden: bool = False  # the key of a table declared without one


@dataclass(frozen=True)
class TableSchema:
    """The columns of a table at one version. Invariant: numbers and names are unique; a key exists.

    A table declared without PRIMARY KEY has a hidden BIGINT identity key named KEY_COLUMN, first.
    """

    columns: tuple[Column, ...]
    key_number: int
    checks: tuple[tuple[str, str], ...] = ()  # (constraint name, SQL condition)
    version: int = 1

    @cached_property
    def by_name(self) -> dict[str, Column]:
        """Columns by lower-case name (SQL identifiers are case-insensitive, as in DuckDB)."""
        return {column.name.lower(): column for column in self.columns}

    @cached_property
    def key(self) -> Column:
        """The primary key column."""
        return next(column for column in self.columns if column.number == self.key_number)

    @cached_property
    def visible(self) -> tuple[Column, ...]:
        """What `SELECT *` shows, in order."""
        return tuple(column for column in self.columns if not column.hidden)

    @cached_property
    def vectors(self) -> tuple[Column, ...]:
        """The vector columns, in order."""
        return tuple(column for column in self.columns if column.type.is_vector)

    def column(self, name: str) -> Column:
        """The column of this name, whatever its case.

        Raises:
            UndefinedColumn: there is none.
        """
        found = self.by_name.get(name.lower())
        if found is None:
            raise UndefinedColumn(f"There is no column {name!r}.")
        return found

    def storage_schema(self) -> pa.Schema:
        """Arrow schema of complete rows: every column by name, hidden key included."""
        return pa.schema(
            [pa.field(c.name, c.type.storage, nullable=not c.not_null) for c in self.columns]
        )


@dataclass(frozen=True, slots=True)
class IndexDef:
    """A vector index as declared. `options` as given in WITH, lower-case names.

    column: that of an expression is the first that it names. expression, condition: what is
    indexed and of which rows, as SQL; None = the column, all rows. bits: by what bit strings are
    compared, `hamming` or `jaccard`; None for vectors.
    """

    uuid: str
    name: str
    column: str
    kind: str  # auto | flat | hnsw | ivfflat | ivfpq | ivfrabitq | cagra
    metric: Metric
    options: dict[str, Any] = field(default_factory=dict)
    expression: str | None = None
    condition: str | None = None
    bits: str | None = None


@dataclass(frozen=True)
class TableDef:
    """A table as metadata records it. `uuid` is new when a dropped name is created again."""

    uuid: str
    name: str
    schema: TableSchema
    shards: int = 1
    replicas: int = 1
    indexes: tuple[IndexDef, ...] = ()
    write_concern: str | None = None


def key_column(number: int) -> Column:
    """The hidden key of a table declared without one."""
    return Column(number, KEY_COLUMN, ColumnType("BIGINT"), True, identity=True, hidden=True)
