"""Metadata under kill -9: real sidecars, real disks, every voter killed at once, under load.

Eager compaction (every 40 entries) makes each round cross several; the stock library lost 42 of
14,068 acknowledged commands in such rounds. NEARQL_CHAOS_ROUNDS asks for more of them.
"""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

import pytest

from nearql.engine.errors import NearQLError
from support.raft_processes import Cluster, change, running
from support.waiting import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1500)]
ROUNDS = int(os.environ.get("NEARQL_CHAOS_ROUNDS", "6"))
QUICK = {"election_min_s": 0.5, "election_max_s": 1.5, "compact_entries": 40}


class Writers:
    """Threads that propose at every node and remember what was acknowledged."""

    def __init__(self, cluster: Cluster) -> None:
        self.acknowledged: set[str] = set()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=(cluster, name, number))
            for name in cluster.names
            for number in range(2)
        ]
        for thread in self._threads:
            thread.start()

    def _write(self, cluster: Cluster, name: str, number: int) -> None:
        written = 0
        while not self._stop.is_set():
            key = f"{name}-{number}-{written}"
            written += 1
            try:
                if cluster.metadata[name].propose(change(key), timeout_ms=1000).ok:
                    self.acknowledged.add(key)
            except NearQLError:
                continue  # refused or unknown: it promises nothing

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_no_acknowledged_command_is_lost_when_all_voters_are_killed(tmp_path: Path) -> None:
    """Group 1."""
    with running(tmp_path, **QUICK) as cluster:  # type: ignore[arg-type]
        writers = Writers(cluster)
        try:
            for _ in range(ROUNDS):
                enough = len(writers.acknowledged) + 60
                wait_for(lambda e=enough: len(writers.acknowledged) >= e, "progress", 120)  # type: ignore[misc]
                before = {name: m.restarts for name, m in cluster.metadata.items()}
                cluster.kill(*cluster.names)
                wait_for(
                    lambda b=before: all(  # type: ignore[misc]
                        m.restarts > b[name] for name, m in cluster.metadata.items()
                    ),
                    "three restarts",
                    60,
                )
        finally:
            writers.stop()
        cluster.settled()
        for name, metadata in cluster.metadata.items():
            missing = writers.acknowledged - metadata.state.settings.keys()
            assert not missing, f"{name} lost {len(missing)} of {len(writers.acknowledged)}"
        print(f"{ROUNDS} rounds, {len(writers.acknowledged)} acknowledged, none lost")


def test_work_that_holds_the_lock_of_the_data_process_causes_no_election(tmp_path: Path) -> None:
    """Group 16: Python's lock is held for longer than any follower waits for its leader.

    In one process with Raft a big sort or JSON text does the same, and each costs a leader.
    """
    patient = {"election_min_s": 3.0, "election_max_s": 6.0}
    with running(tmp_path, **patient) as cluster:  # type: ignore[arg-type]
        cluster.leader()
        cluster.settled()
        wait_for(lambda: len(set(terms_of(cluster).values())) == 1, "one term", 60)
        terms = terms_of(cluster)
        ctypes.PyDLL(None).sleep(8)  # called as Python's own: nothing else of Python runs meanwhile
        cluster.settled()
        assert terms_of(cluster) == terms


def terms_of(cluster: Cluster) -> dict[str, int]:
    return {name: metadata.status["term"] for name, metadata in cluster.metadata.items()}
