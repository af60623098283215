"""Open files of this process: connections may never take those that data needs.

Shells and service managers often allow 1,024 at first, and many times that to who asks. A server
that runs out can neither accept a connection nor open the next file of its log.
"""

from __future__ import annotations

import resource
from dataclasses import replace

import structlog

from nearql.server.config import Config

MOST = 1 << 20  # some systems allow a billion, which no table of descriptors should be made for

log = structlog.get_logger("nearql.server")


def with_room_for_files(config: Config) -> Config:
    """The configuration, with fewer connections where the system allows too few open files: a
    quarter stays for tables, logs and other nodes. The process may open all it can from now on.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    files = max(soft, allowed)
    connections = files - files // 4
    if connections >= config.http.max_connections:
        return config
    log.warning(
        "configuration",
        text=f"The system allows this process {files} open files (ulimit -n), too few for "
        f"http.max_connections = {config.http.max_connections}: it holds {connections} instead.",
    )
    return replace(config, http=replace(config.http, max_connections=connections))
