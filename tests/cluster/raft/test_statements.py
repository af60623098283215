"""Every statement that changes the catalog is an entry in the logs of all three voters.

A whole node runs on the replicated log here, as a cluster's will; in this version a user's node
runs alone, through the same interface.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nearql.server.config import Config, NodeSection
from nearql.server.node import Node
from support.raft_journals import operations
from support.raft_processes import Cluster, running

pytestmark = pytest.mark.slow
PATIENT = {"election_min_s": 2.0, "election_max_s": 3.0}  # a statement waits for 5 s at most

# A statement, and the commands that it is.
STATEMENTS = [
    (
        """CREATE TABLE docs (
            id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, t TEXT, vec VECTOR(2))""",
        ["CreateTable", "TableReady"],
    ),
    ("INSERT INTO docs (t, vec) VALUES ('a', '[1,2]')", ["AllocateNumbers"]),
    ("ALTER TABLE docs ADD COLUMN n INTEGER", ["ReplaceSchema"]),
    ("ALTER TABLE docs RENAME COLUMN n TO m", ["ReplaceSchema"]),
    ("ALTER TABLE docs DROP COLUMN m", ["ReplaceSchema"]),
    ("ALTER TABLE docs RENAME TO texts", ["ReplaceSchema"]),
    ("CREATE INDEX near ON texts USING hnsw (vec vector_l2_ops)", ["CreateIndex"]),
    ("DROP INDEX near", ["DropIndex"]),
    ("CREATE VIEW v AS SELECT id, t FROM texts", ["CreateView"]),
    ("CREATE OR REPLACE VIEW v AS SELECT id FROM texts", ["CreateView"]),
    ("DROP VIEW v", ["DropView"]),
    ("DROP TABLE texts", ["DropTable"]),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("cluster"), **PATIENT) as started:  # type: ignore[arg-type]
        yield started


def test_each_statement_is_in_all_three_logs(cluster: Cluster, tmp_path: Path) -> None:
    node = Node.open(
        Config(node=NodeSection(data_dir=tmp_path / "data")),
        lambda _directory, _fs: cluster.metadata["n1"].open(),
    )
    expected = ["Initialise", "RegisterNode"]
    for statement, commands in STATEMENTS:
        node.session().execute(statement)
        expected += commands
    cluster.settled()
    node.close()  # and with it n1's metadata
    cluster.stop()
    for name in cluster.names:
        assert operations(cluster.folder / name / "log") == expected, name
    names = {command for _, commands in STATEMENTS for command in commands}
    assert names == catalog_commands()


def catalog_commands() -> set[str]:
    """Every command that a statement of the catalog can be: all but nodes, shards and access."""
    from nearql.cluster.metadata import commands, views

    kinds = [*vars(commands).values(), *vars(views).values()]
    found = {k for k in kinds if isinstance(k, type) and issubclass(k, commands.Command)}
    return {kind.__name__ for kind in found} - {"Command", "Initialise", "RegisterNode"}
