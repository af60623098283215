"""The threads of NumPy's BLAS."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nearql.engine.backends.blas import blas_threads, use_one_blas_thread

SCRIPT = """
from nearql.engine.backends.blas import blas_threads, use_one_blas_thread
before = blas_threads()
assert use_one_blas_thread() is (before is not None)
print(before, blas_threads())
"""


def test_one_thread_is_set_for_the_whole_process() -> None:
    """In a process of its own: the setting stays."""
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    before, after = ran.stdout.split()
    if before == "None":
        pytest.skip("this NumPy isn't linked with an OpenBLAS")
    assert int(before) >= 1
    assert after == "1"


def test_another_blas_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nearql.engine.backends.blas._function", lambda name: None)
    assert blas_threads() is None
    assert use_one_blas_thread() is False
