"""NearQL as a server of its own, asked by its Python client over HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nearql
from ann.algorithms import Ask
from ann.algorithms.nearql import System as Embedded
from ann.datasets import Condition
from nearql.client.errors import ConnectionFailed


class System(Embedded):
    """`nearql serve` on a free port; every asker has a connection of its own."""

    def connect(self, folder: Path) -> Any:
        """Start the server and wait until it is ready."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "nearql", "serve", "--port", str(port)]
        self._server = subprocess.Popen(
            [*command, "--data-dir", str(folder)], stderr=subprocess.DEVNULL, env=os.environ
        )
        self.url = f"http://127.0.0.1:{port}"
        while True:
            db = nearql.connect(self.url)
            try:
                db.execute("SELECT 1")
                return db
            except ConnectionFailed:
                if self._server.poll() is not None:
                    raise
                time.sleep(0.1)

    def asker(self, effort: Any, condition: Condition) -> Ask:
        """Over a connection of its own."""
        mine = System()
        mine.db = nearql.connect(self.url)
        return Embedded.asker(mine, effort, condition)

    def close(self) -> None:
        """Stop the server."""
        self.db.close()
        self._server.send_signal(signal.SIGTERM)
        self._server.wait(60)
