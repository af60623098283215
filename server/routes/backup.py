"""`/v1/backup` and `/v1/restore`: begin a job of the node that is asked. `/v1/jobs` shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from nearql.engine.errors import InvalidRequest, InvalidValue
from nearql.query.ddl.names import LIMITS
from nearql.query.guard import RESERVED
from nearql.server.access.audit import audited
from nearql.server.access.principal import acting_as
from nearql.server.backup.restore import Wish, wish_to
from nearql.server.backup.service import Backups, Job
from nearql.server.edge import Edge, principal_of
from nearql.server.replies import json_reply
from nearql.server.routes.members import read_members

T = TypeVar("T")
_PLACE: dict[str, type] = {"repository": str, "repository_id": str}
_RESTORE: dict[str, type] = {
    **_PLACE, "backup": str, "tables": list, "as": list, "to_time": str, "to_lsn": str,
    "cluster": str,
}  # fmt: skip


async def backup(request: Request, edge: Edge) -> Response:
    """Begin a backup of everything."""
    members, backups = await read_members(request, _PLACE), backups_of(edge)
    place = members.get("repository", ""), members.get("repository_id", "")

    def begin() -> Job:
        with audited(edge.access, "backup", place[0] or "backup.repository"):
            return backups.backup(*place)

    return json_reply((await _acting(request, begin)).described())


async def restore(request: Request, edge: Edge) -> Response:
    """Begin a restore of everything, or of some tables."""
    members, backups = await read_members(request, _RESTORE), backups_of(edge)
    place = members.get("repository", ""), members.get("repository_id", "")
    wish = wish_of(members)

    def begin() -> Job:
        what = "everything" if wish.tables is None else ", ".join(wish.tables)
        to = members.get("to_time") or members.get("to_lsn") or wish.backup
        target = f"{what} of {to} in {place[0] or 'backup.repository'}"
        with audited(edge.access, "restore", target):
            return backups.restore(wish, *place)

    return json_reply((await _acting(request, begin)).described())


def wish_of(members: dict[str, Any]) -> Wish:
    """What a request asks to restore.

    Raises:
        InvalidRequest: names that don't go together.
    """
    tables, names = members.get("tables"), members.get("as")
    if names is not None and (tables is None or len(names) != len(tables)):
        raise InvalidRequest('"as" gives each of "tables" a new name, in the same order.')
    if tables is not None and not tables:
        raise InvalidValue('"tables" is empty; leave it out to restore everything.')
    rename = dict(zip(tables or (), names or (), strict=False))
    _check_names(rename)
    return wish_to(
        Wish(
            backup=members.get("backup", "latest"),
            tables=None if tables is None else tuple(tables),
            rename=rename,
            cluster=members.get("cluster", ""),
        ),
        members.get("to_time", ""),
        members.get("to_lsn", ""),
    )


def _check_names(rename: dict[str, str]) -> None:
    for name in rename.values():
        usable = name.strip() and name.isprintable() and len(name) <= LIMITS.name_chars
        if not usable or RESERVED.match(name) or name.lower() in ("nearql", "excluded"):
            raise InvalidValue(f"{name[:80]!r} can't be a table's name.", code="invalid_name")


def backups_of(edge: Edge) -> Backups:
    """Those of the node behind the edge."""
    assert edge.backups is not None, "a double of a node has none"
    return edge.backups


async def _acting(request: Request, work: Callable[[], T]) -> T:
    with acting_as(principal_of(request)):
        return await asyncio.to_thread(work)
