"""How recent a read must be (3-replication 2.9 in the design): waited for before its view is taken.

any            what this copy shows
session        at least what the client's token says; 409 where that was rolled back
bounded        at most max_staleness_ms behind the primary, else 503
linearizable   at least what was committed when the read came; confirmed once rows are read
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nearql.cluster.metadata.state import TableRow
from nearql.engine import spans
from nearql.engine.deadline import Deadline
from nearql.engine.errors import Conflict, InvalidValue, NearQLError
from nearql.query.replicas import Confirm, Freshness, Position
from nearql.server.cluster_ports import GrantPort, ShardPort
from nearql.server.gateway.deadlines import until
from nearql.server.gateway.placement import missing

if TYPE_CHECKING:
    from nearql.server.gateway.gateway import Gateway
    from nearql.server.session_token import Positions


NOW = Deadline(0)  # wait for nothing
COMES_UP_S = 2.0  # a copy learns within that it is complete


@dataclass(frozen=True)
class RequestReads:
    """One request's reads. Implements `query.replicas.Reads`."""

    gateway: Gateway
    token: Positions

    @property
    def seen(self) -> Sequence[Position]:
        """The token's positions, by the tables' names."""
        tables = self.gateway.metadata.state.tables
        return [
            {"table": tables[uuid].table.name, "shard": shard, "epoch": epoch, "lsn": lsn}
            for (uuid, shard), (epoch, lsn) in self.token.items()
            if uuid in tables
        ]

    def enter(self, tables: Collection[str], freshness: Freshness) -> Confirm:
        """Wait until these tables may be read here."""
        level = freshness.level or ("session" if self.token else "any")
        if level == "bounded" and freshness.max_staleness_ms is None:
            raise InvalidValue(
                "read_level = bounded needs a bound: SET max_staleness_ms = 1000.",
                code="invalid_setting", setting="max_staleness_ms",
            )  # fmt: skip
        known = self.gateway.metadata.state.tables
        deadline = until(freshness.deadline)
        grants: list[GrantPort] = []
        with spans.span("recency", level=level):
            for uuid in sorted(tables):
                row = known.get(uuid)
                if row is not None:  # else the planner's catalog was older, and the table is gone
                    grants += self._enter_table(row, level, freshness, deadline)

        def confirm() -> None:
            for grant in grants:
                grant.confirm()

        return confirm

    def at_once(self, tables: Collection[str], level: str | None) -> bool:
        """Whether these tables may be read here now, at a level that asks no other node."""
        if level not in (None, "any", "session"):
            return False
        known = self.gateway.metadata.state.tables
        return all(uuid in known and self._open(known[uuid], level) for uuid in tables)

    def _open(self, row: TableRow, level: str | None) -> bool:
        copies = self.gateway.replication.shards()
        for number, shard in enumerate(row.shards):
            copy = copies.get(shard.uuid)
            if copy is None or not copy.readable:
                return False
            seen = None if level == "any" else self.token.get((row.table.uuid, number))
            if seen is not None:
                try:
                    copy.read_gate("session", token=seen, max_staleness_ms=None, deadline=NOW)
                except NearQLError:  # `enter` waits for it, or says what is wrong
                    return False
        return True

    def _enter_table(
        self, row: TableRow, level: str, freshness: Freshness, deadline: Deadline
    ) -> list[GrantPort]:
        copies = self.gateway.replication.shards()
        grants = []
        for number, shard in enumerate(row.shards):
            copy = copies.get(shard.uuid)
            if copy is None or not self._comes_up(copy, deadline):
                raise missing(row.table.name, number)
            seen = self.token.get((row.table.uuid, number))
            wanted = "any" if level == "session" and seen is None else level
            try:
                grant = copy.read_gate(
                    wanted, token=seen if wanted == "session" else None,
                    max_staleness_ms=freshness.max_staleness_ms, deadline=deadline,
                )  # fmt: skip
            except Conflict as error:
                raise rolled_back(row.table.name, error) from error
            grants.append(grant)
        return grants

    def _comes_up(self, copy: ShardPort, deadline: Deadline) -> bool:
        """Whether a copy may be read; one of a table made a moment ago is waited for."""
        if copy.readable:
            return True
        timeout_s = min(COMES_UP_S, deadline.left_s)
        return self.gateway.replication.wait_until(lambda: copy.readable, timeout_s)


def rolled_back(table: str, error: Conflict) -> Conflict:
    """The 409 of a session that saw what a failover has lost."""
    return Conflict(
        f"This session saw writes of table {table!r} that were lost when another copy became "
        "primary: they had not been committed. Start a new session.",
        code="rolled_back_session", sqlstate="40001", **error.extra,
    )  # fmt: skip
