"""The settings of a node that is one of several: sections `cluster`, `raft` and `replication`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nearql.cluster.config import Address, ClusterConfig, parse_address, parse_voters
from nearql.cluster.tls import TlsFiles
from nearql.engine.errors import InvalidRequest
from nearql.server.setting import key

if TYPE_CHECKING:
    from nearql.server.config import Config

HAND_OVER_S = 10.0  # of a stop's time, for giving away what the node orders
EVERYWHERE = frozenset({"0.0.0.0", "::", ""})  # what nobody can dial


@dataclass(frozen=True)
class ClusterSection:
    """Whether this node is one of several, and how it finds the others."""

    enabled: bool = key(False, "Whether this node is one of several.")
    write_routing: str = key(
        "redirect",
        "Writes on a node that does not lead: redirect answers 307, proxy passes them on.",
    )
    voters: tuple[str, ...] = key(
        (), "The 1, 3 or 5 nodes that agree on metadata: name@host:port; names alone for dns."
    )
    discovery: str = key(
        "static", "static: voters say their hosts. dns: a voter's host is name.dns_name."
    )
    dns_name: str = key("", "Domain of the voters, such as a headless service's, for dns.")
    bootstrap: bool = key(
        False, "Found a cluster: counts on an empty disk, while no voter knows a cluster."
    )
    join_token_file: str = key(
        "", "File with the one-time token that lets a disk in which the cluster does not know.",
        path=True,
    )  # fmt: skip
    parallel_moves: int = key(
        2, "Tables whose copies are moved at a time; a node takes part in one move.", low=1
    )
    replace_after_s: int = key(
        600, "Seconds after a node was declared dead until its copies are made anew elsewhere.",
        low=1,
    )  # fmt: skip
    trash_hours: int = key(
        24, "Hours that files of dropped, moved and damaged copies stay in trash/.", low=0
    )
    compare_interval_hours: int = key(
        24, "Hours between two comparisons of all copies by what they hold; 0 = never.", low=0
    )
    ca_file: str = key("", "Certificate (PEM) of the authority that nodes trust.", path=True)
    cert_file: str = key("", "This node's certificate (PEM); it must name node.name.", path=True)
    key_file: str = key("", "Key of the certificate (PEM, without a password).", path=True)


@dataclass(frozen=True)
class RaftSection:
    """Agreement on metadata."""

    host: str = key("127.0.0.1", "Address to listen on for voters; mutual TLS always.")
    port: int = key(8471, "Port for voters.", low=1, high=65_535)
    election_timeout_ms: tuple[int, ...] = key(
        (1000, 2500), "Silence of the leader after which a voter stands: shortest, longest."
    )


@dataclass(frozen=True)
class ReplicationSection:
    """Rows between nodes."""

    host: str = key("127.0.0.1", "Address to listen on for other nodes; mutual TLS always.")
    port: int = key(8472, "Port for other nodes.", low=1, high=65_535)
    advertise: str = key("", "host:port that other nodes dial; default host:port above.")
    write_concern: str = key(
        "majority", "How many copies have a write before it is answered: one, majority, all or n."
    )
    write_timeout_ms: int = key(5000, "How long a write waits for its copies.", low=1)
    sync_rate: int = key(
        200 << 20, "Bytes per second of snapshots that this node sends to copies.", size=True, low=1
    )
    call_threads: int = key(
        32, "Statements and reads of other nodes at work here at once (429 beyond).", low=1
    )
    disk_slow_ms: int = key(
        5000, "A copy that waits for its disk for so long leaves its part to other copies.", low=100
    )
    disk_stuck_ms: int = key(
        20_000, "A node whose copy waits for its disk for so long ends (exit code 70).", low=1000
    )


CHOICES = {
    "cluster.write_routing": ("redirect", "proxy"),
    "cluster.discovery": ("static", "dns"),
}


def cluster_config(config: Config) -> ClusterConfig:
    """What the cluster package is told, of settings that fit together.

    Raises:
        InvalidRequest: names the setting and what it should be.
    """
    from nearql.cluster.metadata.raft.library import Timing  # loads Raft: for clusters only

    cluster, raft = config.cluster, config.raft
    low, high = _two(raft.election_timeout_ms)
    Timing(low / 1000, high / 1000)
    return ClusterConfig(
        name=config.node.name,
        url=config.advertise_url,
        voters=_voters(config),
        raft_listen=(raft.host, raft.port),
        replication_listen=(config.replication.host, config.replication.port),
        advertised=_advertised(config),
        tls=_tls(cluster),
        election_s=(low / 1000, high / 1000),
        bootstrap=cluster.bootstrap,
        join_token_file=Path(cluster.join_token_file) if cluster.join_token_file else None,
        sync_bytes_per_s=config.replication.sync_rate,
        call_threads=config.replication.call_threads,
        disk_slow_ms=config.replication.disk_slow_ms,
        disk_stuck_ms=config.replication.disk_stuck_ms,
    )


def check_cluster(config: Config) -> None:
    """Raise InvalidRequest where the settings of a cluster don't fit together."""
    cluster_config(config)
    concern = config.replication.write_concern
    if concern not in ("one", "majority", "all") and not concern.isdigit():
        raise InvalidRequest(
            f"replication.write_concern = {concern!r}: must be one, majority, all or a number."
        )
    if config.http.host in EVERYWHERE and not config.node.advertise_url:
        raise InvalidRequest(
            f"http.host = {config.http.host} is no address to send clients to: set "
            "node.advertise_url to the URL under which clients reach this node."
        )


def _two(timeouts: tuple[int, ...]) -> tuple[int, int]:
    if len(timeouts) != 2:
        raise InvalidRequest(
            f"raft.election_timeout_ms = {list(timeouts)}: must be two numbers, such as "
            "[1000, 2500]."
        )
    return timeouts[0], timeouts[1]


def _voters(config: Config) -> dict[str, Address]:
    cluster = config.cluster
    dns_name = cluster.dns_name if cluster.discovery == "dns" else ""
    if cluster.discovery == "dns" and not dns_name:
        raise InvalidRequest("cluster.discovery = dns needs cluster.dns_name.")
    try:
        return parse_voters(cluster.voters, dns_name, config.raft.port)
    except InvalidRequest as error:
        raise InvalidRequest(f"cluster.voters: {error.detail}") from None


def _advertised(config: Config) -> Address:
    replication = config.replication
    if replication.advertise:
        try:
            return parse_address(replication.advertise)
        except InvalidRequest as error:
            raise InvalidRequest(f"replication.advertise: {error.detail}") from None
    if replication.host in EVERYWHERE:
        raise InvalidRequest(
            f"replication.host = {replication.host} is no address to dial: set "
            "replication.advertise to host:port, best with a DNS name."
        )
    return replication.host, replication.port


def _tls(cluster: ClusterSection) -> TlsFiles:
    for name in ("ca_file", "cert_file", "key_file"):
        if not getattr(cluster, name):
            raise InvalidRequest(
                f"cluster.{name} is not set: nodes prove their names to each other. "
                "`nearql cluster certs` makes an authority and certificates."
            )
    return TlsFiles(Path(cluster.ca_file), Path(cluster.cert_file), Path(cluster.key_file))
