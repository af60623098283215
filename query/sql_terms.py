"""What the SQL in index definitions means to the engine, which builds indexes and knows no SQL."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sqlglot import exp

from nearql.engine.errors import NearQLError
from nearql.engine.index.declared import Term
from nearql.engine.schema import Column, IndexDef, TableSchema
from nearql.engine.types import ROW_COLUMN
from nearql.query import duck
from nearql.query.dialect import to_duckdb
from nearql.query.index_terms import Made, in_schema, made_of, tree_of
from nearql.query.rows import quoted, sql_value
from nearql.query.rules.common import is_volatile
from nearql.query.trees import all_of

_INDEXED = "nq0_indexed"


class SqlTerms:
    """Implements `engine.index.declared.IndexTerms`."""

    def of(self, schema: TableSchema, definition: IndexDef) -> Term | None:
        """See `IndexTerms.of`."""
        try:
            return _term(schema, definition)
        except NearQLError:  # of a version that offered what this one doesn't
            return None

    def qualifying(self, schema: TableSchema, condition: str, rows: pa.Table) -> NDArray[np.int64]:
        """See `IndexTerms.qualifying`."""
        tree = tree_of(condition)
        for column in all_of(tree, exp.Column):
            column.set("table", None)
        items = [_item(schema.column(name)) for name in rows.column_names if name != ROW_COLUMN]
        source = f"(SELECT {', '.join([*items, ROW_COLUMN])} FROM {_INDEXED})"
        with duck.shared().cursor() as cursor:
            cursor.register(_INDEXED, rows)
            answer = cursor.query(f"SELECT {ROW_COLUMN} FROM {source} WHERE {to_duckdb(tree)}")
        found: NDArray[np.int64] = answer.table.column(0).to_numpy()
        return found


def _term(schema: TableSchema, definition: IndexDef) -> Term | None:
    made: Made | None = None
    if definition.expression is not None:
        made = made_of(tree_of(definition.expression), in_schema(schema))
        if made is None or made.column.name != schema.column(definition.column).name:
            return None
    elif definition.bits is not None:
        made = made_of(exp.column(definition.column), in_schema(schema))
    if definition.bits is not None and (made is None or not made.bits):
        return None
    reads: tuple[str, ...] = ()
    if definition.condition is not None:
        tree = tree_of(definition.condition)
        if is_volatile(tree):
            return None
        names = (schema.column(column.name).name for column in all_of(tree, exp.Column))
        reads = tuple(dict.fromkeys(names))
    return Term(made.derivation if made is not None else None, reads)


def _item(column: Column) -> str:
    made = sql_value(column)
    return quoted(column.name) if made is None else f"{made} AS {quoted(column.name)}"
