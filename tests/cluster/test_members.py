"""A node that does not vote joins with a one-time token, holds copies, loses its disk, gets a new
one; with real processes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from nearql.client.cli.cluster import main as cluster_command
from support.cluster_processes import ADMIN_KEY, PATIENCE_S, Processes
from support.waiting import wait_for

pytestmark = pytest.mark.chaos


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Processes]:
    """n1 votes alone, and runs; n2 does not run yet."""
    processes = Processes(tmp_path, 2, voters=1)
    try:
        processes.start("n1")
        yield processes
    finally:
        processes.stop()


def give_token(nodes: Processes, text: str) -> None:
    """Configure n2 with a token."""
    file = nodes.folder / "token"
    file.write_text(text)
    config = yaml.safe_load(nodes["n2"].config.read_text())
    config["cluster"]["join_token_file"] = str(file)
    nodes["n2"].config.write_text(yaml.safe_dump(config))


def ends_with(nodes: Processes, reason: str) -> None:
    """n2 is started, and says why it does not serve."""
    node = nodes["n2"]
    node.start()
    wait_for(lambda: not node.runs, "its end", PATIENCE_S)
    assert node.stop() == 1
    assert reason in node.log.read_text()


def command(
    nodes: Processes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *argv: str,
) -> tuple[int, str]:
    monkeypatch.setenv("NEARQL_URL", nodes["n1"].url)
    monkeypatch.setenv("NEARQL_TOKEN", ADMIN_KEY)
    code = cluster_command(list(argv))
    told = capsys.readouterr()
    return code, (told.out + told.err).strip()


def test_a_member_joins_holds_copies_and_gets_a_new_disk(
    nodes: Processes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ends_with(nodes, "prints a one-time token")
    give_token(nodes, "nqj_" + "x" * 43)
    ends_with(nodes, "The token was used already, has expired, or was never given out")
    code, token = command(nodes, monkeypatch, capsys, "join")
    assert code == 0
    give_token(nodes, token)
    nodes.start("n2")
    told = nodes["n2"].get("/v1/cluster")[1]["nodes"]
    assert {node["name"]: node["role"] for node in told} == {"n1": "leader", "n2": "member"}
    nodes.write("CREATE TABLE d (id BIGINT PRIMARY KEY, vec VECTOR(2)) WITH (replicas = 2)")
    nodes.write("INSERT INTO d VALUES (1, '[1,2]')")
    shown(nodes, [[1, [1.0, 2.0]]])
    code, told = command(nodes, monkeypatch, capsys, "leave", "n2")
    assert code == 1
    assert "still holds copies" in told

    nodes["n2"].stop()
    shutil.rmtree(nodes.folder / "n2-data")
    ends_with(nodes, "The token was used already")
    give_token(nodes, command(nodes, monkeypatch, capsys, "join")[1])
    nodes.start("n2")
    shown(nodes, [[1, [1.0, 2.0]]])
    nodes.write("INSERT INTO d VALUES (2, '[3,4]')")
    shown(nodes, [[1, [1.0, 2.0]], [2, [3.0, 4.0]]])
    nodes.write("DROP TABLE d")
    assert command(nodes, monkeypatch, capsys, "leave", "n2")[0] == 0


def shown(nodes: Processes, rows: list[object]) -> None:
    """Wait until each node shows these rows by itself."""
    text, settings = "SELECT id, vec FROM d ORDER BY id", {"read_level": "any"}
    for node in nodes.running():
        shows = lambda node=node: node.sql(text, settings=settings)[1].get("rows") == rows  # noqa: E731
        wait_for(shows, f"{node.name} shows {rows}", PATIENCE_S)
