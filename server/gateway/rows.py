"""Bulk rows whose primary is on another node: decoded here, then forwarded batch by batch.

Each batch has a request id of its own, so a load that broke off half-way is sent again as a whole
and stored once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgpack
import pyarrow as pa

from nearql.engine import spans
from nearql.engine.schema import TableDef
from nearql.engine.types import OnConflict, ShardPosition
from nearql.query.bulk import BulkOutcome
from nearql.query.casting import RowFailure
from nearql.server.access.layer import AccessLayer
from nearql.server.access.principal import Principal, acting_as
from nearql.server.cluster_ports import CallPort, Serve
from nearql.server.gateway import envelope, principals
from nearql.server.gateway.gateway import Gateway
from nearql.server.ports import BulkOutcomePort, NodePort


@dataclass(frozen=True)
class RemoteRows:
    """Stores batches of one table on another node; has the shape of a session's `insert_rows`."""

    gateway: Gateway
    node: str
    principal: Principal
    timeout_ms: int

    def insert_rows(
        self,
        table_name: str,
        rows: pa.Table,
        on_conflict: OnConflict,
        *,
        settings: Mapping[str, Any] | None = None,
        request_id: bytes | None = None,
    ) -> BulkOutcomePort:
        """As `query.session.Session.insert_rows`.

        Raises:
            As `Gateway.ask`.
        """
        with spans.span("forward", node=self.node, writes=True):
            return self._sent(table_name, rows, on_conflict, settings, request_id)

    def _sent(
        self, table_name: str, rows: pa.Table, on_conflict: OnConflict,
        settings: Mapping[str, Any] | None, request_id: bytes | None,
    ) -> BulkOutcomePort:  # fmt: skip
        head = {
            "table": table_name,
            "on_conflict": on_conflict.value,
            "settings": dict(settings or {}),
            "request_id": request_id,
            "who": principals.told(self.principal),
            "trace": spans.carried(),
        }
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows)
        message = envelope.pack(head, memoryview(sink.getvalue()))
        told, listed = self.gateway.ask(
            self.node, envelope.ROWS, message, self.timeout_ms, writes=True
        )
        failed = tuple(RowFailure(*row) for row in msgpack.unpackb(listed))
        ends = tuple(ShardPosition(*map(int, at)) for at in told.get("positions", ()))
        return BulkOutcome(int(told["inserted"]), int(told["updated"]), failed, positions=ends)


def served(node_of: Callable[[Principal], NodePort], access: AccessLayer | None) -> Serve:
    """The handler for batches that others forward; node_of: this node as somebody sees it."""

    def handle(call: CallPort) -> Iterable[bytes]:
        head, body = envelope.unpack(call.payload)
        principal = principals.believed(head["who"], access)
        rows = pa.ipc.open_stream(pa.py_buffer(body)).read_all()
        trace = head.get("trace")
        with acting_as(principal), spans.carried_on(trace, "forwarded", by=call.node_id):
            outcome = node_of(principal).session().insert_rows(
                str(head["table"]), rows, OnConflict(head["on_conflict"]),
                settings=head["settings"], request_id=head["request_id"],
            )  # fmt: skip
        failed = [[f.row, f.code, f.detail, f.sqlstate] for f in outcome.failed]
        ends = [[at.shard, at.epoch, at.lsn] for at in outcome.positions]
        told = {"inserted": outcome.inserted, "updated": outcome.updated, "positions": ends}
        yield envelope.pack(told, msgpack.packb(failed))

    return handle


def storing(
    gateway: Gateway, table: TableDef, principal: Principal, timeout_ms: int
) -> RemoteRows | None:
    """Where a table's rows are stored, if that is not here.

    Raises:
        Unavailable: nowhere at the moment.
    """
    node = gateway.primary_of(table)
    return None if node is None else RemoteRows(gateway, node, principal, timeout_ms)
