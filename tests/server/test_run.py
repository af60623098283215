"""The process of `nearql serve`: what it keeps out, how it starts and stops."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from support.server_process import free_port
from support.waiting import wait_for


def test_a_server_never_loads_pandas() -> None:
    """PyArrow would import it with its first array, in the middle of somebody's first request."""
    pytest.importorskip("pandas")
    code = (
        "import sys, pyarrow as pa; from nearql.server.run import keep_pandas_out; "
        "keep_pandas_out(); pa.array([1, 2]).to_pylist(); assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_second_signal_does_not_end_a_node_that_closes(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from nearql.server.node import Node
close = Node.close
def close_twice_told(node):
    os.kill(os.getpid(), signal.SIGTERM)
    close(node)
    print("closed")
Node.close = close_twice_told
from nearql.__main__ import main
sys.exit(main(["serve", "--port", sys.argv[1], "--data-dir", sys.argv[2]]))
"""
    port = str(free_port())
    command = [sys.executable, "-c", code, port, str(tmp_path / "data")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            wait_for(lambda: is_ready(port), "ready", 60)
            process.send_signal(signal.SIGTERM)
            told, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, told) == (0, b"closed\n")


def is_ready(port: str) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=10).status_code == 200
    except httpx.TransportError:
        return False
