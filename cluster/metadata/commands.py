"""Every change of metadata is one of these commands, whoever decides it and however it is
replicated.

A command is idempotent: applied twice with one `request_id` it changes the state once and answers
the same. What depends on earlier state names the version it expects (compare-and-set).

Here are the commands about tables. Others lie in files of their own, one noun each, beside their
rows and handlers: `nodes`, `shards`, `access`. `state` joins the handlers of all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nearql.engine.schema import IndexDef, TableDef, TableSchema


@dataclass(frozen=True, kw_only=True)
class Command:
    """request_id: chosen by the proposer, unique for ever."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Result:
    """What a command did. `code` is empty on success, else an error word; `value` is plain."""

    code: str = ""
    detail: str = ""
    value: Any = None

    @property
    def ok(self) -> bool:
        """Whether the command took effect."""
        return not self.code


@dataclass(frozen=True, kw_only=True)
class Initialise(Command):
    """Give an empty state its identity; refused once it has one."""

    cluster_id: str


@dataclass(frozen=True, kw_only=True)
class RegisterNode(Command):
    """A process of this node has started; its incarnation rises by one.

    replication: host:port that other nodes dial for rows. voter: it is one of Raft's voters.
    join_digest: of the one-time token that lets a new disk in, or take a lost disk's place;
    registered_ms: now, by the proposer's clock, against the token's end. level: the highest
    feature level that its version supports; below the cluster's it is refused.
    """

    node_id: str
    name: str
    url: str
    replication: str = ""
    voter: bool = False
    join_digest: str = ""
    registered_ms: int = 0
    level: int = 0


@dataclass(frozen=True, kw_only=True)
class CreateTable(Command):
    """Reserve a name and place the shards; the table is visible after TableReady.

    shard_uuids: one per shard, chosen by the proposer. nodes: the copies' node ids, primary first;
    placement: the same for each shard by itself, () = `nodes` for all.
    restoring: see `TableRow`.
    """

    table: TableDef
    shard_uuids: tuple[str, ...]
    nodes: tuple[str, ...]
    placement: tuple[tuple[str, ...], ...] = ()
    restoring: str = ""


@dataclass(frozen=True, kw_only=True)
class TableReady(Command):
    """The copies of a created table are durably prepared.

    alloc_ids: names of the copies by node; {} = those that CopyReady told of are in sync, and the
    command is refused while a shard has fewer of them than its minimum.
    """

    table_uuid: str
    alloc_ids: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class DropTable(Command):
    """Forget a table, ready or not, by uuid. cascade: the views that read it too."""

    table_uuid: str
    cascade: bool = False


@dataclass(frozen=True, kw_only=True)
class ReplaceSchema(Command):
    """Change a table's columns and, with new_name, its name."""

    table_uuid: str
    schema: TableSchema
    expected_version: int
    new_name: str | None = None


@dataclass(frozen=True, kw_only=True)
class CreateIndex(Command):
    """Define a vector index."""

    table_uuid: str
    index: IndexDef


@dataclass(frozen=True, kw_only=True)
class DropIndex(Command):
    """Forget an index, by uuid."""

    index_uuid: str


@dataclass(frozen=True, kw_only=True)
class AllocateNumbers(Command):
    """Give out the next block of identity numbers of a table; answers its first number."""

    table_uuid: str
    count: int
