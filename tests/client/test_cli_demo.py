"""`nearql demo`: what it prints is true, it may be run twice at once and again, it ends cleanly."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest

from nearql.client.cli import demo
from nearql.client.cli.showpieces import SHOWPIECES, Showpiece
from support.datasets import SMALL
from support.waiting import wait_for


@contextmanager
def running(state: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command, with places of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "nearql", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_STATE_HOME": str(state), "PYTHONUNBUFFERED": "1"},
    )
    with process:
        try:
            yield process
        finally:
            process.terminate()


def once(state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`nearql demo --once`, to its end."""
    with running(state, "--once", *arguments) as process:
        out, err = process.communicate(timeout=100)
    return subprocess.CompletedProcess([], process.returncode, out, err)


def until_up(process: subprocess.Popen[str]) -> str:
    """Read until the demo waits for Ctrl-C; what it printed."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("Ctrl-C"):
            return "".join(lines)
    assert process.stderr is not None
    raise AssertionError("".join(lines) + process.stderr.read())


def url_in(text: str) -> str:
    found = re.search(r"Dashboard +(http://\S+)/\n", text)
    assert found, text
    return found[1]


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> str:
    done = once(tmp_path_factory.mktemp("state"))
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_everything_is_shown(printed: str) -> None:
    assert "Loaded 5,000 Debian packages with vectors of 384 dimensions" in printed
    for number, showpiece in enumerate(SHOWPIECES, 1):
        assert f"{number}. {showpiece.title}" in printed
        assert showpiece.sql in printed
    times = r"^Time: [\d.]+ ms; again [\d.]+ ms, [\d.]+ ms on the server; \S+"
    assert len(re.findall(times, printed, re.M)) == 5
    url = url_in(printed)
    assert f"API docs   {url}/docs" in printed


def test_the_answers_are_right(printed: str) -> None:
    """The first three statements against NumPy."""
    table = pq.read_table(SMALL)
    names, sections = table["name"].to_pylist(), table["section"].to_pylist()
    sizes = table["installed_size"].to_numpy()
    vectors = np.stack(table["embedding"].to_numpy()).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    def nearest(name: str) -> list[int]:
        return [int(i) for i in np.argsort(1 - vectors @ vectors[names.index(name)])]

    parts = re.split(r"^\d\. ", printed, flags=re.M)[1:]
    first = [names[i] for i in nearest("gnome-chess")[:5]]
    assert first_column(parts[0]) == first
    kept = [
        i
        for i in nearest("postgresql")
        if sections[i] in ("python", "perl", "php") and sizes[i] < 500
    ]
    assert first_column(parts[1]) == [names[i] for i in kept[:5]]
    near = [sections[i] for i in nearest("xterm")[:100]]
    counts = sorted({s: near.count(s) for s in near}.items(), key=lambda item: (-item[1], item[0]))
    assert first_column(parts[2]) == [section for section, _ in counts[:5]]


def first_column(part: str) -> list[str]:
    """The first column of the printed table."""
    lines = part.split("-+-")[-1].splitlines()[1:]
    rows = lines[: next(i for i, line in enumerate(lines) if line.startswith("("))]
    return [row.split(" | ")[0].strip() for row in rows]


@pytest.mark.slow
def test_it_can_be_run_again_in_the_same_place(tmp_path: Path) -> None:
    for _ in range(2):
        done = once(tmp_path, "--data-dir", str(tmp_path / "play"))
        assert done.returncode == 0, done.stderr
        assert "Loaded 5,000" in done.stdout


def test_two_at_once_and_a_clean_end(tmp_path: Path) -> None:
    """The second takes another port and place; Ctrl-C ends each with 0 and its server with it."""
    with running(tmp_path) as one, running(tmp_path) as two:
        urls = [url_in(until_up(one)), url_in(until_up(two))]
        assert urls[0] != urls[1]
        for url in urls:
            assert httpx.get(url + "/readyz").status_code == 200
        for process, url in zip((one, two), urls, strict=True):
            process.send_signal(signal.SIGINT)
            assert process.wait(40) == 0
            with pytest.raises(httpx.ConnectError):
                httpx.get(url + "/readyz")


def test_a_port_in_use_is_no_obstacle(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = once(tmp_path, "--port", str(port))
    assert done.returncode == 0, done.stderr
    assert f"Port {port} is in use; taking another one." in done.stdout


def test_a_port_taken_at_the_last_moment_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It looked free, and is not any more when the server binds it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(demo, "choose_port", lambda wanted: port)
        code = demo.main(["--once", "--data-dir", str(tmp_path / "play")])
    assert code == 0, capsys.readouterr().err


@pytest.mark.slow
def test_a_place_in_use_is_named(tmp_path: Path) -> None:
    play = str(tmp_path / "play")
    with running(tmp_path, "--data-dir", play) as first:
        until_up(first)
        done = once(tmp_path, "--data-dir", play)
    assert done.returncode == 1
    assert f"{play} is in use by another demo" in done.stderr


@pytest.mark.slow
def test_a_killed_demo_leaves_the_next_one_working(tmp_path: Path) -> None:
    """SIGKILL leaves its server behind; the server holds its place until it ends."""
    with running(tmp_path) as killed:
        url = url_in(until_up(killed))
        killed.kill()
        killed.wait()
        try:
            done = once(tmp_path)
            assert done.returncode == 0, done.stderr
        finally:
            end_server(url)


def end_server(url: str) -> None:
    """End the server that listens at a URL, found by its port."""
    port = url.rsplit(":", 1)[1]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            links = [os.readlink(link) for link in (folder / "fd").iterdir()]
        except OSError:
            continue
        if b"serve" in words and listens(port, links):
            os.kill(int(folder.name), signal.SIGTERM)
            wait_for(lambda: not answers(url), f"{url} gone")
            return
    raise AssertionError(f"no server listens at {url}")


def listens(port: str, links: list[str]) -> bool:
    """Whether one of the sockets listens on the port of 127.0.0.1."""
    place = f"0100007F:{int(port):04X}"
    inodes = {
        fields[9]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if (fields := line.split())[1] == place and fields[3] == "0A"
    }
    return any(f"socket:[{inode}]" in links for inode in inodes)


def answers(url: str) -> bool:
    try:
        return httpx.get(url + "/livez").status_code == 200
    except httpx.TransportError:
        return False


def test_a_failing_statement_fails_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = (SHOWPIECES[0], Showpiece("A broken one", "SELECT nonsense FROM packages"))
    monkeypatch.setattr(demo, "SHOWPIECES", broken)
    code = demo.main(["--once", "--port", "0", "--data-dir", str(tmp_path / "play")])
    out, err = capsys.readouterr()
    assert code == 1
    assert "statement 2 failed" in err
    assert "nonsense" in err
    assert "Dashboard" not in out


def test_a_server_that_does_not_start_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "play").write_text("a file, not a directory")
    assert demo.main(["--once", "--port", "0", "--data-dir", str(tmp_path / "play")]) == 1
    assert "the server ended with exit code" in capsys.readouterr().err


@pytest.mark.slow
def test_an_own_place_that_is_damaged_is_made_new(tmp_path: Path) -> None:
    place = tmp_path / "nearql" / "demo" / "data-1"
    place.parent.mkdir(parents=True)
    place.write_text("a file, not a directory")
    place.unlink()
    (place / "metadata").mkdir(parents=True)
    for name in ("metadata.log", "manifest", "LOCK"):
        (place / "metadata" / name).mkdir()
    (place / "LOCK").mkdir()
    done = once(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "can't be opened and is made new" in done.stderr


@pytest.mark.parametrize("port", ["70000", "-1", "x"])
def test_a_port_that_is_none(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        demo.main(["--once", "--port", port])
    assert ended.value.code == 2
    assert "port" in capsys.readouterr().err
