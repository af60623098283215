"""Every test that a page names is there: a promise without its test is none."""

from __future__ import annotations

import re

import pytest

from support.doc_pages import ROOT

pytestmark = pytest.mark.docs


@pytest.mark.parametrize("page", ["consistency.md", "testing.md"])
def test_every_named_test_is_there(page: str) -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / page).read_text()))
    assert len(named) >= 8
    defined: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        defined |= set(re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE))
    assert named <= defined


def test_every_cell_of_the_table_of_write_concern_names_its_test() -> None:
    page = (ROOT / "docs" / "consistency.md").read_text()
    table = page[page.index("| level | an answer means") :].split("\n\n")[0]
    rows = [line.strip("|").split(" | ") for line in table.splitlines()[2:]]
    assert len(rows) == 5
    bare = [(row[0], cell) for row in rows for cell in row[1:] if "`test_" not in cell]
    assert bare == []
