"""`nearql demo`: a server on real data, and five statements that show what it is for.

The server is a process of its own (`python -m nearql serve`) that ends with the demo. Each demo has
a *place*: a data directory with a lock on a file beside it. The server inherits the lock, so that
neither a second demo nor a server that outlived its killed demo ever shares a directory. Places are
used again; the demo's table is made new every time.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from types import FrameType
from typing import IO, NamedTuple

from nearql.client.cli import options as cli
from nearql.client.cli.showpieces import CREATE, SHOWPIECES, Showpiece
from nearql.client.cli.state import state_directory
from nearql.client.errors import Error
from nearql.client.format import text_table
from nearql.client.result import Result
from nearql.client.sync import Connection, connect

PORT = 8470
PLACES = 100
START_S = 60.0  # how long the server may take to listen
PORT_TAKEN = "Can't listen on"  # what a server says whose port someone took since we looked
STOP_S = 30.0  # how long it may take to stop before it is killed
EXAMPLES = """  nearql demo                 stays up until Ctrl-C
  nearql demo --once          runs the statements and ends
  nearql demo --port 9000 --data-dir ./play
"""


class DemoFailed(Exception):
    """The demo can't go on; the message says why."""


class Stop(Exception):
    """A signal asked the demo to end."""


def main(argv: list[str]) -> int:
    """Run the demo: 0 when everything worked or it was stopped, 1 with the reason otherwise."""
    arguments = make_parser().parse_args(argv)
    return cli.run("demo", lambda: _work(arguments))


def _work(arguments: argparse.Namespace) -> int:
    try:
        with stopped_by_signals(), place(arguments.data_dir) as (directory, lock):
            run(arguments, directory, lock)
    except Stop:
        return cli.DONE
    except DemoFailed as failure:
        cli.complain("demo", str(failure))
        return cli.FAILED
    return cli.DONE


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        prog="nearql demo",
        description="Start a server on 5,000 Debian packages and search them.",
        epilog=f"examples:\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--once", action="store_true", help="end after the statements")
    made.add_argument(
        "--port",
        type=port_number,
        default=PORT,
        help=f"default {PORT}; another free one if it is in use",
    )
    made.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="where data lives (default: a place of its own)",
    )
    return made


def port_number(text: str) -> int:
    """A port from the command line, 0 for any free one; ValueError otherwise."""
    number = int(text)
    if not 0 <= number <= 65_535:
        raise ValueError
    return number


def run(arguments: argparse.Namespace, directory: Path, lock: IO[str]) -> None:
    """Start, load, show, stay; the server is stopped on every way out."""
    port, own_place = choose_port(arguments.port), arguments.data_dir is None
    with server(directory, port, lock, own_place=own_place) as running:
        print(f"Server at {running.url}, data in {directory}", flush=True)
        with connect(running.url) as db:
            load(db)
            for number, showpiece in enumerate(SHOWPIECES, 1):
                show(db, number, showpiece)
        print(f"\nDashboard  {running.url}/\nAPI docs   {running.url}/docs")
        if not arguments.once:
            print(f'Ask it     nearql sql --url {running.url} "SELECT count(*) FROM packages"')
            stay(running)


def load(db: Connection) -> None:
    """Make the table and fill it, with a progress bar."""
    import pyarrow.parquet as pq

    data = files("nearql.client") / "demo_data" / "debian_5k.parquet"
    with data.open("rb") as stream:
        table = pq.read_table(stream)
    db.sql("DROP TABLE IF EXISTS packages")
    db.sql(CREATE)
    report = db.insert("packages", table, progress=True, batch_bytes=1 << 20)
    dimensions = table.schema.field("embedding").type.list_size
    print(
        f"Loaded {report.rows:,} Debian packages with vectors of {dimensions} dimensions in "
        f"{report.seconds:.2f} s ({report.rows_per_s:,.0f} rows/s)"
    )


def show(db: Connection, number: int, showpiece: Showpiece) -> None:
    """Run one statement, twice to show what a first time costs, and print it with its answer."""
    print(f"\n{number}. {showpiece.title}\n\n{showpiece.sql}\n", flush=True)
    try:
        result, first_ms = timed(db, showpiece.sql)
        again, again_ms = timed(db, showpiece.sql)
    except Error as error:
        reason = cli.describe(error, showpiece.sql)
        raise DemoFailed(f"statement {number} failed: {reason}") from error
    if not len(result):
        raise DemoFailed(f"statement {number} found nothing; it should find some packages.")
    print(text_table(result.columns, result.fetchall(), cell_width=52))
    server_ms, how = again.stats["elapsed_ms"], again.stats.get("strategy", "")
    print(
        f"Time: {first_ms:.1f} ms; again {again_ms:.1f} ms, {server_ms:.1f} ms on the server; {how}"
    )


def timed(db: Connection, sql: str) -> tuple[Result, float]:
    """The answer, and the milliseconds until it was here."""
    began = time.perf_counter()
    result = db.sql(sql)
    return result, (time.perf_counter() - began) * 1000


def stay(running: Server) -> None:
    """Wait for Ctrl-C; a server that ends by itself is a failure."""
    print("Ctrl-C ends it.", flush=True)
    running.process.wait()
    raise DemoFailed(ended(running))


# ---- the server process ---------------------------------------------------------------------


class Server(NamedTuple):
    """A server process, its log, and its address once it listens."""

    process: subprocess.Popen[bytes]
    log: Path
    url: str = ""


@contextlib.contextmanager
def server(directory: Path, port: int, lock: IO[str], *, own_place: bool) -> Iterator[Server]:
    """A server on the directory while inside; stopped with SIGTERM at the end.

    own_place: the directory is the demo's own, and is made new where the server can't open it.
    """
    started = start(directory, port, lock)
    try:
        try:
            url = wait_until_listening(started)
        except DemoFailed as failure:
            port_taken = PORT_TAKEN in str(failure)
            if started.process.poll() is None or not (own_place or port_taken):
                raise
            if not port_taken:
                print(
                    f"The demo's data can't be opened and is made new: {failure}", file=sys.stderr
                )
                shutil.rmtree(directory, ignore_errors=True)
            started = start(directory, 0, lock)
            url = wait_until_listening(started)
        yield started._replace(url=url)
    finally:
        stop(started.process)


def start(directory: Path, port: int, lock: IO[str]) -> Server:
    """Start the process; its log is the file beside the directory."""
    log = directory.with_name(directory.name + ".log")
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "nearql", "serve"]
            + ["--host", "127.0.0.1", "--port", str(port), "--data-dir", str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=server_environment(),
            pass_fds=(lock.fileno(),),
            start_new_session=True,  # Ctrl-C is for the demo, which then stops the server in order
        )
    return Server(process, log)


def server_environment() -> dict[str, str]:
    """This process's variables without NearQL's own: the demo's server has default settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NEARQL_")}
    return {**kept, "NEARQL_LOG_FORMAT": "json", "NEARQL_LOG_LEVEL": "info"}


def wait_until_listening(started: Server) -> str:
    """The server's address, from its own log, so that it can't be another server's."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        url = listening_url(started.log)
        if url is not None:
            return url
        with contextlib.suppress(subprocess.TimeoutExpired):
            started.process.wait(timeout=0.02)
            raise DemoFailed(ended(started))
    raise DemoFailed(f"the server does not listen after {START_S:g} s:\n{tail(started.log)}")


def ended(started: Server) -> str:
    """What a server that ended by itself left behind."""
    return f"the server ended with exit code {started.process.returncode}:\n{tail(started.log)}"


def listening_url(log: Path) -> str | None:
    """The address in the server's `listening` event, once it is there."""
    for line in log.read_text(errors="replace").splitlines():
        if '"listening"' in line:
            with contextlib.suppress(json.JSONDecodeError):  # half a line yet
                url: str = json.loads(line)["url"]
                return url
    return None


def tail(log: Path) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the server in order; kill it if that takes too long."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except (subprocess.TimeoutExpired, Stop):
        process.kill()
        process.wait()


def choose_port(wanted: int) -> int:
    """The wanted port if it is free, else 0: any free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            print(f"Port {wanted} is in use; taking another one.")
            return 0
    return wanted


# ---- where it runs --------------------------------------------------------------------------


@contextlib.contextmanager
def place(wanted: Path | None) -> Iterator[tuple[Path, IO[str]]]:
    """A data directory that no other demo uses, and its open lock file.

    Raises:
        DemoFailed: the wanted directory is in use or can't be written.
    """
    candidates = [wanted.absolute()] if wanted else default_places()
    for directory in candidates:
        lock = locked(directory)
        if lock is not None:
            with lock:
                yield directory, lock
            return
    raise DemoFailed(f"{candidates[0]} is in use by another demo; give another --data-dir.")


def locked(directory: Path) -> IO[str] | None:
    """The open lock file of a directory; None where someone else holds it."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        lock = directory.with_name(directory.name + ".lock").open("a")
    except OSError as error:
        raise DemoFailed(f"{directory} can't be used: {error.strerror}.") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def default_places() -> list[Path]:
    """The user's own places; below the folder for temporary files where there is no home."""
    try:
        home = state_directory() / "demo"
        home.mkdir(exist_ok=True)
    except OSError:
        home = Path(tempfile.gettempdir()) / f"nearql-demo-{os.getuid()}"
    return [home / f"data-{number}" for number in range(1, PLACES + 1)]


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal raise Stop inside."""

    def raise_stop(number: int, frame: FrameType | None) -> None:
        raise Stop

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, raise_stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
