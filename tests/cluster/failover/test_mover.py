"""The thread that carries out moves: what it asks of others it asks without keeping anybody."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import cast

import pytest

from nearql.cluster import mover as mover_module
from nearql.cluster.cluster import Cluster
from nearql.cluster.metadata.commands import Command, Result
from nearql.cluster.metadata.jobs import DropCopy
from nearql.cluster.metadata.nodes import NodeRow
from nearql.cluster.metadata.state import Metadata
from nearql.cluster.migration import HandOver, Limits, Propose, Verify
from nearql.cluster.mover import RETRY_S, Mover


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


def test_what_was_refused_is_not_asked_for_with_every_look(monkeypatch: pytest.MonkeyPatch) -> None:
    now, asked = [100.0], []
    drop = DropCopy(request_id="drop/s/1/n", shard_uuid="s", expected_version=1, node_id="n")

    def propose(command: Command, timeout_ms: int) -> Result:
        asked.append(command)
        return Result("not_enough_replicas", "Without it too few are in sync.")

    metadata = SimpleNamespace(
        state=Metadata(), barrier=lambda timeout_ms: None, propose=propose
    )  # fmt: skip
    cluster = SimpleNamespace(leading=True, metadata=metadata, alive=lambda: {"b"})
    mover = Mover(cast("Cluster", cluster), Hands(), Limits(), clock=lambda: now[0])
    monkeypatch.setattr(mover_module, "decide", lambda *_: [Propose(drop)])
    for _ in range(4):
        mover.look()
    assert len(asked) == 1
    now[0] += RETRY_S
    mover.look()
    assert len(asked) == 2
