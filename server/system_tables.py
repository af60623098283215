"""The tables `nearql.*`: what a node knows about itself, as Arrow, readable by SQL."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from nearql.engine.schema import IndexDef
from nearql.server.config import SECTIONS, Config

if TYPE_CHECKING:
    from nearql.cluster.metadata.state import ShardRow, TableRow
    from nearql.server.node import Node

_TABLES = pa.schema(
    [("name", pa.string()), ("uuid", pa.string()), ("rows", pa.int64()), ("bytes", pa.int64()),
     ("shards", pa.int32()), ("replicas", pa.int32()), ("segments", pa.int32()),
     ("wal_bytes", pa.int64()), ("status", pa.string())]
)  # fmt: skip
_COLUMNS = pa.schema(
    [("table", pa.string()), ("name", pa.string()), ("position", pa.int32()), ("type", pa.string()),
     ("nullable", pa.bool_()), ("default", pa.string()), ("primary_key", pa.bool_())]
)  # fmt: skip
_INDEXES = pa.schema(
    [("name", pa.string()), ("table", pa.string()), ("column", pa.string()), ("kind", pa.string()),
     ("metric", pa.string()), ("phase", pa.string()), ("rows_done", pa.int64()),
     ("rows_total", pa.int64()), ("rate", pa.float64()), ("eta_ms", pa.int64()),
     ("bytes", pa.int64()), ("detail", pa.string())]
)  # fmt: skip
SHARDS = pa.schema(
    [("table", pa.string()), ("shard", pa.int32()), ("uuid", pa.string()), ("epoch", pa.int64()),
     ("primary", pa.string()), ("in_sync", pa.list_(pa.string())), ("commit_lsn", pa.int64()),
     ("node", pa.string()), ("state", pa.string()), ("lsn", pa.int64()),
     ("lag_records", pa.int64()), ("lag_ms", pa.int64())]
)  # fmt: skip
NODES = pa.schema(
    [("name", pa.string()), ("role", pa.string()), ("url", pa.string()), ("alive", pa.bool_()),
     ("last_seen_ms", pa.int64()), ("incarnation", pa.int64()), ("fenced", pa.bool_()),
     ("draining", pa.bool_())]
)  # fmt: skip
_SEGMENTS = pa.schema(
    [("table", pa.string()), ("shard", pa.int32()), ("first_row", pa.int64()),
     ("state", pa.string()), ("rows", pa.int64()), ("dead_rows", pa.int64()), ("bytes", pa.int64())]
)  # fmt: skip
_DAMAGE = pa.schema(
    [("table", pa.string()), ("shard", pa.int32()), ("file", pa.string()),
     ("first_row", pa.int64()), ("last_row", pa.int64()), ("columns", pa.list_(pa.string())),
     ("keys", pa.list_(pa.string())), ("detail", pa.string())]
)  # fmt: skip
_DEVICES = pa.schema(
    [("device", pa.string()), ("backend", pa.string()), ("status", pa.string()),
     ("detail", pa.string())]
)  # fmt: skip
_SETTINGS = pa.schema([("name", pa.string()), ("value", pa.string()), ("description", pa.string())])


def effective_settings(config: Config) -> dict[str, Any]:
    """Every setting by `section.key`."""
    return {
        f"{section}.{f.name}": getattr(getattr(config, section), f.name)
        for section, kind in SECTIONS.items()
        for f in fields(kind)
    }


def build(schema: pa.Schema, rows: Iterable[tuple[Any, ...]]) -> pa.Table:
    """A system table of these rows, their values in the schema's order."""
    names = schema.names
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema)


def _ready(node: Node) -> list[TableRow]:
    tables = node.metadata.state.tables.values()
    rows = (row for row in tables if row.ready and not row.restoring)
    return sorted(rows, key=lambda row: row.table.name)


def _tables(node: Node) -> Iterator[tuple[Any, ...]]:
    for row in _ready(node):
        t = row.table
        failed = node.failed_tables().get(t.uuid)
        if failed is not None:
            yield t.name, t.uuid, None, None, t.shards, t.replicas, None, None, failed.detail
            continue
        s = node.table(t.uuid).stats()
        yield (
            t.name, t.uuid, s.rows, s.bytes, t.shards, t.replicas, len(s.segments), s.wal_bytes,
            "ready",
        )  # fmt: skip


def _columns(node: Node) -> Iterator[tuple[Any, ...]]:
    for row in _ready(node):
        schema = row.table.schema
        for position, column in enumerate(schema.visible, 1):
            is_key = column.number == schema.key_number
            yield (
                row.table.name, column.name, position, column.type.display,
                not (column.not_null or is_key), column.default, is_key,
            )  # fmt: skip


def _indexes(node: Node) -> Iterator[tuple[Any, ...]]:
    for row in _ready(node):
        if row.table.uuid in node.failed_tables():
            continue
        progress = node.table(row.table.uuid).index_progress()
        for index in row.table.indexes:
            found = progress.get(index.uuid)
            if found is not None:  # else it was made this instant
                yield (
                    index.name, row.table.name, _indexed(index), index.kind,
                    index.bits or str(index.metric),
                    found.phase, found.rows_done, found.rows_total, found.rate, found.eta_ms,
                    found.bytes, found.detail,
                )  # fmt: skip


def _indexed(index: IndexDef) -> str:
    """What an index is of: a column, an expression, and of which rows."""
    what = index.column if index.expression is None else f"({index.expression})"
    return what if index.condition is None else f"{what} WHERE {index.condition}"


def _shards(node: Node) -> Iterator[tuple[Any, ...]]:
    for row in _ready(node):
        if row.table.uuid in node.failed_tables():
            continue
        positions = {p.shard: p for p in node.table(row.table.uuid).read_view().positions}
        for number, shard in enumerate(row.shards):
            lsn = positions[number].lsn
            yield (
                row.table.name, number, shard.uuid, shard.epoch, _name(node, shard.primary),
                [_name(node, member) for member in shard.isr], lsn,
                _own_copy(node, shard), "primary_active", lsn, 0, 0,
            )  # fmt: skip


def _own_copy(node: Node, shard: ShardRow) -> str | None:
    return _name(node, node.node_id) if node.node_id in shard.replicas else None


def _name(node: Node, node_id: str | None) -> str | None:
    row = node.metadata.state.nodes.get(node_id) if node_id else None
    return row.name if row else node_id


def _nodes(node: Node) -> Iterator[tuple[Any, ...]]:
    for row in node.metadata.state.nodes.values():
        yield row.name, "leader", row.url, True, 0, row.incarnation, row.fenced, row.draining


def _segments(node: Node) -> Iterator[tuple[Any, ...]]:
    for row in _ready(node):
        if row.table.uuid in node.failed_tables():
            continue
        for s in node.table(row.table.uuid).stats().segments:
            state = "sealed" if s.sealed else "growing"
            state = state if s.damage is None else "damaged"
            yield row.table.name, s.shard, s.first_row, state, s.rows, s.dead, s.bytes


def _damage(node: Node) -> Iterator[tuple[Any, ...]]:
    for table in node.tables():
        names = {column.number: column.name for column in table.definition.schema.columns}
        for s in table.stats().segments:
            if (damage := s.damage) is None:
                continue
            lost = [names[n] for n in sorted(damage.columns) if n in names]
            yield (
                table.definition.name, s.shard, damage.file, damage.first, damage.end - 1,
                lost or None, table.keys_hit(s.shard, damage), damage.place,
            )  # fmt: skip


def _devices(node: Node) -> Iterator[tuple[Any, ...]]:
    for check in node.probe.checks:
        status = "chosen" if check.name == node.probe.chosen else _usable(check.usable)
        detail = check.detail
        if check.name == node.probe.chosen:
            detail = f"{detail}; {node.machine}"
        yield "cpu", check.name, status, detail


def _usable(usable: bool) -> str:
    return "usable" if usable else "not usable"


def _settings(node: Node) -> Iterator[tuple[Any, ...]]:
    values = effective_settings(node.config)
    for section, kind in SECTIONS.items():
        for f in fields(kind):
            name = f"{section}.{f.name}"
            yield name, str(values[name]), f.metadata["help"]


_VIEWS = pa.schema(
    [("name", pa.string()), ("query", pa.string()), ("columns", pa.list_(pa.string())),
     ("reads", pa.list_(pa.string()))]
)  # fmt: skip


def _views(node: Node) -> Iterator[tuple[Any, ...]]:
    state = node.metadata.state
    names = {uuid: row.table.name for uuid, row in state.tables.items()}
    names |= {uuid: view.name for uuid, view in state.views.items()}
    for view in sorted(state.views.values(), key=lambda view: view.name.lower()):
        reads = sorted(names[uuid] for uuid in view.reads)
        yield view.name, view.query, [column.name for column in view.columns], reads


def _maker(
    schema: pa.Schema, rows: Callable[[Node], Iterator[tuple[Any, ...]]]
) -> Callable[[Node], pa.Table]:
    return lambda node: build(schema, rows(node))


TABLES: dict[str, Callable[[Node], pa.Table]] = {
    "tables": _maker(_TABLES, _tables),
    "columns": _maker(_COLUMNS, _columns),
    "indexes": _maker(_INDEXES, _indexes),
    "shards": _maker(SHARDS, _shards),
    "nodes": _maker(NODES, _nodes),
    "segments": _maker(_SEGMENTS, _segments),
    "damage": _maker(_DAMAGE, _damage),
    "devices": _maker(_DEVICES, _devices),
    "settings": _maker(_SETTINGS, _settings),
    "views": _maker(_VIEWS, _views),
    "queries": lambda node: node.session().statements.table(),
}
