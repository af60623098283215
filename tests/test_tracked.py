"""No tracked file names a machine's folders or a package host: the tree must work anywhere."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Written with a bracket each, so that this file does not match itself.
LEAKS = {
    "a machine's path": re.compile(
        r"(?<![\w.])/([w]ork|[r]oot|[h]ome|[U]sers|[o]pt/pypi|[t]mp)/\w"
    ),
    "a package host": re.compile(r"[p]ypi\.|[p]ythonhosted|[n]pmjs\.org|/[s]imple/?\b"),
    "an index URL": re.compile(r"--(extra-)?[i]ndex-url|[f]ind-links[ =](?!\")"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*[P]RIVATE KEY"),
}


def tracked() -> list[Path]:
    """Regular files that git tracks; the test needs a checkout, and git."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def test_no_leaks() -> None:
    problems = []
    for path in tracked():
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue  # data
        for number, line in enumerate(lines, 1):
            problems += [
                f"{path.relative_to(ROOT)}:{number}: {what}: {match[0]}"
                for what, pattern in LEAKS.items()
                if (match := pattern.search(line))
            ]
    assert not problems, "\n" + "\n".join(problems)


def test_no_large_files() -> None:
    large = [
        f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes"
        for path in tracked()
        if path.stat().st_size > 10_000_000
    ]
    assert not large, "\n" + "\n".join(large)
