"""CHECK TABLE, and the same on a schedule: files verified, copies compared, odd ones made anew.

    1  every node reads its files of the table again; damage it finds by itself makes that copy anew
    2  the copies in sync tell their hashes at one LSN (`cluster.repair`)
    3  one that most others contradict is taken out: made anew from them, never merged row by row;
       if it is the primary, it gives its part to a good one first

Where two copies disagree nobody can say which is right: that is told, and nothing is done.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa
import structlog

from nearql.cluster.metadata.state import TableRow
from nearql.cluster.migration import HandOver
from nearql.cluster.repair import CORRUPT, DIVERGED, OK, UNKNOWN, Verdict
from nearql.engine.errors import NearQLError, Unavailable
from nearql.engine.table import Table
from nearql.query import patience
from nearql.server.gateway.placement import name_of

if TYPE_CHECKING:
    from nearql.cluster.cluster import Cluster
    from nearql.server.steps import Steps

log = structlog.get_logger("nearql.node")

CHECKED = pa.schema(
    [("table", pa.string()), ("shard", pa.int32()), ("node", pa.string()), ("state", pa.string()),
     ("lsn", pa.int64()), ("rows", pa.int64()), ("detail", pa.string())]
)  # fmt: skip
_REBUILT = "taken out; it is made anew from the others"


def check_alone(table: Table, node: str) -> pa.Table:
    """The rows for a table of a node alone: its files are verified again."""
    damages, stats = damages_of(table, lambda size: patience.check()), table.stats()
    found: list[tuple[object, ...]] = []
    for at in stats.positions:
        rows = sum(s.rows - s.dead for s in stats.segments if s.shard == at.shard)
        detail = damages.get(at.shard, "")
        state = CORRUPT if detail else OK
        found.append((table.definition.name, at.shard, node, state, at.lsn, rows, detail))
    names = CHECKED.names
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in found], CHECKED)


def damages_of(table: Table, paced: Callable[[int], None]) -> dict[int, str]:
    """By shard, which file is damaged, once all were read again."""
    table.scrub(paced)
    segments = (segment for segment in table.stats().segments if segment.damage is not None)
    return {segment.shard: segment.damage.error().detail for segment in segments if segment.damage}


class Checks:
    """Compares the copies of tables. For any thread; waits for other nodes."""

    def __init__(self, cluster: Cluster, steps: Steps) -> None:
        self._cluster, self._steps = cluster, steps

    def check(self, row: TableRow) -> pa.Table:
        """A row per copy; see `CHECKED`. What most contradict is taken out on the way."""
        names = CHECKED.names
        found = [dict(zip(names, line, strict=True)) for line in self._check(row)]
        return pa.Table.from_pylist(found, CHECKED)

    def _check(self, row: TableRow) -> Iterator[tuple[object, ...]]:
        state = self._cluster.metadata.state
        damaged = self._damages(row)
        for number, shard in enumerate(row.shards):
            patience.check()
            verdicts = {v.node: v for v in self._verdicts(row, number, damaged)}
            if shard.adding is None:
                self._repair(row, number, verdicts)
            self._cluster.decided["compared"] += len(verdicts)
            for node in sorted(verdicts, key=lambda node: name_of(state, node)):
                told = verdicts[node]
                yield (
                    row.table.name, number, name_of(state, node), told.state, told.lsn, told.rows,
                    told.detail,
                )  # fmt: skip

    def _damages(self, row: TableRow) -> Mapping[str, Mapping[int, str]]:
        """By node and shard, damage in files, where a node could say."""
        found: dict[str, Mapping[int, str]] = {}
        alive = self._cluster.alive()
        for node in sorted({node for shard in row.shards for node in shard.replicas} & alive):
            patience.check()
            try:
                found[node] = self._steps.scrub(node, row.table.uuid)
            except NearQLError as error:
                log.warning("copy_not_checked", node=node, reason=error.detail)
        return found

    def _verdicts(
        self, row: TableRow, number: int, damaged: Mapping[str, Mapping[int, str]]
    ) -> Iterator[Verdict]:
        shard, alive = row.shards[number], self._cluster.alive()
        here = [node for node in shard.isr if node in alive]
        bad = [node for node in here if number in damaged.get(node, {})]
        good = sorted(set(here) - set(bad), key=lambda node: (node != shard.primary, node))
        yield from (Verdict(node, CORRUPT, detail=damaged[node][number]) for node in bad)
        yield from self._steps.verdicts(row, number, good) if good else ()
        for node in shard.replicas:
            if node not in here:
                detail = "it is not in sync" if node in alive else "its node does not answer"
                yield Verdict(node, UNKNOWN, detail=detail)

    def _repair(self, row: TableRow, number: int, verdicts: dict[str, Verdict]) -> None:
        """Have diverged copies made anew; their verdicts then say so."""
        good = [node for node, told in verdicts.items() if told.state == OK]
        for node, told in verdicts.items():
            if told.state != DIVERGED or not good:
                continue
            log.error(
                "copy_diverged", table=row.table.name, shard=number, node=node, lsn=told.lsn,
                detail=told.detail,
            )  # fmt: skip
            self._cluster.decided["diverged"] += 1
            try:
                self._take_out(row, number, node, good[0], told.detail)
            except NearQLError as error:
                verdicts[node] = replace(told, detail=f"{told.detail}; {error.detail}")
            else:
                verdicts[node] = replace(told, detail=f"{told.detail}; {_REBUILT}")

    def _take_out(self, row: TableRow, number: int, node: str, good: str, reason: str) -> None:
        """Raises NearQLError where it was not done: a primary that ends without giving its part
        away takes with it what no other copy has yet.
        """
        row = self._cluster.metadata.state.tables.get(row.table.uuid, row)  # as it is by now
        shard = row.shards[number]
        if node == shard.primary:
            for other in row.shards:  # the primaries of a table stay together
                if other.primary == node:
                    self._give_away(HandOver(other.uuid, node, good))
        self._steps.condemn(node, shard.uuid, reason)

    def _give_away(self, step: HandOver) -> None:
        if why := self._steps.hand_over(step):
            raise Unavailable(f"it is the primary and did not give its part away: {why}")


class Checker:
    """Checks every table now and then, on the node that leads. `start` begins, `close` ends it."""

    def __init__(self, cluster: Cluster, checks: Checks, interval_s: float) -> None:
        """interval_s: between two rounds, 0 = never."""
        self._cluster, self._checks, self._interval_s = cluster, checks, interval_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="checker", daemon=True)

    def start(self) -> None:
        """Begin, if the settings want it; the first round comes after one interval."""
        if self._interval_s:
            self._thread.start()

    def close(self) -> None:
        """Begin no further table."""
        self._stopped.set()

    def round(self) -> None:
        """Check every table once, if this node leads."""
        for row in list(self._cluster.metadata.state.tables.values()):
            if self._stopped.is_set() or not self._cluster.leading:
                return
            if row.ready and any(len(shard.replicas) > 1 for shard in row.shards):
                self._checks.check(row)

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_s):
            try:
                self.round()
            except NearQLError as error:
                log.warning("check_broken_off", reason=error.detail)
            except Exception:  # a fault in one round must not end all checks
                log.exception("check_failed")
