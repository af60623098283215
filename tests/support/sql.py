"""A database for tests of SQL: real tables on a disk in memory, a session over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from nearql.engine.context import EngineContext
from nearql.engine.errors import Conflict, NotFound
from nearql.engine.named_query import ViewDef
from nearql.engine.schema import IndexDef, TableDef, TableSchema
from nearql.engine.table import Table
from nearql.query.ports import CatalogView
from nearql.query.result import Result
from nearql.query.session import Session
from nearql.query.settings import SessionSettings
from support.access import RecordedAccess
from support.disks import SimulatedDisk
from support.tables import SMALL, one_thread


class MemoryCatalog:
    """Implements `query.ports.Database`; what a node would log durably is kept in dictionaries."""

    def __init__(self, engine: EngineContext | None = None) -> None:
        self.directory = Path("/tables")
        self.engine = engine or one_thread(SMALL, SimulatedDisk())
        self.tables: dict[str, Table] = {}
        self.names: dict[str, TableDef] = {}
        self.views: dict[str, ViewDef] = {}
        self.version = 1
        self.next_number = 1
        self.noticed: list[str] = []
        self.recorded = RecordedAccess()

    def catalog(self) -> CatalogView:
        """The tables now."""
        return CatalogView(self.version, dict(self.names), dict(self.views))

    def table(self, uuid: str) -> Table:
        """A table's data."""
        return self.tables[uuid]

    def system_table(self, name: str) -> pa.Table | None:
        """`nearql.tables` alone."""
        if name != "tables":
            return None
        tables = sorted(self.names.values(), key=lambda table: table.name)
        rows = [self.tables[table.uuid].read_view().row_count for table in tables]
        names = [table.name for table in tables]
        return pa.table({"name": pa.array(names, pa.string()), "rows": pa.array(rows, pa.int64())})

    def create_table(self, definition: TableDef, *, if_not_exists: bool) -> bool:
        """Create."""
        if definition.name.lower() in self.names:
            if if_not_exists:
                return False
            raise Conflict("exists", code="duplicate_table")
        place = self.directory / definition.uuid
        self.tables[definition.uuid] = Table.create(place, definition, self.engine)
        self._define(definition)
        return True

    def _define(self, definition: TableDef) -> None:
        self.names[definition.name.lower()] = definition
        self.version += 1

    def adopt(self, table: Table) -> None:
        """Know a table that was made elsewhere and is closed there."""
        self.tables[table.definition.uuid] = table
        self._define(table.definition)

    def create_view(self, view: ViewDef, *, or_replace: bool) -> None:
        """Define, whatever was there."""
        self.views[view.name.lower()] = view
        self.version += 1

    def drop_view(self, name: str, *, cascade: bool) -> None:
        """Drop it alone."""
        del self.views[name.lower()]
        self.version += 1

    def drop_table(self, name: str, *, if_exists: bool, cascade: bool = False) -> bool:
        """Drop."""
        found = self.names.pop(name.lower(), None)
        if found is None:
            if if_exists:
                return False
            raise NotFound("gone", code="undefined_table")
        self.tables.pop(found.uuid).close()
        self.version += 1
        return True

    def alter_table(self, name: str, schema: TableSchema, new_name: str | None = None) -> None:
        """Replace the schema."""
        old = self.names[name.lower()]
        definition = TableDef(old.uuid, new_name or old.name, schema)
        with self.tables[old.uuid].altering(schema):
            del self.names[name.lower()]
            self._define(definition)
            self.tables[old.uuid].apply_schema(definition)

    def create_index(self, table: str, index: IndexDef, *, if_not_exists: bool) -> bool:
        """Define it; what is built is the engine's affair."""
        known = self.names[table.lower()]
        self._with_indexes(known, (*known.indexes, index))
        return True

    def _with_indexes(self, table: TableDef, indexes: tuple[IndexDef, ...]) -> None:
        self.tables[table.uuid].declare_indexes(indexes)
        self._define(replace(table, indexes=indexes))

    def drop_index(self, name: str, *, if_exists: bool) -> bool:
        """Drop it from whichever table has it."""
        for table in list(self.names.values()):
            kept = tuple(one for one in table.indexes if one.name.lower() != name.lower())
            if len(kept) < len(table.indexes):
                self._with_indexes(table, kept)
                return True
        return False

    def rebuild_indexes(self, table: str, uuids: Sequence[str]) -> None:
        """Accepted."""

    def check_table(self, table: str) -> pa.Table:
        """Nothing is there to be compared."""
        return pa.table({})

    def set_replicas(self, table: str, replicas: int) -> str:
        """Accepted."""
        return ""

    def allocate(self, table_uuid: str, count: int) -> int:
        """Numbers from 1."""
        first, self.next_number = self.next_number, self.next_number + count
        return first

    def describe_settings(self) -> Mapping[str, Any]:
        """One made-up setting."""
        return {"limits.max_limit": 16_384}

    @property
    def access(self) -> RecordedAccess:
        """What was asked of it."""
        return self.recorded

    def notice(self, text: str) -> None:
        """Remember."""
        self.noticed.append(text)

    def close(self) -> None:
        """Close every table."""
        for table in self.tables.values():
            table.close()


class Sql:
    """A session and short ways to ask it."""

    def __init__(self, settings: SessionSettings | None = None) -> None:
        self.database = MemoryCatalog()
        self.session = Session(self.database, settings)

    def run(self, text: str, params: Any = None, **settings: Any) -> Result:
        """Execute; `settings` as the request's."""
        return self.session.execute(text, params, settings or None)

    def rows(self, text: str, params: Any = None, **settings: Any) -> list[tuple[Any, ...]]:
        """The answer's rows; column names may repeat."""
        columns = [
            column.to_pylist() for column in self.run(text, params, **settings).table.columns
        ]
        return list(zip(*columns, strict=True))

    def explain(self, text: str, params: Any = None) -> list[str]:
        """The lines of EXPLAIN."""
        return [line for (line,) in self.rows(f"EXPLAIN {text}", params)]
