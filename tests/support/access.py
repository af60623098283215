"""Access control that remembers what it was asked, and metadata without a disk."""

from __future__ import annotations

from collections.abc import Sequence

from nearql.cluster.metadata.commands import Command
from nearql.cluster.metadata.state import Metadata, Result, apply
from nearql.engine.schema import TableDef


class RecordedAccess:
    """Implements `query.ports.AccessControl`."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def create_user(self, name: str, role: str) -> None:
        """Remember."""
        self.calls.append(("create_user", name, role))

    def drop_user(self, name: str, *, if_exists: bool) -> bool:
        """Remember."""
        self.calls.append(("drop_user", name, if_exists))
        return True

    def change_grants(
        self, user: str, table: TableDef, actions: Sequence[str], *, revoke: bool
    ) -> None:
        """Remember."""
        self.calls.append(("revoke" if revoke else "grant", user, table.name, tuple(actions)))


class MemoryMetadata:
    """Applies commands at once; implements `server.access.store.MetadataPort`."""

    def __init__(self) -> None:
        self.state = Metadata()

    def propose(self, command: Command) -> Result:
        """Apply."""
        self.state, result = apply(self.state, command)
        return result
