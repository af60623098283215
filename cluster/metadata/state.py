"""The metadata state machine: `apply(state, command) -> (state, result)`.

Pure and deterministic: no clock, no randomness, no I/O, no iteration over sets; it never raises
for a command that was decoded, a refusal is a result. The same function serves a node alone and,
under Raft, every member of a cluster. A state is never changed: readers may keep one as long as
they like.

Invariants (`check_invariants`): names are unique among tables whatever their case; each table has
`table.shards` shard rows; `1 <= len(isr)`, and a primary is a member of its in-sync set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nearql.cluster.metadata import commands as c
from nearql.cluster.metadata import jobs, nodes, restores, shards, views
from nearql.cluster.metadata.access import Access, apply_access
from nearql.cluster.metadata.access_commands import ACCESS_COMMANDS
from nearql.cluster.metadata.commands import Result
from nearql.cluster.metadata.jobs import JobRow
from nearql.cluster.metadata.nodes import NodeRow
from nearql.cluster.metadata.shards import ShardRow
from nearql.engine.named_query import ViewDef
from nearql.engine.schema import TableDef

__all__ = ["COMMANDS", "Metadata", "NodeRow", "Result", "ShardRow", "TableRow", "apply"]

# Request ids whose results a retry still finds: the newest, and generations of older ones that are
# shared by all states, so that remembering one more does not copy ten thousand.
GENERATION, GENERATIONS = 256, 40


@dataclass(frozen=True, slots=True)
class TableRow:
    """A table and where it lies. ready: its copies are prepared, so it is visible.

    restoring: rows of a backup are being written into it, so nobody sees it yet; who does that, see
    `restores`.
    """

    table: TableDef
    shards: tuple[ShardRow, ...]
    ready: bool = False
    next_number: int = 1  # the next identity number to give out
    restoring: str = ""


@dataclass(frozen=True)
class Metadata:
    """The whole catalog at one log index. version: rises with every change that a plan can see."""

    cluster_id: str = ""
    version: int = 0
    applied_index: int = 0
    nodes: Mapping[str, NodeRow] = field(default_factory=dict)
    tables: Mapping[str, TableRow] = field(default_factory=dict)  # by uuid
    views: Mapping[str, ViewDef] = field(default_factory=dict)  # by uuid
    settings: Mapping[str, str] = field(default_factory=dict)  # of the whole cluster
    feature_level: int = 0  # raised by the operator once every node supports it
    results: Mapping[str, Result] = field(default_factory=dict)  # by request id: the newest
    older_results: tuple[Mapping[str, Result], ...] = ()  # generations, the oldest first
    access: Access = field(default_factory=Access)
    join_tokens: Mapping[str, int] = field(default_factory=dict)  # digest -> valid until, ms
    jobs: Mapping[str, JobRow] = field(default_factory=dict)  # by uuid

    def table_named(self, name: str) -> TableRow | None:
        """The table of this name, ready or not, whatever its case."""
        wanted = name.lower()
        return next((r for r in self.tables.values() if r.table.name.lower() == wanted), None)

    def index_named(self, name: str) -> tuple[TableRow, str] | None:
        """The table that has an index of this name, and the index's uuid."""
        wanted = name.lower()
        for row in self.tables.values():
            for index in row.table.indexes:
                if index.name.lower() == wanted:
                    return row, index.uuid
        return None

    def check_invariants(self) -> None:
        """Raise AssertionError where the state contradicts itself."""
        names = [row.table.name.lower() for row in self.tables.values()]
        assert len(names) == len(set(names)), "two tables of one name"
        for row in self.tables.values():
            assert len(row.shards) == row.table.shards, row.table.name
            for shard in row.shards:
                assert shard.isr, f"shard {shard.uuid} has an empty in-sync set"
                assert shard.primary is None or shard.primary in shard.isr, shard.uuid
        views.check_invariants(self)
        assert len(self.older_results) <= GENERATIONS


def apply(state: Metadata, command: c.Command) -> tuple[Metadata, Result]:
    """The state after `command`, and what it answers."""
    state = replace(state, applied_index=state.applied_index + 1)
    known = _remembered(state, command.request_id)
    if known is not None:
        return state, known
    try:
        changed, result = _HANDLERS[type(command)](state, command)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        # A nonsensical command must not stop every member for ever: each refuses it alike.
        changed, result = state, Result("invalid_command", f"{type(error).__name__}: {error}")
    return _remember(changed, command.request_id, result), result


def _remembered(state: Metadata, request_id: str) -> Result | None:
    for generation in (state.results, *reversed(state.older_results)):
        if request_id in generation:
            return generation[request_id]
    return None


def _remember(state: Metadata, request_id: str, result: Result) -> Metadata:
    if len(state.results) < GENERATION:
        return replace(state, results={**state.results, request_id: result})
    older = (*state.older_results, state.results)[-GENERATIONS:]
    return replace(state, results={request_id: result}, older_results=older)


def _initialise(state: Metadata, command: c.Initialise) -> tuple[Metadata, Result]:
    if state.cluster_id:
        return state, Result("already_initialised", f"This is cluster {state.cluster_id} already.")
    return replace(state, cluster_id=command.cluster_id), Result(value=command.cluster_id)


def _create_table(state: Metadata, command: c.CreateTable) -> tuple[Metadata, Result]:
    table = command.table
    if state.table_named(table.name):
        return state, Result("duplicate_table", f"A table named {table.name!r} exists already.")
    if (taken := views.name_taken(state, table.name)) is not None:
        return state, taken
    placement = command.placement or (command.nodes,) * len(command.shard_uuids)
    placed = zip(command.shard_uuids, placement, strict=True)
    shards = tuple(_new_shard(uuid, nodes) for uuid, nodes in placed)
    row = TableRow(table, shards, restoring=command.restoring)
    return _with_table(state, row), Result(value=table.uuid)


def _new_shard(uuid: str, nodes: tuple[str, ...]) -> ShardRow:
    copies = dict.fromkeys(nodes, "")
    return ShardRow(uuid, 1, nodes[0], copies, tuple(sorted(nodes)), len(nodes) // 2 + 1)


def _table_ready(state: Metadata, command: c.TableReady) -> tuple[Metadata, Result]:
    row = state.tables.get(command.table_uuid)
    if row is None:
        return state, _no_table(command.table_uuid)
    if not command.alloc_ids:
        return _table_ready_as_told(state, row)
    shards = tuple(
        replace(shard, replicas={node: command.alloc_ids[node] for node in shard.replicas})
        for shard in row.shards
    )
    return _with_table(state, replace(row, shards=shards, ready=True)), Result()


def _table_ready_as_told(state: Metadata, row: TableRow) -> tuple[Metadata, Result]:
    """In sync is who told that its copy is prepared; the first of them by placement orders."""
    if row.ready:
        return state, Result()
    shards = []
    for shard in row.shards:
        prepared = [node for node, alloc in shard.replicas.items() if alloc]
        if len(prepared) < shard.min_isr:
            detail = f"{len(prepared)} copies of a shard are prepared, {shard.min_isr} are needed."
            return state, Result("not_enough_replicas", detail)
        version, isr = shard.version + 1, tuple(sorted(prepared))
        shards.append(replace(shard, primary=prepared[0], isr=isr, version=version))
    return _with_table(state, replace(row, shards=tuple(shards), ready=True)), Result()


def _drop_table(state: Metadata, command: c.DropTable) -> tuple[Metadata, Result]:
    if command.table_uuid not in state.tables:
        return state, _no_table(command.table_uuid)
    left = views.without(state, command.table_uuid, cascade=command.cascade)
    if isinstance(left, Result):
        return state, left
    kept = {uuid: row for uuid, row in state.tables.items() if uuid != command.table_uuid}
    return replace(left, tables=kept, version=state.version + 1), Result()


def _replace_schema(state: Metadata, command: c.ReplaceSchema) -> tuple[Metadata, Result]:
    row = state.tables.get(command.table_uuid)
    if row is None:
        return state, _no_table(command.table_uuid)
    have = row.table.schema.version
    if have != command.expected_version or command.schema.version != have + 1:
        detail = f"Table {row.table.name!r} was altered meanwhile (version {have}); try again."
        return state, Result("schema_changed", detail)
    if (refused := views.refused_change(state, row, command)) is not None:
        return state, refused
    name = command.new_name or row.table.name
    other = state.table_named(name)
    if other is not None and other.table.uuid != row.table.uuid:
        return state, Result("duplicate_table", f"A table named {name!r} exists already.")
    table = replace(row.table, name=name, schema=command.schema)
    return _with_table(state, replace(row, table=table)), Result()


def _create_index(state: Metadata, command: c.CreateIndex) -> tuple[Metadata, Result]:
    row = state.tables.get(command.table_uuid)
    if row is None:
        return state, _no_table(command.table_uuid)
    if state.index_named(command.index.name):
        detail = f"An index named {command.index.name!r} exists already."
        return state, Result("duplicate_index", detail)
    table = replace(row.table, indexes=(*row.table.indexes, command.index))
    return _with_table(state, replace(row, table=table)), Result(value=command.index.uuid)


def _drop_index(state: Metadata, command: c.DropIndex) -> tuple[Metadata, Result]:
    for row in state.tables.values():
        kept = tuple(index for index in row.table.indexes if index.uuid != command.index_uuid)
        if len(kept) < len(row.table.indexes):
            table = replace(row.table, indexes=kept)
            return _with_table(state, replace(row, table=table)), Result()
    return state, Result("undefined_index", f"There is no index {command.index_uuid}.")


def _allocate(state: Metadata, command: c.AllocateNumbers) -> tuple[Metadata, Result]:
    row = state.tables.get(command.table_uuid)
    if row is None:
        return state, _no_table(command.table_uuid)
    first = row.next_number
    moved = replace(row, next_number=first + command.count)
    # No plan depends on the counter, so the version stays and cached plans stay valid.
    return replace(state, tables={**state.tables, row.table.uuid: moved}), Result(value=first)


def _change_access(state: Metadata, command: c.Command) -> tuple[Metadata, Result]:
    # No plan depends on who may do what, so the version stays.
    applied = apply_access(state.access, command, state.tables.keys())
    return replace(state, access=applied.access), Result(
        applied.code, applied.detail, applied.value
    )


def _with_table(state: Metadata, row: TableRow) -> Metadata:
    tables = {**state.tables, row.table.uuid: row}
    return replace(state, tables=tables, version=state.version + 1)


def _no_table(uuid: str) -> Result:
    return Result("undefined_table", f"There is no table {uuid}.")


Handler = Callable[[Metadata, Any], tuple[Metadata, Result]]

_TABLES: dict[type[c.Command], Handler] = {
    c.Initialise: _initialise,
    c.CreateTable: _create_table,
    c.TableReady: _table_ready,
    c.DropTable: _drop_table,
    c.ReplaceSchema: _replace_schema,
    c.CreateIndex: _create_index,
    c.DropIndex: _drop_index,
    c.AllocateNumbers: _allocate,
}
# The commands of further files: one more name here.
_HANDLERS: dict[type[c.Command], Handler] = {
    **_TABLES,
    **nodes.HANDLERS,
    **shards.HANDLERS,
    **jobs.HANDLERS,
    **views.HANDLERS,
    **restores.HANDLERS,
    **dict.fromkeys(ACCESS_COMMANDS, _change_access),
}
COMMANDS: dict[str, type[c.Command]] = {kind.__name__: kind for kind in _HANDLERS}
