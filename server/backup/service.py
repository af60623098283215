"""The backups and restores of a node: jobs in threads, what other nodes ask of it, and its pins.

A job lives as long as its process: one that dies with it has changed nothing that counts, and is
begun anew by whoever wants it. A job is known on every node of a cluster, by asking the others.
"""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
import structlog

from nearql import __version__
from nearql.cluster.metadata import commands as c
from nearql.cluster.metadata.restores import abandoned
from nearql.cluster.replication.link.calls import Request
from nearql.cluster.replication.transfer.pace import Pace
from nearql.engine.errors import Conflict, InternalError, NearQLError, Unavailable
from nearql.engine.shard.copy import ShardCopy
from nearql.engine.shard.shard import Shard
from nearql.server.backup.archiver import Archiver
from nearql.server.backup.cut import serve_holds
from nearql.server.backup.manifest import BackupManifest
from nearql.server.backup.places import repository_for
from nearql.server.backup.repository import Repository
from nearql.server.backup.restore import SCRATCH, Restore, Restored, Wish
from nearql.server.backup.sources import Pins, serve_log
from nearql.server.backup.take import cancelled, summary, take

if TYPE_CHECKING:
    from nearql.server.node import Node

log = structlog.get_logger("nearql.backup")

JOBS_CALL = "backup_jobs"
KEPT = 50  # jobs that have ended and are still told of
RUNNING = 2  # jobs at a time
_ASK_MS = 2000
_SWEEP_S = 10.0


@dataclass
class Job:
    """One backup or restore; implements `take.Progress`."""

    kind: str
    target: str
    pace: Pace | None = None
    job: str = field(default_factory=lambda: str(uuid.uuid4()))
    state: str = "waiting"
    detail: str = ""
    done: int = 0
    total: int = 0
    started_at: float = field(default_factory=time.time)
    ended_at: float | None = None
    result: Mapping[str, Any] | None = None
    error: NearQLError | None = None
    given_up: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    steps: list[str] = field(default_factory=list)

    def step(self, name: str) -> None:
        """See `Progress.step`."""
        self.advance(0)
        self.detail = name
        self.steps.append(name)

    def expect(self, nbytes: int) -> None:
        """See `Progress.expect`."""
        self.total += nbytes

    def advance(self, nbytes: int) -> None:
        """See `Progress.advance`."""
        if self.pace is not None and nbytes:
            self.pace.take(nbytes, self.given_up)
        if self.given_up.is_set():
            raise cancelled()
        self.done += nbytes

    def described(self) -> dict[str, Any]:
        """As `/v1/jobs` shows it."""
        found: dict[str, Any] = {
            "job": self.job, "kind": self.kind, "target": self.target, "state": self.state,
            "detail": self.detail, "started_at": _time(self.started_at),
            "ended_at": _time(self.ended_at), "done": self.done, "total": self.total,
            "unit": "bytes", "steps": [],
        }  # fmt: skip
        if self.result is not None:
            found["result"] = dict(self.result)
        if self.error is not None:
            found["code"] = self.error.code
        return found


class Backups:
    """Of one node. Thread-safe."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.pins = Pins()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._lock = threading.Lock()
        self._turns = threading.Semaphore(RUNNING)
        self._threads: list[threading.Thread] = []  # daemons: a repository may never answer
        self._closed = threading.Event()
        self.archiver = Archiver(node, self.pins)
        self._sweeper = threading.Thread(target=self._sweep, name="backup-sweep", daemon=True)

    def start(self) -> None:
        """Answer other nodes; remove what a restore left that was killed."""
        node = self._node
        scratch = node.config.node.data_dir.absolute() / SCRATCH
        shutil.rmtree(scratch, ignore_errors=True)
        if node.member is not None:
            calls = node.member.replication.calls
            serve_holds(calls, self._shard_of)
            serve_log(calls, self._copy_of)
            calls.serve(JOBS_CALL, self._tell_jobs)
            self._sweeper.start()
        self.archiver.start()

    def close(self) -> None:
        """End every job, as soon as it looks up."""
        self._closed.set()
        self.archiver.close()
        with self._lock:
            for job in self._jobs.values():
                job.given_up.set()
            threads = [*self._threads]
        until = time.monotonic() + self._node.config.backup.archive_wait_ms / 1000
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        if left := sum(thread.is_alive() for thread in threads):
            log.error("backup_jobs_left", jobs=left)
        if self._sweeper.is_alive():
            self._sweeper.join()

    # ---- Jobs -----------------------------------------------------------------------------

    def backup(self, location: str = "", expected_id: str = "") -> Job:
        """Begin a backup. Raises as `repository_for`."""
        repository = self._repository(location, expected_id)
        return self._begin(Job("backup", repository.location, self._pace()), self._take, repository)

    def restore(self, wish: Wish, location: str = "", expected_id: str = "") -> Job:
        """Begin a restore. Raises as `repository_for`."""
        repository = self._repository(location, expected_id)

        def work(job: Job, repository: Repository) -> Mapping[str, Any]:
            return restored(self.restore_here(job, repository, wish))

        return self._begin(Job("restore", repository.location, self._pace()), work, repository)

    def take_here(self, job: Job, repository: Repository) -> BackupManifest:
        """Take a backup in this thread."""
        self.pins.keep(list(self._node.copies.tables.values()))
        return take(self._node, repository, job, self.pins, __version__)

    def restore_here(self, job: Job, repository: Repository, wish: Wish) -> Restored:
        """Restore in this thread."""
        return Restore(self._node, repository, wish, job, job.job).run()

    def _take(self, job: Job, repository: Repository) -> Mapping[str, Any]:
        return summary(self.take_here(job, repository))

    def _repository(self, location: str, expected_id: str) -> Repository:
        return repository_for(location, self._node.config.backup, expected_id)

    def _pace(self) -> Pace | None:
        rate = self._node.config.backup.rate
        return Pace(rate) if rate else None

    def _begin(
        self, job: Job, work: Callable[[Job, Repository], Mapping[str, Any]], repository: Repository
    ) -> Job:
        with self._lock:
            if self._closed.is_set():
                raise Unavailable("The node is shutting down.", code="shutting_down")
            self._jobs[job.job] = job
            ended = [key for key, one in self._jobs.items() if one.ended.is_set()]
            for key in ended[:-KEPT]:
                del self._jobs[key]
            thread = threading.Thread(
                target=self._run, args=(job, work, repository), name="nearql-backup", daemon=True
            )
            self._threads = [one for one in self._threads if one.is_alive()] + [thread]
            thread.start()
        return job

    def _run(
        self, job: Job, work: Callable[..., Mapping[str, Any]], repository: Repository
    ) -> None:
        try:
            with self._turns:
                job.advance(0)  # it may have been cancelled while it waited
                job.state = "running"
                job.result = work(job, repository)
            job.state, job.detail = "done", ""
        except NearQLError as error:
            job.state = "cancelled" if error.code == "job_cancelled" else "failed"
            job.detail, job.error = error.detail, error
            log.warning("backup_job_failed", kind=job.kind, code=error.code, reason=error.detail)
        except Exception as error:  # its owner must learn that nothing more comes
            log.exception("backup_job_broke", kind=job.kind)
            job.state, job.detail = "failed", f"A fault of the server: {type(error).__name__}."
            job.error = InternalError(job.detail)
        finally:
            job.ended_at = time.time()
            job.ended.set()
        log.info("backup_job_ended", kind=job.kind, job=job.job, state=job.state)

    def cancel(self, job_id: str) -> bool:
        """Ask a job to end, which it does soon; False where it is none of this node's.

        Raises:
            Conflict: code `job_ended`.
        """
        with self._lock:
            job = self._jobs.get(job_id)
        if job is None:
            return False
        if job.ended.is_set():
            raise Conflict(f"The job {job_id} has ended.", code="job_ended", sqlstate="55000")
        job.given_up.set()
        return True

    def jobs(self) -> list[dict[str, Any]]:
        """Those of this node, the oldest first."""
        with self._lock:
            return [job.described() for job in self._jobs.values()]

    def all_jobs(self) -> list[dict[str, Any]]:
        """Those of all nodes that answer."""
        member = self._node.member
        found = self.jobs()
        if member is None:
            return found
        for node_id in sorted(member.cluster.alive() - {member.cluster.node_id}):
            try:
                answer = member.replication.calls.call(node_id, JOBS_CALL, b"", timeout_ms=_ASK_MS)
            except NearQLError as error:
                log.info("node_tells_no_jobs", node=node_id, reason=error.detail)
            else:
                found += orjson.loads(answer)
        return found

    # ---- Other nodes ----------------------------------------------------------------------

    def _shard_of(self, shard_uuid: str) -> Shard | None:
        for table_uuid, row in self._node.metadata.state.tables.items():
            for number, shard in enumerate(row.shards):
                if shard.uuid == shard_uuid:
                    table = self._node.copies.tables.get(table_uuid)
                    return table.shards[number] if table is not None else None
        return None

    def _copy_of(self, shard_uuid: str) -> ShardCopy | None:
        """A copy of this node that is fit to be read."""
        shard, member = self._shard_of(shard_uuid), self._node.member
        handle = member.replication.shard(shard_uuid) if member is not None else None
        if shard is None or handle is None or not handle.readable:
            return None
        tables = self._node.copies.tables.values()
        found = (zip(table.shards, table.copies, strict=True) for table in tables)
        return next((copy for pairs in found for one, copy in pairs if one is shard), None)

    def _tell_jobs(self, request: Request) -> Iterator[bytes]:
        yield orjson.dumps(self.jobs())

    def _sweep(self) -> None:
        """On the leader: drop what restores left whose nodes have died."""
        while not self._closed.wait(_SWEEP_S):
            try:
                for row in self._abandoned():
                    log.warning("abandoned_restore_dropped", table=row.name)
                    self._node.metadata.propose(
                        c.DropTable(request_id=f"abandoned/{row.uuid}", table_uuid=row.uuid)
                    )
            except NearQLError as error:
                log.info("abandoned_restores_wait", reason=error.detail)

    def _abandoned(self) -> Iterable[Any]:
        member = self._node.member
        if member is None or not member.cluster.leading:
            return []
        return [row.table for row in abandoned(self._node.metadata.state)]


def restored(found: Restored) -> Mapping[str, Any]:
    """What a restore did, as its job shows it."""
    told = {"to": found.to} if found.to else {}
    left_out = {"left_out": list(found.left_out)} if found.left_out else {}
    return {
        "backup": found.backup,
        **told,
        **left_out,
        "tables": [{"name": name, "rows": rows} for name, rows in found.rows.items()],
        "views": list(found.views),
        "users": list(found.users),
    }


def _time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
