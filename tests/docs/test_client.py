"""docs/client.md is true: its session runs as it is printed, over HTTP."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

from support.server_process import ServerProcess

PAGE = Path(__file__).resolve().parents[2] / "docs" / "client.md"

pytestmark = pytest.mark.docs


def test_the_page_runs(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server:
        text = PAGE.read_text().replace("http://localhost:8470", server.url)
        session = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
        assert len(session.examples) > 20
        report: list[str] = []
        failed, _ = doctest.DocTestRunner().run(session, out=report.append)
        assert not failed, "".join(report)
