"""The thread that carries out moves: what it asks of others it asks without keeping anybody."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import cast

from nearql.cluster.cluster import Cluster
from nearql.cluster.metadata.nodes import NodeRow
from nearql.cluster.metadata.state import Metadata
from nearql.cluster.migration import HandOver, Limits, Verify
from nearql.cluster.mover import Mover


class Hands:
    """Nodes that are slow to tell."""

    mover: Mover
    asked = 0

    def hand_over(self, step: HandOver) -> str:
        return ""

    def compare(self, step: Verify) -> bool | None:
        return None

    def sizes(self) -> Mapping[str, int]:
        self.asked += 1
        assert not self.mover._lock.locked()
        return {}


def test_nobody_waits_while_other_nodes_are_asked() -> None:
    dead = NodeRow("a", "a", "", 1, fenced=True)
    metadata = SimpleNamespace(state=Metadata(nodes={"a": dead}), barrier=lambda timeout_ms: None)
    cluster = SimpleNamespace(leading=True, metadata=metadata, alive=lambda: {"b"})
    hands = Hands()
    hands.mover = Mover(cast("Cluster", cluster), hands, Limits())
    assert hands.mover.look() == []
    assert hands.asked == 1
