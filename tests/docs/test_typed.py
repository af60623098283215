"""The pages' Python examples pass `mypy --strict` as a user with our package would run it."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import pytest

from support.doc_pages import ROOT, blocks

pytestmark = pytest.mark.docs
PAGES = ("client.md", "how-to.md", "tutorial.md")
WRONG = """
import nearql
with nearql.connect("./data") as db:
    rows: int = db.sql("SELECT 1").fetchall()
    db.insert("t", [], "replace")
"""


def source_of(page: Path) -> str:
    """The page's Python, one block after the other."""
    parts = []
    for block in blocks(page):
        if block.language == "python" and "token=..." not in block.text:
            parts.append(block.text)
        elif block.language == "pycon":
            parts += [e.source for e in doctest.DocTestParser().get_examples(block.text)]
    return "\n".join(parts)


@pytest.mark.timeout(600)  # a type checker reads every package that is imported
def test_the_examples_are_typed(tmp_path: Path) -> None:
    """And what is wrong is found, so that an empty answer means something."""
    sources = {page: source_of(ROOT / "docs" / page) for page in PAGES} | {"wrong.md": WRONG}
    for page, source in sources.items():
        (tmp_path / page.replace("-", "_").replace(".md", ".py")).write_text(source)
    settings = "[mypy]\n[mypy-pyarrow.*]\nignore_missing_imports = True\n"
    (tmp_path / "mypy.ini").write_text(settings)
    options = ["--strict", "--allow-redefinition-new", "--local-partial-types", "."]
    command = [sys.executable, "-m", "mypy", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    found = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert [line for line in found if not line.startswith("wrong.py:")] == [], done.stdout
    assert len(found) == 2, done.stdout + done.stderr
