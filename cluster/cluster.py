"""This node as one of several: its metadata, who the others are, and who leads.

A process that starts: the sidecar tells what its disk knows -> a barrier through the leader -> the
tables on disk are opened -> `register` (a new incarnation, so that the cluster knows of this start)
-> heartbeats. A process that was paused and declared dead meanwhile registers again; its copies
then catch up like those of any other node.

An unknown disk is let in if this node's configuration counts it among the voters, or with a
one-time token; a disk that claims the name of another one takes its place with a token only.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from nearql.cluster.config import ClusterConfig
from nearql.cluster.metadata.commands import Command, RegisterNode
from nearql.cluster.metadata.nodes import CreateJoinToken, RemoveNode
from nearql.cluster.metadata.raft.followed import FollowConfig, FollowedMetadata
from nearql.cluster.metadata.raft.replicated import ReplicatedMetadata
from nearql.cluster.metadata.raft.sidecar import DAMAGED, DISK_FULL, SidecarConfig
from nearql.cluster.metadata.state import Metadata, NodeRow
from nearql.engine.errors import Conflict, InvalidRequest, NotFound, Unavailable, WriteUnknown
from nearql.engine.storage.files import FileSystem

log = structlog.get_logger("nearql.cluster")

ALIVE_S = 3.0  # heard within
FEATURE_LEVEL = 1  # what this version knows; raised by a release that older ones could not follow
NOT_A_MEMBER = "not_a_member"
_START_ATTEMPT_S = 10.0
_REGISTER_MS = 5000


@dataclass(frozen=True, slots=True)
class LeaderInfo:
    """Who leads. url: where clients reach it."""

    name: str
    node_id: str
    url: str


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node as seen from here. role: leader, follower, or member of those that don't vote."""

    node_id: str
    name: str
    url: str
    replication: str
    voter: bool
    role: str
    alive: bool
    last_seen_ms: int | None  # None: never heard by this process
    incarnation: int
    fenced: bool
    draining: bool


class Cluster:
    """Thread-safe; `close` ends the sidecar."""

    def __init__(self, config: ClusterConfig, directory: Path, fs: FileSystem) -> None:
        """Start the metadata's sidecar, or follow a voter's; `open` waits for it."""
        self.config = config
        self.metadata: ReplicatedMetadata | FollowedMetadata
        if config.is_voter:
            self.metadata = ReplicatedMetadata(sidecar_config(config, directory), fs)
        else:
            following = FollowConfig(config.name, config.voters, str(directory), config.tls)
            self.metadata = FollowedMetadata(following, fs)
        self.hears: Callable[[], Mapping[str, float]] = dict  # seconds since each was heard
        self.decided: Counter[str] = Counter()  # by this node as the controller
        self._registering = threading.Lock()

    @property
    def node_id(self) -> str:
        """This disk's identity, made at its first start."""
        return self.metadata.node_id

    @property
    def row(self) -> NodeRow | None:
        """This node in the metadata; None before it has registered for the first time."""
        return self.metadata.state.nodes.get(self.node_id)

    @property
    def incarnation(self) -> int:
        """Of this process, as the metadata has it now; 0 before the first."""
        row = self.row
        return row.incarnation if row else 0

    @property
    def ticking(self) -> bool:
        """Whether the metadata here may be trusted to be recent; else accept no write."""
        return self.metadata.ticking

    @property
    def leading(self) -> bool:
        """Whether this node is the controller: a reason to route, never an authority."""
        return self.metadata.leading

    @property
    def term(self) -> int:
        """Raft's term as known here."""
        return int(self.metadata.status.get("term", 0))

    def leader(self) -> LeaderInfo | None:
        """Who leads, as far as known here; None while there is none, or the sidecar is gone."""
        name = self.metadata.status.get("leader") if self.ticking else None
        row = node_named(self.metadata.state, name) if name else None
        return LeaderInfo(row.name, row.node_id, row.url) if row else None

    def nodes(self) -> list[NodeInfo]:
        """Every node of the metadata, by name."""
        leader, hears = self.leader(), self.hears()
        rows = sorted(self.metadata.state.nodes.values(), key=lambda row: row.name)
        return [self._info(row, leader, hears) for row in rows]

    def alive(self) -> set[str]:
        """Node ids that were heard a moment ago, this one included."""
        return {node.node_id for node in self.nodes() if node.alive}

    def _info(
        self, row: NodeRow, leader: LeaderInfo | None, hears: Mapping[str, float]
    ) -> NodeInfo:
        silent_s = 0.0 if row.node_id == self.node_id else hears.get(row.node_id)
        leads = leader is not None and leader.node_id == row.node_id
        return NodeInfo(
            node_id=row.node_id,
            name=row.name,
            url=row.url,
            replication=row.replication,
            voter=row.voter,
            role="leader" if leads else "follower" if row.voter else "member",
            alive=silent_s is not None and silent_s < ALIVE_S and not row.fenced,
            last_seen_ms=None if silent_s is None else round(silent_s * 1000),
            incarnation=row.incarnation,
            fenced=row.fenced,
            draining=row.draining,
        )

    def counts(self) -> list[tuple[str, str, float, bool]]:
        """What `/metrics` shows of agreement: (name, help, value, is a total)."""
        status = self.metadata.status
        restarts = getattr(self.metadata, "restarts", 0)  # who does not vote has no sidecar
        registrations = self.metadata.refused_registrations
        names = _of(status, "duplicate_name") + registrations.get("duplicate_node", 0)
        versions = _of(status, "protocol") + registrations.get("version_too_old", 0)
        failed = getattr(self.metadata, "fatal_code", "")
        fenced = sum(row.fenced for row in self.metadata.state.nodes.values())
        return [
            ("metadata_sidecar_restarts", "Starts of the sidecar after its end.", restarts, True),
            ("metadata_log_bytes", "The voter's log on disk.", status.get("log_bytes", 0), False),
            ("metadata_links", "Other voters that are reached.", _size(status, "links_up"), False),
            ("metadata_refused_connections", "Strangers' connections to the voters' port.",
             _sum(status, "refused"), True),
            ("metadata_refused_names", "Nodes refused: another has their name.", names, True),
            ("metadata_refused_versions", "Nodes refused for their version.", versions, True),
            ("metadata_disk_full", "Whether the voter ended for lack of space.",
             failed == DISK_FULL, False),
            ("metadata_damaged", "Whether the voter's log is damaged.", failed == DAMAGED, False),
            ("clock_jumps", "Jumps of the wall clock.", self.metadata.clock.jumps, True),
            ("metadata_guarded_messages", "Messages of voters that were mended or dropped.",
             _sum(status, "guarded"), True),
            ("nodes_fenced", "Nodes that were declared dead.", fenced, False),
            *((f"controller_{word}", text, self.decided[kind], True)
              for kind, word, text in _DECISIONS),
        ]  # fmt: skip

    # ---- membership -----------------------------------------------------------------------------

    def create_join_token(self, expires_ms: int) -> str:
        """A token that lets one disk in until then (ms since 1970); only its digest is kept.

        Raises:
            Conflict: code `too_many_join_tokens`.
        """
        token = "nqj_" + secrets.token_urlsafe(32)
        self._agree(
            CreateJoinToken(
                request_id=uuid.uuid4().hex,
                digest=token_digest(token),
                created_ms=time.time_ns() // 1_000_000,
                expires_ms=expires_ms,
            )
        )
        return token

    def remove(self, name: str) -> None:
        """Forget a node.

        Raises:
            NotFound: no node has this name. Conflict: code `node_in_use`, it holds copies;
                `voter_runs`, it votes, and would go on to without being known.
        """
        row = node_named(self.metadata.state, name)
        if row is None:
            raise NotFound(f"There is no node {name!r}.", code="undefined_node")
        if row.voter and any(node.name == name and node.alive for node in self.nodes()):
            raise Conflict(
                f"Node {name!r} is a voter and runs: it would go on voting. Drain it, give its "
                "place in cluster.voters to another node, stop it, and repeat this "
                f"{ALIVE_S:.0f} seconds later.",
                code="voter_runs",
            )
        self._agree(RemoveNode(request_id=uuid.uuid4().hex, node_id=row.node_id))

    def _agree(self, command: Command) -> None:
        result = self.metadata.propose(command)
        if not result.ok:
            raise Conflict(result.detail, code=result.code)

    # ---- life -----------------------------------------------------------------------------------

    def open(self, is_wanted: Callable[[], bool] = lambda: True) -> None:
        """Wait until the metadata here has everything that is committed, however long that takes.

        A cluster without a quorum can't say what is committed: starting waits for it, and says so.
        is_wanted: asked between tries; once it answers no, Unavailable is raised.

        Raises:
            Unavailable: the sidecar can't start: its log is damaged, its port is taken, ...
            Conflict, InvalidRequest: this node is no member, and not let in; see `register`.
        """
        while True:
            try:
                self.metadata.open(_START_ATTEMPT_S)
                return
            except (Unavailable, WriteUnknown) as error:
                if self.metadata.fatal == NOT_A_MEMBER:
                    self.register()  # with its one-time token; from now on voters tell it
                elif self.metadata.fatal or not is_wanted():
                    raise
                else:
                    log.warning("waiting_for_quorum", reason=error.detail)

    def register(self) -> int:
        """Tell the cluster that this process has started; its incarnation.

        Raises:
            Conflict: code `duplicate_node`: another disk has this name, or `join_refused`.
            InvalidRequest: code `join_token_needed`, or the token's file can't be read.
        """
        with self._registering:
            command = self._registration()
            while True:
                try:
                    result = self.metadata.propose(command, timeout_ms=_REGISTER_MS)
                    break
                except (Unavailable, WriteUnknown) as error:
                    if self.metadata.closed:
                        raise
                    log.warning("not_registered_yet", reason=error.detail)
            if not result.ok:
                raise Conflict(result.detail, code=_REFUSALS.get(result.code, "join_refused"))
            log.info("registered", name=self.config.name, incarnation=result.value)
            return int(result.value)

    def register_if_fenced(self) -> bool:
        """Register again where this process was declared dead while it was paused or cut off."""
        row = self.row
        if row is None or not row.fenced:
            return False
        log.warning("fenced_while_alive", incarnation=row.incarnation)
        self.register()
        return True

    def _registration(self) -> RegisterNode:
        state, config = self.metadata.state, self.config
        digest = ""
        if self.node_id not in state.nodes:
            digest = _token_digest(config)
            if not digest and not config.is_voter:
                raise InvalidRequest(
                    f"Node {config.name!r} is not among cluster.voters and the cluster does not "
                    "know its disk: `nearql cluster join` on a member prints a one-time token; "
                    "write it to a file and set cluster.join_token_file.",
                    code="join_token_needed",
                )
        host, port = config.advertised
        return RegisterNode(
            request_id=uuid.uuid4().hex,
            node_id=self.node_id,
            name=config.name,
            url=config.url,
            replication=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            voter=config.is_voter,
            join_digest=digest,
            registered_ms=time.time_ns() // 1_000_000,
            level=FEATURE_LEVEL,
        )

    def close(self) -> None:
        """End the sidecar."""
        self.metadata.close()


# What the controller counts, as metrics name it.
_DECISIONS = (
    ("FenceNode", "fenced", "Nodes that this controller declared dead."),
    ("Promote", "promotions", "Shards that it gave another primary."),
    ("compared", "copies_compared", "Copies that this node compared with others."),
    ("diverged", "copies_diverged", "Those that most others contradicted: they are made anew."),
    ("refused", "refusals", "Commands of it that metadata refused: they came too late."),
)


def _size(status: Mapping[str, Any], name: str) -> float:
    return float(len(status.get(name, ())))


def _of(status: Mapping[str, Any], reason: str) -> int:
    """Connections that were refused for a reason, here or by a peer."""
    refused = status.get("refused", {})
    return int(refused.get(reason, 0)) + int(refused.get(f"by_peer_{reason}", 0))


def _sum(status: Mapping[str, Any], name: str) -> float:
    return float(sum(status.get(name, {}).values()))


_REFUSALS = {code: code for code in ("duplicate_node", "version_too_old")}


def sidecar_config(config: ClusterConfig, directory: Path) -> SidecarConfig:
    """What the sidecar of a voter is told."""
    return SidecarConfig(
        name=config.name,
        voters=dict(config.voters),
        listen=config.raft_listen,
        directory=str(directory),
        ca_file=str(config.tls.ca),
        cert_file=str(config.tls.cert),
        key_file=str(config.tls.key),
        bootstrap=config.bootstrap,
        election_min_s=config.election_s[0],
        election_max_s=config.election_s[1],
    )


def node_named(state: Metadata, name: str) -> NodeRow | None:
    """The node of this name."""
    return next((row for row in state.nodes.values() if row.name == name), None)


def token_digest(token: str) -> str:
    """As which metadata knows a one-time token."""
    return hashlib.sha256(token.strip().encode()).hexdigest()


def _token_digest(config: ClusterConfig) -> str:
    file = config.join_token_file
    if file is None:
        return ""
    try:
        return token_digest(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"cluster.join_token_file {file} can't be read: {error}.") from error
