"""A real `nearql serve` in a process of its own, which a test may kill, pause and start again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from support.waiting import wait_for


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServerProcess:
    """`with ServerProcess(tmp_path / "data") as server: server.sql("SELECT 1")`."""

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int = 0,
        environment: dict[str, str] | None = None,
        wrapper: Sequence[str] = (),
    ) -> None:
        """wrapper: a command that runs the server's, which follows as its arguments."""
        self.data_dir = data_dir
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = data_dir.with_name(data_dir.name + ".log")
        self.http = httpx.Client(base_url=self.url, timeout=60.0)
        self._wrapper = list(wrapper)
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self, *, ready: bool = True) -> ServerProcess:
        """Start the process and, unless told otherwise, wait until /readyz answers 200."""
        assert self._process is None, "the server is running already"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._wrapper, sys.executable, "-m", "nearql", "serve", "--port", str(self.port)]
                + ["--data-dir", str(self.data_dir)],
                stdout=log,
                stderr=log,
                env=self._environment,
            )
        if ready:
            wait_for(self.is_ready, f"server ready; its log: {self.log}", 30.0)
        return self

    def is_ready(self) -> bool:
        """Whether /readyz answers 200; AssertionError with the log if the process ended."""
        code = self._process.poll() if self._process else None
        assert code is None, f"the server ended with {code}:\n{self.log.read_text()[-3000:]}"
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """SIGKILL, as a crash; returns when the process is gone."""
        self._signal(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM, as a service manager; the exit code."""
        return self._signal(signal.SIGTERM)

    def _signal(self, number: int) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        code = self._process.wait(timeout=60)
        self._process = None
        return code

    def sql(self, text: str, params: Any = None, settings: dict[str, Any] | None = None) -> Any:
        """The answer of POST /v1/sql; AssertionError with the problem document on failure."""
        response = self.post_sql(text, params, settings)
        assert response.status_code == 200, response.text
        return response.json()

    def post_sql(
        self, text: str, params: Any = None, settings: dict[str, Any] | None = None
    ) -> httpx.Response:
        """The raw response of POST /v1/sql."""
        body: dict[str, Any] = {"sql": text}
        if params is not None:
            body["params"] = params
        if settings is not None:
            body["settings"] = settings
        return self.http.post("/v1/sql", json=body)

    def rows(self, text: str, params: Any = None) -> list[list[Any]]:
        """The rows that a statement answers."""
        found: list[list[Any]] = self.sql(text, params)["rows"]
        return found

    def __enter__(self) -> ServerProcess:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
        self.http.close()
