"""The statements NearQL knows, as plain values: what `query.dialect.parse` makes of a request's
text.

Trees inside are sqlglot expressions of the NearQL dialect. Distance operators in them are the
carrier nodes that `query.dialect.distance_of` recognises; parameters are `exp.Placeholder` (`:q`,
`?`) and `exp.Parameter` (`$1`, `$name`). Nothing outside `query/` sees this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlglot import exp

from nearql.engine.schema import Column
from nearql.engine.types import Metric


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One statement. text: as written, without `;`. offset: its start in the request, 0-based."""

    text: str
    offset: int = 0


@dataclass(frozen=True, kw_only=True)
class Select(Statement):
    """SELECT, WITH, VALUES, UNION, FROM-first: whatever returns rows and changes nothing."""

    tree: exp.Query


@dataclass(frozen=True)
class ConflictClause:
    """ON CONFLICT (column) DO NOTHING, or DO UPDATE SET assignments [WHERE condition]."""

    column: str | None
    assignments: tuple[tuple[str, exp.Expr], ...] = ()  # empty = DO NOTHING
    where: exp.Expr | None = None


@dataclass(frozen=True, kw_only=True)
class Insert(Statement):
    """INSERT INTO table [AS alias] [(columns)] [BY NAME] source [ON CONFLICT ...] [RETURNING
    ...]."""

    table: str
    alias: str | None = None
    by_name: bool = False  # the source's columns go to the table's columns of the same names
    columns: tuple[str, ...] | None = None
    source: exp.Query | None = None  # VALUES or a query; None = DEFAULT VALUES
    conflict: ConflictClause | None = None
    returning: tuple[exp.Expr, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Update(Statement):
    """UPDATE table [alias] SET ... [FROM ...] [WHERE ...] [RETURNING ...]."""

    table: str
    alias: str | None
    assignments: tuple[tuple[str, exp.Expr], ...]
    sources: tuple[exp.Expr, ...] = ()  # the FROM items and joins
    where: exp.Expr | None = None
    returning: tuple[exp.Expr, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Delete(Statement):
    """DELETE FROM table [alias] [USING ...] [WHERE ...] [RETURNING ...]."""

    table: str
    alias: str | None
    sources: tuple[exp.Expr, ...] = ()
    where: exp.Expr | None = None
    returning: tuple[exp.Expr, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Truncate(Statement):
    """TRUNCATE [TABLE] table."""

    table: str


@dataclass(frozen=True, slots=True)
class CopyFormat:
    """How a file of COPY is written. name: parquet, csv or arrow; the rest is of csv.

    header: whether the first line names the columns. null: what stands for NULL, unquoted.
    """

    name: str
    header: bool = False
    delimiter: str = ","
    null: str = ""


@dataclass(frozen=True, kw_only=True)
class CopyFrom(Statement):
    """COPY table [(columns)] FROM 'path'. columns: None = as the file has them."""

    table: str
    columns: tuple[str, ...] | None
    path: str
    form: CopyFormat


@dataclass(frozen=True, kw_only=True)
class CopyTo(Statement):
    """COPY table | (query) TO 'path'."""

    query: Select
    path: str
    form: CopyFormat


@dataclass(frozen=True, kw_only=True)
class CreateTable(Statement):
    """CREATE TABLE. key: a column name, None for a hidden key; source: of CREATE TABLE AS."""

    table: str
    columns: tuple[Column, ...]
    key: str | None
    checks: tuple[tuple[str, str], ...] = ()
    if_not_exists: bool = False
    options: tuple[tuple[str, Any], ...] = ()  # WITH (...): lower-case names
    source: exp.Query | None = None
    notices: tuple[str, ...] = ()  # what was accepted as a no-op, by name


@dataclass(frozen=True, kw_only=True)
class CreateView(Statement):
    """CREATE [OR REPLACE] VIEW [IF NOT EXISTS] view [(columns)] AS query. query: as written."""

    view: str
    tree: exp.Query
    query: str
    columns: tuple[str, ...] = ()
    or_replace: bool = False
    if_not_exists: bool = False


@dataclass(frozen=True, kw_only=True)
class DropView(Statement):
    """DROP VIEW [IF EXISTS] a, b [CASCADE]. cascade: the views that read them go too."""

    views: tuple[str, ...]
    if_exists: bool = False
    cascade: bool = False


@dataclass(frozen=True, kw_only=True)
class DropTable(Statement):
    """DROP TABLE [IF EXISTS] a, b [CASCADE]. cascade: the views that read them go too."""

    tables: tuple[str, ...]
    if_exists: bool = False
    cascade: bool = False


@dataclass(frozen=True)
class AddColumn:
    """ALTER TABLE ... ADD COLUMN."""

    column: Column
    if_not_exists: bool = False


@dataclass(frozen=True)
class DropColumn:
    """ALTER TABLE ... DROP COLUMN."""

    name: str
    if_exists: bool = False


@dataclass(frozen=True)
class RenameColumn:
    """ALTER TABLE ... RENAME COLUMN a TO b."""

    name: str
    new_name: str


@dataclass(frozen=True)
class RenameTable:
    """ALTER TABLE a RENAME TO b."""

    new_name: str


@dataclass(frozen=True)
class SetStorage:
    """ALTER TABLE ... ALTER COLUMN name SET STORAGE ...: accepted, nothing happens."""

    name: str


@dataclass(frozen=True, kw_only=True)
class AlterTable(Statement):
    """ALTER TABLE with one action or several."""

    table: str
    actions: tuple[AddColumn | DropColumn | RenameColumn | RenameTable | SetStorage, ...]
    if_exists: bool = False


@dataclass(frozen=True, kw_only=True)
class CreateIndex(Statement):
    """CREATE INDEX; `kind` None where a scalar index is accepted as a no-op.

    column: "" where an expression is indexed. where: of a partial index. opclass: in lower case.
    """

    table: str
    name: str | None
    column: str
    kind: str | None
    metric: Metric
    opclass: str | None = None
    expression: exp.Expr | None = None
    where: exp.Expr | None = None
    options: tuple[tuple[str, Any], ...] = ()
    if_not_exists: bool = False
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DropIndex(Statement):
    """DROP INDEX [IF EXISTS] name."""

    names: tuple[str, ...]
    if_exists: bool = False


@dataclass(frozen=True, kw_only=True)
class Reindex(Statement):
    """REINDEX INDEX name | TABLE name."""

    target: str
    is_table: bool


@dataclass(frozen=True, kw_only=True)
class CheckTable(Statement):
    """CHECK TABLE name: verify its files, and compare its copies."""

    table: str


@dataclass(frozen=True, kw_only=True)
class SetOptions(Statement):
    """ALTER TABLE name SET (name = value, ...); names in lower case."""

    table: str
    options: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class SetVariable(Statement):
    """SET [LOCAL|SESSION] name = value; RESET name has value None, RESET ALL the name `all`."""

    name: str  # lower-case, as in hnsw.ef_search
    value: Any


@dataclass(frozen=True, kw_only=True)
class Show(Statement):
    """SHOW TABLES | COLLECTIONS | SETTINGS | CLUSTER | SHARDS | <setting>; `what` is lower-case."""

    what: str


@dataclass(frozen=True, kw_only=True)
class Describe(Statement):
    """DESCRIBE table."""

    table: str


@dataclass(frozen=True, kw_only=True)
class Explain(Statement):
    """EXPLAIN [ANALYZE] [(FORMAT JSON)] statement."""

    statement: Statement
    analyze: bool = False
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class Transaction(Statement):
    """BEGIN, COMMIT (accepted, nothing happens) or ROLLBACK (an error after a write)."""

    action: str  # begin | commit | rollback


@dataclass(frozen=True, kw_only=True)
class Wait(Statement):
    """WAIT n TIMEOUT ms."""

    copies: int
    timeout_ms: int


@dataclass(frozen=True, kw_only=True)
class Kill(Statement):
    """KILL id: end a running statement of nearql.queries."""

    id: int


@dataclass(frozen=True, kw_only=True)
class CreateExtension(Statement):
    """CREATE, DROP or ALTER EXTENSION vector: accepted, nothing happens."""

    name: str
    action: str = "CREATE"


@dataclass(frozen=True, kw_only=True)
class ChangeGrants(Statement):
    """GRANT actions ON tables TO users, or with `revoke` REVOKE ... FROM users."""

    actions: tuple[str, ...]
    tables: tuple[str, ...]
    users: tuple[str, ...]
    revoke: bool = False


@dataclass(frozen=True, kw_only=True)
class CreateUser(Statement):
    """CREATE USER name [WITH (role = ...)]."""

    name: str
    role: str


@dataclass(frozen=True, kw_only=True)
class DropUser(Statement):
    """DROP USER [IF EXISTS] name."""

    name: str
    if_exists: bool = False
