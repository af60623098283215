"""Each bad situation of the metadata has words that say what to do, a metric, and a line in the
runbook (docs/operating.md, "In a cluster"). What happens in them: tests/cluster/raft.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from nearql.cluster.clock import ClockWatch
from nearql.cluster.cluster import Cluster
from nearql.cluster.metadata.codec import encode_command
from nearql.cluster.metadata.commands import RegisterNode
from nearql.cluster.metadata.nodes import RaiseFeatureLevel
from nearql.cluster.metadata.raft import streams
from nearql.cluster.metadata.raft.frames import Frames
from nearql.cluster.metadata.raft.mesh import Mesh, MeshConfig
from nearql.cluster.metadata.raft.replicated import REFUSED_BY_PEER, ReplicatedMetadata
from nearql.cluster.metadata.raft.sidecar import DAMAGED, DISK_FULL, Sidecar
from nearql.cluster.metadata.raft.told import Told
from nearql.cluster.metadata.state import Metadata
from nearql.cluster.tls import TlsFiles
from nearql.engine.errors import Unavailable, WriteUnknown
from nearql.engine.storage.files import LocalFileSystem
from support.archives import Told as Logged
from support.disks import WatchedFileSystem
from support.doc_pages import ROOT, tables_below
from support.raft_processes import Cluster as Voters
from support.raft_processes import change
from support.waiting import wait_for

QUICK: dict[str, Any] = {"election_min_s": 0.5, "election_max_s": 1.5}


def counted(metadata: Any) -> dict[str, float]:
    """What `/metrics` shows of this metadata, without `_total`."""
    node = Cluster.__new__(Cluster)
    node.metadata, node.decided = metadata, Counter()
    return {f"nearql_{name}": value for name, _, value, _ in node.counts()}


def leader_known(metadata: Any) -> bool:
    node = Cluster.__new__(Cluster)
    node.metadata = metadata
    return node.leader() is not None


def runbook(what: str, *names: str) -> None:
    """The line begins with these words, and names these codes, events and metrics."""
    page = ROOT / "docs" / "operating.md"
    rows = [row for row in tables_below(page, "### In a cluster") if row[0].startswith(what)]
    assert len(rows) == 1, what
    shows, remedy = rows[0][1:]
    assert remedy
    for name in names:
        assert f"`{name}`" in shows, name


class Silent:
    """Metadata that is asked for its counters only."""

    def __init__(self, **known: Any) -> None:
        self.state, self.clock = Metadata(), ClockWatch()
        self.status: dict[str, Any] = {}
        self.refused_registrations: dict[str, int] = {}
        vars(self).update(known)


@pytest.fixture
def voters(tmp_path: Path) -> Iterator[Voters]:
    made = Voters(tmp_path, **QUICK)
    try:
        yield made
    finally:
        made.stop()


def test_the_quorum_is_lost(voters: Voters) -> None:
    metadata = ReplicatedMetadata(voters.config("n1"), LocalFileSystem())
    voters.metadata["n1"] = metadata
    metadata.wait_ready(60)
    refusal: Unavailable | None = None
    while refusal is None:
        try:
            metadata.propose(change("x"), timeout_ms=300)
        except WriteUnknown:
            continue  # its last try was still under way
        except Unavailable as error:
            refusal = error
    assert refusal.code == "no_leader"
    assert "1 of 3 voters can be reached" in refusal.detail
    assert "Start the others" in refusal.detail
    assert counted(metadata)["nearql_metadata_links"] == 0
    assert not leader_known(metadata)
    runbook("the quorum is lost", "no_leader", "nearql_leader_known", "nearql_metadata_links")


class Ended(BaseException):
    """Instead of the process's end."""


def test_a_voters_disk_is_full(voters: Voters, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(code: int) -> NoReturn:
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)
    ours, theirs = socket.socketpair()
    disk = WatchedFileSystem()
    disk.make_directory(voters.folder / "n1")
    parent, sidecar = Frames(ours), Sidecar(voters.config("n1"), Frames(theirs), disk)
    try:
        disk.fail["pwritev"] = errno.ENOSPC
        sidecar.member.journal.set_vote(7, "n1")
        with pytest.raises(Ended):
            sidecar.member.journal.sync()
        kind, reason, code = parent.read()
        assert (kind, code) == ("fatal", DISK_FULL)
        assert "no space left" in reason
        assert "free some space" in reason
    finally:
        sidecar.mesh.close()
        parent.close()
        sidecar._frames.close()
    assert counted(Silent(fatal_code=code))["nearql_metadata_disk_full"] == 1
    assert counted(Silent(fatal_code=""))["nearql_metadata_disk_full"] == 0
    runbook("a node's disk is full", "storage_full", "nearql_metadata_disk_full")


def test_a_voters_log_is_damaged_in_the_middle(tmp_path: Path) -> None:
    alone = Voters(tmp_path, 1, **QUICK)
    try:
        alone.start()
        for number in range(3):
            assert alone.metadata["n1"].propose(change(f"s{number}"), timeout_ms=60_000).ok
        alone.stop("n1")
        path = tmp_path / "n1" / "log"
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 1
        path.write_bytes(data)
        metadata = ReplicatedMetadata(alone.config("n1"), LocalFileSystem())
        alone.metadata["n1"] = metadata
        wait_for(lambda: bool(metadata.fatal), "the reason", 60)
        assert "is damaged at byte" in metadata.fatal
        assert "put this node's metadata folder aside" in metadata.fatal
        assert metadata.fatal_code == DAMAGED
        assert counted(metadata)["nearql_metadata_damaged"] == 1
    finally:
        alone.stop()
    runbook("a voter's log is damaged", "metadata_sidecar_ended", "nearql_metadata_damaged")


def test_the_clock_jumps(monkeypatch: pytest.MonkeyPatch) -> None:
    logged = Logged()
    monkeypatch.setattr("nearql.cluster.clock.log", logged)
    now, told = [1000.0, 50.0], logged.lines
    watch = ClockWatch(lambda: now[0], lambda: now[1])
    now[:] = [1010.2, 60.0]  # steered
    watch.look()
    now[:] = [4610.2, 60.5]  # set an hour ahead
    watch.look()
    now[:] = [4611.0, 61.0]
    watch.look()
    assert watch.jumps == 1
    assert [(line["event"], round(line["seconds"])) for line in told] == [("clock_jumped", 3600)]
    assert "NTP" in told[0]["text"]
    metadata = Silent()
    metadata.clock = watch
    assert counted(metadata)["nearql_clock_jumps"] == 1
    runbook("the clock jumps", "clock_jumped", "nearql_clock_jumps_total")


@pytest.fixture
def meshes(voters: Voters) -> Iterator[list[Mesh]]:
    """n1; n2; and another n2, from another disk, with the same certificate."""
    patience = streams.Patience(connect_s=60, handshake_s=60, silence_s=60, retry_s=0.02)
    made: list[Mesh] = []
    for name, other, disk in (("n1", "n2", "a"), ("n2", "n1", "b"), ("n2", "n1", "c")):
        plain = asdict(voters.config(name))
        tls = TlsFiles(*(Path(plain[f]) for f in ("ca_file", "cert_file", "key_file")))
        config = MeshConfig(
            name, {other: ("127.0.0.1", 0)}, ("127.0.0.1", 0), tls, patience, node_id=disk
        )
        made.append(Mesh(config, lambda *_: None, lambda *_: None, str))
    for mesh, towards in ((made[0], made[1]), (made[1], made[0]), (made[2], made[0])):
        (name,) = mesh.config.peers
        mesh.config = replace(mesh.config, peers={name: ("127.0.0.1", towards.port)})
    yield made
    for mesh in made:
        mesh.close()


def test_two_voters_have_one_name(meshes: list[Mesh]) -> None:
    one, two, another = meshes
    one.start()
    two.start()
    wait_for(lambda: one._incoming.get("n2", ("", ""))[1] == "b", "n2", 60)
    another.start()
    wait_for(lambda: one.refused["duplicate_name"] > 1, "refusals", 60)
    wait_for(lambda: another.refused["by_peer_duplicate_name"] > 1, "the answers", 60)
    assert another.links_up() == []
    assert one._incoming["n2"][1] == "b"
    two.close()  # its disk is lost: the other one takes its place
    wait_for(lambda: one._incoming.get("n2", ("", ""))[1] == "c", "the other one", 60)
    for mesh in (one, another):
        status = {"refused": dict(mesh.refused)}
        assert counted(Silent(status=status))["nearql_metadata_refused_names"] > 1
    runbook("two nodes with one name", "refused_by_voter", "nearql_metadata_refused_names_total")


def test_what_another_voter_refuses_is_logged_once_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logged = Logged()
    monkeypatch.setattr("nearql.cluster.metadata.raft.replicated.log", logged)
    metadata = ReplicatedMetadata.__new__(ReplicatedMetadata)
    once, told = dict.fromkeys(REFUSED_BY_PEER, 1), logged.lines
    metadata._tell_refusals({}, once)
    metadata._tell_refusals(once, dict.fromkeys(REFUSED_BY_PEER, 2))
    assert [line["event"] for line in told] == ["refused_by_voter"] * len(REFUSED_BY_PEER)
    words = {line["reason"]: line["text"] for line in told}
    assert "Stop one of them" in words["duplicate_name"]
    assert "Upgrade one version after the other" in words["protocol"]


def test_a_second_node_of_a_name_or_an_old_version_that_registers_is_counted() -> None:
    told = Told()

    def register(node_id: str, name: str, level: int) -> RegisterNode:
        return RegisterNode(
            request_id=f"{node_id}{level}", node_id=node_id, name=name, url="u", level=level
        )

    commands = [
        register("a", "n1", 1),
        register("b", "n1", 1),
        RaiseFeatureLevel(request_id="raise", level=1, expected=0),
        register("c", "n3", 0),
    ]
    for index, command in enumerate(commands, 1):
        told.on_applied(index, encode_command(command))
    assert told.refused == {"duplicate_node": 1, "version_too_old": 1}
    metadata = Silent()
    metadata.refused_registrations = told.refused
    assert counted(metadata)["nearql_metadata_refused_names"] == 1
    assert counted(metadata)["nearql_metadata_refused_versions"] == 1


def test_versions_do_not_fit(meshes: list[Mesh], monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, _ = meshes
    monkeypatch.setattr("nearql.cluster.metadata.raft.mesh.spoken_with", lambda _hello: 0)
    one.start()
    two.start()
    wait_for(lambda: one.refused["protocol"] > 0, "a refusal", 60)
    wait_for(lambda: one.refused["by_peer_protocol"] > 0, "an answer", 60)
    status = {"refused": dict(one.refused)}
    assert counted(Silent(status=status))["nearql_metadata_refused_versions"] > 1
    runbook(
        "versions that don't fit",
        "refused_by_voter", "version_too_old", "nearql_metadata_refused_versions_total",
    )  # fmt: skip
