"""Where every copy stands: this node's own, told to the others, and everybody's put together.

A node knows its own copies, and a primary how far its replicas have acknowledged. Whoever asks any
node is told of all: those that are alive are asked; what a silent one holds is what its primary
last heard of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import msgpack

from nearql.cluster.metadata.shards import ShardRow
from nearql.cluster.metadata.state import TableRow
from nearql.engine.errors import NearQLError
from nearql.server.cluster_ports import CallPort, CopyStatusPort, Serve
from nearql.server.gateway import envelope
from nearql.server.gateway.gateway import Gateway
from nearql.server.gateway.placement import name_of

ASK_MS = 1_000  # a node that needs longer is shown as its primaries know it

Report = Mapping[str, Any]  # of one copy, as plain values
FAILED: Report = {
    "state": "failed", "epoch": 0, "commit": 0, "durable": None, "end": 0, "peers": {},
    "sync": None,
}  # fmt: skip
LOST = ("failed", "corrupt", "halted")  # states of copies that nothing is served from
Reports = Mapping[str, Mapping[str, Report]]  # by node, then by the shard's uuid


@dataclass(frozen=True, slots=True)
class CopyRow:
    """One copy, as people see it. None = nobody who answers knows.

    lsn: to which its log is durable. lag_records, lag_ms: behind the end of the primary's log.
    """

    node: str
    state: str | None
    lsn: int | None
    lag_records: int | None
    lag_ms: int | None


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """One shard with its copies; nodes by name."""

    table: TableRow
    number: int
    row: ShardRow
    primary: str | None
    in_sync: tuple[str, ...]
    commit_lsn: int | None
    copies: tuple[CopyRow, ...]


def own_reports(gateway: Gateway) -> dict[str, Report]:
    """This node's copies, by their shards' uuids; also those whose files could not be opened."""
    tables = gateway.metadata.state.tables
    failed = [shard for uuid in gateway.failed() if uuid in tables for shard in tables[uuid].shards]
    told = gateway.replication.status().shards
    return {shard.uuid: FAILED for shard in failed} | {
        uuid: _report(copy) for uuid, copy in told.items()
    }


def _report(copy: CopyStatusPort) -> Report:
    peers = {
        node: [peer.durable_lsn, peer.lag_ms] for node, peer in copy.peers.items()
    }  # fmt: skip
    return {
        "state": copy.role,
        "epoch": copy.epoch,
        "commit": copy.commit_lsn,
        "durable": copy.durable_lsn,
        "end": copy.end_lsn,
        "peers": peers,
        "sync": None if copy.sync is None else [copy.sync.done, copy.sync.total],
    }


def served(gateway: Gateway) -> Serve:
    """The handler that tells other nodes of the copies here."""

    def handle(call: CallPort) -> Iterator[bytes]:
        yield envelope.pack({}, msgpack.packb(own_reports(gateway)))

    return handle


def all_reports(gateway: Gateway) -> Reports:
    """What every node that answers says of its copies."""
    here = gateway.cluster.node_id
    others = [n.node_id for n in gateway.cluster.nodes() if n.alive and n.node_id != here]
    found: dict[str, Mapping[str, Report]] = {here: own_reports(gateway)}
    if others:
        with ThreadPoolExecutor(len(others), thread_name_prefix="nearql-status") as pool:
            answers = pool.map(lambda node: _asked(gateway, node), others)
            found |= {node: told for node, told in zip(others, answers, strict=True) if told}
    return found


def _asked(gateway: Gateway, node: str) -> Mapping[str, Report]:
    try:
        answer = gateway.replication.calls.call(node, envelope.SHARDS, b"", timeout_ms=ASK_MS)
    except NearQLError:  # it is shown by what others know of it
        return {}
    told: Mapping[str, Report] = msgpack.unpackb(envelope.unpack(answer)[1])
    return told


def shard_statuses(gateway: Gateway, reports: Reports) -> Iterator[ShardStatus]:
    """Every shard of every ready table, by name and number."""
    known = gateway.metadata.state.tables.values()
    rows = [row for row in known if row.ready and not row.restoring]
    for row in sorted(rows, key=lambda row: row.table.name):
        for number, shard in enumerate(row.shards):
            yield _status(gateway, (row, number, shard), reports)


def _status(gateway: Gateway, at: tuple[TableRow, int, ShardRow], reports: Reports) -> ShardStatus:
    table, number, shard = at
    state = gateway.metadata.state
    leading = reports.get(shard.primary or "", {}).get(shard.uuid)
    if leading is not None and leading["epoch"] != shard.epoch:
        leading = None  # of another reign: what it knows of the others is old
    copies = tuple(
        _copy(name_of(state, node), node, leading, reports.get(node, {}).get(shard.uuid), shard)
        for node in sorted(shard.replicas, key=lambda node: name_of(state, node))
    )
    return ShardStatus(
        table,
        number,
        shard,
        primary=name_of(state, shard.primary) if shard.primary else None,
        in_sync=tuple(sorted(name_of(state, node) for node in shard.isr)),
        commit_lsn=_commit(leading, reports, shard),
        copies=copies,
    )


def _commit(leading: Report | None, reports: Reports, shard: ShardRow) -> int | None:
    if leading is not None:
        return int(leading["commit"])
    known = [told[shard.uuid]["commit"] for told in reports.values() if shard.uuid in told]
    return max(known, default=None)


def _copy(
    name: str, node: str, leading: Report | None, own: Report | None, shard: ShardRow
) -> CopyRow:
    peers: Mapping[str, list[int | None]] = leading["peers"] if leading is not None else {}
    acknowledged, lag_ms = peers.get(node, [None, None])
    lsn = own["durable"] if own is not None else acknowledged
    if leading is None or lsn is None:
        return CopyRow(name, own["state"] if own else None, lsn, None, None)
    # Reports are a moment apart; a primary is never behind itself.
    lag = 0 if node == shard.primary else max(0, leading["end"] - lsn)
    return CopyRow(name, own["state"] if own else None, lsn, lag, lag_ms if lag else 0)


def moves(gateway: Gateway) -> list[dict[str, Any]]:
    """The moves of copies that are under way."""
    state = gateway.metadata.state
    return [
        {
            "table": row.table.name,
            "shard": number,
            "adding": name_of(state, shard.adding),
            "removing": name_of(state, shard.removing) if shard.removing else None,
        }
        for row in state.tables.values()
        for number, shard in enumerate(row.shards)
        if shard.adding is not None
    ]
