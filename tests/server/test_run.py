"""The process of `nearql serve`: what it keeps out, how it starts and stops."""

from __future__ import annotations

import signal
import socket
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


def test_connections_leave_files_to_the_data(tmp_path: Path) -> None:
    """As many connections as the system lets a process have files: tables are made all the same."""
    few = "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200));"
    code = f"{few} from nearql.__main__ import main; sys.exit(main(sys.argv[1:]))"
    port = free_port()
    serve = ["serve", "--port", str(port), "--data-dir", str(tmp_path / "data")]
    log, held = tmp_path / "log", list[socket.socket]()
    with log.open("wb") as written:
        process = subprocess.Popen([sys.executable, "-c", code, *serve], stderr=written)
    try:
        wait_for(lambda: is_ready(str(port)), "ready", 60)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            assert client.get("/livez").status_code == 200  # its connection stays open
            while len(held) < 200:
                held.append(socket.create_connection(("127.0.0.1", port), 60))
                held[-1].sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
                if held[-1].recv(4096).startswith(b"HTTP/1.1 503"):
                    break
            assert 100 < len(held) < 200
            made = client.post("/v1/sql", json={"sql": "CREATE TABLE docs (id BIGINT)"})
            assert made.status_code == 200, made.text
    finally:
        for one in held:
            one.close()
        process.terminate()
        process.wait(60)
    assert "it holds 150 instead" in log.read_text()
