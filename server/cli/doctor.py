"""`nearql doctor`: is this machine fit to run a node, and what to do where it is not."""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import orjson
import psutil
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from nearql.engine.backends import probe_backends
from nearql.engine.calibration import calibrate
from nearql.engine.errors import NearQLError
from nearql.server.config import Config, load_config
from nearql.server.sizes import available_memory, resolve_memory

Status = Literal["ok", "warning", "failed"]
SLOW_SYNC_MS = 20.0  # a commit waits for one fdatasync; above this, writes feel slow
SYNC_ROUNDS = 20
EARLIEST_CLOCK = 1_767_225_600  # 2026-01-01: a clock before it was never set

_GPU = "only for searches on a GPU: pip install 'nearql[gpu]' (CUDA 12) or 'nearql[gpu-cuvs]' (13)"
_REMEDIES = {
    "faiss_cpu": "indexes need it: pip install 'nearql[server]'",
    "faiss_gpu": _GPU,
    "cupy": _GPU,
}
_ANY_BACKEND = "searches run on another one, see below"

EXAMPLES = """examples:
  nearql doctor                           check the defaults
  nearql doctor --config node.yaml        check what a configuration needs
  nearql doctor --json                    for scripts; exit code 1 if a check failed
"""


@dataclass(frozen=True)
class Finding:
    """One line of the report. remedy: what to do, empty when all is well."""

    check: str
    status: Status
    detail: str
    remedy: str = ""


def main(argv: list[str]) -> int:
    """Print the findings; 0 when none failed, else 1."""
    p = argparse.ArgumentParser(
        prog="nearql doctor",
        description="Check devices, disk, memory, clock and ports.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--config", type=Path, metavar="FILE", help="the configuration to check")
    p.add_argument("--data-dir", metavar="DIR", help="the data directory to check")
    p.add_argument("--json", action="store_true", help="print the findings as JSON")
    arguments = p.parse_args(argv)
    try:
        config = load_config(arguments.config, flags={"node.data_dir": arguments.data_dir})
    except NearQLError as error:
        print(f"nearql doctor: {error.detail}", file=sys.stderr)
        return 2
    findings = [finding for check in CHECKS for finding in check(config)]
    _print_json(findings) if arguments.json else _print_table(findings)
    return 1 if any(f.status == "failed" for f in findings) else 0


def _print_json(findings: list[Finding]) -> None:
    sys.stdout.buffer.write(orjson.dumps([vars(f) for f in findings]) + b"\n")


def _print_table(findings: list[Finding]) -> None:
    grid = Grid("check", "status", "finding", box=None, pad_edge=False)
    colours = {"ok": "green", "warning": "yellow", "failed": "red"}
    for f in findings:
        text = f"{f.detail}\n-> {f.remedy}" if f.remedy else f.detail
        grid.add_row(f.check, f"[{colours[f.status]}]{f.status}[/]", escape(text))
    Console(soft_wrap=not sys.stdout.isatty()).print(grid)


def _python(_config: Config) -> Iterator[Finding]:
    yield Finding("python", "ok", f"{sys.version.split()[0]} on {os.cpu_count()} cores")


def _backends(config: Config) -> Iterator[Finding]:
    """Each device path with its self-test against numpy."""
    try:
        backend, report = probe_backends(config.engine_settings())
    except NearQLError as error:
        remedy = "pip install 'nearql[server]', or leave engine.backend and engine.device at auto"
        yield Finding("backends", "failed", error.detail, remedy)
        return
    for check in report.checks:
        name = f"backend {check.name}"
        if check.usable:
            yield Finding(name, "ok", check.detail)
        else:
            yield Finding(name, "warning", check.detail, _REMEDIES.get(check.name, _ANY_BACKEND))
    yield Finding("searches run on", "ok", f"{report.chosen} ({report.reason})")
    yield Finding("search costs", "ok", str(calibrate(backend)))
    for warning in report.warnings:
        yield Finding("backends", "warning", warning, "python3 -m pip list shows what is installed")
    if report.device == "gpu":
        detail = "used; the GPU's path was never run on a device by this version's tests"
        yield Finding(
            "gpu", "warning", detail, "compare with engine.device: cpu before you rely on it"
        )
    else:
        yield Finding("gpu", "ok", "not used")


def _memory(config: Config) -> Iterator[Finding]:
    limit, usable = resolve_memory(config.engine.memory_limit), available_memory()
    detail = f"{usable / 2**30:.1f} GiB usable, engine.memory_limit is {limit / 2**30:.1f} GiB"
    if limit > usable:
        yield Finding("memory", "failed", detail, "lower engine.memory_limit below what is usable")
    else:
        yield Finding("memory", "ok", detail)


def _disk(config: Config) -> Iterator[Finding]:
    directory = _existing_parent(config.node.data_dir.absolute())
    if not os.access(directory, os.W_OK):
        yield Finding(
            "data directory",
            "failed",
            f"{directory} is not writable",
            "change its owner or --data-dir",
        )
        return
    free = psutil.disk_usage(str(directory)).free
    status: Status = "ok" if free > 1 << 30 else "warning"
    remedy = "" if status == "ok" else "below 1 GiB; writes stop at engine.disk_reserve"
    yield Finding("disk space", status, f"{free / 2**30:.1f} GiB free at {directory}", remedy)
    try:
        median, worst = _sync_ms(directory)
    except OSError as error:  # a read-only or full disk, or no disk at all
        remedy = "give a directory on a local disk with free space: --data-dir"
        yield Finding("disk sync", "failed", f"{directory}: {error.strerror}", remedy)
        return
    detail = f"fdatasync of 4 KiB: median {median:.2f} ms, worst {worst:.2f} ms"
    if median > SLOW_SYNC_MS:
        yield Finding(
            "disk sync", "warning", detail, "each commit waits that long; use a local SSD"
        )
    else:
        yield Finding("disk sync", "ok", detail)


def _existing_parent(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.is_dir())


def _sync_ms(directory: Path) -> tuple[float, float]:
    """Median and worst time of a small durable write, milliseconds."""
    times = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for round_number in range(SYNC_ROUNDS):
            os.pwrite(file.fileno(), b"x" * 4096, round_number * 4096)
            start = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times), max(times)


def _clock(_config: Config) -> Iterator[Finding]:
    now = time.time()
    text = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < EARLIEST_CLOCK:
        yield Finding(
            "clock", "failed", text, "set the clock: certificates and tokens depend on it"
        )
    else:
        yield Finding("clock", "ok", text)


def _port(config: Config) -> Iterator[Finding]:
    host, port = config.http.host, config.http.port
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            remedy = "stop what uses it, or choose another with --port"
            yield Finding("port", "warning", f"{host}:{port}: {error.strerror}", remedy)
        else:
            yield Finding("port", "ok", f"{host}:{port} is free")


CHECKS: tuple[Callable[[Config], Iterator[Finding]], ...] = (
    _python, _backends, _memory, _disk, _clock, _port,
)  # fmt: skip
