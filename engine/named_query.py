"""What `CREATE VIEW` defines: a query under a name. Its text means nothing here.

A view names what it reads by uuid, and the columns it needs by name, so that whoever drops or
renames something can be told which views would break, without parsing any text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ViewColumn:
    """A column of a view. source: its name in the query, which a list of names may change."""

    name: str
    source: str
    type: str  # as people see it


@dataclass(frozen=True, slots=True)
class ViewDef:
    """A view. Invariant: names of `columns` are unique whatever their case.

    query: its text, as written. reads: uuids of the tables and views it names, sorted.
    needs: lower-case names of columns that must not go from what it reads, sorted.
    """

    uuid: str
    name: str
    query: str
    columns: tuple[ViewColumn, ...]
    reads: tuple[str, ...]
    needs: tuple[str, ...] = ()


def tables_read(view: ViewDef, views: Iterable[ViewDef]) -> frozenset[str]:
    """The uuids of the tables that a view reads, by other views too."""
    known = {one.uuid: one for one in views}
    waiting, seen = [view.uuid], set[str]()
    while waiting:
        uuid = waiting.pop()
        if uuid not in seen:
            seen.add(uuid)
            waiting += known[uuid].reads if uuid in known else ()
    return frozenset(seen - known.keys())


def dependents(uuids: Collection[str], views: Iterable[ViewDef]) -> tuple[ViewDef, ...]:
    """The views that read any of these tables or views, directly or by other views, by name."""
    reached, left = set(uuids), sorted(views, key=lambda view: view.name.lower())
    found: dict[str, ViewDef] = {}
    while True:
        more = [v for v in left if v.uuid not in found and not reached.isdisjoint(v.reads)]
        if not more:
            return tuple(sorted(found.values(), key=lambda view: view.name.lower()))
        found |= {view.uuid: view for view in more}
        reached |= {view.uuid for view in more}
