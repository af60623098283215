"""A majority of the voters is lost for good, disks and all: what docs/operating.md says ("Disaster
recovery") brings the cluster back, with every row that the node that is left holds.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from nearql.client.cli.cluster import main as cluster_command
from support.cluster_processes import ADMIN_KEY, PATIENCE_S, Processes, cluster
from support.waiting import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]
ROWS = [[number] for number in range(40)]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Processes]:
    with cluster(tmp_path) as started:
        yield started


def test_one_node_of_three_is_left(
    nodes: Processes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes.write("CREATE TABLE docs (id BIGINT PRIMARY KEY)")
    values = ", ".join(f"({row[0]})" for row in ROWS)
    nodes.write(f"SET write_concern = 'all'; INSERT INTO docs VALUES {values}")
    for name in ("n1", "n2", "n3"):
        nodes[name].kill()
    for name in ("n2", "n3"):
        shutil.rmtree(nodes.folder / f"{name}-data")

    only = nodes.voters[0]
    configure(nodes, "n1", voters=[only])
    nodes["n1"].start()
    wait_for(lambda: nodes["n1"].get("/leaderz")[0] == 200, "it leads alone", PATIENCE_S)
    status, answer = nodes["n1"].sql("INSERT INTO docs VALUES (100)")
    assert (status, answer["definite"]) == (503, True), answer  # its copy alone is no majority

    monkeypatch.setenv("NEARQL_URL", nodes["n1"].url)
    monkeypatch.setenv("NEARQL_TOKEN", ADMIN_KEY)
    for name in ("n2", "n3"):
        capsys.readouterr()
        assert cluster_command(["join"]) == 0
        token = nodes.folder / f"{name}-token"
        token.write_text(capsys.readouterr().out)
        configure(nodes, name, voters=[only], join_token_file=str(token))
        nodes.start(name)
    nodes.write("INSERT INTO docs VALUES (100)")
    for name in nodes.nodes:
        wait_for(
            lambda name=name: shown(nodes, name) == [*ROWS, [100]],  # type: ignore[misc]
            f"{name} holds all of it again", PATIENCE_S,
        )  # fmt: skip
    assert nodes.leader() == "n1"


def configure(nodes: Processes, name: str, **cluster: object) -> None:
    """Change settings of a node that is stopped."""
    config = yaml.safe_load(nodes[name].config.read_text())
    config["cluster"].update(cluster)
    nodes[name].config.write_text(yaml.safe_dump(config))


def shown(nodes: Processes, name: str) -> object:
    """What this very node shows."""
    status, answer = nodes[name].sql(
        "SELECT id FROM docs ORDER BY id", settings={"read_level": "any"}
    )
    return answer["rows"] if status == 200 else None
