"""Tables that a backup is being restored into, and the step that shows them.

A restore makes its tables like any others, but for `TableRow.restoring`, which hides them: it says
whose work they are. They are replicated and promoted as all tables are. `PublishRestored` shows all
of them, with the views that go with them, in one step: there is no state with a part of a restore.

    restoring    <node id>/<incarnation>/<job>

An incarnation that is over or fenced can't finish any more: its tables may be dropped
(`abandoned`), and are not shown, however late its word arrives. So none is dropped once shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nearql.cluster.metadata import views
from nearql.cluster.metadata.commands import Command, Result
from nearql.engine.named_query import ViewDef

if TYPE_CHECKING:
    from nearql.cluster.metadata.state import Metadata, TableRow


@dataclass(frozen=True, kw_only=True)
class PublishRestored(Command):
    """Show every table of one restore. restoring: whose they are, as in their rows.

    numbers: the next identity number of each table, by uuid; exactly the tables of the restore.
    views: in an order in which each reads only what is before it.
    """

    restoring: str
    numbers: dict[str, int]
    views: tuple[ViewDef, ...] = ()


def restoring_by(node_id: str, incarnation: int, job: str) -> str:
    """What rows say of a restore that this incarnation of a node does."""
    return f"{node_id}/{incarnation}/{job}"


def abandoned(state: Metadata) -> list[TableRow]:
    """Tables whose restore will never end: its node was started again, fenced or forgotten."""
    return [row for row in state.tables.values() if row.restoring and not _lives(state, row)]


def _lives(state: Metadata, row: TableRow) -> bool:
    node_id, incarnation, _ = row.restoring.split("/", 2)
    node = state.nodes.get(node_id)
    return node is not None and not node.fenced and str(node.incarnation) == incarnation


def _publish(state: Metadata, command: PublishRestored) -> tuple[Metadata, Result]:
    mine = {u: row for u, row in state.tables.items() if row.restoring == command.restoring}
    if not all(_lives(state, row) for row in mine.values()):
        detail = "The node that restores was declared dead meanwhile; nothing of it is shown."
        return state, Result("restore_broken", detail)
    if mine.keys() != command.numbers.keys() or not all(row.ready for row in mine.values()):
        detail = "A table of this restore was dropped meanwhile; nothing of it is shown."
        return state, Result("restore_broken", detail)
    shown = {
        uuid: replace(row, restoring="", next_number=max(row.next_number, command.numbers[uuid]))
        for uuid, row in mine.items()
    }
    changed = replace(state, tables={**state.tables, **shown}, version=state.version + 1)
    for view in command.views:
        one = views.CreateView(request_id="", view=view)
        changed, result = views.HANDLERS[views.CreateView](changed, one)
        if not result.ok:
            return state, result
    return changed, Result()


HANDLERS: Mapping[type[Command], Callable[[Metadata, Any], tuple[Metadata, Result]]] = {
    PublishRestored: _publish,
}
