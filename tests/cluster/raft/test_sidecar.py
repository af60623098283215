"""Three real sidecars on loopback: proposals, barriers, deaths, an empty disk, a damaged one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import pytest

from nearql.cluster.metadata.raft import replicated
from nearql.cluster.metadata.raft.journal import RaftJournal
from nearql.cluster.metadata.raft.replicated import ReplicatedMetadata
from nearql.cluster.metadata.raft.sidecar import SidecarConfig
from nearql.engine.errors import TooLarge, Unavailable, WriteUnknown
from nearql.engine.storage.files import LocalFileSystem
from support.raft_processes import Cluster, change, running
from support.waiting import wait_for

PATIENCE_MS = 60_000
QUICK: dict[str, Any] = {"election_min_s": 0.5, "election_max_s": 1.5}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("cluster"), compact_entries=20, **QUICK) as started:
        yield started


def test_what_one_proposes_all_have_and_a_barrier_shows_it(cluster: Cluster) -> None:
    for name, metadata in cluster.metadata.items():
        assert metadata.propose(change(f"by-{name}"), timeout_ms=PATIENCE_MS).ok
    for metadata in cluster.metadata.values():
        metadata.barrier(timeout_ms=PATIENCE_MS)
        assert {f"by-{name}" for name in cluster.names} <= metadata.state.settings.keys()


def test_a_repeated_request_is_done_once(cluster: Cluster) -> None:
    first, second = cluster.metadata["n1"], cluster.metadata["n2"]
    command = change("once", request="the-same-request")
    assert first.propose(command, timeout_ms=PATIENCE_MS).ok
    assert second.propose(command, timeout_ms=PATIENCE_MS).ok  # else it were `setting_changed`


def test_a_refusal_of_the_state_machine_comes_back(cluster: Cluster) -> None:
    metadata = cluster.metadata["n1"]
    assert metadata.propose(change("taken"), timeout_ms=PATIENCE_MS).ok
    result = metadata.propose(change("taken", "y"), timeout_ms=PATIENCE_MS)
    assert result.code == "setting_changed"


def test_a_watcher_sees_each_state_in_order(cluster: Cluster) -> None:
    seen: list[int] = []
    cluster.metadata["n3"].watch(lambda state: seen.append(state.applied_index))
    for number in range(30):  # behind a compaction or two
        assert cluster.metadata["n1"].propose(change(f"w{number}"), timeout_ms=PATIENCE_MS).ok
    wait_for(lambda: len(seen) >= 30, "thirty states")
    assert seen == sorted(seen)


def test_a_command_beyond_the_limit_is_refused_before_it_leaves(cluster: Cluster) -> None:
    with pytest.raises(TooLarge, match="at most"):
        cluster.metadata["n1"].propose(change("big", "x" * (300 << 10)))


def test_a_killed_sidecar_is_started_again_and_knows_everything(cluster: Cluster) -> None:
    leader = cluster.leader()
    metadata = cluster.metadata[leader]
    before = metadata.restarts
    cluster.kill(leader)
    wait_for(lambda: metadata.restarts > before, "a restart", 60)
    assert metadata.propose(change("after the kill"), timeout_ms=PATIENCE_MS).ok
    cluster.settled()


@pytest.mark.slow
@pytest.mark.slow
def test_a_sidecar_that_hangs_is_ended_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicated, "HUNG_S", 3.0)
    with running(tmp_path, 1, **QUICK) as alone:
        metadata = alone.metadata["n1"]
        assert metadata.propose(change("before"), timeout_ms=PATIENCE_MS).ok
        pid, restarts = metadata.sidecar_pid, metadata.restarts
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: metadata.restarts > restarts, "another sidecar", 60)
        wait_for(lambda: metadata.ticking, "it ticks", 60)
        assert metadata.sidecar_pid != pid
        assert metadata.propose(change("after"), timeout_ms=PATIENCE_MS).ok


def test_without_a_majority_nothing_is_agreed_and_the_error_says_so(tmp_path: Path) -> None:
    with running(tmp_path, **QUICK) as cluster:
        assert cluster.metadata["n1"].propose(change("a"), timeout_ms=PATIENCE_MS).ok
        cluster.settled()
        cluster.stop("n2", "n3")
        metadata = cluster.metadata["n1"]
        wait_for(lambda: metadata.status["links_up"] == [], "the links down", 60)
        wait_for(lambda: not metadata.status["leading"], "no leader", 60)
        refusal = refused(metadata)
        assert refusal.code == "no_leader"
        assert "1 of 3 voters" in refusal.detail
        assert "majority" in refusal.detail
        assert "a" in metadata.state.settings  # reading goes on
        cluster.start("n2")
        assert metadata.propose(change("c"), timeout_ms=PATIENCE_MS).ok


@pytest.mark.slow
def test_who_hears_nobody_names_no_leader(tmp_path: Path) -> None:
    """All links down before the next election: the library, which stands only while somebody is
    connected, goes on naming the leader that it had, and never answers what is sent there.
    """
    with running(tmp_path, election_min_s=4.0, election_max_s=5.0) as cluster:
        leader = cluster.leader()
        left = next(name for name in cluster.names if name != leader)
        metadata = cluster.metadata[left]
        assert metadata.propose(change("a"), timeout_ms=PATIENCE_MS).ok
        lost = [name for name in cluster.names if name != left]
        for name in lost:
            cluster.metadata[name]._closed.set()  # nobody starts its sidecar again
        cluster.kill(*lost)
        wait_for(lambda: metadata.status["links_up"] == [], "the links down", 60)
        wait_for(lambda: metadata.status["leader"] is None, "no leader", 60)
        assert refused(metadata).code == "no_leader"


def refused(metadata: ReplicatedMetadata) -> Unavailable:
    """How a proposal is refused, once its sidecar is quick enough to say so in time."""
    while True:
        try:
            metadata.propose(change("b"), timeout_ms=500)
        except WriteUnknown:
            continue  # its last try was still under way
        except Unavailable as refusal:
            return refusal


@pytest.mark.slow
def test_all_stopped_and_started_again_have_what_was_acknowledged(tmp_path: Path) -> None:
    with running(tmp_path, compact_entries=10, **QUICK) as cluster:
        for number in range(25):
            assert cluster.metadata["n1"].propose(change(f"s{number}"), timeout_ms=PATIENCE_MS).ok
        cluster.stop()
        cluster.start()
        cluster.settled()
        assert len(cluster.metadata["n2"].state.settings) == 25


@pytest.mark.slow
def test_an_empty_disk_learns_before_it_votes(tmp_path: Path) -> None:
    """Group 14, with processes: the folder of one voter is lost."""
    with running(tmp_path, compact_entries=10, **QUICK) as cluster:
        for number in range(25):
            assert cluster.metadata["n1"].propose(change(f"s{number}"), timeout_ms=PATIENCE_MS).ok
        cluster_id = initialise(cluster)
        cluster.stop("n3")
        shutil.rmtree(tmp_path / "n3")
        cluster.start("n3")
        metadata = cluster.metadata["n3"]
        wait_for(lambda: "learning" in metadata.status, "a status", 60)
        wait_for(lambda: metadata.state.cluster_id == cluster_id, "what the others know", 60)
        wait_for(lambda: not metadata.status["learning"], "the right to vote", 60)
        assert not (tmp_path / "n3" / "learning").exists()
        cluster.settled()


def initialise(cluster: Cluster) -> str:
    """Give the cluster its identity, as the first node does."""
    from nearql.cluster.metadata.commands import Initialise

    command = Initialise(request_id="initialise", cluster_id="11111111-cluster")
    result = cluster.metadata["n1"].propose(command, timeout_ms=PATIENCE_MS)
    cluster.settled()
    return str(result.value)


def test_a_voter_alone_needs_nobody(tmp_path: Path) -> None:
    with running(tmp_path, size=1, bootstrap=False, **QUICK) as cluster:
        assert cluster.metadata["n1"].propose(change("a"), timeout_ms=PATIENCE_MS).ok


def test_a_damaged_log_is_told_with_its_remedy(tmp_path: Path) -> None:
    with running(tmp_path, size=1, **QUICK) as cluster:
        for number in range(3):
            assert cluster.metadata["n1"].propose(change(f"s{number}"), timeout_ms=PATIENCE_MS).ok
        cluster.stop("n1")
        path = tmp_path / "n1" / "log"
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 1
        path.write_bytes(data)
        metadata = cluster.metadata["n1"] = ReplicatedMetadata(
            cluster.config("n1"), LocalFileSystem()
        )
        wait_for(lambda: "is damaged at byte" in metadata.fatal, "the reason", 60)
        with pytest.raises(Unavailable, match="put this node's metadata folder aside"):
            metadata.propose(change("x"), timeout_ms=100)
        with pytest.raises(Unavailable, match="did not start"):
            metadata.wait_ready(0.1)
        assert path.read_bytes() == data


@pytest.mark.slow
def test_an_unanswered_proposal_is_unknown_and_not_refused(tmp_path: Path) -> None:
    """Group 12: the leader stops before it answers; asked again, it is done once."""
    with running(tmp_path, **QUICK) as cluster:
        leader = cluster.leader()
        metadata = cluster.metadata[leader]
        assert metadata.propose(change("a"), timeout_ms=PATIENCE_MS).ok
        pid = metadata.sidecar_pid
        assert pid is not None
        command = change("b", request="asked-twice")
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(WriteUnknown):
                metadata.propose(command, timeout_ms=300)
            wait_for(lambda: not metadata.ticking, "two seconds without a tick", 60)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert metadata.propose(command, timeout_ms=PATIENCE_MS).ok
        cluster.settled()


PARENT = """
    import json, sys, time
    from nearql.cluster.metadata.raft.replicated import ReplicatedMetadata
    from nearql.cluster.metadata.raft.sidecar import SidecarConfig
    from nearql.engine.storage.files import LocalFileSystem
    metadata = ReplicatedMetadata(SidecarConfig(**json.loads(sys.argv[1])), LocalFileSystem())
    metadata.wait_ready(60)
    print(metadata.sidecar_pid, flush=True)
    time.sleep(3600)
"""


def test_a_sidecar_dies_with_its_data_process(tmp_path: Path) -> None:
    config: SidecarConfig = Cluster(tmp_path, 1).config("n1")
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), json.dumps(asdict(config))],
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        sidecar = int(parent.stdout.readline())
        os.kill(sidecar, 0)
        parent.kill()
    wait_for(lambda: not Path(f"/proc/{sidecar}").exists() or _is_zombie(sidecar), "its end", 60)
    RaftJournal(tmp_path / "n1" / "log", LocalFileSystem(), _fail).close()


def _is_zombie(pid: int) -> bool:
    """Dead, and not yet collected by whoever adopts orphans here."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def _fail(reason: str) -> NoReturn:
    pytest.fail(reason)
