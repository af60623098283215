"""`GET /v1/tables/{table}/map`: a sample of a table's vectors on a plane, for people to look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from nearql.engine.errors import InvalidRequest, InvalidValue, UndefinedColumn
from nearql.engine.projection import principal_plane
from nearql.engine.schema import Column, TableDef
from nearql.engine.types import ROW_COLUMN
from nearql.server.access.principal import acting_as
from nearql.server.edge import Edge, principal_of
from nearql.server.ports import NodePort
from nearql.server.replies import json_reply
from nearql.server.routes.tables import visible_table
from nearql.server.wire_values import json_values

_PARAMETERS = frozenset({"column", "color", "rows"})
DEFAULT_ROWS = 1000


@dataclass(frozen=True, slots=True)
class _Asked:
    """What to show. color: the column whose values the answer holds, too; rows: at most."""

    table: TableDef
    column: Column
    color: Column | None
    rows: int


async def table_map(request: Request, edge: Edge) -> Response:
    """Project a sample of one vector column by principal component analysis."""
    node, principal = edge.node_of(request), principal_of(request)
    asked = _asked(request, edge, node)

    def draw() -> dict[str, Any]:
        with acting_as(principal):
            return _drawn(node, asked)

    return json_reply(await edge.run(draw, heavy=True))


def _asked(request: Request, edge: Edge, node: NodePort) -> _Asked:
    query = request.query_params
    if unknown := set(query) - _PARAMETERS:
        raise InvalidRequest(
            f"Unknown query parameter {min(unknown)[:80]!r}; known are column, color and rows."
        )
    table = visible_table(node, principal_of(request), request.path_params["table"])
    color = query.get("color")
    return _Asked(
        table=table,
        column=_vector_column(table, query.get("column")),
        color=None if color is None else _color_column(table, color),
        rows=_count(query.get("rows"), edge.config.limits.map_rows),
    )


def _vector_column(table: TableDef, name: str | None) -> Column:
    """The column of this name, or the first that has vectors."""
    found = [c for c in table.schema.visible if c.type.is_vector]
    if name is not None:
        column = _column(table, name)
        if column not in found:
            raise InvalidValue(f"Column {column.name!r} is {column.type.display}, not a vector.")
        return column
    if not found:
        raise InvalidValue(f"Table {table.name!r} has no vector column.")
    return found[0]


def _color_column(table: TableDef, name: str) -> Column:
    column = _column(table, name)
    if column.type.is_vector:
        raise InvalidValue(f"Column {column.name!r} holds vectors: they can't be a color.")
    return column


def _column(table: TableDef, name: str) -> Column:
    for column in table.schema.visible:
        if column.name.lower() == name.lower():
            return column
    raise UndefinedColumn(f"Table {table.name!r} has no column {name[:80]!r}.")


def _count(text: str | None, most: int) -> int:
    if text is None:
        return min(DEFAULT_ROWS, most)
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise InvalidValue(
            f"rows = {text[:80]!r}: must be a whole number from 1 to {most} (limits.map_rows)."
        )
    return int(text)


def _drawn(node: NodePort, asked: _Asked) -> dict[str, Any]:
    """In a worker thread."""
    view = node.table(asked.table.uuid).read_view()
    schema = asked.table.schema
    key = schema.key if schema.key in schema.visible else None
    shown = [c.name for c in (key, asked.color) if c is not None]
    rows = _spread(view.scan([]).column(ROW_COLUMN), asked.rows)
    taken = view.take(list(dict.fromkeys([asked.column.name, *shown])), rows)
    taken = taken.filter(taken.column(asked.column.name).is_valid())
    points, explained = principal_plane(_matrix(taken.column(asked.column.name)))
    keys, colors = (_values(taken, c) for c in (key, asked.color))
    return {
        "table": asked.table.name,
        "column": asked.column.name,
        "key": key.name if key else None,
        "color": asked.color.name if asked.color else None,
        "rows": view.row_count,
        "method": "pca",
        "explained": [round(share, 6) for share in explained],
        "points": [
            [k, float(f"{x:.6g}"), float(f"{y:.6g}"), c]
            for k, (x, y), c in zip(keys, points.tolist(), colors, strict=True)
        ],
    }


def _spread(numbers: pa.ChunkedArray, count: int) -> NDArray[np.int64]:
    """At most `count` row numbers, from all over the table and the same each time."""
    at = np.unique(np.linspace(0, len(numbers) - 1, min(count, len(numbers))).astype(np.int64))
    found: NDArray[np.int64] = numbers.take(pa.array(at)).to_numpy()
    return found


def _matrix(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """Vectors, none of them NULL, as rows."""
    width = column.type.list_size
    flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    joined = np.concatenate(flat) if flat else np.empty(0, np.float32)
    return joined.astype(np.float32, copy=False).reshape(-1, width)


def _values(taken: pa.Table, column: Column | None) -> list[Any]:
    if column is None:
        return [None] * taken.num_rows
    return [v for chunk in taken.column(column.name).chunks for v in json_values(chunk)]
