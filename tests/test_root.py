"""`import nearql` offers its few names, and loads nothing until one is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import nearql


@pytest.mark.parametrize("name", nearql.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(nearql, name) is not None
    assert name in dir(nearql)


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'conect'"):
        nearql.conect  # noqa: B018  # the access is the test


def test_importing_loads_no_part() -> None:
    program = "import nearql, sys; print([m for m in sys.modules if m.startswith('nearql.')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
