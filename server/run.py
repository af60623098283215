"""Serve one node over HTTP on a socket that is bound already, until a signal."""

from __future__ import annotations

import gc
import signal
import socket
import sys
import threading
from dataclasses import replace
from importlib.abc import MetaPathFinder

import structlog
import uvicorn

from nearql.engine.backends.blas import use_one_blas_thread
from nearql.server.access.layer import AccessLayer
from nearql.server.app import Server, create_app, uvicorn_config
from nearql.server.config import LOOPBACK, Config
from nearql.server.descriptors import with_room_for_files
from nearql.server.logs import configure_logs
from nearql.server.node import Node
from nearql.server.tracing import begin as begin_tracing

SWITCH_S = 0.0005  # a search waits no longer for one thread to give Python away; default: 5 ms

log = structlog.get_logger("nearql.server")


def serve(config: Config, listener: socket.socket) -> int:
    """Open the node, answer requests, close it; 0 after a clean stop."""
    configure_logs(config.log)
    config = replace(config, http=replace(config.http, port=listener.getsockname()[1]))
    for warning in config.warnings:
        log.warning("configuration", text=warning)
    if config.insecure and config.auth.mode == "none":
        log.warning(
            "insecure", text="--insecure: anybody who reaches this address may do everything"
        )
    if config.auth.mode == "required" and config.http.host not in LOOPBACK:
        log.warning(
            "plain_http",
            text="Keys and rows travel unencrypted to this address: set http.tls_cert_file and "
            "http.tls_key_file, or let only a proxy with TLS reach it.",
        )
    config = with_room_for_files(config)
    keep_pandas_out()
    sys.setswitchinterval(SWITCH_S)
    use_one_blas_thread()  # this process is ours: batches are cut over the search team instead
    tracing = begin_tracing(config)  # before the node: it looks at once whether somebody asks
    node = Node.open(config)
    gc.freeze()  # what lives as long as the process need not be looked through again
    gc.enable()
    try:
        access = AccessLayer(node, config) if config.auth.mode == "required" else None
        app = create_app(node, config, access, gateway=node.gateway(), backups=node.backups)
        server = _AnnouncingServer(uvicorn_config(app, config), config.advertise_url)
        _outlive_a_second_signal(server)
        server.run(sockets=[listener])
        return 0 if server.started else 1
    finally:
        node.close()
        if tracing is not None:
            tracing.end()
        log.info("stopped")


def _outlive_a_second_signal(server: Server) -> None:
    """Let one SIGTERM be as good as two: uvicorn listens only as long as it serves, and what comes
    while the node is closed must not end it there. A second Ctrl-C does.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, server.handle_exit)


def keep_pandas_out() -> None:
    """Make pandas look absent in this process, which is ours and never uses it.

    Where it is installed, PyArrow imports it with the first array it makes of Python values: half a
    second and 60 MB in the middle of somebody's first request.
    """
    sys.meta_path.insert(0, _NoPandas())


class _NoPandas(MetaPathFinder):
    """Finds nothing, least of all pandas."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        """Called by each import before the finders behind it."""
        if name == "pandas":
            raise ModuleNotFoundError("a NearQL server does without pandas", name=name)


class _AnnouncingServer(Server):
    """uvicorn, saying where it listens once it really does: scripts wait for this line."""

    def __init__(self, config: uvicorn.Config, url: str) -> None:
        super().__init__(config)
        self._url = url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            log.info("listening", url=self._url)
