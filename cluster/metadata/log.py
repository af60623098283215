"""The one interface to metadata: propose a command, wait for it, read the state, watch it change.

A node alone (`local.LocalMetadata`) and a voter (`raft.replicated.ReplicatedMetadata`) implement it
alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from nearql.cluster.metadata.commands import Command
from nearql.cluster.metadata.state import Metadata, Result


class MetadataLog(Protocol):
    """Agreed, durable metadata."""

    @property
    def node_id(self) -> str:
        """The identity of this node's disk, made at its first start."""

    @property
    def state(self) -> Metadata:
        """The newest applied state; immutable."""

    def propose(self, command: Command, *, timeout_ms: int = 5000) -> Result:
        """Commit the command durably, apply it, answer its result.

        Raises:
            Unavailable: certainly not committed. WriteUnknown: perhaps; retry with the same
            request id. StorageFull: the disk refused it.
        """

    def barrier(self, *, timeout_ms: int = 5000) -> None:
        """Return when `state` reflects everything committed before this call."""

    def watch(self, listener: Callable[[Metadata], None]) -> None:
        """Call `listener` with each new state, in order, from the applying thread."""

    def close(self) -> None:
        """Release files and threads."""
