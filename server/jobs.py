"""Work that takes a while, as people see it: `GET /v1/jobs`.

Whoever carries out jobs (moves of copies, backups) is a source of them. A source tells plain maps:

    job         its id                      done, total   how far, in `unit`; total null: unknown
    kind        move, drain, backup, ...    steps         its parts, where it has any
    state       running, waiting, done, failed, cancelled
    detail      what it waits for, or why it ended so
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from nearql.cluster.metadata.jobs import RUNNING, JobRow, Move
from nearql.cluster.metadata.state import Metadata, TableRow
from nearql.cluster.migration import is_done
from nearql.engine.errors import NotFound
from nearql.server.gateway import status
from nearql.server.gateway.gateway import Gateway
from nearql.server.gateway.placement import name_of

Job = Mapping[str, Any]
Source = Callable[[], Iterable[Job]]


class Jobs:
    """All sources of a node."""

    def __init__(self) -> None:
        self.sources: list[Source] = []

    def all(self) -> list[Job]:
        """Every job that is under way or remembered, the newest first."""
        found = [job for source in self.sources for job in source()]
        return sorted(found, key=lambda job: str(job["started_at"]), reverse=True)

    def one(self, name: str) -> Job:
        """The job of this id; raises NotFound."""
        for job in self.all():
            if job["job"] == name:
                return job
        raise NotFound(f"There is no job {name[:80]!r}.", code="undefined_job")


def cluster_jobs(gateway: Gateway) -> Iterator[Job]:
    """Jobs that metadata holds: of moves, drains, rebalances, failovers, numbers of copies."""
    state = gateway.metadata.state
    running = any(job.state == RUNNING for job in state.jobs.values())
    reports = status.all_reports(gateway) if running else {}
    for job in state.jobs.values():
        steps = list(_steps(state, job, reports))
        total = max(job.total, len(steps))
        done = total if job.state == "done" else sum(step["state"] == "done" for step in steps)
        if job.kind == "drain" and job.state == RUNNING:
            total = max(job.total, copies_on(state, job.node_id))
            done = total - copies_on(state, job.node_id)
        waits = job.state == RUNNING and job.detail
        yield {
            "job": job.uuid,
            "kind": job.kind,
            "state": "waiting" if waits else job.state,
            "detail": job.detail,
            "started_at": moment(job.began_ms),
            "ended_at": moment(job.ended_ms) if job.ended_ms else None,
            "done": done,
            "total": total,
            "unit": "copies",
            "steps": steps,
        }


def copies_on(state: Metadata, node_id: str) -> int:
    """How many copies of shards a node has."""
    rows = state.tables.values()
    return sum(node_id in shard.replicas for row in rows for shard in row.shards)


def _steps(state: Metadata, job: JobRow, reports: status.Reports) -> Iterator[dict[str, Any]]:
    for move in job.moves:
        yield _step(state, move, state.tables.get(move.table_uuid), reports)
    for lead in job.leads:
        row = state.tables.get(lead.table_uuid)
        leads = row is None or all(shard.primary == lead.node_id for shard in row.shards)
        yield {
            "what": "primary",
            "table": row.table.name if row else lead.table_uuid,
            "from": None,
            "to": name_of(state, lead.node_id),
            "state": "done" if leads else "queued",
            "bytes": None,
            "bytes_total": None,
        }
    if job.kind in ("drain", "replicas") and job.state == RUNNING:
        yield from _under_way(state, job, reports)


def _under_way(state: Metadata, job: JobRow, reports: status.Reports) -> Iterator[dict[str, Any]]:
    """Moves that a drain or a new number of copies has begun."""
    for row in state.tables.values():
        for shard in row.shards:
            ours = shard.removing == job.node_id or row.table.uuid == job.table_uuid
            if shard.adding and ours:
                move = Move(row.table.uuid, shard.removing or "", shard.adding)
                yield _step(state, move, row, reports)
                break


def _step(
    state: Metadata, move: Move, row: TableRow | None, reports: status.Reports
) -> dict[str, Any]:
    shards = row.shards if row else ()
    moving = [shard for shard in shards if shard.adding == move.target]
    synced = [reports.get(move.target, {}).get(shard.uuid, {}).get("sync") for shard in moving]
    counts = [sync for sync in synced if sync]
    if row is None or is_done(row, move):
        now = "done"
    elif not moving:
        now = "queued"
    else:
        in_sync = all(shard.adding in shard.isr for shard in moving)
        now = "verifying" if in_sync else "copying"
    return {
        "what": "copy",
        "table": row.table.name if row else move.table_uuid,
        "from": name_of(state, move.source) if move.source else None,
        "to": name_of(state, move.target),
        "state": now,
        "bytes": sum(done for done, _ in counts) if counts else None,
        "bytes_total": sum(total for _, total in counts) if counts else None,
    }


def moment(milliseconds: int) -> str:
    """A time as answers have it."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
