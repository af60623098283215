"""What a request has read or written: positions in shards' logs, for its answer and its session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nearql.query.executor import Execution
from nearql.query.plan import Plan
from nearql.query.ports import TableView
from nearql.query.replicas import Position
from nearql.query.result import Result


def with_stats(result: Result, run: Execution, plan: Plan) -> Result:
    """The answer with how it came about: strategy, and the shards that were read."""
    shards = shards_of(plan, run.views)
    stats: dict[str, Any] = {"strategy": run.trace.strategy(), "shards": shards}
    if "search" in run.trace.times:  # the engine's part of elapsed_ms
        stats["search_ms"] = round(run.trace.times["search"], 3)
    return Result(
        result.columns, result.table, result.row_count, result.kind, stats, result.notices
    )


def shards_of(plan: Plan, views: Mapping[str, TableView]) -> list[Position]:
    """What read views reflect of a plan's tables. views: by table uuid."""
    return [
        {"table": plan.tables.get(uuid, ""), "shard": at.shard, "epoch": at.epoch, "lsn": at.lsn}
        for uuid, view in views.items()
        for at in view.positions
    ]


def furthest(touched: Sequence[Position]) -> list[Position]:
    """The last position of each shard among those that a request's statements read or wrote."""
    last: dict[tuple[str, int], Position] = {}
    for at in touched:
        known = last.get((at["table"], at["shard"]), at)
        newer = (at["epoch"], at["lsn"]) >= (known["epoch"], known["lsn"])
        last[at["table"], at["shard"]] = at if newer else known
    return list(last.values())
