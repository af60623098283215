"""docs/tutorial.ipynb is the tutorial, and its cells run; NEARQL_REWRITE=1 writes it anew."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from support.doc_pages import matches
from support.notebook import NOTEBOOK, PAGE, notebook

pytestmark = pytest.mark.docs


def test_the_notebook_is_the_tutorial() -> None:
    made = notebook(PAGE.read_text(encoding="utf-8"))
    if os.environ.get("NEARQL_REWRITE"):
        NOTEBOOK.write_text(made, encoding="utf-8")
    assert NOTEBOOK.read_text(encoding="utf-8") == made


@pytest.mark.timeout(300)
def test_its_cells_run_in_order(tmp_path: Path) -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {"__name__": "__main__"}
    ran = 0
    with contextlib.chdir(tmp_path):
        for cell in cells:
            if cell["cell_type"] == "code":
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    exec("".join(cell["source"]), names)
                expected = "".join(line for out in cell["outputs"] for line in out["text"])
                assert matches(expected, printed.getvalue()), cell["id"]
                ran += 1
    assert ran >= 8


def test_a_notebook_shows_tables_as_html(tmp_path: Path) -> None:
    import nearql

    with nearql.connect(tmp_path / "data") as db:
        shown = db.sql("SELECT 1 AS one, '<b>' AS text")._repr_html_()
    assert shown.startswith("<table>")
    assert "&lt;b&gt;" in shown
