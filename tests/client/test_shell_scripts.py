r"""Sessions in the shell, as files of what is typed and what is shown: tests/scripts/shell/*.txt.

A line after a prompt is typed, everything else is what the shell shows, errors on stderr included.
`NEARQL_REWRITE=1` writes what is shown now into the files, to be read as a diff.
"""

from __future__ import annotations

import os
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path

import pytest

import nearql
from nearql.client.cli.shell import Leave, Shell

SCRIPTS = sorted((Path(__file__).parents[1] / "scripts" / "shell").glob("*.txt"))
PROMPTS = ("nearql> ", "     -> ")


def played(typed: list[str], folder: Path) -> str:
    """The session as a person sees it."""
    screen = StringIO()
    with (
        nearql.connect(folder / "data") as db,
        redirect_stdout(screen),
        redirect_stderr(screen),
        suppress(Leave),
    ):
        shell = Shell(db, "table", {})
        for line in typed:
            print(shell.prompt + line)
            shell.feed(line)
    return screen.getvalue()


def typed_in(text: str) -> list[str]:
    return [line[len(PROMPTS[0]) :] for line in text.splitlines() if line.startswith(PROMPTS)]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_session_shows_what_the_file_says(script: Path, tmp_path: Path) -> None:
    expected = script.read_text(encoding="utf-8")
    got = played(typed_in(expected), tmp_path)
    if os.environ.get("NEARQL_REWRITE"):
        script.write_text(got, encoding="utf-8")
    assert got == expected


def test_there_are_sessions() -> None:
    assert len(SCRIPTS) >= 4
