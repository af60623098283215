"""Nodes, and the settings that all of them share.

A node is a disk (`node_id`); each start of its process is one more *incarnation*. Fencing names an
incarnation: a process that was declared dead stays fenced, and the next start of the same node
is another one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nearql.cluster.metadata.commands import Command, RegisterNode, Result

if TYPE_CHECKING:
    from nearql.cluster.metadata.shards import ShardRow
    from nearql.cluster.metadata.state import Metadata


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node that registered. incarnation: how many times its process has started."""

    node_id: str
    name: str
    url: str
    incarnation: int
    fenced: bool = False  # this incarnation was declared dead
    draining: bool = False  # gets no new copies, and gives away those it has


@dataclass(frozen=True, kw_only=True)
class FenceNode(Command):
    """Declare one incarnation dead, and take it out of the in-sync sets that can spare it."""

    node_id: str
    incarnation: int


@dataclass(frozen=True, kw_only=True)
class DrainNode(Command):
    """Give a node no new copies, or let it have them again."""

    node_id: str
    draining: bool


@dataclass(frozen=True, kw_only=True)
class RemoveNode(Command):
    """Forget a node that holds no copy any more."""

    node_id: str


@dataclass(frozen=True, kw_only=True)
class ChangeSetting(Command):
    """Set a setting of the cluster, or with value None forget it. expected: its present value."""

    name: str
    value: str | None
    expected: str | None


@dataclass(frozen=True, kw_only=True)
class RaiseFeatureLevel(Command):
    """Allow what only nodes of this level understand; never falls."""

    level: int
    expected: int


def _register(state: Metadata, command: RegisterNode) -> tuple[Metadata, Result]:
    known = state.nodes.get(command.node_id)
    for other in state.nodes.values():
        if other.name == command.name and other.node_id != command.node_id:
            detail = (
                f"The node name {command.name!r} belongs to node {other.node_id}; choose another."
            )
            return state, Result("duplicate_node", detail)
    row = NodeRow(
        command.node_id,
        command.name,
        command.url,
        known.incarnation + 1 if known else 1,
        draining=known.draining if known else False,
    )
    state = _with_node(state, row)
    return _each_shard(state, lambda shard: _reign_anew(shard, row.node_id)), Result(
        value=row.incarnation
    )


def _reign_anew(shard: ShardRow, node_id: str) -> ShardRow:
    """A primary that restarted orders writes in a new epoch, where others could have seen the old.

    An only copy has nobody to be fenced from.
    """
    if shard.primary != node_id or len(shard.replicas) == 1:
        return shard
    return replace(shard, epoch=shard.epoch + 1, version=shard.version + 1)


def _fence(state: Metadata, command: FenceNode) -> tuple[Metadata, Result]:
    row = state.nodes.get(command.node_id)
    if row is None:
        return state, _no_node(command.node_id)
    if row.incarnation != command.incarnation:
        detail = (
            f"Node {row.name!r} has restarted since (incarnation {row.incarnation}, "
            f"not {command.incarnation})."
        )
        return state, Result("stale_incarnation", detail)
    state = _with_node(state, replace(row, fenced=True))
    return _each_shard(state, lambda shard: _without(shard, row.node_id)), Result()


def _without(shard: ShardRow, node_id: str) -> ShardRow:
    """The shard without a dead member, where enough others remain; a primary is replaced first."""
    spare = node_id in shard.isr and len(shard.isr) > shard.min_isr and shard.primary != node_id
    if not spare:
        return shard
    isr = tuple(member for member in shard.isr if member != node_id)
    return replace(shard, isr=isr, version=shard.version + 1)


def _drain(state: Metadata, command: DrainNode) -> tuple[Metadata, Result]:
    row = state.nodes.get(command.node_id)
    if row is None:
        return state, _no_node(command.node_id)
    return _with_node(state, replace(row, draining=command.draining)), Result()


def _remove(state: Metadata, command: RemoveNode) -> tuple[Metadata, Result]:
    row = state.nodes.get(command.node_id)
    if row is None:
        return state, _no_node(command.node_id)
    held = [
        table.table.name
        for table in state.tables.values()
        for shard in table.shards
        if command.node_id in shard.replicas
    ]
    if held:
        detail = (
            f"Node {row.name!r} still holds copies of {len(held)} shards, the first of table "
            f"{held[0]!r}; drain it first."
        )
        return state, Result("node_in_use", detail)
    kept = {key: node for key, node in state.nodes.items() if key != command.node_id}
    return replace(state, nodes=kept), Result()


def _change_setting(state: Metadata, command: ChangeSetting) -> tuple[Metadata, Result]:
    present = state.settings.get(command.name)
    if present != command.expected:
        detail = f"Setting {command.name!r} was changed meanwhile (to {present!r}); try again."
        return state, Result("setting_changed", detail)
    settings = {key: value for key, value in state.settings.items() if key != command.name}
    if command.value is not None:
        settings[command.name] = command.value
    return replace(state, settings=settings), Result()


def _raise_level(state: Metadata, command: RaiseFeatureLevel) -> tuple[Metadata, Result]:
    if state.feature_level != command.expected or command.level < state.feature_level:
        detail = f"The feature level is {state.feature_level}, and it never falls."
        return state, Result("feature_level_changed", detail)
    return replace(state, feature_level=command.level), Result(value=command.level)


def _with_node(state: Metadata, row: NodeRow) -> Metadata:
    return replace(state, nodes={**state.nodes, row.node_id: row})


def _each_shard(state: Metadata, change: Callable[[ShardRow], ShardRow]) -> Metadata:
    tables = {
        uuid: replace(row, shards=tuple(change(shard) for shard in row.shards))
        for uuid, row in state.tables.items()
    }
    return replace(state, tables=tables) if tables != state.tables else state


def _no_node(node_id: str) -> Result:
    return Result("undefined_node", f"There is no node {node_id}.")


HANDLERS: dict[type[Command], Callable[[Metadata, Any], tuple[Metadata, Result]]] = {
    RegisterNode: _register,
    FenceNode: _fence,
    DrainNode: _drain,
    RemoveNode: _remove,
    ChangeSetting: _change_setting,
    RaiseFeatureLevel: _raise_level,
}
