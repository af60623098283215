"""dev.py: an environment counts as done only when it is, and matches the lock."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """dev.py, working on an environment below a temporary folder and with pip replaced."""
    spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    home = tmp_path / "venv"
    for name, value in {
        "VENV": home,
        "PYTHON": home / "bin/python",
        "STAMP": home / "done",
    }.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(module, "pip_command", lambda _reuse: fake_environment(home))
    monkeypatch.setattr(module, "install", lambda *_command: None)
    monkeypatch.setattr(module, "compile_tree", lambda: None)
    return module


def fake_environment(home: Path) -> list[str]:
    """What `venv.create` would leave, as far as dev.py looks at it."""
    (home / "bin").mkdir(parents=True, exist_ok=True)
    (home / "bin/python").touch()
    return ["pip"]


def test_a_finished_environment_is_not_touched(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    dev.ensure_environment()
    monkeypatch.setattr(dev, "set_up", lambda _wanted: pytest.fail("made it again"))
    dev.ensure_environment()


def test_a_changed_lock_updates_in_place(
    dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dev.ensure_environment()
    lock = tmp_path / "new.lock"
    lock.write_text("changed")
    monkeypatch.setattr(dev, "LOCK", lock)
    reused: list[bool] = []

    def pip_command(reuse: bool) -> list[str]:
        reused.append(reuse)
        return ["pip"]

    monkeypatch.setattr(dev, "pip_command", pip_command)
    dev.ensure_environment()
    assert reused == [True]
    assert dev.read_stamp() == dev.fingerprint()


@pytest.mark.parametrize("failing_step", [1, 2, 3])
def test_a_set_up_that_breaks_off_is_started_again(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch, failing_step: int
) -> None:
    steps = iter(range(1, 4))

    def break_off(*_command: str) -> None:
        if next(steps) == failing_step:
            raise KeyboardInterrupt

    monkeypatch.setattr(dev, "install", break_off)
    with pytest.raises(KeyboardInterrupt):
        dev.ensure_environment()
    assert dev.read_stamp() == {}


def test_a_broken_stamp_counts_as_none(dev: ModuleType) -> None:
    dev.ensure_environment()
    dev.STAMP.write_text("{half")
    assert dev.read_stamp() == {}


def test_no_pip_says_what_to_install(dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the fixture's pip_command: the real one is under test
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(SystemExit, match="apt-get install python3-pip"):
        dev.pip_command(False)


def test_an_unknown_job_lists_the_jobs(dev: ModuleType) -> None:
    with pytest.raises(SystemExit, match="usage: python3 dev.py JOB") as stop:
        dev.main(["tset"])
    for job in dev.JOBS:
        assert job in str(stop.value)


def test_make_offers_jobs_that_exist(dev: ModuleType) -> None:
    (line,) = [x for x in (ROOT / "Makefile").read_text().splitlines() if x.startswith("JOBS")]
    assert set(line.split(":=")[1].split()) <= set(dev.JOBS)
