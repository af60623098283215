"""A node as somebody with certain rights sees it: the check where the data is.

Every way to data goes through `catalog`, `table` or `system_table`, whatever SQL led there, and
each is checked here again although the edge and the statement's own check came first. Tables on
which nothing is permitted are not in the catalog at all. What a table handle or a node can do and
is not listed here can't be done.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nearql.engine.errors import Corruption, Forbidden
from nearql.engine.named_query import ViewDef, tables_read
from nearql.engine.schema import IndexDef, TableDef, TableSchema
from nearql.engine.types import Change, OnConflict, WriteOutcome
from nearql.engine.writes import Until
from nearql.query.ports import AccessControl, CatalogView, TableHandle, TableView
from nearql.query.privileges import Need, needs
from nearql.query.statements import Statement
from nearql.server.access.audit import AuditLog
from nearql.server.access.principal import Principal, acting
from nearql.server.access.rights import Action, Rights
from nearql.server.config import Config
from nearql.server.counts import Count

if TYPE_CHECKING:
    from nearql.query.session import Session
    from nearql.server.node import Node

SESSIONS = 64  # of different rights that are kept ready
_BY_TABLE = {
    "tables": "name", "columns": "table", "indexes": "table", "shards": "table",
    "segments": "table",
}  # fmt: skip
_FOR_ALL = frozenset({"nodes", "devices"})
_EMPTY_FOR_OTHERS = frozenset({"settings"})  # SHOW SETTINGS adds the variables of the request


class CheckedTable:
    """A table's data; each call needs its action. Implements `query.ports.TableHandle`."""

    def __init__(self, table: TableHandle, rights: Rights, audit: AuditLog) -> None:
        self._table = table
        self._rights = rights
        self._audit = audit

    @property
    def definition(self) -> TableDef:
        """As the table's own."""
        return self._table.definition

    def read_view(self) -> TableView:
        """Needs SELECT."""
        self._need(Action.SELECT)
        return self._table.read_view()

    def insert(
        self, rows: pa.Table, on_conflict: OnConflict, *, request_id: bytes | None = None,
        timeout_ms: int | None = None, until: Until = "applied",
    ) -> WriteOutcome:  # fmt: skip
        """Needs INSERT, and UPDATE where a row may be replaced."""
        self._need(Action.INSERT)
        if on_conflict is OnConflict.REPLACE:
            self._need(Action.UPDATE)
        return self._table.insert(
            rows, on_conflict, request_id=request_id, timeout_ms=timeout_ms, until=until
        )

    def modify(
        self, evaluate: Callable[[TableView], Change], *, request_id: bytes | None = None,
        timeout_ms: int | None = None, until: Until = "applied",
    ) -> WriteOutcome:  # fmt: skip
        """Needs an action that writes; which one, the statement's check has seen."""
        self._need(Action.INSERT, Action.UPDATE, Action.DELETE)
        return self._table.modify(
            evaluate, request_id=request_id, timeout_ms=timeout_ms, until=until
        )

    def find(self, keys: pa.Array) -> NDArray[np.int64]:
        """Inside the evaluation of `modify`, which was permitted."""
        self._need(Action.INSERT, Action.UPDATE, Action.DELETE)
        return self._table.find(keys)

    def truncate(
        self, *, request_id: bytes | None = None, timeout_ms: int | None = None
    ) -> WriteOutcome:
        """Needs DELETE."""
        with self._audit.act("truncate", self.definition.name):
            self._need(Action.DELETE)
            return self._table.truncate(request_id=request_id, timeout_ms=timeout_ms)

    def _need(self, *any_of: Action) -> None:
        table = self._table.definition
        if not any(self._rights.allows(action, table.uuid) for action in any_of):
            raise forbidden(any_of[0], table.name)


class CheckedNode:
    """Implements `server.ports.NodePort` and `query.ports.Database` for equal rights."""

    def __init__(self, node: Node, rights: Rights, audit: AuditLog) -> None:
        self._node = node
        self._audit = audit
        self.rights = rights
        self._seen = CatalogView(-1, {})
        self._session: Session | None = None

    @property
    def config(self) -> Config:
        """The node's settings."""
        return self._node.config

    @property
    def system_sources(self) -> dict[str, Callable[[], pa.Table]]:
        """The node's own."""
        return self._node.system_sources

    @property
    def access(self) -> AccessControl:
        """For administrators; every change is in the audit log."""
        return AuditedAccess(self._node.access, self._audit, self.rights)

    def has_room(self) -> bool:
        """The node's own."""
        return self._node.has_room()

    def session(self) -> Session:
        """The session that runs SQL within these rights."""
        if self._session is None:
            self._session = self._node.session().restricted(self, self.authorise)
        return self._session

    def authorise(self, statement: Statement, catalog: CatalogView) -> None:
        """Raise Forbidden where a statement needs what these rights don't give."""
        if self.rights.admin:
            return
        for need in needs(statement, catalog):
            self.require(need, catalog)

    def require(self, need: Need, catalog: CatalogView) -> None:
        """Raise Forbidden where this one need is not met; a table that is not there is the
        planner's to tell, to those who may know every table.
        """
        if need.table is None:
            raise Forbidden(
                f"{acting().name} may not do this: it takes the role admin.",
                position=need.position,
            )
        table = catalog.tables.get(need.table.lower())
        if table is None:
            if not self.rights.sees_all:
                raise hidden(need.table, need.position)
        elif not self.rights.allows(Action(need.action), table.uuid):
            raise forbidden(Action(need.action), table.name, need.position)

    # ---- what there is --------------------------------------------------------------------------

    def catalog(self) -> CatalogView:
        """The tables on which anything is permitted."""
        whole = self._node.catalog()
        if self.rights.sees_all:
            return whole
        if self._seen.version != whole.version:
            seen = {n: t for n, t in whole.tables.items() if self.rights.sees(t.uuid)}
            self._seen = replace(whole, tables=seen, views=self._views(whole))
        return self._seen

    def _views(self, whole: CatalogView) -> dict[str, ViewDef]:
        """The views whose tables are all visible."""
        known = whole.views.values()
        return {
            name: view
            for name, view in whole.views.items()
            if all(self.rights.sees(uuid) for uuid in tables_read(view, known))
        }

    def table(self, uuid: str) -> TableHandle:
        """A table's data, checked; administrators get it as it is."""
        if self.rights.admin:
            return _AuditedTable(self._node.table(uuid), self.rights, self._audit)
        if not self.rights.sees(uuid):
            raise hidden(uuid)
        return CheckedTable(self._node.table(uuid), self.rights, self._audit)

    def system_table(self, name: str) -> pa.Table | None:
        """The rows that belong to visible tables; one that is not known here is refused."""
        if self.rights.admin or name in _FOR_ALL:
            return self._node.system_table(name)
        found = self._node.system_table(name)
        if found is None:
            return None
        if name == "queries":
            return found.filter(pc.equal(found["user"], acting().name))
        if name == "views":
            visible = [view.name for view in self.catalog().views.values()]
            return found.filter(pc.is_in(found["name"], value_set=pa.array(visible, pa.string())))
        if name in _EMPTY_FOR_OTHERS:
            return found.slice(0, 0)
        column = _BY_TABLE.get(name)
        if column is None:
            raise Forbidden(f"nearql.{name} is for administrators.")
        if self.rights.sees_all:
            return found
        names = pa.array([t.name for t in self.catalog().tables.values()], pa.string())
        return found.filter(pc.is_in(found[column], value_set=names))

    def counts(self) -> Iterable[Count]:
        """What the node counts."""
        return self._node.counts()

    def failed_tables(self) -> Mapping[str, Corruption]:
        """Tables that could not be opened, of the visible ones."""
        failed = self._node.failed_tables()
        return {uuid: error for uuid, error in failed.items() if self.rights.sees(uuid)}

    def describe_settings(self) -> Mapping[str, Any]:
        """The node's settings, for administrators."""
        return self._node.describe_settings() if self.rights.admin else {}

    # ---- changes --------------------------------------------------------------------------------

    def create_table(self, definition: TableDef, *, if_not_exists: bool) -> bool:
        """For administrators."""
        with self._audit.act("create_table", definition.name):
            self._need_admin()
            return self._node.create_table(definition, if_not_exists=if_not_exists)

    def drop_table(self, name: str, *, if_exists: bool, cascade: bool = False) -> bool:
        """Needs ADMIN on the table; with cascade, an administrator."""
        with self._audit.act("drop_table", name):
            self._need_table(name)
            if cascade:
                self._need_admin()
            return self._node.drop_table(name, if_exists=if_exists, cascade=cascade)

    def create_view(self, view: ViewDef, *, or_replace: bool) -> None:
        """For administrators."""
        with self._audit.act("create_view", view.name):
            self._need_admin()
            self._node.create_view(view, or_replace=or_replace)

    def drop_view(self, name: str, *, cascade: bool) -> None:
        """For administrators."""
        with self._audit.act("drop_view", name):
            self._need_admin()
            self._node.drop_view(name, cascade=cascade)

    def alter_table(self, name: str, schema: TableSchema, new_name: str | None = None) -> None:
        """Needs ADMIN on the table."""
        with self._audit.act("alter_table", name, new_name=new_name):
            self._need_table(name)
            self._node.alter_table(name, schema, new_name)

    def create_index(self, table: str, index: IndexDef, *, if_not_exists: bool) -> bool:
        """Needs ADMIN on the table."""
        with self._audit.act("create_index", index.name, table=table):
            self._need_table(table)
            return self._node.create_index(table, index, if_not_exists=if_not_exists)

    def drop_index(self, name: str, *, if_exists: bool) -> bool:
        """Needs ADMIN on the table that has it."""
        with self._audit.act("drop_index", name):
            if not self.rights.admin:
                self._need_index(name)
            return self._node.drop_index(name, if_exists=if_exists)

    def rebuild_indexes(self, table: str, uuids: Sequence[str]) -> None:
        """Needs ADMIN on the table."""
        with self._audit.act("reindex", table):
            self._need_table(table)
            self._node.rebuild_indexes(table, uuids)

    def check_table(self, table: str) -> pa.Table:
        """Needs ADMIN on the table."""
        with self._audit.act("check_table", table):
            self._need_table(table)
            return self._node.check_table(table)

    def set_replicas(self, table: str, replicas: int) -> str:
        """Needs ADMIN on the table."""
        with self._audit.act("set_replicas", f"{table}: {replicas}"):
            self._need_table(table)
            return self._node.set_replicas(table, replicas)

    def allocate(self, table_uuid: str, count: int) -> int:
        """Needs INSERT on the table."""
        if not self.rights.allows(Action.INSERT, table_uuid):
            raise hidden(table_uuid)
        return self._node.allocate(table_uuid, count)

    def notice(self, text: str) -> None:
        """Log something an operator should know."""
        self._node.notice(text)

    def _need_admin(self) -> None:
        if not self.rights.admin:
            raise Forbidden(f"{acting().name} may not do this: it takes the role admin.")

    def _need_table(self, name: str) -> None:
        if not self.rights.admin:
            self.require(Need(Action.ADMIN, name), self.catalog())

    def _need_index(self, name: str) -> None:
        for table in self.catalog().tables.values():
            if any(index.name.lower() == name.lower() for index in table.indexes):
                self._need_table(table.name)
                return
        raise Forbidden(f"There is no index {name[:200]!r} that {acting().name} may change.")


class _AuditedTable(CheckedTable):
    """For administrators: nothing is refused, TRUNCATE is recorded."""

    def _need(self, *any_of: Action) -> None:
        return


class AuditedAccess:
    """Users and grants through SQL. Implements `query.ports.AccessControl`."""

    def __init__(self, access: AccessControl, audit: AuditLog, rights: Rights) -> None:
        self._access = access
        self._audit = audit
        self._rights = rights

    def create_user(self, name: str, role: str) -> None:
        """For administrators."""
        with self._audit.act("create_user", name, role=role):
            self._check()
            self._access.create_user(name, role)

    def drop_user(self, name: str, *, if_exists: bool) -> bool:
        """For administrators."""
        with self._audit.act("drop_user", name):
            self._check()
            return self._access.drop_user(name, if_exists=if_exists)

    def change_grants(
        self, user: str, table: TableDef, actions: Sequence[str], *, revoke: bool
    ) -> None:
        """For administrators."""
        act = "revoke" if revoke else "grant"
        with self._audit.act(act, user, table=table.name, actions=list(actions)):
            self._check()
            self._access.change_grants(user, table, actions, revoke=revoke)

    def _check(self) -> None:
        if not self._rights.admin:
            raise Forbidden("Rights are changed by administrators.")


class CheckedNodes:
    """The views of a node by rights: made when first asked for, the least recently used let go."""

    def __init__(self, node: Node, audit: AuditLog) -> None:
        self._node = node
        self._audit = audit
        self._lock = threading.Lock()
        self._kept: OrderedDict[Rights, CheckedNode] = OrderedDict()

    def of(self, principal: Principal) -> CheckedNode:
        """The node as this principal sees it."""
        with self._lock:
            found = self._kept.get(principal.rights)
            if found is None:
                found = CheckedNode(self._node, principal.rights, self._audit)
                self._kept[principal.rights] = found
                while len(self._kept) > SESSIONS:
                    self._kept.popitem(last=False)
            else:
                self._kept.move_to_end(principal.rights)
            return found


def forbidden(action: Action, table: str, position: int | None = None) -> Forbidden:
    """The 403 for a table that may be known of."""
    return Forbidden(
        f"{acting().name} may not {action} on table {table!r}; an administrator can "
        f"GRANT {action} ON {table} TO the user.",
        position=position,
        action=str(action),
        table=table,
    )


def hidden(name: str, position: int | None = None) -> Forbidden:
    """The 403 for a table that may not be known of; the same whether it is there or not."""
    return Forbidden(
        f"There is no table {name[:200]!r} that {acting().name} may use.", position=position
    )
