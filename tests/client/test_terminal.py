"""On a terminal: the shell with history, completion and Ctrl-C; the progress bar with its rate."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from support.server_process import ServerProcess

TAB, CTRL_C, CTRL_D, UP = "\t", "\x03", "\x04", "\x1b[A"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r")


class Terminal:
    """A process on a pseudo-terminal, and what it showed."""

    def __init__(self, arguments: list[str], url: str, state: Path) -> None:
        self._unread = ""
        self._master, worker = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nearql", *arguments],
            stdin=worker,
            stdout=worker,
            stderr=worker,
            env={
                **os.environ,
                "NEARQL_URL": url,
                "XDG_STATE_HOME": str(state),
                "TERM": "xterm",
                "COLUMNS": "120",
                "PROMPT_TOOLKIT_NO_CPR": "1",
            },
            start_new_session=True,
        )
        os.close(worker)

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def until(self, shown: str, timeout_s: float = 30.0) -> str:
        """Read until the text is on the screen; what was shown since the last call, up to it."""
        deadline = time.monotonic() + timeout_s
        while shown not in (seen := _ESCAPES.sub("", self._unread)):
            if not select.select([self._master], [], [], max(0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"{shown!r} is not on the screen: {self._unread!r}")
            try:
                self._unread += os.read(self._master, 65536).decode(errors="replace")
            except OSError as error:  # the process ended
                raise AssertionError(f"it ended without {shown!r}: {self._unread!r}") from error
        end = seen.index(shown) + len(shown)
        self._unread = seen[end:]
        return seen[:end]

    def end(self) -> int:
        """Wait for its end; the exit code."""
        return self.process.wait(20)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("node") / "data") as started:
        started.sql("CREATE TABLE wonderful (id BIGINT PRIMARY KEY, vec VECTOR(4))")
        yield started


def test_a_session_in_the_shell(server: ServerProcess, tmp_path: Path) -> None:
    with Terminal(["sql"], server.url, tmp_path) as shell:
        shell.until("nearql>")
        shell.type("SELECT 40 + 2 AS answer;\r")
        shell.until("    42")
        shell.until("nearql>")
        shell.type("SELECT nonsense\r")
        shell.until("->")
        shell.type(CTRL_C)
        shell.until("nearql>")
        shell.type("wrong;\r")
        shell.until("error: ")
        shell.until("nearql>")
        shell.type("\\d\r")
        shell.until("wonderful")
        shell.until("nearql>")
        shell.type(CTRL_D)
        assert shell.end() == 0
        assert "SELECT 40 + 2 AS answer;" in (tmp_path / "nearql" / "history").read_text()


def test_completion_and_history(server: ServerProcess, tmp_path: Path) -> None:
    with Terminal(["sql"], server.url, tmp_path) as shell:
        shell.until("nearql>")
        shell.type("SELECT count(*) FROM wonde" + TAB)
        shell.until("wonderful")
        shell.type(";\r")
        shell.until("(1 row)")
        shell.until("nearql>")
        shell.type(UP)
        shell.until("wonderful")
        shell.type("\r")
        shell.until("(1 row)")
        shell.until("nearql>")
        shell.type("\\q\r")
        assert shell.end() == 0


def test_watching_until_ctrl_c(server: ServerProcess, tmp_path: Path) -> None:
    with Terminal(["sql"], server.url, tmp_path) as shell:
        shell.until("nearql>")
        shell.type("SELECT 40 + 2 AS answer;\r")
        shell.until("    42")
        shell.until("nearql>")
        shell.type("\\watch 0.05\r")
        for _ in range(3):
            shell.until("    42")
        shell.process.send_signal(signal.SIGINT)  # what Ctrl-C becomes while nobody reads keys
        shell.until("nearql>")
        shell.type("SELECT 'still ' || 'here';\r")
        shell.until("still here")
        shell.until("nearql>")
        shell.type(CTRL_D)
        assert shell.end() == 0


def test_the_progress_bar_shows_a_rate(server: ServerProcess, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.ones((20_000, 4), "f4"))
    file = str(tmp_path / "v.npy")
    arguments = ["load", "wonderful", file, "--batch-bytes", "20000"]
    with Terminal(arguments, server.url, tmp_path) as loading:
        shown = loading.until("20,000 rows: 20,000 inserted")
        assert "into wonderful" in shown
        assert re.search(r"[\d,]+ rows [\d,]+ rows/s ━", shown)
        assert loading.end() == 0
