"""Calibration: plausible whatever was measured, measured once, kept, and measured again if lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nearql.engine import calibration
from nearql.engine.backends.numpy import NumpyBackend
from nearql.engine.calibration import CALIBRATION_FILE, calibrate, remembered, within
from nearql.engine.costs import Machine
from nearql.engine.storage.files import LocalFileSystem

FOUND = Machine(call_us=100, scan_ns=0.04, visit_ns=30, visit_byte_ns=0.05)


class Measure:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> Machine:
        """What was found."""
        self.count += 1
        return FOUND


def test_measured_on_this_machine() -> None:
    """Whatever the machine: plausible, and larger things cost more."""
    machine = calibrate(NumpyBackend())
    assert machine == within(machine)
    assert machine.scan_us(100_000, 1536) > machine.scan_us(1_000, 1536)
    assert machine.visit_us(1_000, 1536) > machine.visit_us(1_000, 64)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Machine(), Machine()),
        (Machine(call_us=-3, scan_ns=0, visit_ns=-1e9, visit_byte_ns=-1),
         Machine(call_us=12, scan_ns=0.007, visit_ns=5, visit_byte_ns=0.007)),
        (Machine(call_us=1e9, scan_ns=1e9, visit_ns=1e9, visit_byte_ns=1e9),
         Machine(call_us=300, scan_ns=0.175, visit_ns=125, visit_byte_ns=0.175)),
    ],
)  # fmt: skip
def test_kept_plausible(found: Machine, expected: Machine) -> None:
    for name in ("call_us", "scan_ns", "visit_ns", "visit_byte_ns"):
        assert getattr(within(found), name) == pytest.approx(getattr(expected, name))


def test_measured_once(tmp_path: Path) -> None:
    measure = Measure()
    for _ in range(3):
        assert remembered(LocalFileSystem(), tmp_path, "numpy", measure) == FOUND
    assert measure.count == 1


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"format": 1}', b"\xff" * 40, b'{"format": 1, "machine": 3}']
)
def test_measured_again_where_the_file_is_damaged(tmp_path: Path, damage: bytes) -> None:
    measure = Measure()
    remembered(LocalFileSystem(), tmp_path, "numpy", measure)
    (tmp_path / CALIBRATION_FILE).write_bytes(damage)
    assert remembered(LocalFileSystem(), tmp_path, "numpy", measure) == FOUND
    assert measure.count == 2


def test_values_that_are_not_plausible_are_measured_again(tmp_path: Path) -> None:
    measure = Measure()
    remembered(LocalFileSystem(), tmp_path, "numpy", measure)
    path = tmp_path / CALIBRATION_FILE
    found = json.loads(path.read_text())
    found["machine"]["scan_ns"] = 17
    path.write_text(json.dumps(found))
    assert remembered(LocalFileSystem(), tmp_path, "numpy", measure) == FOUND


def test_another_backend_or_machine_is_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Measure()
    remembered(LocalFileSystem(), tmp_path, "numpy", measure)
    remembered(LocalFileSystem(), tmp_path, "faiss_cpu", measure)
    monkeypatch.setattr(calibration, "_processor", lambda: "another one")
    remembered(LocalFileSystem(), tmp_path, "faiss_cpu", measure)
    assert measure.count == 3
