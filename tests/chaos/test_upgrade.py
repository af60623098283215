"""A rolling upgrade of three real nodes between two checkouts, while applications write and read.

The newer checkout is a copy of this one whose protocols and feature level are one higher, or the
one that NEARQL_NEWER_CHECKOUT names. Each node is stopped and started with the other version; no
request may fail, no row be lost or doubled, and the feature level is raised when the last node is
there, not before.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nearql
from nearql.cluster.cluster import FEATURE_LEVEL
from support.cluster_processes import ADMIN_KEY, PATIENCE_S, Process, Processes, cluster
from support.waiting import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("client", "cluster", "engine", "query", "server", "src")
RAISED = {  # file -> what the next version says there
    "cluster/cluster.py": (r"FEATURE_LEVEL = (\d+)", "FEATURE_LEVEL = {}"),
    "cluster/metadata/raft/streams.py": (r"\nPROTOCOL = (\d+)", "\nPROTOCOL = {}"),
    "cluster/replication/link/hello.py": (
        r"PROTOCOL_MIN = PROTOCOL_MAX = (\d+)", "PROTOCOL_MIN, PROTOCOL_MAX = 1, {}"
    ),
}  # fmt: skip
PROGRESS = 15  # rows that each writer has stored on the way


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """The `src` folder of the newer checkout."""
    if given := os.environ.get("NEARQL_NEWER_CHECKOUT"):
        return Path(given) / "src"
    folder = tmp_path / "newer"
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, folder / package, symlinks=True, ignore=ignored)
    for file, (before, after) in RAISED.items():
        text = (folder / file).read_text()
        raised, count = re.subn(before, lambda m, a=after: a.format(int(m[1]) + 1), text)  # type: ignore[misc]
        assert count == 1, file
        (folder / file).write_text(raised)
    return folder / "src"


class Applications:
    """Two that write, one that reads, through the client; a request that fails is remembered."""

    def __init__(self, nodes: Processes) -> None:
        self.urls = [node.url for node in nodes.nodes.values()]
        self.stored = [0, 0]
        self.failed: list[BaseException] = []
        self._ended = threading.Event()
        work: list[tuple[Callable[..., None], int]] = [(self._write, 0), (self._write, 1)]
        self._threads = [
            threading.Thread(target=self._run, args=(do, number))
            for do, number in [*work, (self._read, 0)]
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, do: Callable[..., None], number: int) -> None:
        try:
            with nearql.connect(self.urls[number], token=ADMIN_KEY) as db:
                while not self._ended.is_set():
                    do(db, number)
        except nearql.client.errors.Error as error:
            self.failed.append(error)

    def _write(self, db: Any, number: int) -> None:
        at = self.stored[number]
        db.sql("INSERT INTO log VALUES ($1, $2, $3)", number, at, [at, 1.0])
        self.stored[number] += 1

    def _read(self, db: Any, _number: int) -> None:
        assert db.sql("SELECT count(*) FROM log").fetchone()[0] >= 0
        self._ended.wait(0.05)

    def go_on(self) -> None:
        """Wait until everybody has written some more."""
        wanted = [stored + PROGRESS for stored in self.stored]

        def done() -> bool:
            assert self.failed == []
            return all(s >= w for s, w in zip(self.stored, wanted, strict=True))

        wait_for(done, "writes", PATIENCE_S)

    def end(self) -> None:
        """Wait until each has ended its last request."""
        self._ended.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Processes]:
    with cluster(tmp_path / "cluster", cluster={"write_routing": "redirect"}) as started:
        started.write("CREATE TABLE log (w INT, n INT, vec VECTOR(2))")  # no key: repeats show
        yield started


def test_a_rolling_upgrade_fails_no_request(nodes: Processes, newer: Path) -> None:
    applications = Applications(nodes)
    try:
        applications.go_on()
        leader = nodes.leader()
        first, second = (name for name in nodes.nodes if name != leader)
        for name, version in ((first, newer), (first, None), (first, newer), (second, newer)):
            restart(nodes, name, version)
            applications.go_on()
        assert max(raised(nodes)) == FEATURE_LEVEL
        restart(nodes, leader, newer)
        applications.go_on()
        wait_for(lambda: max(raised(nodes)) == FEATURE_LEVEL + 1, "the level", PATIENCE_S)
        applications.go_on()
    finally:
        applications.end()
    assert applications.failed == []
    for node in nodes.running():
        wait_for(lambda node=node: shows(node, applications), f"{node.name} shows all", PATIENCE_S)  # type: ignore[misc]
    stays_out(nodes, first)


def shows(node: Process, applications: Applications) -> bool:
    """Whether a node has each row that was stored, and none twice."""
    text = "SELECT w, count(*), count(DISTINCT n) FROM log GROUP BY w ORDER BY w"
    rows = node.sql(text, settings={"read_level": "any"})[1].get("rows")
    return bool(rows == [[w, n, n] for w, n in enumerate(applications.stored)])


def restart(nodes: Processes, name: str, version: Path | None) -> None:
    """Stop a node cleanly, and start it from a checkout's `src`, or from this one."""
    assert nodes[name].stop() == 0
    nodes[name].source = version
    nodes.start(name)


def raised(nodes: Processes) -> list[int]:
    """Feature levels that controllers have proposed, by the nodes' logs."""
    lines = [line for node in nodes.nodes.values() for line in node.log.read_text().splitlines()]
    told = [json.loads(line) for line in lines if '"RaiseFeatureLevel"' in line]
    return [line["feature_level"] for line in told if not line["refused"]]


def stays_out(nodes: Processes, name: str) -> None:
    """The older version does not come back once the level was raised; the newer one does."""
    newer = nodes[name].source
    nodes[name].stop()
    nodes[name].source = None
    nodes[name].start()
    wait_for(lambda: not nodes[name].runs, "its end", PATIENCE_S)
    assert nodes[name].stop() == 1
    assert "start the newer version again" in nodes[name].log.read_text()
    nodes[name].source = newer
    nodes.start(name)
