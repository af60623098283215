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

MOST_JOIN_TOKENS = 100  # unused ones at a time

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
    replication: str = ""  # host:port that other nodes dial for rows
    voter: bool = False  # one of Raft's voters
    level: int = 0  # the highest feature level that its version supports


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
class CreateJoinToken(Command):
    """Let one disk in that the cluster does not know. digest: SHA-256 of the token, hexadecimal."""

    digest: str
    created_ms: int
    expires_ms: int


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
    if command.level < state.feature_level:
        detail = (
            f"The cluster uses what level {state.feature_level} brought, and this version knows "
            f"level {command.level}: start the newer version again."
        )
        return state, Result("version_too_old", detail)
    known = state.nodes.get(command.node_id)
    refused = _uninvited(state, command) if known is None else None
    if refused:
        return state, refused
    other = _of_name(state, command)
    if other is not None:
        if known is not None or not command.join_digest:
            detail = (
                f"The node name {command.name!r} belongs to node {other.node_id}; choose another. "
                "If that node's disk is lost, give this one a token of `nearql cluster join`."
            )
            return state, Result("duplicate_node", detail)
        replaced = _replace_disk(state, other, command.node_id)
        if isinstance(replaced, Result):
            return state, replaced
        state = replaced
    row = NodeRow(
        command.node_id,
        command.name,
        command.url,
        _incarnation(known or other),
        draining=known.draining if known else False,
        replication=command.replication,
        voter=command.voter,
        level=command.level,
    )
    state = _without_token(_with_node(state, row), command.join_digest)
    return _each_shard(state, lambda shard: _reign_anew(shard, row.node_id)), Result(
        value=row.incarnation
    )


def _incarnation(before: NodeRow | None) -> int:
    return before.incarnation + 1 if before else 1


def _of_name(state: Metadata, command: RegisterNode) -> NodeRow | None:
    """Another disk that has the name."""
    for other in state.nodes.values():
        if other.name == command.name and other.node_id != command.node_id:
            return other
    return None


def _uninvited(state: Metadata, command: RegisterNode) -> Result | None:
    """Why a token lets nobody in, if so. Voters come by their configuration, without one."""
    if not command.join_digest:
        return None
    expires = state.join_tokens.get(command.join_digest)
    if expires is None or expires <= command.registered_ms:
        detail = "The token was used already, has expired, or was never given out; make another."
        return Result("invalid_join_token", detail)
    return None


def _without_token(state: Metadata, digest: str) -> Metadata:
    kept = {key: until for key, until in state.join_tokens.items() if key != digest}
    return replace(state, join_tokens=kept) if digest in state.join_tokens else state


def _replace_disk(state: Metadata, lost: NodeRow, node_id: str) -> Metadata | Result:
    """The state in which `node_id` has the place of a lost disk: its copies are to be made anew."""
    for table in state.tables.values():
        if any(shard.isr == (lost.node_id,) for shard in table.shards):
            detail = (
                f"The lost disk of {lost.name!r} has the only copy in sync of a shard of table "
                f"{table.table.name!r}: bring that disk back, drop the table, or promote another "
                "copy uncleanly."
            )
            return Result("last_copy", detail)
    nodes = {key: row for key, row in state.nodes.items() if key != lost.node_id}
    return _each_shard(
        replace(state, nodes=nodes), lambda shard: _copy_anew(shard, lost.node_id, node_id)
    )


def _copy_anew(shard: ShardRow, lost: str, node_id: str) -> ShardRow:
    if lost not in shard.replicas:
        return shard
    replicas = {node: alloc for node, alloc in shard.replicas.items() if node != lost}
    return replace(
        shard,
        replicas={**replicas, node_id: ""},
        isr=tuple(member for member in shard.isr if member != lost),
        primary=None if shard.primary == lost else shard.primary,
        adding=node_id if shard.adding == lost else shard.adding,
        removing=node_id if shard.removing == lost else shard.removing,
        version=shard.version + 1,
    )


def _create_token(state: Metadata, command: CreateJoinToken) -> tuple[Metadata, Result]:
    valid = {key: end for key, end in state.join_tokens.items() if end > command.created_ms}
    if len(valid) >= MOST_JOIN_TOKENS:
        detail = f"There are {MOST_JOIN_TOKENS} unused tokens; use one, or wait until they expire."
        return state, Result("too_many_join_tokens", detail)
    tokens = {**valid, command.digest: command.expires_ms}
    return replace(state, join_tokens=tokens), Result()


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
    for row in state.nodes.values():
        if row.level < command.level:
            detail = f"Node {row.name!r} knows level {row.level} only; upgrade it first."
            return state, Result("version_too_old", detail)
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
    CreateJoinToken: _create_token,
    FenceNode: _fence,
    DrainNode: _drain,
    RemoveNode: _remove,
    ChangeSetting: _change_setting,
    RaiseFeatureLevel: _raise_level,
}
