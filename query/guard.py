"""What a statement may touch: an allow-list over its tree, checked before anything is planned or
run.

DuckDB is locked (no files, no extensions, no settings), and this is the second door: a statement
reaches DuckDB only when every node in it is of a known kind, every table is in the catalog (or a
system table, a CTE, a short list of table functions), and every function is in
`query/functions.py`. DuckDB's own catalog (`sqlite_master`, `duckdb_settings()`,
`information_schema`), and NearQL's internal names, can't be named.

A CTE's name counts only where it is visible: in `WITH a AS (SELECT * FROM b), b AS (...)`, the `b`
inside `a` is no CTE, and DuckDB would look it up in its catalog.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlglot import exp

from nearql.engine.errors import NearQLError, NotFound, SqlError, TooLarge, Unsupported
from nearql.query import functions, nodes, patience
from nearql.query.dialect import did_you_mean, nearest
from nearql.query.ports import CatalogView
from nearql.query.statements import (
    ConflictClause,
    CopyTo,
    CreateIndex,
    CreateTable,
    CreateView,
    Delete,
    Explain,
    Insert,
    Select,
    Statement,
    Update,
)
from nearql.query.trees import all_of, nodes_of

SYSTEM_TABLES = (
    "tables", "columns", "indexes", "shards", "nodes", "segments", "devices", "settings",
    "queries", "damage", "views",
)  # fmt: skip
RESERVED = re.compile(r"nq\d*_|__row$|__key$", re.I)


@dataclass(frozen=True, slots=True)
class GuardLimits:
    """What one call may be asked to make, where the number is written in the statement.

    Numbers that are computed are bounded when they are known: see `dialect.bounds`.
    """

    grown: int = 100_000  # characters, repetitions or elements
    joins: int = 100  # DuckDB's optimizer takes time with their cube, and can't be interrupted
    series_rows: int = 10_000_000  # of a series in FROM


DEFAULT_LIMITS = GuardLimits()


def check(statement: Statement, catalog: CatalogView, limits: GuardLimits = DEFAULT_LIMITS) -> None:
    """Refuse a statement that touches what it may not.

    Raises:
        NotFound: code `undefined_table`, with the nearest name.
        SqlError: code `undefined_function`, with the nearest name.
        Unsupported: a kind of node that is not offered, an internal name.
        TooLarge: a literal that makes a value or a series beyond `limits`.
    """
    names = names_of(catalog)
    guard = _Guard(names, limits)
    target = statement.statement if isinstance(statement, Explain) else statement
    if isinstance(target, Insert | Update | Delete) and target.table.lower() not in catalog.tables:
        at = _written_at(target, target.table)
        raise is_view(target.table, catalog, at) or undefined_table(
            target.table, names.values(), at
        )
    for tree in trees_of(statement):
        _check_tree(guard, tree)
    for name in _aliases(statement):
        guard.check_name(name, None)


def check_query(tree: exp.Query, catalog: CatalogView) -> None:
    """The same for a query that comes from the catalog: the body of a view."""
    _check_tree(_Guard(names_of(catalog), DEFAULT_LIMITS), tree)


def _check_tree(guard: _Guard, tree: exp.Expr) -> None:
    try:
        guard.check(tree)
    except RecursionError as error:
        raise SqlError(
            "The statement is nested too deeply.",
            code="statement_too_complex",
            sqlstate="54001",
        ) from error


def names_of(catalog: CatalogView) -> dict[str, str]:
    """What may be read: the names of tables and views, by lower-case name."""
    names = {name: table.name for name, table in catalog.tables.items()}
    return names | {name: view.name for name, view in catalog.views.items()}


def check_constant(tree: exp.Expr, what: str, limits: GuardLimits = DEFAULT_LIMITS) -> None:
    """An expression of literals and functions alone, as DEFAULT takes.

    Raises:
        SqlError: it reads a column, a table or a parameter, or aggregates.
    """
    check_scalar(tree, what, limits)
    for node in all_of(tree, exp.Column, exp.Placeholder):
        raise SqlError(
            f"{what} may not name {node.sql()!r}: it takes literals and functions.",
            position=position_of(node),
        )


def check_scalar(tree: exp.Expr, what: str, limits: GuardLimits = DEFAULT_LIMITS) -> None:
    """An expression over one row, as CHECK takes: no queries, aggregates, windows, parameters.

    Raises:
        SqlError: it holds one of these.
    """
    _Guard({}, limits).check(tree)
    for node in nodes_of(tree):
        kind = _beyond_scalar(node)
        if kind:
            raise SqlError(f"{what} may not hold {kind}.", position=position_of(node))


def _beyond_scalar(node: exp.Expr) -> str | None:
    if isinstance(node, exp.Query):
        return "a query"
    if isinstance(node, exp.Window):
        return "a window function"
    if isinstance(node, exp.Placeholder):
        return "a parameter"
    if isinstance(node, exp.Anonymous) and node.name.lower() in functions.AGGREGATES:
        return f"the aggregate {node.name}"
    if isinstance(node, exp.Anonymous) and node.name.lower() == "unnest":
        return "unnest"
    return None


def trees_of(statement: Statement) -> Iterator[exp.Expr]:
    """Every tree in a statement."""
    if isinstance(statement, Explain):
        yield from trees_of(statement.statement)
    elif isinstance(statement, Select):
        yield statement.tree
    elif isinstance(statement, CopyTo):
        yield statement.query.tree
    elif isinstance(statement, CreateTable):
        yield from _some(statement.source)
    elif isinstance(statement, CreateIndex):
        yield from _some(statement.expression, statement.where)
    elif isinstance(statement, CreateView):
        yield statement.tree
    elif isinstance(statement, Insert):
        yield from _some(statement.source, *_conflict(statement.conflict), *statement.returning)
    elif isinstance(statement, Update | Delete):
        if isinstance(statement, Update):
            yield from (value for _, value in statement.assignments)
        yield from _some(*statement.sources, statement.where, *statement.returning)


def _written_at(statement: Statement, name: str) -> int | None:
    at = statement.text.lower().find(name.lower())
    return None if at < 0 else statement.offset + at + 1


def _conflict(conflict: ConflictClause | None) -> Iterator[exp.Expr | None]:
    if conflict is not None:
        yield from (value for _, value in conflict.assignments)
        yield conflict.where


def _some(*trees: exp.Expr | None) -> Iterator[exp.Expr]:
    return (tree for tree in trees if tree is not None)


def _aliases(statement: Statement) -> Iterable[str]:
    if isinstance(statement, Explain):
        return _aliases(statement.statement)
    if isinstance(statement, Insert | Update | Delete) and statement.alias:
        return [statement.alias]
    return []


def position_of(node: exp.Expr) -> int | None:
    """1-based position of a node in the request, where sqlglot kept it."""
    for part in node.walk():  # which ends at the first that has one
        start = part.meta_get("start")
        if isinstance(start, int):
            return start + 1
    return None


class placed:  # used like a function; a class costs a third of a generator
    """Give errors of a block that know no place this one: 1-based, in the request."""

    __slots__ = ("_position",)

    def __init__(self, position: int | None) -> None:
        self._position = position

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, NearQLError) and error.position is None:
            error.position = self._position


class _Guard:
    def __init__(self, tables: Mapping[str, str], limits: GuardLimits) -> None:
        self.tables = tables  # lower-case name -> as it was declared
        self.limits = limits
        self.joins = 0

    def check(self, tree: exp.Expr) -> None:
        """Every node of the tree."""
        for node in nodes_of(tree):
            patience.check()
            if isinstance(node, exp.Join):
                self._count_join(node)
            if type(node) not in nodes.ALLOWED:
                raise _unknown_node(node)
            if isinstance(node, exp.Table):
                self._table(node)
            elif isinstance(node, exp.Anonymous):
                self._call(node)
            elif isinstance(node, exp.Identifier):
                self.check_name(str(node.this), node)
            elif isinstance(node, exp.Lateral):
                _lateral(node)

    def _count_join(self, node: exp.Expr) -> None:
        self.joins += 1
        if self.joins > self.limits.joins:
            raise SqlError(
                f"The statement joins more than {self.limits.joins} times (limits.sql_joins).",
                position=position_of(node), code="statement_too_complex", sqlstate="54001",
            )  # fmt: skip

    def check_name(self, name: str, node: exp.Expr | None) -> None:
        """No internal name."""
        if RESERVED.match(name):
            raise Unsupported(
                f"The name {name!r} is internal; names may not start with nq_, nor be "
                f"__row or __key.",
                position=position_of(node) if node is not None else None,
                code="reserved_name", sqlstate="42939",
            )  # fmt: skip

    # ---- tables --------------------------------------------------------------------

    def _table(self, node: exp.Table) -> None:
        if isinstance(node.this, exp.Anonymous):
            self._table_function(node)
            return
        if not isinstance(node.this, exp.Identifier):
            raise Unsupported(
                f"A table is named, not computed: {node.sql()!r} can't stand in FROM.",
                position=position_of(node),
            )
        schema = node.db.lower()
        if schema == "nearql" and not node.catalog:
            self._system_table(node)
        elif schema not in ("", "main", "public") or node.catalog:
            raise _no_schema(node)
        elif schema or not is_cte(node):
            self._known_table(node)

    def _known_table(self, node: exp.Table) -> None:
        if node.name.lower() not in self.tables:
            raise undefined_table(node.name, self.tables.values(), position_of(node))

    def _system_table(self, node: exp.Table) -> None:
        if node.name.lower() not in SYSTEM_TABLES:
            names = [f"nearql.{name}" for name in SYSTEM_TABLES]
            raise undefined_table(f"nearql.{node.name}", names, position_of(node))

    def _table_function(self, node: exp.Table) -> None:
        name = node.this.name.lower()
        if node.db or name not in functions.TABLE:
            offered = ", ".join(sorted(functions.TABLE))
            raise Unsupported(
                f"The table function {name!r} is not offered; offered: {offered}.",
                position=position_of(node), code="undefined_function", sqlstate="42883",
            )  # fmt: skip

    # ---- functions -----------------------------------------------------------------

    def _call(self, node: exp.Anonymous) -> None:
        name = node.name.lower()
        in_from = isinstance(node.parent, exp.Table | exp.Lateral) and node.arg_key == "this"
        if name not in (functions.TABLE if in_from else functions.ALLOWED):
            raise _undefined_function(node, name)
        self._check_growth(node, name)

    def _check_growth(self, node: exp.Anonymous, name: str) -> None:
        if name in functions.SERIES:
            self._check_series(node)
        elif name in functions.GROWING:
            at, what = functions.GROWING[name]
            at -= isinstance(
                node.parent, exp.Dot
            )  # 'x'.repeat(3): the first argument is before the dot
            count = constant(node.expressions[at]) if 0 <= at < len(node.expressions) else None
            if name == "repeat" and count and isinstance(node.expressions[0], exp.Literal):
                count *= max(1, len(node.expressions[0].name))
            if count is not None and count > self.limits.grown:
                raise _too_large(node, f"{name}() may make at most {self.limits.grown} {what}")

    def _check_series(self, node: exp.Anonymous) -> None:
        values = [constant(argument) for argument in node.expressions]
        if not 1 <= len(values) <= 3 or any(value is None for value in values):
            return
        numbers = [value for value in values if value is not None]
        first, last = (0.0, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])
        step = numbers[2] if len(numbers) == 3 else 1.0
        in_from = isinstance(node.parent, exp.Table | exp.Lateral)
        most = self.limits.series_rows if in_from else self.limits.grown
        if step and (last - first) / step > most:
            instead = "" if in_from else "; for more rows write it in FROM"
            raise _too_large(node, f"{node.name}() may make at most {most} elements{instead}")


def is_cte(node: exp.Table) -> bool:
    """Whether an unqualified table's name means a CTE that is visible where it stands."""
    name = node.name.lower()
    inside: exp.Expr = node
    parent = node.parent
    while parent is not None:
        if name in _ctes_seen(parent, inside):
            return True
        inside, parent = parent, parent.parent
    return False


def _ctes_seen(parent: exp.Expr, inside: exp.Expr) -> list[str]:
    """The names that a node's own WITH gives to `inside`, one of its parts."""
    if isinstance(parent, exp.With):
        return _before(parent, inside)
    ctes = parent.args.get("with_")
    if not isinstance(ctes, exp.With) or ctes is inside:
        return []
    return [cte.alias.lower() for cte in ctes.expressions]


def _before(ctes: exp.With, inside: exp.Expr) -> list[str]:
    names: list[str] = []
    for cte in ctes.expressions:
        if cte is inside:
            return [*names, cte.alias.lower()] if ctes.recursive else names
        names.append(cte.alias.lower())
    return names


def undefined_table(name: str, known: Iterable[str], position: int | None = None) -> NotFound:
    """The error for a table that isn't there."""
    instead = functions.INSTEAD_OF_TABLES.get(name.lower())
    near = None if instead else nearest(name, known)
    hint = f" {instead}" if instead else f" Did you mean {near!r}?" if near else ""
    extra: dict[str, Any] = {"nearest": near} if near else {}
    return NotFound(
        f"There is no table {name!r}.{hint}",
        code="undefined_table", sqlstate="42P01", position=position, name=name, **extra,
    )  # fmt: skip


def is_view(name: str, catalog: CatalogView, position: int | None = None) -> SqlError | None:
    """The error for a view where only a table will do; None where the name is no view's."""
    view = catalog.views.get(name.lower())
    if view is None:
        return None
    return SqlError(
        f"{view.name!r} is a view, which only queries can name; name the tables that it reads.",
        code="wrong_object", sqlstate="42809", position=position,
    )  # fmt: skip


def _no_schema(node: exp.Table) -> NearQLError:
    qualified = ".".join(
        part.name for part in (node.args.get("catalog"), node.args.get("db"), node.this) if part
    )
    return Unsupported(
        f"There is no schema for {qualified!r}: tables have no schema, and system "
        f"tables are nearql.<name>.",
        position=position_of(node),
        sqlstate="3F000",
    )  # fmt: skip


def _undefined_function(node: exp.Anonymous, name: str) -> SqlError:
    instead = functions.INSTEAD.get(name)
    hint = f" {instead}" if instead else did_you_mean(name, functions.ALLOWED)
    return SqlError(
        f"There is no function {name!r}.{hint}",
        code="undefined_function", sqlstate="42883", position=position_of(node), name=name,
    )  # fmt: skip


def _unknown_node(node: exp.Expr) -> NearQLError:
    refused = nodes.REFUSED.get(type(node))
    if refused:
        return Unsupported(refused, position=position_of(node))
    if isinstance(node, exp.Func):
        name = node.sql_name().lower()
        return SqlError(
            f"There is no function {name!r}.{did_you_mean(name, functions.ALLOWED)}",
            code="undefined_function", sqlstate="42883", position=position_of(node),
        )  # fmt: skip
    return Unsupported(
        f"{type(node).__name__} is not offered in a statement.", position=position_of(node)
    )


def _lateral(node: exp.Lateral) -> None:
    if not isinstance(node.this, exp.Subquery | exp.Anonymous):
        raise Unsupported(
            "LATERAL stands before a sub-query or a table function.", position=position_of(node)
        )


def _too_large(node: exp.Expr, detail: str) -> TooLarge:
    return TooLarge(f"{detail}.", position=position_of(node))


def constant(node: exp.Expr) -> float | None:
    """The value of arithmetic over number literals, or None."""
    if isinstance(node, exp.Paren | exp.Cast | exp.TryCast):
        return constant(node.this)
    if isinstance(node, exp.Neg):
        inner = constant(node.this)
        return None if inner is None else -inner
    if isinstance(node, exp.Literal):
        return _number(str(node.this))
    if isinstance(node, exp.Add | exp.Sub | exp.Mul | exp.Div | exp.Pow):
        return _calculated(node)
    return None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _calculated(node: exp.Binary) -> float | None:
    left, right = constant(node.this), constant(node.expression)
    if left is None or right is None:
        return None
    try:
        if isinstance(node, exp.Pow):
            return float(left**right)
        if isinstance(node, exp.Div):
            return left / right
    except (OverflowError, ZeroDivisionError):
        return float("inf")
    return (
        left * right
        if isinstance(node, exp.Mul)
        else left + (right if isinstance(node, exp.Add) else -right)
    )
