"""`nearql serve`: one node, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import gc
import socket
import sys
from pathlib import Path

from nearql.engine.errors import NearQLError
from nearql.server.config import Config, ConfigError, load_config

EXAMPLES = """examples:
  nearql serve                                  data in ./nearql-data, http://127.0.0.1:8470
  nearql serve --data-dir /var/lib/nearql --port 9000
  nearql serve --config node.yaml               every setting: docs/configuration.md
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments; flags override variables, which override the file."""
    p = argparse.ArgumentParser(
        prog="nearql serve",
        description="Run one NearQL node.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--config", type=Path, metavar="FILE", help="YAML file (also NEARQL_CONFIG)")
    p.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    p.add_argument("--port", help="port to listen on (default 8470; 0 = any free one)")
    p.add_argument("--data-dir", metavar="DIR", help="where data lives (default ./nearql-data)")
    p.add_argument(
        "--bootstrap",
        action="store_const",
        const=True,
        help="found a cluster; counts on an empty disk, while no voter knows a cluster",
    )
    p.add_argument(
        "--insecure",
        action="store_true",
        help="allow other machines to connect without authentication",
    )
    return p


def main(argv: list[str]) -> int:
    """Run the server; 0 after a clean stop, 1 where it could not start, 2 for wrong usage."""
    arguments = parser().parse_args(argv)
    try:
        config = load_config(
            arguments.config,
            flags={
                "http.host": arguments.host,
                "http.port": arguments.port,
                "node.data_dir": arguments.data_dir,
                "cluster.bootstrap": arguments.bootstrap,
            },
            insecure=arguments.insecure,
        )
        return run(config)
    except ConfigError as error:
        print(f"nearql serve: {error.detail}", file=sys.stderr)
        return 2
    except NearQLError as error:
        print(f"nearql serve: {error.detail}", file=sys.stderr)
        return 1


def run(config: Config) -> int:
    """Bind first, so that a taken port is told before any data is opened; then open, then serve."""
    gc.disable()  # until `serve` is up: collecting while modules load is a tenth of the start
    from nearql.server.run import serve

    listener = bind(config.http.host, config.http.port)
    try:
        return serve(config, listener)
    finally:
        listener.close()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: the port is in use or not permitted, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise PortUnavailable(
            f"Can't listen on {host}:{port}: {error.strerror}. Another process may use the port; "
            "choose one with --port (0 = any free one)."
        ) from error
    return listener


class PortUnavailable(NearQLError):
    """The listening address can't be had."""

    code = "port_unavailable"
    title = "Port unavailable"
