"""Which node runs a request, and the way there.

`Gateway.place` answers for SQL, `Gateway.lead` for routes that are writes by declaration. What runs
elsewhere goes over the link between nodes, whole, with who asks, the request's id and how long the
client waits; the answer is relayed as it comes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any

from nearql.cluster.metadata.shards import ShardRow
from nearql.engine.errors import NearQLError, Unavailable, WriteUnknown
from nearql.query.nature import Nature
from nearql.query.watchdog import Stop
from nearql.server.cluster_ports import ClusterPort, MetadataPort, ReplicationPort
from nearql.server.gateway import envelope, placement
from nearql.server.gateway.reads import RequestReads
from nearql.server.gateway.redirect import Redirected, no_leader

if TYPE_CHECKING:
    from nearql.engine.schema import TableDef
    from nearql.server.session_token import Positions
    from nearql.server.steps import Steps

NODES_HEADER = "NearQL-Nodes"
REDIRECT, PROXY = "redirect", "proxy"
ANSWER_SLACK_MS = 1_000  # the other node's own timeout is told rather than ours


class Gateway:
    """Thread-safe.

    Args:
        metadata: where tables, shards and nodes are known from.
        write_routing: `redirect`: a follower sends writers to the leader. `proxy`: every node that
            knows a leader forwards them itself.
    """

    def __init__(
        self,
        metadata: MetadataPort,
        cluster: ClusterPort,
        replication: ReplicationPort,
        write_routing: str = REDIRECT,
        steps: Steps | None = None,
    ) -> None:
        """steps: what this node asks of others to move copies; None in tests."""
        self.metadata = metadata
        self.steps = steps
        self.failed: Callable[[], Collection[str]] = tuple  # tables not opened here, by uuid
        self.cluster = cluster
        self.replication = replication
        self._redirects = write_routing == REDIRECT
        self._listed: tuple[object, str] = (None, "")

    def node_urls(self) -> str:
        """Where clients reach each node, as the header NearQL-Nodes tells them."""
        nodes = self.metadata.state.nodes
        if nodes is not self._listed[0]:
            urls = sorted({row.url for row in nodes.values() if row.url and not row.fenced})
            self._listed = nodes, ", ".join(urls)
        return self._listed[1]

    # ---- where ----------------------------------------------------------------------------------

    def lead(self) -> None:
        """Let a write go on here.

        Raises:
            Redirected: this is a follower. Unavailable: code `no_leader`.
        """
        leader = self.cluster.leader()
        if leader is None:
            raise no_leader()
        if self._redirects and leader.node_id != self.cluster.node_id:
            raise Redirected(leader)

    def place(self, nature: Nature) -> str | None:
        """The node that runs a request of this nature; None = this one.

        Raises:
            Redirected, Unavailable, Unsupported: nothing was done.
        """
        state = self.metadata.state
        if nature.writes:
            self.lead()
            node = placement.primary_of(state, nature.changed)
        elif nature.read:
            node = placement.reader_of(state, nature.read, self.cluster.node_id, self._usable())
        else:
            return None
        return None if node == self.cluster.node_id else node

    def primary_of(self, table: TableDef) -> str | None:
        """The node that orders a table's writes; None = this one.

        Raises:
            Unavailable: it has none at the moment.
        """
        node = placement.primary_of(self.metadata.state, (table.name.lower(),))
        return None if node == self.cluster.node_id else node

    def _usable(self) -> Callable[[str, ShardRow], bool]:
        """Whether a copy may be read: of this node by what it is, of others by who is alive."""
        here, own = self.cluster.node_id, self.replication.shards()
        alive: set[str] = set()

        def usable(node: str, shard: ShardRow) -> bool:
            if node == here:
                copy = own.get(shard.uuid)
                return copy is not None and copy.readable
            if not alive:  # asked for only where the copies here don't do
                alive.update(member.node_id for member in self.cluster.nodes() if member.alive)
            return node in shard.isr and node in alive

        return usable

    def reads(self, token: Positions) -> RequestReads:
        """What one request's reads must wait for; token: what its session has seen."""
        return RequestReads(self, token)

    # ---- there ----------------------------------------------------------------------------------

    def ask(
        self, node: str, method: str, message: bytes, timeout_ms: int,
        *, writes: bool, stop: Stop | None = None,
    ) -> tuple[dict[str, Any], memoryview]:  # fmt: skip
        """What another node answers. stop: ends it there, too.

        Raises:
            StatementTimeout: it was stopped.
            Unavailable: it was not reached, or a read broke off; nothing was done.
            WriteUnknown: a write was sent and not answered.
            NearQLError: what it says.
        """
        try:
            answer = self.replication.calls.call(
                node, method, message,
                timeout_ms=timeout_ms + ANSWER_SLACK_MS,
                watching=None if stop is None else stop.watching,
            )  # fmt: skip
        except WriteUnknown as error:
            if error.code != "call_lost":
                raise
            raise self._lost(node, writes=writes) from error
        except Unavailable as error:
            if error.code != "node_unreachable":
                raise
            raise self._unreached(node) from error
        return envelope.unpack(answer)

    def _lost(self, node: str, *, writes: bool) -> NearQLError:
        name = placement.name_of(self.metadata.state, node)
        if not writes:
            return Unavailable(f"Node {name} broke off its answer. Retry.", code="node_lost")
        return WriteUnknown(
            f"The write was sent to node {name}, which has the primary, and no answer came back: "
            "it may have happened. Retry with the same request id to learn its outcome.",
            node=name,
        )

    def _unreached(self, node: str) -> Unavailable:
        name = placement.name_of(self.metadata.state, node)
        return Unavailable(
            f"Node {name}, which has the data of this request, can't be reached; nothing was "
            "done. Retry shortly.",
            code="node_unreachable", node=name,
        )  # fmt: skip


def joined(pieces: Iterable[Any]) -> list[bytes]:
    """Pieces of an answer as bytes: Arrow buffers among them."""
    return [piece if isinstance(piece, bytes) else bytes(memoryview(piece)) for piece in pieces]
