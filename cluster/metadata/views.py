"""Views: named queries, and what may not be taken from under them.

A view reads tables and other views by uuid. Rules that the commands here keep, and those about
tables by asking here:
- a view reads only what is there, and never itself, by whatever way round;
- what a view reads goes only together with the view;
- a column that a view may need, and the name of a table that it reads, stay as they are;
- names are unique among tables and views together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nearql.cluster.metadata.commands import Command, ReplaceSchema, Result
from nearql.engine.named_query import ViewDef, dependents

if TYPE_CHECKING:
    from nearql.cluster.metadata.state import Metadata, TableRow


@dataclass(frozen=True, kw_only=True)
class CreateView(Command):
    """Define a view. or_replace: in place of one of its name, whose uuid it then keeps."""

    view: ViewDef
    or_replace: bool = False


@dataclass(frozen=True, kw_only=True)
class DropView(Command):
    """Forget a view, by uuid. cascade: those that read it too."""

    view_uuid: str
    cascade: bool = False


def view_named(views: Mapping[str, ViewDef], name: str) -> ViewDef | None:
    """The view of this name, whatever its case."""
    wanted = name.lower()
    return next((view for view in views.values() if view.name.lower() == wanted), None)


def check_invariants(state: Metadata) -> None:
    """Raise AssertionError where the views contradict themselves or the tables."""
    names = [view.name.lower() for view in state.views.values()]
    names += [row.table.name.lower() for row in state.tables.values()]
    assert len(names) == len(set(names)), "two tables or views of one name"
    for uuid, view in state.views.items():
        assert uuid == view.uuid, view.name
        assert all(read in state.tables or read in state.views for read in view.reads), view.name
        assert view not in dependents((uuid,), state.views.values()), f"{view.name} reads itself"


def name_taken(state: Metadata, name: str) -> Result | None:
    """The refusal of a name that a view has."""
    view = view_named(state.views, name)
    if view is None:
        return None
    return Result("duplicate_table", f"A view named {view.name!r} exists already.")


def without(state: Metadata, uuid: str, *, cascade: bool) -> Metadata | Result:
    """The state without the views that read this table or view, or the refusal."""
    readers = dependents((uuid,), state.views.values())
    if readers and not cascade:
        detail = f"View {readers[0].name!r} reads it; drop the view first, or add CASCADE."
        return Result("dependent_object", detail)
    gone = {view.uuid for view in readers}
    return replace(state, views={u: view for u, view in state.views.items() if u not in gone})


def refused_change(state: Metadata, row: TableRow, change: ReplaceSchema) -> Result | None:
    """The refusal of a new schema or name of a table that would break a view."""
    table = row.table
    if change.new_name is not None and change.new_name != table.name:
        if (taken := name_taken(state, change.new_name)) is not None:
            return taken
        for view in state.views.values():
            if table.uuid in view.reads:
                detail = f"View {view.name!r} reads table {table.name!r}; drop the view first."
                return Result("dependent_object", detail)
    kept = {column.name.lower() for column in change.schema.visible}
    gone = {column.name.lower() for column in table.schema.visible} - kept
    return _needed(state, table.uuid, gone)


def _needed(state: Metadata, uuid: str, gone: set[str]) -> Result | None:
    for view in dependents((uuid,), state.views.values()):
        for name in view.needs:
            if name in gone:
                detail = f"View {view.name!r} may need column {name!r}; drop the view first."
                return Result("dependent_object", detail)
    return None


def _create_view(state: Metadata, command: CreateView) -> tuple[Metadata, Result]:
    view = command.view
    if state.table_named(view.name) is not None:
        return state, Result("duplicate_table", f"A table named {view.name!r} exists already.")
    old = view_named(state.views, view.name)
    if old is not None and not command.or_replace:
        return state, Result("duplicate_table", f"A view named {view.name!r} exists already.")
    if old is not None:
        view = replace(view, uuid=old.uuid)
    refused = _unreadable(state, view) or (old and _broken_by(state, old, view))
    if refused:
        return state, refused
    views = {**state.views, view.uuid: view}
    return replace(state, views=views, version=state.version + 1), Result(value=view.uuid)


def _unreadable(state: Metadata, view: ViewDef) -> Result | None:
    readers = {reader.uuid for reader in dependents((view.uuid,), state.views.values())}
    for uuid in view.reads:
        if uuid == view.uuid or uuid in readers:
            return Result("dependent_object", f"View {view.name!r} would read itself.")
        table = state.tables.get(uuid)
        if uuid not in state.views and (table is None or not table.ready):
            detail = "A table or view that it reads was dropped meanwhile; try again."
            return Result("schema_changed", detail)
    return None


def _broken_by(state: Metadata, old: ViewDef, new: ViewDef) -> Result | None:
    """The refusal of a view that lacks a column that readers of the old one may need."""
    kept = {column.name.lower() for column in new.columns}
    gone = {column.name.lower() for column in old.columns} - kept
    return _needed(state, old.uuid, gone)


def _drop_view(state: Metadata, command: DropView) -> tuple[Metadata, Result]:
    if command.view_uuid not in state.views:
        return state, Result("undefined_table", f"There is no view {command.view_uuid}.")
    left = without(state, command.view_uuid, cascade=command.cascade)
    if isinstance(left, Result):
        return state, left
    views = {uuid: view for uuid, view in left.views.items() if uuid != command.view_uuid}
    return replace(left, views=views, version=state.version + 1), Result()


HANDLERS: dict[type[Command], Callable[[Metadata, Any], tuple[Metadata, Result]]] = {
    CreateView: _create_view,
    DropView: _drop_view,
}
