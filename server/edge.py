"""What the routes share: the node, its settings, the threads that run statements, the counters."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from starlette.requests import Request

from nearql.engine.errors import Overloaded, Unavailable
from nearql.server.access.layer import AccessLayer
from nearql.server.access.principal import Principal
from nearql.server.access.quota import Quotas
from nearql.server.backup.service import Backups
from nearql.server.config import Config
from nearql.server.gateway.gateway import Gateway
from nearql.server.inline import Inline
from nearql.server.jobs import Jobs
from nearql.server.metrics import Metrics
from nearql.server.ports import NodePort
from nearql.server.spool import Spool, SpoolMemory
from nearql.server.tls import Certificates
from nearql.server.workers import Workers

T = TypeVar("T")
CLOSED_S = 1.0  # how often a thread that waits for the loop looks whether there still is one
LET_BY_S = 0.02  # a load or a join waits no longer for short statements
WATCH_AFTER_S = 0.05  # shorter statements are not worth a task that listens for a client going away


@dataclass
class Edge:
    """One per application.

    draining: a stop has begun; `/readyz` says so. access: None where nobody is asked for a key.
    gateway: None on a node alone. loop: that serves, while it does.
    """

    node: NodePort
    config: Config
    workers: Workers
    metrics: Metrics
    spool_memory: SpoolMemory
    bulk_workers: Workers
    heavy_workers: Workers
    remote_workers: Workers
    json_memory: SpoolMemory
    answer_memory: SpoolMemory
    quotas: Quotas = field(init=False)
    result_bytes: int = field(init=False)
    draining: bool = False
    access: AccessLayer | None = None
    certificates: Certificates | None = None
    gateway: Gateway | None = None
    backups: Backups | None = None
    loop: asyncio.AbstractEventLoop | None = None
    inline: Inline = field(init=False)
    jobs: Jobs = field(default_factory=Jobs)
    short: Short = field(default_factory=lambda: Short())

    def __post_init__(self) -> None:
        limits = self.config.limits
        self.inline = Inline(self.config.http.inline_ms, self.node.has_room)
        calls = self.config.replication.call_threads
        self._heavy_calls = threading.BoundedSemaphore(max(1, calls // 2))
        self.result_bytes = self.config.share_of_memory(limits.result_bytes, 4)
        if self.backups is not None:
            self.jobs.sources.append(self.backups.all_jobs)
        self.quotas = Quotas(limits.key_rate, limits.key_concurrency)

    def node_of(self, request: Request) -> NodePort:
        """The node as the one who asks may see it: what routes take data from."""
        return self.node_as(principal_of(request))

    def node_as(self, principal: Principal) -> NodePort:
        """The node as a principal may see it."""
        return self.node if self.access is None else self.access.nodes.of(principal)

    def spool(self) -> Spool:
        """A new place for a body; `with` frees it."""
        config = self.config
        return Spool(self.spool_memory, config.node.data_dir, config.engine.disk_reserve)

    async def run(
        self, work: Callable[[], T], request: Request | None = None,
        cancel: Callable[[], None] | None = None,
        *, bulk: bool = False, heavy: bool = False, remote: bool = False,
    ) -> T:  # fmt: skip
        """`work()` in a worker thread; `cancel()` is called when the client goes away meanwhile.

        bulk, heavy, remote: among the loads, the heavy statements, or what waits for another node;
        each has threads and a queue of its own, so that searches never wait for them.
        """
        if bulk or heavy or remote:
            workers = self.bulk_workers if bulk else self.heavy_workers
            workers = self.remote_workers if remote else workers
            turn = work if remote else partial(self._later, work)
            return await self._run(workers, turn, request, cancel)
        self.short.begin()
        try:
            return await self._run(self.workers, work, request, cancel)
        finally:
            self.short.end()

    @staticmethod
    async def _run(
        workers: Workers, work: Callable[[], T], request: Request | None,
        cancel: Callable[[], None] | None,
    ) -> T:  # fmt: skip
        if request is None or cancel is None:
            return await workers.run(work)
        async with _Watch(request, cancel):
            return await workers.run(work)

    def _later(self, work: Callable[[], T]) -> T:
        """In a thread: `work()` once the short ones are done, or have let it wait long enough."""
        self.short.wait()
        return work()

    def run_heavy(self, work: Callable[[], T]) -> T:
        """`work()` among the heavy statements, from a thread that waits for it: for what another
        node asks. Of the threads for other nodes' statements half may wait so.

        Raises:
            Overloaded: half do, or as `run`; nothing was done.
            Unavailable: the server ends.
        """
        loop = self.loop  # it may be gone in the next moment
        if loop is None and not self.draining:  # nobody is served, so nobody is to be protected
            return work()
        if not self._heavy_calls.acquire(blocking=False):
            raise Overloaded(
                "So many heavy statements of other nodes run or wait here as half of "
                "replication.call_threads; nothing was done. Retry later, or send it to this node.",
                code="queue_full",
            )
        try:
            return _result_of(loop, self.heavy_workers, work)
        finally:
            self._heavy_calls.release()


def _result_of(
    loop: asyncio.AbstractEventLoop | None, workers: Workers, work: Callable[[], T]
) -> T:
    """What the workers of another thread's loop make of `work`; Unavailable where it has ended."""
    ending = Unavailable("The server is shutting down.", code="shutting_down")
    if loop is None or loop.is_closed():
        raise ending
    running = workers.run(work)
    try:
        found = asyncio.run_coroutine_threadsafe(running, loop)
    except RuntimeError:  # it was closed since
        running.close()
        raise ending from None
    while True:
        try:
            return found.result(CLOSED_S)
        except CancelledError:
            raise ending from None
        except TimeoutError:  # of the wait, or of the work
            if found.done():
                raise
            if loop.is_closed():  # it never came to it
                running.close()
                raise ending from None


def principal_of(request: Request) -> Principal:
    """Who a request acts for."""
    found: Principal | None = request.scope.get("principal")
    assert found is not None, "a route without a rule"
    return found


class Short:
    """Searches and other short statements under way in threads. What takes longer begins when there
    is none, for each thread that wants Python meanwhile makes them wait for it; but soon in any
    case. `begin` and `end` belong to the event loop.
    """

    def __init__(self, patience_s: float = LET_BY_S) -> None:
        self._patience_s = patience_s
        self._running = 0
        self._none = threading.Event()
        self._none.set()

    def begin(self) -> None:
        """One more is under way."""
        if not self._running:
            self._none.clear()
        self._running += 1

    def end(self) -> None:
        """One less."""
        self._running -= 1
        if not self._running:
            self._none.set()

    def wait(self) -> None:
        """Until none is under way, or patience ends; in a thread."""
        self._none.wait(self._patience_s)


class _Watch:
    """Listens for the client going away, once the work inside has taken WATCH_AFTER_S."""

    def __init__(self, request: Request, cancel: Callable[[], None]) -> None:
        self._request = request
        self._cancel = cancel
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._start)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        if kind is asyncio.CancelledError:
            self._cancel()

    def _start(self) -> None:
        self._task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self._cancel()
