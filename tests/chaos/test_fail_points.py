"""The places at which `python3 dev.py chaos` kills a node are there, and killing works."""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nearql.cluster.replication import runner
from support import fail_points

WRITES = """
import sys
from pathlib import Path
from nearql.engine.storage.files import LocalFileSystem
from support.fail_points import FailPoints

folder = Path(sys.argv[1])
FailPoints(folder).install()
for number in range(3):
    LocalFileSystem().make_directory(folder / str(number))
"""


def test_there_are_as_many_as_were_asked_for() -> None:
    assert len(set(fail_points.NAMES)) == len(fail_points.NAMES) >= 39


@pytest.mark.parametrize("name", fail_points.FUNCTIONS)
def test_each_is_a_function_of_the_product(name: str) -> None:
    module, holder, function = fail_points.FUNCTIONS[name]
    place = importlib.import_module(module)
    place = getattr(place, holder) if holder else place
    assert callable(getattr(place, function))


def test_effects_are_those_of_the_core() -> None:
    assert set(fail_points.EFFECTS) <= {kind.__name__ for kind in runner._CARRY_OUT}


@pytest.mark.parametrize(("when", "made"), [("before", 1), ("after", 2)])
def test_a_process_is_killed_where_it_was_said(tmp_path: Path, when: str, made: int) -> None:
    (tmp_path / "die").write_text(f"disk.make_directory {when} 2")
    done = subprocess.run(
        [sys.executable, "-c", WRITES, str(tmp_path)], check=False, timeout=120,
        env={"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    assert sum(path.is_dir() for path in tmp_path.iterdir()) == made
