"""The settings of a cluster: what fits together, and what is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nearql.cluster.config import parse_address
from nearql.engine.errors import InvalidRequest
from nearql.server.cluster_settings import cluster_config
from nearql.server.config import Config, ConfigError, load_config

CERTIFICATES = {
    "cluster.ca_file": "ca.pem", "cluster.cert_file": "n1.pem", "cluster.key_file": "n1.key",
}  # fmt: skip
GOOD: dict[str, Any] = {
    **CERTIFICATES,
    "cluster.enabled": True,
    "cluster.voters": ["n1@node-1.example:8471", "n2@[::1]:8471", "n3@10.0.0.3:9471"],
}


def loaded(**changes: Any) -> Config:
    flags = {**GOOD, **{name.replace("__", "."): value for name, value in changes.items()}}
    return load_config(environment={}, flags=flags)


def test_a_voter_of_three() -> None:
    config = cluster_config(loaded(node__name="n2"))
    assert config.is_voter
    assert config.voters["n2"] == ("::1", 8471)
    assert config.advertised == ("127.0.0.1", 8472)
    assert config.election_s == (1.0, 2.5)


def test_a_node_outside_the_list_does_not_vote() -> None:
    assert not cluster_config(loaded(node__name="n4")).is_voter


def test_names_below_a_domain_are_hosts() -> None:
    config = loaded(
        cluster__voters=["q-0", "q-1", "q-2"], cluster__discovery="dns",
        cluster__dns_name="q.ns.svc", raft__port=9000,
    )  # fmt: skip
    assert cluster_config(config).voters["q-1"] == ("q-1.q.ns.svc", 9000)


def test_a_variable_lists_voters_with_commas(tmp_path: Path) -> None:
    environment = {
        "NEARQL_CLUSTER_VOTERS": "n1@a:1, n2@b:1,n3@c:1",
        "NEARQL_CLUSTER_ENABLED": "yes",
        "NEARQL_RAFT_ELECTION_TIMEOUT_MS": "500,1500",
    }
    config = load_config(environment=environment, flags=CERTIFICATES)
    assert list(cluster_config(config).voters) == ["n1", "n2", "n3"]
    assert cluster_config(config).election_s == (0.5, 1.5)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"cluster__voters": ["n1@a:1", "n2@b:1"]}, "2 voters; there must be 1, 3, 5"),
        ({"cluster__voters": []}, "0 voters"),
        ({"cluster__voters": ["n1@a:1", "n1@b:1", "n3@c:1"]}, "named twice"),
        ({"cluster__voters": ["n1@a:1", "n2@a:1", "n3@c:1"]}, "another's address"),
        ({"cluster__voters": ["n1", "n2", "n3"]}, "must be name@host:port"),
        ({"cluster__voters": ["n1@a"]}, "must be host:port"),
        ({"cluster__voters": ["n 1@a:1"]}, "letters, digits"),
        ({"cluster__discovery": "dns"}, "needs cluster.dns_name"),
        (
            {"cluster__discovery": "dns", "cluster__dns_name": "x"},
            "a name alone, for discovery is dns",
        ),
        ({"raft__election_timeout_ms": [200, 2500]}, "must be above 300"),
        ({"raft__election_timeout_ms": [2500, 1000]}, "the second above the first"),
        ({"raft__election_timeout_ms": [1000]}, "must be two numbers"),
        ({"raft__port": 70_000}, "1 to 65535"),
        ({"cluster__ca_file": ""}, "cluster.ca_file is not set"),
        ({"replication__write_concern": "most"}, "must be one, majority, all or a number"),
        ({"replication__host": "0.0.0.0"}, "set replication.advertise"),
        ({"replication__advertise": "here"}, "replication.advertise: 'here' must be host:port"),
        ({"http__host": "0.0.0.0", "auth__mode": "required"}, "set node.advertise_url"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected.replace("[", r"\[")):
        loaded(**changes)


def test_addresses() -> None:
    assert parse_address("[::1]:80") == ("::1", 80)
    for text in ("", "a", "a:", ":1", "a:0", "a:65536", "a:x"):
        with pytest.raises(InvalidRequest, match="must be host:port"):
            parse_address(text)
