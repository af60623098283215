"""Pages lead to files that exist and name commands that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")
JOB = re.compile(r"python3 dev\.py ([\w-]+)")
MARKER = re.compile(r"dev\.py test -m (\w+)")

pytestmark = pytest.mark.docs


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    broken = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_named_jobs_and_markers_exist(page: Path, pytestconfig: pytest.Config) -> None:
    jobs = set(re.findall(r'^    "([\w-]+)": job_', (ROOT / "dev.py").read_text(), re.MULTILINE))
    markers = {line.split(":")[0] for line in pytestconfig.getini("markers")}
    text = page.read_text()
    assert set(JOB.findall(text)) <= jobs
    assert set(MARKER.findall(text)) <= markers
