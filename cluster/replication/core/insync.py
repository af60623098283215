"""The in-sync set as its primary uses it: what is recorded, and what it has asked for.

A write is committed when it is durable on every member of the *maximal* set: recorded or proposed.
While a proposal's fate is unknown the recorded set may be the old one or the new one already; what
is durable on both is safe either way (Kafka's KIP-497 and KIP-966, PacificA).

    recorded {P, A, B}, B silent      propose {P, A}       maximal {P, A, B}: B still counts
    recorded {P, A}                   the row has changed  maximal {P, A}
    recorded {P, A}, B has caught up  propose {P, A, B}    maximal {P, A, B}: B counts at once

One proposal is under way at a time. It is settled when the row has changed (compare-and-set: then
it was done, or never will be), or when metadata refused it.
"""

from __future__ import annotations

from nearql.cluster.metadata.shards import IsrChange
from nearql.cluster.replication.core.copy import Copy
from nearql.cluster.replication.core.effects import Propose
from nearql.cluster.replication.core.peers import Peer

_LONG_AGO = -(1 << 62)


class InSyncSet:
    """See the module. Of one reign."""

    def __init__(self, copy: Copy) -> None:
        self._copy = copy
        self.proposal: IsrChange | None = None
        self._proposed_ms = _LONG_AGO
        self._settled_ms = _LONG_AGO
        self._count = 0
        # Members that this reign has dropped: when last, and when before that.
        self._dropped_ms: dict[str, tuple[int, int]] = {}
        self._began_ms = copy.now_ms
        self._note()

    def _note(self) -> None:
        """After each change. recorded: what metadata has. others: the maximal set without us."""
        assert self._copy.row is not None
        self.recorded = frozenset(self._copy.row.isr)
        self.maximal = self._counted()
        self.others = sorted(self.maximal - {self._copy.node_id})

    def _counted(self) -> frozenset[str]:
        """Whose durability counts; see the module."""
        proposed = frozenset(self.proposal.isr) if self.proposal else frozenset()
        return self.recorded | proposed

    def on_row(self) -> None:
        """The row was read anew."""
        self._note()
        assert self._copy.row is not None
        if self.proposal and self._copy.row.version > self.proposal.expected_version:
            self._settle()

    def on_refused(self, request_id: str) -> None:
        """Metadata refused a proposal: it will never be done."""
        if self.proposal and self.proposal.request_id == request_id:
            self._settle()

    def _settle(self) -> None:
        self.proposal = None
        self._settled_ms = self._copy.now_ms
        self._note()

    # ---- Changes ---------------------------------------------------------------------------

    def maintain(self, peers: dict[str, Peer], joining_lsn: int) -> None:
        """Propose what the set should be, if it is not. joining_lsn: what a new member has."""
        copy, timing = self._copy, self._copy.timing
        if self.proposal is not None:
            if copy.now_ms - self._proposed_ms >= timing.propose_ms:
                self._propose(self.proposal)
            return
        if copy.now_ms - self._settled_ms < timing.retry_ms:
            return
        wanted = self._wanted(peers, joining_lsn)
        if wanted != self.recorded:
            self._propose(self._change(wanted, peers))

    def _wanted(self, peers: dict[str, Peer], joining_lsn: int) -> frozenset[str]:
        assert self._copy.row is not None
        joining = {node for node in peers if self._may_join(node, peers[node], joining_lsn)}
        wanted = self.recorded | joining
        for node in sorted(self.recorded - {self._copy.node_id}):
            if len(wanted) > self._copy.row.min_isr and self._lags(node, peers.get(node)):
                wanted -= {node}
                self._note_dropped(node)
        return wanted

    def _note_dropped(self, node: str) -> None:
        """A proposal that was refused and is made again is one drop."""
        now = self._copy.now_ms
        last, before = self._dropped_ms.get(node, (_LONG_AGO, _LONG_AGO))
        again = now - last <= self._copy.timing.silent_ms
        self._dropped_ms[node] = now, before if again else last

    def _may_join(self, node: str, peer: Peer, joining_lsn: int) -> bool:
        """Whether a copy holds all that is committed, in its present life, and keeps up."""
        copy = self._copy
        if node in self.recorded or node in copy.fenced or not copy.row:
            return False
        present = copy.incarnations.get(node) == peer.session.incarnation
        listed = copy.row.replicas.get(node) == peer.alloc_id
        complete = peer.durable_lsn >= joining_lsn
        keeps_up = copy.now_ms - peer.heard_ms < copy.timing.silent_ms
        return present and listed and complete and keeps_up and self._is_stable(node, peer)

    def _is_stable(self, node: str, peer: Peer) -> bool:
        """A member that was dropped twice of late must first keep up for a while: it flaps, and
        commits wait for it each time that it falls silent.
        """
        dropped, before = self._dropped_ms.get(node, (_LONG_AGO, _LONG_AGO))
        timing = self._copy.timing
        if before == _LONG_AGO or dropped - before > timing.flapping_ms:
            return True
        return self._copy.now_ms - max(dropped, peer.since_ms) >= timing.stable_ms

    def _lags(self, node: str, peer: Peer | None) -> bool:
        """Whether commits should not wait for this member any longer."""
        copy, timing = self._copy, self._copy.timing
        if node in copy.fenced:
            return True
        heard = peer.heard_ms if peer else self._began_ms
        caught_up = peer.caught_up_ms if peer else self._began_ms
        now = copy.now_ms
        return now - heard > timing.silent_ms or now - caught_up > timing.behind_ms

    def _change(self, wanted: frozenset[str], peers: dict[str, Peer]) -> IsrChange:
        copy = self._copy
        assert copy.row is not None
        self._count += 1
        # Of those that join, the life that has caught up; metadata refuses if it is over.
        lives = {n: p.session.incarnation for n, p in peers.items() if n not in self.recorded}
        known = {node: copy.incarnations.get(node, 0) for node in wanted}
        return IsrChange(
            request_id=f"{copy.row.uuid}/{copy.row.epoch}/{copy.row.version}/{self._count}",
            shard_uuid=copy.row.uuid,
            expected_version=copy.row.version,
            epoch=copy.row.epoch,
            isr=tuple(sorted(wanted)),
            incarnations={node: lives.get(node, life) for node, life in known.items()},
        )

    def _propose(self, change: IsrChange) -> None:
        self.proposal = change
        self._proposed_ms = self._copy.now_ms
        self._note()
        self._copy.out.append(Propose(change))

    def check_invariants(self) -> None:
        """Raise AssertionError where state contradicts itself."""
        assert self.recorded <= self.maximal
        assert self._copy.node_id in self.maximal
