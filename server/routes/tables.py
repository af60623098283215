"""What there is: tables with their schema, size, indexes, segments and shards."""

from __future__ import annotations

import difflib
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from nearql.engine.errors import NotFound
from nearql.engine.schema import TableDef
from nearql.server.access.node import hidden
from nearql.server.access.principal import LOCAL, Principal, acting_as
from nearql.server.edge import Edge, principal_of
from nearql.server.ports import NodePort
from nearql.server.replies import json_reply
from nearql.server.routes.cluster import shard_list

_COLUMN = ("name", "type", "nullable", "default", "primary_key")


async def tables(request: Request, edge: Edge) -> Response:
    """Every table."""
    node, principal = edge.node_of(request), principal_of(request)
    return json_reply({"tables": await edge.run(lambda: describe_tables(node, principal))})


async def table(request: Request, edge: Edge) -> Response:
    """One table; 404 names the nearest."""
    node, principal = edge.node_of(request), principal_of(request)
    found = visible_table(node, principal, request.path_params["table"])
    described = await edge.run(lambda: describe_tables(node, principal))
    return json_reply(next((t for t in described if t["uuid"] == found.uuid), None))


def visible_table(node: NodePort, principal: Principal, name: str) -> TableDef:
    """The table of this name among those that the principal may know of.

    Raises:
        NotFound: code `undefined_table`, for those who may know of all tables. Forbidden: for
        others, whether there is such a table or not.
    """
    try:
        return find_table(node, name)
    except NotFound:
        if principal.rights.sees_all:
            raise
        with acting_as(principal):
            raise hidden(name) from None


def find_table(node: NodePort, name: str) -> TableDef:
    """The table of this name, whatever its case.

    Raises:
        NotFound: code `undefined_table`.
    """
    known = node.catalog().tables
    found = known.get(name.lower())
    if found is None:
        close = difflib.get_close_matches(name.lower(), list(known), n=1)
        hint = f"; did you mean {known[close[0]].name!r}?" if close else "."
        raise NotFound(f"There is no table {name[:200]!r}{hint}", code="undefined_table")
    return found


def describe_tables(node: NodePort, principal: Principal = LOCAL) -> list[dict[str, Any]]:
    """Every table that the principal may know of, as /v1/tables shows it, by name."""
    with acting_as(principal):
        return _described(node)


def _described(node: NodePort) -> list[dict[str, Any]]:
    shards = shard_list(node)
    columns, indexes, segments = (rows(node, name) for name in ("columns", "indexes", "segments"))
    return [
        {
            "name": t["name"],
            "uuid": t["uuid"],
            "status": t["status"],
            "rows": t["rows"],
            "bytes": t["bytes"],
            "wal_bytes": t["wal_bytes"],
            "replicas": t["replicas"],
            "schema": {
                "columns": [{k: c[k] for k in _COLUMN} for c in columns if c["table"] == t["name"]]
            },
            "indexes": _of(indexes, t["name"]),
            "segments": _of(segments, t["name"]),
            "shards": _of(shards, t["name"]),
        }
        for t in rows(node, "tables")
    ]


def rows(node: NodePort, name: str) -> list[dict[str, Any]]:
    """The rows of a system table."""
    found = node.system_table(name)
    listed: list[dict[str, Any]] = found.to_pylist() if found is not None else []
    return listed


def _of(listed: list[dict[str, Any]], table_name: str) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in row.items() if k != "table"}
        for row in listed
        if row["table"] == table_name
    ]
