"""docs/tutorial.ipynb, from docs/tutorial.md: each example a cell with its output."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "tutorial.md"
NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
_EXAMPLE = re.compile(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.DOTALL)


def notebook(page: str) -> str:
    """The notebook (nbformat 4.5) as text."""
    cells: list[dict[str, Any]] = []
    place = 0
    for found in _EXAMPLE.finditer(page):
        cells += _prose(page[place : found.start()], len(cells))
        cells.append(_code(found[1], found[2], len(cells)))
        place = found.end()
    cells += _prose(page[place:], len(cells))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    made = {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def _prose(text: str, number: int) -> list[dict[str, Any]]:
    if not text.strip():
        return []
    return [
        {"cell_type": "markdown", "id": f"c{number}", "metadata": {}, "source": _lines(text)},
    ]


def _code(source: str, printed: str | None, number: int) -> dict[str, Any]:
    stream = {"name": "stdout", "output_type": "stream", "text": _lines(printed or "")}
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": f"c{number}",
        "metadata": {},
        "outputs": [stream] if printed else [],
        "source": _lines(source),
    }


def _lines(text: str) -> list[str]:
    return text.strip("\n").splitlines(keepends=True)


if __name__ == "__main__":
    NOTEBOOK.write_text(notebook(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
