"""The HTTP application of a node, and the server that carries it.

    RequestContext -> Authentication -> SameOrigin -> routes (server.routes.all)

`create_app` builds the application; `make_server` the uvicorn server on uvloop and httptools with
it. A stop first answers 503 on `/readyz`, then lets requests in flight finish, then ends the
threads.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from nearql.engine import spans
from nearql.server.access.layer import AccessLayer
from nearql.server.backup.service import Backups
from nearql.server.cluster_settings import HAND_OVER_S
from nearql.server.config import Config, ConfigError, HttpSection
from nearql.server.edge import Edge
from nearql.server.gateway.attach import attach
from nearql.server.gateway.gateway import Gateway
from nearql.server.metrics import Metrics
from nearql.server.middleware.auth import Authentication, everybody
from nearql.server.middleware.context import RequestContext
from nearql.server.middleware.origin import SameOrigin
from nearql.server.ports import NodePort
from nearql.server.problem import from_http, problem_response
from nearql.server.protocol import make_protocol
from nearql.server.routes import Kind, allowed_methods, bound, open_paths
from nearql.server.routes.all import ROUTES
from nearql.server.shortcut import Shortcut
from nearql.server.spool import SpoolMemory
from nearql.server.tls import Certificates
from nearql.server.tracing import OpenTelemetry, TracedRequests
from nearql.server.workers import Workers


def create_app(
    node: NodePort,
    config: Config,
    access: AccessLayer | None = None,
    gateway: Gateway | None = None,
    backups: Backups | None = None,
) -> Starlette:
    """The ASGI application over an open node; closing the node stays with the caller.

    Args:
        access: who may do what; None where nobody is asked.
        gateway: the way to the other nodes; None on a node alone.
        backups: those of the node; None for doubles of one.

    Raises:
        ConfigError: `auth.mode` asks for keys, and there is nothing that checks them.
    """
    if config.auth.mode != "none" and access is None:
        raise ConfigError(f"auth.mode = {config.auth.mode}, and nothing checks keys here.")
    metrics = Metrics(node)
    http = config.http
    edge = Edge(
        node,
        config,
        Workers(http.workers, http.queue, "http.workers + http.queue"),
        metrics,
        SpoolMemory(config.share_of_memory(config.limits.spool_memory, 8)),
        bulk_workers=Workers(bulk_threads(http), http.bulk_queue, "http.bulk_workers + bulk_queue"),
        heavy_workers=Workers(
            heavy_threads(http), http.heavy_queue, "http.heavy_workers + heavy_queue"
        ),
        remote_workers=Workers(http.remote_workers, http.queue, "http.remote_workers + http.queue"),
        json_memory=SpoolMemory(config.share_of_memory(config.limits.json_memory, 8)),
        answer_memory=SpoolMemory(
            config.share_of_memory(max(config.limits.answer_memory, config.limits.result_bytes), 4)
        ),
        access=access,
        certificates=Certificates(http) if http.tls_cert_file else None,
        gateway=gateway,
        backups=backups,
    )
    if gateway is not None:
        attach(gateway, edge)
    _count_waiting(edge)
    app = Starlette(
        routes=[bound(endpoint, edge) for endpoint in ROUTES],
        middleware=[
            *_traced(),
            Middleware(
                RequestContext,
                observe=metrics.observe,
                access_log=config.log.requests == "all",
                tls=bool(http.tls_cert_file),
            ),
            Middleware(
                Authentication,
                authenticate=everybody if access is None else access.authenticate,
                is_open=open_paths(ROUTES),
                refused=metrics.refused,
            ),
            Middleware(SameOrigin),
        ],
        exception_handlers={HTTPException: _refused_by_router},
        lifespan=_lifespan,
    )
    app.router.redirect_slashes = False
    app.state.edge = edge
    app.state.shortcut = _shortcut(edge, access)
    return app


def _shortcut(edge: Edge, access: AccessLayer | None) -> Shortcut | None:
    """None where each request is logged by the layers."""
    if edge.config.log.requests == "all":
        return None
    endpoint = next(one for one in ROUTES if one.kind is Kind.SQL)
    return Shortcut(edge, endpoint, everybody if access is None else access.authenticate)


def _count_waiting(edge: Edge) -> None:
    """Metrics show how many wait for threads, whenever they are asked for."""
    metrics = edge.metrics
    metrics.pending.set_function(lambda: edge.workers.pending)
    metrics.bulk_pending.set_function(lambda: edge.bulk_workers.pending)
    metrics.heavy_pending.set_function(lambda: edge.heavy_workers.pending)
    metrics.remote_pending.set_function(lambda: edge.remote_workers.pending)


def _traced() -> list[Middleware]:
    """The outermost layer, where spans are asked for."""
    tracer = spans.tracer
    return [Middleware(TracedRequests, tracer)] if isinstance(tracer, OpenTelemetry) else []


async def _refused_by_router(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = allowed_methods(ROUTES, request.url.path)
        error = HTTPException(error.status_code, headers={"Allow": allowed})
    told = from_http(error, request.method, request.url.path)
    return problem_response(told, request.scope["request_id"], error.headers)


def bulk_threads(http: HttpSection) -> int:
    """`http.bulk_workers`, or as many as leave most cores to searches."""
    return http.bulk_workers or max(1, (os.cpu_count() or 1) // 4)


def heavy_threads(http: HttpSection) -> int:
    """`http.heavy_workers`, or as many as keep every core busy: DuckDB uses several for one."""
    return http.heavy_workers or max(2, (os.cpu_count() or 1) // 2)


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    edge: Edge = app.state.edge
    edge.loop = asyncio.get_running_loop()
    watching = edge.certificates and asyncio.create_task(edge.certificates.watch())
    yield
    edge.draining, edge.loop = True, None
    if watching:
        watching.cancel()
    edge.workers.close()
    edge.bulk_workers.close()
    edge.heavy_workers.close()
    edge.remote_workers.close()


class Server(uvicorn.Server):
    """uvicorn's server; `/readyz` answers 503 from the moment a stop is asked for."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, without raising the signal again at the end: the caller closes the node."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's; open connections are counted from now on."""
        await super().startup(sockets)
        edge: Edge = self.config.app.state.edge  # type: ignore[union-attr]
        edge.metrics.connections.set_function(lambda: len(self.server_state.connections))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.config.app.state.edge.draining = True  # type: ignore[union-attr]
        await super().shutdown(sockets)


def make_server(app: Starlette, config: Config) -> Server:
    """A server for `http.host` and `http.port`; `should_exit` stops it."""
    return Server(uvicorn_config(app, config))


def uvicorn_config(app: Starlette, config: Config) -> uvicorn.Config:
    """How uvicorn carries the application: one process, uvloop, httptools, bounded connections."""
    edge: Edge = app.state.edge
    certificates = edge.certificates
    return uvicorn.Config(
        app,
        host=config.http.host,
        port=config.http.port,
        loop="uvloop",
        http=make_protocol(config.http, edge.metrics.cut, app.state.shortcut),
        ssl_context_factory=(lambda *_: certificates.context) if certificates else None,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here depends on who a proxy says is asking
        timeout_keep_alive=config.http.keep_alive_ms // 1000,
        timeout_graceful_shutdown=_patience_s(config),
    )


def _patience_s(config: Config) -> int:
    """How long a stop waits for requests in flight; the rest of its time is for handing over."""
    handing_over_s = HAND_OVER_S if config.cluster.enabled else 0
    return max(1, int(config.http.shutdown_timeout_ms / 1000 - handing_over_s))
