"""The tables whose data lies on this disk: opened, made, and put away.

    data directory
    ├── tables/<uuid>/       one per table that this node has copies of
    └── trash/               what is on its way out: dropped-... at once, orphan-... after a day, or
                             when the disk runs short

Nothing is removed in place: a directory is renamed into the trash first, so that a crash leaves no
half table under a name that counts.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import structlog

from nearql.cluster.metadata.state import TableRow
from nearql.engine.context import EngineContext
from nearql.engine.errors import Corruption, NotFound
from nearql.engine.schema import TableDef
from nearql.engine.segment.damage import Damage
from nearql.engine.table import Table

log = structlog.get_logger("nearql.node")

ORPHAN_RETENTION_S = 24 * 3600
TRASH = "trash"  # folder of the data directory


class Copies:
    """Reading is thread-safe; whoever opens, makes or discards keeps others from doing so."""

    def __init__(
        self, data_dir: Path, context: EngineContext, retention_s: float = ORPHAN_RETENTION_S
    ) -> None:
        """retention_s: how long orphans stay in the trash."""
        self._retention_s = retention_s
        self._home, self._trash = data_dir / "tables", data_dir / TRASH
        self._context = context
        self._tables: dict[str, Table] = {}
        self._failed: dict[str, Corruption] = {}
        self.on_leaving: Callable[[str], None] = _nobody  # with the uuid, before data is put away
        self.on_entering: Callable[[], None] = _nothing  # after a table was made or opened

    @property
    def tables(self) -> Mapping[str, Table]:
        """Every open table, by uuid."""
        return self._tables

    @property
    def failed(self) -> Mapping[str, Corruption]:
        """Tables that could not be opened, by uuid, with the reason."""
        return self._failed

    def table(self, table_uuid: str) -> Table:
        """The data of a table; raises Corruption where it could not be opened."""
        found = self._tables.get(table_uuid)
        if found is None:
            if table_uuid in self._failed:
                stored = self._failed[table_uuid]  # a fresh one: a raised error keeps its traceback
                raise Corruption(stored.detail, code=stored.code, **stored.extra)
            raise NotFound(f"There is no table {table_uuid}.", code="undefined_table")
        return found

    def has(self, table_uuid: str) -> bool:
        """Whether the table has a directory here, opened or not."""
        return self._directory(table_uuid).is_dir()

    def make(self, definition: TableDef) -> Table:
        """Durably make empty shards and open them; what a crash broke off is completed."""
        table = Table.create(self._directory(definition.uuid), definition, self._context)
        self._tables[definition.uuid] = table
        self.on_entering()
        return table

    def open(self, row: TableRow) -> None:
        """Open a table's data. A damaged one is kept in `failed`: the others are served."""
        directory = self._directory(row.table.uuid)
        try:
            if not directory.is_dir():
                raise Corruption(
                    f"The data of table {row.table.name!r} is gone: {directory} does not exist. "
                    "Restore it from a backup, or DROP the table."
                )
            table = Table.open(directory, row.table, self._context)
            for damage in table.damages():
                report_damage(table, damage)
            self._tables[row.table.uuid] = table
            self.on_entering()
        except Corruption as error:
            log.error("table_not_opened", table=row.table.name, reason=error.detail)
            self._failed[row.table.uuid] = error

    def discard(self, table_uuid: str) -> None:
        """Close a table and remove its directory."""
        self._leave(table_uuid)
        directory = self._directory(table_uuid)
        if directory.exists():
            shutil.rmtree(self._put_away(directory, "dropped"))

    def put_aside(self, owned: Collection[str]) -> None:
        """Put directories of tables that are not in `owned` into the trash, for a day: metadata may
        be wrong.
        """
        self._home.mkdir(parents=True, exist_ok=True)
        for directory in sorted(self._home.iterdir()):
            if directory.name not in owned:
                log.warning("orphan_directory_put_aside", directory=directory.name)
                self._leave(directory.name)
                self._put_away(directory, "orphan")

    def put_aside_one(self, table_uuid: str) -> None:
        """Put one table's directory into the trash for a day: it is damaged, or gone already."""
        self._leave(table_uuid)
        directory = self._directory(table_uuid)
        if directory.exists():
            self._put_away(directory, "orphan")

    def empty_trash(self) -> None:
        """Remove what was dropped, and orphans whose time is over; while the disk has less room
        than its reserve, the oldest of the others too.
        """
        self._trash.mkdir(parents=True, exist_ok=True)
        found = [(directory.stat().st_mtime, directory) for directory in self._trash.iterdir()]
        for since, directory in sorted(found):
            is_orphan = directory.name.startswith("orphan-")
            if not is_orphan or time.time() - since > self._retention_s:
                shutil.rmtree(directory)
            elif self._is_short():
                log.warning("trash_emptied_early", directory=directory.name)
                shutil.rmtree(directory)

    def _is_short(self) -> bool:
        free = self._context.fs.free_bytes(self._trash)
        return free < self._context.settings.disk_reserve_bytes

    def close(self) -> None:
        """Checkpoint what is cheap to checkpoint, and close every table."""
        for table in self._tables.values():
            table.close()

    def _leave(self, table_uuid: str) -> None:
        if table_uuid in self._tables:
            self.on_leaving(table_uuid)
        self._close(table_uuid)

    def _close(self, table_uuid: str) -> None:
        table = self._tables.pop(table_uuid, None)
        self._failed.pop(table_uuid, None)
        if table is not None:
            table.close()

    def _directory(self, table_uuid: str) -> Path:
        return self._home / table_uuid

    def _put_away(self, directory: Path, why: str) -> Path:
        self._trash.mkdir(parents=True, exist_ok=True)
        target = directory.rename(self._trash / f"{why}-{directory.name}-{uuid.uuid4().hex[:8]}")
        os.utime(target)  # from now on it counts as trash: a rename leaves the time as it was
        return target


def _nobody(table_uuid: str) -> None:
    """Nobody wants to know."""


def _nothing() -> None:
    """Nobody wants to know."""


def report_damage(table: Table, damage: Damage) -> None:
    """Say in the log that a segment's file is damaged."""
    log.error(
        "segment_set_aside", table=table.definition.name, file=damage.file, place=damage.place,
        first_row=damage.first, last_row=damage.end - 1,
    )  # fmt: skip
