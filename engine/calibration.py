"""What searches cost on this machine: measured at the first start, kept in the data directory.

A tenth of a second of searches over 16 MiB of made-up vectors: of no rows, of all, of some here and
there, in short rows and in long ones. CPU time of the thread counts, so that a busy machine hardly
shows; what comes out is kept within a factor of the defaults, so that a wrong measurement can't
lead to absurd plans.
"""

from __future__ import annotations

import json
import platform
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nearql.engine.backends.base import Backend
from nearql.engine.costs import Machine
from nearql.engine.search import Searcher, VectorSlice
from nearql.engine.settings import EngineSettings
from nearql.engine.storage.files import FileSystem, write_atomic
from nearql.engine.types import Metric, SearchRequest

CALIBRATION_FILE = "calibration.json"
_FORMAT = 1
_WITHIN = 5.0  # a constant is at most so many times its default, and at least that part of it
_ELEMENTS = 1 << 22  # of float32: 16 MiB
_SHORT, _LONG = 64, 1_024  # dimensions
_VISITED = 0.05  # of the rows
_ROUNDS = 5
_lock = threading.Lock()
_known: dict[str, Machine] = {}  # by backend


def calibrate(backend: Backend) -> Machine:
    """Measure; takes about a tenth of a second."""
    settings = EngineSettings(search_threads=1, scan_codes_bytes=0)
    searcher = Searcher(backend, settings)
    try:
        return _measured(searcher)
    finally:
        searcher.close()


def calibrated(backend: Backend) -> Machine:
    """As `calibrate`; measured once in the life of a process."""
    with _lock:
        found = _known.get(backend.name)
        if found is None:
            found = _known[backend.name] = calibrate(backend)
        return found


def _measured(searcher: Searcher) -> Machine:
    block = np.random.default_rng(0).standard_normal(1 << 18).astype(np.float32)
    elements = np.tile(block, _ELEMENTS // len(block))
    short, long = (elements.reshape(-1, width) for width in (_SHORT, _LONG))
    call_ns = _search_ns(searcher, short[:16])
    scan_ns = (_search_ns(searcher, long) - call_ns) / elements.nbytes
    visits = []
    for rows in (short, long):
        mask = np.random.default_rng(1).random(len(rows)) < _VISITED
        visits.append((_search_ns(searcher, rows, mask) - call_ns) / np.count_nonzero(mask))
    byte_ns = (visits[1] - visits[0]) / (4 * (_LONG - _SHORT))
    found = Machine(call_ns / 1000, scan_ns, visits[0] - 4 * _SHORT * byte_ns, byte_ns)
    return within(found)


def _search_ns(
    searcher: Searcher, rows: NDArray[np.float32], mask: NDArray[np.bool_] | None = None
) -> float:
    """CPU nanoseconds of one search, the median of some."""
    one = VectorSlice(rows, 0)
    request = SearchRequest("", Metric.L2, rows[:1] + np.float32(0.5), 10)
    masks = None if mask is None else [mask]
    times = []
    for _ in range(_ROUNDS + 1):  # the first finds out lengths, which are kept
        began = time.thread_time_ns()
        searcher.search([one], request, masks=masks, keys_of=_same)
        times.append(time.thread_time_ns() - began)
    return statistics.median(times[1:])


def _same(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return rows


def within(found: Machine) -> Machine:
    """What was found, no farther from the defaults than plausible."""
    usual = asdict(Machine())
    return Machine(
        **{
            name: min(max(value, usual[name] / _WITHIN), usual[name] * _WITHIN)
            for name, value in asdict(found).items()
        }
    )


def remembered(
    fs: FileSystem, directory: Path, backend: str, measure: Callable[[], Machine]
) -> Machine:
    """What was measured here before with this backend and processor, else measured now and kept.

    Raises:
        StorageFull: it could not be kept.
    """
    path, where = directory / CALIBRATION_FILE, _where(backend)
    known = _read(fs, path, where)
    if known is not None:
        return known
    machine = measure()
    document = {**where, "machine": asdict(machine)}
    write_atomic(fs, path, json.dumps(document, indent=1).encode() + b"\n")
    return machine


def _where(backend: str) -> dict[str, object]:
    return {"format": _FORMAT, "backend": backend, "processor": _processor()}


def _processor() -> str:
    """The processor's model, as far as the system tells."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def _read(fs: FileSystem, path: Path, where: dict[str, object]) -> Machine | None:
    """None where there is nothing, or nothing that holds here and now: it is measured again."""
    if not fs.exists(path):
        return None
    try:
        found = json.loads(bytes(fs.map(path)))
        if not isinstance(found, dict) or any(found.get(key) != where[key] for key in where):
            return None
        values = {one.name: float(found["machine"][one.name]) for one in fields(Machine)}
    except (ValueError, KeyError, TypeError):
        return None
    machine = Machine(**values)
    return machine if machine == within(machine) else None
