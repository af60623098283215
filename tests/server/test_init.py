"""`nearql cluster init` writes configurations that `nearql serve` takes as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from nearql import __main__ as cli
from nearql.server.config import load_config


def run(*argv: str) -> int:
    return cli.main(["cluster", "init", *argv])


def test_every_configuration_is_ready(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "cluster"
    assert run("--nodes", "3", "--out", str(out)) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown == [f"nearql serve --config {out / f'n{n}.yaml'}" for n in (1, 2, 3)]
    ports = set()
    for number in (1, 2, 3):
        config = load_config(out / f"n{number}.yaml", environment={})
        assert config.cluster.enabled
        assert config.cluster.bootstrap
        assert config.node.data_dir == out / f"n{number}-data"
        assert Path(config.cluster.cert_file).is_file()
        ports |= {config.http.port, config.raft.port, config.replication.port}
    assert ports == {8470, 8471, 8472, 8480, 8481, 8482, 8490, 8491, 8492}


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--nodes", "1", "--out", str(tmp_path)) == 0
    before = (tmp_path / "n1.yaml").read_bytes()
    assert run("--nodes", "1", "--out", str(tmp_path)) == 1
    assert "n1.yaml is there already" in capsys.readouterr().err
    assert (tmp_path / "n1.yaml").read_bytes() == before


def test_an_even_number_of_voters_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--nodes", "2", "--out", str(tmp_path)) == 1
    assert "1, 3 or 5" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
