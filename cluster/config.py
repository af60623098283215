"""What a node must know to be one of several; plain, checked values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nearql.cluster.tls import TlsFiles
from nearql.engine.errors import InvalidRequest

Address = tuple[str, int]
VOTER_COUNTS = (1, 3, 5)  # what agrees by majority and is worth its cost
NODE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """One node of a cluster.

    name: as in its certificate; url: where clients reach it. voters: (host, port) of Raft by name,
    this node among them or not. advertised: (host, port) that other nodes dial for rows.
    bootstrap: may found a cluster, if its disk is empty and nobody knows one. join_token_file: with
    the one-time token that lets an unknown disk in.
    """

    name: str
    url: str
    voters: Mapping[str, Address]
    raft_listen: Address
    replication_listen: Address
    advertised: Address
    tls: TlsFiles
    election_s: tuple[float, float] = (1.0, 2.5)
    bootstrap: bool = False
    join_token_file: Path | None = None
    sync_bytes_per_s: int = 200 << 20  # of snapshots that this node sends
    call_threads: int = 32  # for requests of other nodes
    disk_slow_ms: int = 5_000  # a copy whose disk owes a sync for so long gives its part up,
    disk_stuck_ms: int = 20_000  # and for so long, the process ends

    @property
    def is_voter(self) -> bool:
        """Whether this node votes; else it follows the metadata."""
        return self.name in self.voters


def parse_address(text: str) -> Address:
    """`host:port` or `[host]:port`; raises InvalidRequest."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise InvalidRequest(f"{text!r} must be host:port.")
    return host, int(port)


def parse_voters(texts: Sequence[str], dns_name: str, dns_port: int) -> dict[str, Address]:
    """Addresses by name, of `name@host:port`; with a `dns_name`, of names below it.

    Raises:
        InvalidRequest: says which entry is wrong, and what it should be.
    """
    voters: dict[str, Address] = {}
    for text in texts:
        name, at, address = text.partition("@")
        if not NODE_NAME.fullmatch(name):
            raise InvalidRequest(f"{text!r}: a node's name has letters, digits, -, _ and . only.")
        if bool(at) == bool(dns_name):
            form = "a name alone, for discovery is dns" if dns_name else "name@host:port"
            raise InvalidRequest(f"{text!r} must be {form}.")
        found = (f"{name}.{dns_name}", dns_port) if dns_name else parse_address(address)
        if name in voters or found in voters.values():
            raise InvalidRequest(f"{text!r} is named twice, or has another's address.")
        voters[name] = found
    if len(voters) not in VOTER_COUNTS:
        counts = ", ".join(map(str, VOTER_COUNTS))
        raise InvalidRequest(
            f"{len(voters)} voters; there must be {counts}: any majority of them must be able to "
            "agree. Further nodes are members that do not vote: leave them out of the list."
        )
    return voters
