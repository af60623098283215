"""Every test that docs/consistency.md names is there: a promise without its test is none."""

from __future__ import annotations

import re

import pytest

from support.doc_pages import ROOT

pytestmark = pytest.mark.docs


def test_every_named_test_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "consistency.md").read_text()))
    assert len(named) >= 8
    defined: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        defined |= set(re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE))
    assert named <= defined
