"""Where the copies of a shard lie, which of them are in sync, and which one orders writes.

Rules that every command here keeps (3-replication 2.6 to 2.11 in the design):
- only metadata makes an epoch, and each change of primary makes one;
- the in-sync set never falls below `min_isr`, except by a copy that is proved to be lost;
- only a member of the in-sync set becomes primary, except by the operator's UncleanPromote;
- every command names the row version it saw; a stale one is refused, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nearql.cluster.metadata.commands import Command, Result

if TYPE_CHECKING:
    from nearql.cluster.metadata.state import Metadata


@dataclass(frozen=True, slots=True)
class ShardRow:
    """Placement of one shard. version: compare-and-set counter of this row."""

    uuid: str
    epoch: int
    primary: str | None  # node id
    replicas: Mapping[str, str]  # node id -> alloc_id of its copy
    isr: tuple[str, ...]  # node ids, sorted
    min_isr: int
    version: int = 1
    adding: str | None = None  # node ids of a move under way
    removing: str | None = None
    unclean_epochs: tuple[int, ...] = ()  # epochs that began with a known loss


@dataclass(frozen=True, kw_only=True)
class ShardCommand(Command):
    """A change of one shard's row; refused unless the row still has this version."""

    shard_uuid: str
    expected_version: int


@dataclass(frozen=True, kw_only=True)
class Promote(ShardCommand):
    """Make an in-sync copy the primary, in a new epoch."""

    node_id: str
    incarnation: int


@dataclass(frozen=True, kw_only=True)
class UncleanPromote(ShardCommand):
    """By order of the operator: make any copy the primary, and record that writes may be lost."""

    node_id: str


@dataclass(frozen=True, kw_only=True)
class IsrChange(ShardCommand):
    """Replace the in-sync set. incarnations: of every member, as the primary knows them."""

    epoch: int
    isr: tuple[str, ...]
    incarnations: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class CopyLost(ShardCommand):
    """A node proves that its copy is gone: it now has an empty one, under new_alloc_id."""

    node_id: str
    alloc_id: str
    new_alloc_id: str


@dataclass(frozen=True, kw_only=True)
class CopyReady(Command):
    """A node has durably prepared its empty copies of a table; alloc_ids name them by shard."""

    table_uuid: str
    node_id: str
    alloc_ids: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class MoveStart(ShardCommand):
    """Begin to build a copy on `adding`, and to give up the one on `removing`, if any."""

    adding: str
    alloc_id: str
    removing: str | None


@dataclass(frozen=True, kw_only=True)
class MoveCommit(ShardCommand):
    """The new copy is in sync: give up the old one."""


@dataclass(frozen=True, kw_only=True)
class MoveAbort(ShardCommand):
    """Give up the new copy of a move."""


def _promote(state: Metadata, shard: ShardRow, command: Promote) -> ShardRow | Result:
    if command.node_id not in shard.isr:
        return Result("not_in_sync", f"Node {command.node_id} is not in the shard's in-sync set.")
    refusal = _not_alive(state, command.node_id, command.incarnation)
    return refusal or replace(
        shard, primary=command.node_id, epoch=shard.epoch + 1, isr=_unfenced(state, shard)
    )


def _unfenced(state: Metadata, shard: ShardRow) -> tuple[str, ...]:
    """The in-sync set without the fenced, so that a new primary need not wait to drop them."""
    alive = tuple(
        member for member in shard.isr if member in state.nodes and not state.nodes[member].fenced
    )
    return alive if len(alive) >= shard.min_isr else shard.isr


def _unclean(state: Metadata, shard: ShardRow, command: UncleanPromote) -> ShardRow | Result:
    if command.node_id not in shard.replicas:
        return Result("no_copy", f"Node {command.node_id} has no copy of this shard.")
    epoch = shard.epoch + 1
    return replace(
        shard,
        primary=command.node_id,
        epoch=epoch,
        isr=(command.node_id,),
        unclean_epochs=(*shard.unclean_epochs, epoch),
    )


def _isr_change(state: Metadata, shard: ShardRow, command: IsrChange) -> ShardRow | Result:
    members = tuple(sorted(set(command.isr)))
    if command.epoch != shard.epoch:
        return Result("stale_epoch", f"The shard is in epoch {shard.epoch}, not {command.epoch}.")
    if shard.primary not in members or not set(members) <= set(shard.replicas):
        return Result("wrong_members", "An in-sync set holds the primary, and only copies.")
    if len(members) < min(shard.min_isr, len(shard.isr)):
        detail = f"The in-sync set needs at least {shard.min_isr} members."
        return Result("not_enough_replicas", detail)
    for member in members:
        refusal = _not_alive(state, member, command.incarnations.get(member, 0))
        if refusal:
            return refusal
    return replace(shard, isr=members)


def _copy_lost(state: Metadata, shard: ShardRow, command: CopyLost) -> ShardRow | Result:
    if shard.replicas.get(command.node_id) != command.alloc_id:
        return Result("no_copy", f"Node {command.node_id} has no copy {command.alloc_id}.")
    isr = tuple(member for member in shard.isr if member != command.node_id)
    if not isr:
        detail = "This was the only in-sync copy; restore a backup, or promote another uncleanly."
        return Result("last_copy", detail)
    primary = None if shard.primary == command.node_id else shard.primary
    replicas = {**shard.replicas, command.node_id: command.new_alloc_id}
    return replace(shard, isr=isr, primary=primary, replicas=replicas)


def _move_start(state: Metadata, shard: ShardRow, command: MoveStart) -> ShardRow | Result:
    if shard.adding is not None:
        return Result("move_under_way", f"The shard is being moved to node {shard.adding}.")
    if command.adding in shard.replicas or command.adding not in state.nodes:
        return Result("wrong_target", f"Node {command.adding} is unknown or has a copy already.")
    if command.removing is not None and command.removing not in shard.replicas:
        return Result("no_copy", f"Node {command.removing} has no copy of this shard.")
    return replace(
        shard,
        replicas={**shard.replicas, command.adding: command.alloc_id},
        adding=command.adding,
        removing=command.removing,
    )


def _move_commit(state: Metadata, shard: ShardRow, command: MoveCommit) -> ShardRow | Result:
    if shard.adding is None:
        return Result("no_move", "The shard is not being moved.")
    isr = tuple(member for member in shard.isr if member != shard.removing)
    if shard.adding not in isr or len(isr) < shard.min_isr:
        return Result("not_in_sync", "The new copy is not in sync yet.")
    if shard.primary == shard.removing:
        return Result("still_primary", "Hand the primary's part over first.")
    replicas = {node: alloc for node, alloc in shard.replicas.items() if node != shard.removing}
    return replace(
        shard, isr=isr, replicas=replicas, epoch=shard.epoch + 1, adding=None, removing=None
    )


def _move_abort(state: Metadata, shard: ShardRow, command: MoveAbort) -> ShardRow | Result:
    if shard.adding is None:
        return Result("no_move", "The shard is not being moved.")
    if shard.adding == shard.primary:
        return Result("still_primary", "The new copy is the primary already; commit the move.")
    isr = tuple(member for member in shard.isr if member != shard.adding)
    if len(isr) < min(shard.min_isr, len(shard.isr)):
        return Result("not_enough_replicas", "Without the new copy too few are in sync.")
    replicas = {node: alloc for node, alloc in shard.replicas.items() if node != shard.adding}
    return replace(shard, isr=isr, replicas=replicas, adding=None, removing=None)


def _copy_ready(state: Metadata, command: CopyReady) -> tuple[Metadata, Result]:
    """Fill in the names of copies that have none; a name that is there goes by CopyLost only."""
    row = state.tables.get(command.table_uuid)
    if row is None:
        return state, Result("undefined_table", f"There is no table {command.table_uuid}.")
    shards = []
    for shard in row.shards:
        alloc_id = command.alloc_ids.get(shard.uuid)
        known = shard.replicas.get(command.node_id) if alloc_id else None
        if known not in (None, "", alloc_id):
            detail = f"Node {command.node_id} has copy {known} of shard {shard.uuid} already."
            return state, Result("copy_known", detail)
        if known == "":
            replicas = {**shard.replicas, command.node_id: alloc_id or ""}
            shard = replace(shard, replicas=replicas, version=shard.version + 1)
        shards.append(shard)
    tables = {**state.tables, row.table.uuid: replace(row, shards=tuple(shards))}
    return replace(state, tables=tables), Result()


def _not_alive(state: Metadata, node_id: str, incarnation: int) -> Result | None:
    """Why a node can't be trusted with a part, if so."""
    row = state.nodes.get(node_id)
    if row is None:
        return Result("undefined_node", f"There is no node {node_id}.")
    if row.incarnation != incarnation:
        detail = f"Node {row.name!r} has incarnation {row.incarnation}, not {incarnation}."
        return Result("stale_incarnation", detail)
    return Result("fenced", f"Node {row.name!r} is fenced.") if row.fenced else None


def _on_row(
    change: Callable[[Metadata, ShardRow, Any], ShardRow | Result],
) -> Callable[[Metadata, Any], tuple[Metadata, Result]]:
    """A handler that finds the row, compares its version, changes it and raises the version."""

    def handle(state: Metadata, command: ShardCommand) -> tuple[Metadata, Result]:
        for table_uuid, row in state.tables.items():
            for position, shard in enumerate(row.shards):
                if shard.uuid != command.shard_uuid:
                    continue
                if shard.version != command.expected_version:
                    detail = f"The shard was changed meanwhile (version {shard.version})."
                    return state, Result("shard_changed", detail)
                changed = change(state, shard, command)
                if isinstance(changed, Result):
                    return state, changed
                changed = replace(changed, version=shard.version + 1)
                shards = (*row.shards[:position], changed, *row.shards[position + 1 :])
                tables = {**state.tables, table_uuid: replace(row, shards=shards)}
                return replace(state, tables=tables), Result(value=changed.epoch)
        return state, Result("undefined_shard", f"There is no shard {command.shard_uuid}.")

    return handle


HANDLERS: dict[type[Command], Callable[[Metadata, Any], tuple[Metadata, Result]]] = {
    Promote: _on_row(_promote),
    UncleanPromote: _on_row(_unclean),
    IsrChange: _on_row(_isr_change),
    CopyLost: _on_row(_copy_lost),
    CopyReady: _copy_ready,
    MoveStart: _on_row(_move_start),
    MoveCommit: _on_row(_move_commit),
    MoveAbort: _on_row(_move_abort),
}
