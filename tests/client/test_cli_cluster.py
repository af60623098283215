"""`nearql cluster status`: a node, or a directory that is opened here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nearql.client.cli import cluster
from support.server_process import ServerProcess


def test_a_node_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ServerProcess(tmp_path / "data") as server:
        server.sql("CREATE TABLE docs (id BIGINT PRIMARY KEY)")
        assert cluster.main(["status", "--url", server.url]) == 0
        shown = capsys.readouterr().out
        assert cluster.main(["status", "--url", server.url, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["leader"] == "n1"
    assert shown.startswith("leader: n1 (term 0)\n\nnode | role ")
    assert "docs  |     0 |" in shown


def test_a_directory_is_a_node_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster.main(["status", "--url", str(tmp_path / "data")]) == 0
    shown = capsys.readouterr().out
    assert "leader: n1" in shown
    assert "(0 rows)" in shown


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nearql.client.http.PAUSE_FIRST", 0.001)
        assert cluster.main(["status", "--url", "http://127.0.0.1:1"]) == 1
    assert "No NearQL node answers at http://127.0.0.1:1" in capsys.readouterr().err
