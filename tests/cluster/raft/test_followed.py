"""A node that does not vote: let in with a token, told everything, and able to propose."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest

from nearql.cluster.certificates import make_certificates
from nearql.cluster.metadata.commands import RegisterNode
from nearql.cluster.metadata.nodes import CreateJoinToken
from nearql.cluster.metadata.raft.followed import FollowConfig, FollowedMetadata
from nearql.cluster.metadata.raft.streams import PROTOCOL, Patience, Refused, dial, receive, send
from nearql.cluster.tls import TlsFiles
from nearql.engine.errors import Unavailable
from nearql.engine.storage.files import LocalFileSystem
from support.raft_processes import Cluster, change, running
from support.waiting import wait_for

PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("voter")
    with running(folder, size=1, election_min_s=0.5, election_max_s=1.5) as started:
        make_certificates(started.folder / "certificates", ["n4", "n5"])
        metadata = started.metadata["n1"].open()
        register = registration("n1", metadata.node_id)
        assert metadata.propose(register, timeout_ms=PATIENCE_MS).ok
        yield started


def registration(name: str, node_id: str, digest: str = "") -> RegisterNode:
    return RegisterNode(
        request_id=uuid.uuid4().hex, node_id=node_id, name=name, url="u", join_digest=digest
    )


def tls(cluster: Cluster, name: str) -> TlsFiles:
    folder = cluster.folder / "certificates"
    return TlsFiles(folder / "ca.pem", folder / f"{name}.pem", folder / f"{name}.key")


def config(cluster: Cluster, name: str, folder: Path) -> FollowConfig:
    return FollowConfig(name, cluster.voters, str(folder), tls(cluster, name))


@pytest.fixture
def follower(cluster: Cluster, tmp_path: Path) -> Iterator[FollowedMetadata]:
    followed = FollowedMetadata(config(cluster, "n4", tmp_path), LocalFileSystem())
    token = CreateJoinToken(
        request_id=uuid.uuid4().hex, digest="the digest", created_ms=1, expires_ms=100
    )
    assert cluster.metadata["n1"].propose(token, timeout_ms=PATIENCE_MS).ok
    try:
        yield followed
    finally:
        followed.close()


def join(follower: FollowedMetadata) -> None:
    if "n4" in {row.name for row in follower.state.nodes.values()}:
        return
    command = registration("n4", follower.node_id, "the digest")
    result = follower.propose(command, timeout_ms=PATIENCE_MS)
    assert result.code in ("", "duplicate_node")


def test_it_is_let_in_with_a_token_and_then_told_everything(
    cluster: Cluster, follower: FollowedMetadata
) -> None:
    with pytest.raises(Unavailable, match="not_a_member"):
        follower.propose(registration("n4", follower.node_id), timeout_ms=5000)
    join(follower)
    follower.open()
    seen: list[int] = []
    follower.watch(lambda state: seen.append(state.applied_index))
    for number in range(20):
        assert cluster.metadata["n1"].propose(change(f"f{number}"), timeout_ms=PATIENCE_MS).ok
    follower.barrier(timeout_ms=PATIENCE_MS)
    assert follower.state == cluster.metadata["n1"].state
    assert seen == sorted(seen)
    assert follower.propose(change("by n4"), timeout_ms=PATIENCE_MS).ok
    assert "by n4" in follower.state.settings
    wait_for(lambda: follower.status.get("leader") == "n1", "who leads", 60)
    assert follower.ticking
    assert not follower.leading
    cluster.kill("n1")  # started again by its parent
    assert follower.propose(change("after a kill"), timeout_ms=PATIENCE_MS).ok


def test_a_stranger_may_not_even_read(cluster: Cluster) -> None:
    requests: list[tuple[list[object], str]] = [
        (["follow"], "not_a_member"),
        (["barrier"], "not_a_member"),
        (["submit", b"x"], "malformed"),
        (["submit"], "not_a_member"),
    ]
    for request, word in requests:
        assert asked(cluster, "n5", request) == ["refused", word]


def test_nobody_registers_under_anothers_name(cluster: Cluster) -> None:
    from nearql.cluster.metadata.codec import encode_command

    command = encode_command(registration("n1", "other", "the digest"))
    assert asked(cluster, "n5", ["submit", command]) == ["refused", "name"]


def test_a_member_of_another_cluster_is_refused(cluster: Cluster) -> None:
    hello = {"protocol": PROTOCOL, "name": "n5", "to": "n1", "guest": True, "cluster": "other"}
    with pytest.raises(Refused, match="cluster"):
        dial(cluster.voters["n1"], hello, tls(cluster, "n5"), Patience(connect_s=60))


def asked(cluster: Cluster, name: str, request: list[object]) -> list[object]:
    hello = {"protocol": PROTOCOL, "name": name, "to": "n1", "guest": True, "cluster": ""}
    patience = Patience(connect_s=60, handshake_s=60)
    stream, _ = dial(cluster.voters["n1"], hello, tls(cluster, name), patience)
    with stream:
        send(stream, msgpack.packb(request))
        answer: list[object] = msgpack.unpackb(receive(stream, 1 << 20))
        return answer
