"""What metadata a backup holds: tables with their indexes, views, settings, and who may do what.

Users come with their roles and grants, and without their keys: a key that was revoked after the
backup would be valid again after the restore, and a backup that leaks would hold digests to guess
at. Who is restored gets new keys. Nodes, placement and epochs belong to a cluster, not to its data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nearql.cluster.metadata.access import UserRow
from nearql.cluster.metadata.codec import from_plain, pack, to_plain, unpack
from nearql.cluster.metadata.state import Metadata
from nearql.engine.errors import Corruption, NotFound
from nearql.engine.named_query import ViewDef
from nearql.engine.schema import TableDef
from nearql.server.backup.cut import visible


@dataclass(frozen=True, slots=True)
class CatalogTable:
    """A table's definition. next_number: the next of its identity numbers."""

    table: TableDef
    next_number: int


@dataclass(frozen=True, slots=True)
class Catalog:
    """Of one instant."""

    tables: tuple[CatalogTable, ...]
    views: tuple[ViewDef, ...] = ()
    users: tuple[UserRow, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)

    def named(self, name: str) -> CatalogTable | None:
        """The table of this name, whatever its case."""
        return next((t for t in self.tables if t.table.name.lower() == name.lower()), None)

    def chosen(self, names: Sequence[str] | None, lacks: str) -> tuple[CatalogTable, ...]:
        """The tables of these names, each once; None = all.

        Args:
            lacks: how the error begins, with {name} and {known} to be filled in.

        Raises:
            NotFound: code `undefined_table`; one of them is not there.
        """
        if names is None:
            return self.tables
        found = []
        for name in dict.fromkeys(names):
            table = self.named(name)
            if table is None:
                known = ", ".join(one.table.name for one in self.tables) or "none"
                told = lacks.format(name=repr(name[:200]), known=known)
                raise NotFound(told, code="undefined_table")
            found.append(table)
        return tuple(found)

    def pack(self) -> bytes:
        """As an object holds it."""
        return pack(to_plain(self))


def catalog_of(state: Metadata) -> Catalog:
    """What a backup keeps of the metadata."""
    return Catalog(
        tables=tuple(CatalogTable(row.table, row.next_number) for row in visible(state)),
        views=tuple(sorted(state.views.values(), key=lambda view: view.name)),
        users=tuple(sorted(state.access.users.values(), key=lambda user: user.name)),
        settings=dict(state.settings),
    )


def unpack_catalog(data: bytes, where: str) -> Catalog:
    """What `Catalog.pack` made.

    Raises:
        Corruption: other bytes, or those of a newer version.
    """
    try:
        return from_plain(Catalog, unpack(data))
    except (AttributeError, KeyError, TypeError) as error:
        raise Corruption(f"{where} is no catalog of a backup: {error!r}.") from error
