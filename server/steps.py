"""The steps of a move that other nodes take part in, and their answers to each other.

    life_hand_over   to the primary of a shard: give your part to that node
    life_digest      to a node with a copy: what does it hold at this LSN?
    life_scrub       to a node with copies: read the files of a table again
    life_condemn     to a node with a copy: it is not what the others hold; make it anew
    life_sizes       to any node: bytes of the copies of each table

The node that leads asks; a question to itself takes no way. Implements `cluster.mover.Hands`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgpack
import structlog

from nearql.cluster.cluster import Cluster
from nearql.cluster.metadata.state import TableRow
from nearql.cluster.migration import HandOver, Verify
from nearql.cluster.repair import CORRUPT, DISPUTED, DIVERGED, OK, Digest, Verdict, compare
from nearql.cluster.replication.link.serving import Request
from nearql.cluster.replication.node import Replication
from nearql.engine.deadline import Deadline
from nearql.engine.errors import NearQLError, Unavailable
from nearql.engine.shard.copy import ContentHashes
from nearql.server.checks import damages_of
from nearql.server.copies import Copies

log = structlog.get_logger("nearql.node")

HAND_OVER, DIGEST, CONDEMN = "life_hand_over", "life_digest", "life_condemn"
SCRUB, SIZES = "life_scrub", "life_sizes"
HAND_OVER_S = 10.0
COMPARE_S = 60.0  # to see copies at one LSN; hashing them takes as long as it takes
_HASH_S = 600.0
_SLACK_MS = 2000
_BREATH_S = 0.001  # between two batches of rows that are hashed: searches go first
_Plain = Any  # what msgpack carries


class Steps:
    """See the module. For any thread."""

    def __init__(self, cluster: Cluster, replication: Replication, copies: Copies) -> None:
        self._cluster, self._replication, self._copies = cluster, replication, copies
        self._closed = threading.Event()
        self._handlers: dict[str, Callable[..., _Plain]] = {
            HAND_OVER: self._give_away,
            DIGEST: self._digest,
            CONDEMN: self._condemn,
            SCRUB: self._scrub,
            SIZES: self._own_sizes,
        }

    def serve(self) -> None:
        """Answer other nodes from now on."""
        for method, handler in self._handlers.items():
            self._replication.calls.serve(method, _served(handler))

    def close(self) -> None:
        """Hash no further."""
        self._closed.set()

    def _between(self) -> None:
        if self._closed.wait(_BREATH_S):
            raise Unavailable("The node is shutting down.", code="shutting_down")

    def _ask(self, node: str, method: str, *arguments: _Plain, timeout_s: float) -> _Plain:
        if node == self._cluster.node_id:
            return self._handlers[method](*arguments)
        answer = self._replication.calls.call(
            node, method, msgpack.packb(arguments), timeout_ms=int(timeout_s * 1000) + _SLACK_MS
        )
        return msgpack.unpackb(answer, strict_map_key=False)

    # ---- Asking ---------------------------------------------------------------------------------

    def hand_over(self, step: HandOver) -> str:
        """Let the primary give its part away; "" or why it did not."""
        arguments = step.shard_uuid, step.target, HAND_OVER_S
        found = self._ask(step.primary, HAND_OVER, *arguments, timeout_s=HAND_OVER_S + 1)
        return str(found)

    def compare(self, step: Verify) -> bool | None:
        """Whether two copies hold the same at one LSN; None where that could not be seen now."""
        row = self._cluster.metadata.state.tables.get(step.table_uuid)
        if row is None:
            return None
        found = self.verdicts(row, step.number, [step.primary, step.target])
        if all(verdict.state == OK for verdict in found):
            return True
        bad = {verdict.node for verdict in found if verdict.state in (DIVERGED, DISPUTED, CORRUPT)}
        log.warning("copies_differ", shard=step.shard_uuid, verdicts=[str(v) for v in found])
        return False if step.target in bad else None

    def verdicts(self, row: TableRow, number: int, nodes: list[str]) -> list[Verdict]:
        """What is to be said of copies of one shard; the primary's node first."""
        columns = [column.number for column in row.table.schema.columns]
        uuid, shard = row.table.uuid, row.shards[number]

        def ask(node: str, lsn: int | None, wait_s: float) -> Digest:
            limit = _SLACK_MS / 1000 if lsn is None else wait_s + _HASH_S
            which = uuid, shard.uuid, number
            found = self._ask(node, DIGEST, which, lsn, wait_s, columns, timeout_s=limit)
            return Digest(*found)

        return compare(ask, nodes, COMPARE_S)

    def scrub(self, node: str, table_uuid: str) -> Mapping[int, str]:
        """By shard, which file of a node's copies of a table is damaged.

        Raises:
            NearQLError: the node could not be asked, or has no such copies.
        """
        found: Mapping[int, str] = self._ask(node, SCRUB, table_uuid, timeout_s=_HASH_S)
        return found

    def condemn(self, node: str, shard_uuid: str, reason: str) -> None:
        """Have a copy taken out and made anew.

        Raises:
            NearQLError: the node could not be asked, or has no such copy.
        """
        self._ask(node, CONDEMN, shard_uuid, reason, timeout_s=5.0)

    def sizes(self) -> Mapping[str, int]:
        """Bytes of one copy of each table, by uuid: the most that any node has."""
        found: dict[str, int] = {}
        for node in sorted(self._cluster.alive()):
            try:
                told: Mapping[str, int] = self._ask(node, SIZES, timeout_s=2.0)
            except NearQLError as error:
                log.info("sizes_not_told", node=node, reason=error.detail)
                continue
            found |= {uuid: max(size, found.get(uuid, 0)) for uuid, size in told.items()}
        return found

    # ---- Answering ------------------------------------------------------------------------------

    def _give_away(self, shard_uuid: str, target: str, timeout_s: float) -> str:
        return self._replication.hand_over(shard_uuid, target, timeout_s)

    def _digest(
        self, which: tuple[str, str, int], lsn: int | None, wait_s: float, columns: list[int]
    ) -> tuple[int, int | None, int, bytes]:
        table_uuid, shard_uuid, number = which
        copy = self._copies.table(table_uuid).copies[number]
        handle = self._replication.shard(shard_uuid)
        if handle is None or not handle.readable:
            raise Unavailable("This node's copy of the shard is not complete.", code="not_readable")
        if lsn is None:
            return copy.applied_lsn, None, 0, b""
        deadline = Deadline(int(wait_s * 1000))
        found = copy.content_hashes(lsn, columns, deadline, self._between)
        if found is None:
            return copy.applied_lsn, None, 0, b""
        return found.lsn, found.lsn, found.rows, _packed(found)

    def _scrub(self, table_uuid: str) -> dict[int, str]:
        return damages_of(self._copies.table(table_uuid), lambda size: self._between())

    def _condemn(self, shard_uuid: str, reason: str) -> bool:
        if self._replication.shard(shard_uuid) is None:
            raise Unavailable("Other nodes have this shard.", code="no_copy_here")
        log.error("copy_condemned", shard=shard_uuid, reason=reason)
        self._replication.condemn(shard_uuid, reason)
        return True

    def _own_sizes(self) -> dict[str, int]:
        return {uuid: table.stats().bytes for uuid, table in list(self._copies.tables.items())}


def _packed(hashes: ContentHashes) -> bytes:
    return b"".join(bucket.to_bytes(16, "little") for bucket in hashes.buckets)


def _served(handler: Callable[..., _Plain]) -> Callable[[Request], Iterator[bytes]]:
    def handle(call: Request) -> Iterator[bytes]:
        yield msgpack.packb(handler(*msgpack.unpackb(call.payload)))

    return handle
