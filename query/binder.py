"""Names -> tables and columns: which base table each name in a tree means, and which column belongs
to whom.

A `Source` is one occurrence of a base table in a FROM clause. Rules ask sources for what they need
(a row number, a distance, a restriction to the nearest rows); when all rules have run, the planner
turns each source into a relation. The tree keeps its table nodes until then, tied to their source
by
`node.meta`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from sqlglot import exp

from nearql.engine.errors import NotFound
from nearql.engine.schema import Column, TableDef, TableSchema
from nearql.engine.types import Metric
from nearql.query import patience
from nearql.query.dialect import to_duckdb
from nearql.query.duck_errors import nearest_name
from nearql.query.plan import INTERNAL
from nearql.query.ports import CatalogView
from nearql.query.trees import all_of, below, copy_of, nodes_below

if TYPE_CHECKING:
    from nearql.engine.derived import Derivation
    from nearql.query.implied import PartialIndex

META = "nearql_source"  # in the meta of a table's node: its source's name
MADE = "nearql_made"  # in the meta of a table's node: the function that is asked about it
CLOSED = "nearql_closed"  # in the meta of a view's SELECT: it names nothing outside itself
TEXT = "nearql_text"  # in the meta of a SELECT or a condition: how it was written
_NO_SCHEMA = TableSchema((), 0)  # a system table is known when it is read


@dataclass(eq=False)
class PendingValue:
    """A `plan.Value` before it is lowered. select: has the expression as its only item. bits: how
    many, where it is a bit string.
    """

    select: exp.Select
    where: str
    dimensions: int | None = None
    bits: int | None = None


@dataclass(eq=False)
class PendingDistance:
    """A distance column of a source. `identity` tells equal distances. derived, shown: as in
    `plan.Distance`.
    """

    name: str
    column: str
    metric: Metric
    query: PendingValue
    identity: str
    derived: Derivation | None = None
    shown: str = ""


@dataclass(eq=False)
class PendingText:
    """A column of full-text scores of a source. `identity` tells equal ones."""

    name: str
    column: str
    words: PendingValue
    identity: str


@dataclass(eq=False)
class PendingScan:
    """See `plan.Scan`."""

    filter: exp.Select | None = None


@dataclass(eq=False)
class PendingNearest:
    """See `plan.Nearest`."""

    distance: PendingDistance
    limit: PendingValue
    offset: PendingValue | None
    filter: exp.Select | None
    survivors: exp.Select | None = None
    partial: tuple[PartialIndex, ...] = ()
    index: str | None = None


@dataclass(eq=False)
class PendingKnnJoin:
    """See `plan.KnnJoin`."""

    name: str
    column: str
    metric: Metric
    left: exp.Select
    left_name: str
    limit: PendingValue
    offset: PendingValue | None
    filter: exp.Select | None
    survivors: exp.Select | None


@dataclass(eq=False)
class PendingWithin:
    """See `plan.Within`."""

    distance: PendingDistance
    radius: PendingValue


@dataclass(eq=False)
class PendingMade:
    """See `plan.Made`."""

    function: str
    column: str
    metric: Metric
    names: tuple[str, str]
    count: PendingValue
    query: PendingValue | None = None
    balance: PendingValue | None = None
    fetch: PendingValue | None = None

    @property
    def values(self) -> list[PendingValue]:
        """All that are given."""
        every = (self.query, self.count, self.balance, self.fetch)
        return [value for value in every if value is not None]


PendingAccess = PendingScan | PendingNearest | PendingKnnJoin | PendingWithin | PendingMade


@dataclass(eq=False)
class Source:
    """One occurrence of a base table.

    opaque: its columns are renamed or not known, so it can give nothing beside them.
    materialized: the query whose kept result it is, instead of a base table.
    """

    name: str
    table: TableDef
    alias: str
    opaque: bool = False
    system: bool = False
    materialized: exp.Select | None = None
    names: frozenset[str] | None = None
    wants_row: bool = False
    wants_key: bool = False
    distances: list[PendingDistance] = field(default_factory=list)
    texts: list[PendingText] = field(default_factory=list)
    access: PendingAccess = field(default_factory=PendingScan)

    @property
    def row(self) -> str:
        """The name of the row number, where wanted."""
        return f"{self.name}_row"

    @property
    def key(self) -> str:
        """The name of the primary key, where wanted."""
        return f"{self.name}_key"

    @property
    def is_free(self) -> bool:
        """Whether no rule has restricted it yet."""
        return isinstance(self.access, PendingScan) and self.access.filter is None

    def hidden(self) -> list[str]:
        """The names that it has beyond the table's columns."""
        names = [one.name for one in self.distances] + [one.name for one in self.texts]
        if isinstance(self.access, PendingKnnJoin):
            names += [self.access.name, self.access.left_name]
        if isinstance(self.access, PendingMade):
            names += self.access.names
        return names + [self.row] * self.wants_row + [self.key] * self.wants_key

    def refer(self, name: str) -> exp.Column:
        """A reference to one of its columns, hidden ones included."""
        return exp.column(
            exp.to_identifier(name, quoted=True), table=exp.to_identifier(self.alias, quoted=True)
        )

    def row_reference(self) -> exp.Column:
        """A reference to its row number, which it will then have."""
        self.wants_row = True
        return self.refer(self.row)

    def key_reference(self) -> exp.Column:
        """A reference to its primary key, which it will then have."""
        self.wants_key = True
        return self.refer(self.key)


@dataclass(eq=False)
class Entry:
    """What a name in a FROM clause means; look at it before the tree changes.

    tell: its columns in lower case, None where unknown; asked once, and only where they matter.
    """

    source: Source | None
    item: exp.Expr
    tell: Callable[[], frozenset[str] | None]
    query: exp.Query | None = None

    @cached_property
    def names(self) -> frozenset[str] | None:
        """The columns in lower case; None where they can't be told."""
        return self.tell()


class Binding:
    """The names of one statement. Made once per plan, used by every rule.

    aggregates: names of aggregate functions, lower case.
    rewrite: applies every rule to a SELECT that a rule has made.
    """

    def __init__(
        self,
        catalog: CatalogView,
        aggregates: frozenset[str],
        rewrite: Callable[[exp.Select, Binding], None],
    ) -> None:
        self.catalog = catalog
        self.aggregates = aggregates
        self.sources: dict[str, Source] = {}
        self.notes: list[str] = []
        self._rewrite = rewrite
        self._count = 0

    def rewrite(self, select: exp.Select) -> None:
        """Tie the tables of a SELECT that a rule has made, and apply every rule to it."""
        self.bind(select)
        self._rewrite(select, self)

    def add(self, source: Source) -> None:
        """Know a source by its name."""
        self.sources[source.name] = source

    def fresh(self) -> str:
        """A name that nothing else has."""
        self._count += 1
        return f"{INTERNAL}{self._count}"

    def note(self, text: str) -> None:
        """Say in EXPLAIN what was decided and why; once."""
        if text not in self.notes:
            self.notes.append(text)

    def bind(self, tree: exp.Expr) -> None:
        """Tie every base table below `tree` to a source.

        Raises:
            NotFound: no such table, with the nearest name and the position.
        """
        for node in all_of(tree, exp.Table):
            if META not in node.meta and isinstance(node.this, exp.Identifier) and not common(node):
                source = self._source(node)
                self.add(source)
                node.meta[META] = source.name
                if (made := node.meta.get(MADE)) is not None:
                    source.access = self._made(made)

    def _made(self, made: PendingMade) -> PendingMade:
        """A copy of its own for a source, its values tied to their tables."""
        own = {
            name: replace(value, select=copy_of(value.select))
            for name in ("count", "query", "balance", "fetch")
            if (value := getattr(made, name)) is not None
        }
        for value in own.values():
            self.rewrite(value.select)
        return replace(made, **own)

    def source_of(self, node: exp.Expr) -> Source | None:
        """The source that a table node is tied to."""
        return self.sources.get(node.meta.get(META, "")) if isinstance(node, exp.Table) else None

    def _source(self, node: exp.Table) -> Source:
        alias = node.args.get("alias")
        opaque = bool(alias and alias.args.get("columns")) or any(
            node.args.get(key) for key in ("pivots", "sample", "ordinality")
        )
        schema = (node.text("db") or "").lower()
        if schema == "nearql":
            table = TableDef("", node.name.lower(), _NO_SCHEMA)
            return Source(self.fresh(), table, node.alias_or_name, opaque=True, system=True)
        found = self.catalog.tables.get(node.name.lower())
        if found is None or schema not in ("", "main", "public"):
            raise self.undefined_table(node)
        names = frozenset(column.name.lower() for column in found.schema.visible)
        return Source(self.fresh(), found, node.alias_or_name, opaque, names=names)

    def undefined_table(self, node: exp.Table) -> NotFound:
        """The error for a table that isn't there."""
        written = ".".join(part.name for part in node.parts)
        near = nearest_name(written, [table.name for table in self.catalog.tables.values()])
        hint = f" Did you mean {near!r}?" if near else " SHOW TABLES lists them."
        start = node.this.meta.get("start")
        return NotFound(
            f"There is no table {written!r}.{hint}",
            code="undefined_table",
            position=None if start is None else int(start) + 1,
            **({"nearest": near} if near else {}),
        )

    # ---- scopes ----------------------------------------------------------------------

    def entries(self, select: exp.Select) -> dict[str, Entry]:
        """What the names in this SELECT's own FROM clause mean, by lower-case name."""
        patience.check()
        return {
            name.lower(): self._entry(item)
            for item in from_items(select)
            if (name := item.alias_or_name)
        }

    def _entry(self, item: exp.Expr) -> Entry:
        source = self.source_of(item)
        if source is not None:
            return Entry(source, item, lambda: _alias_columns(item) or source.names)
        query = item if not isinstance(item, exp.Table) else _definition(common(item))
        while isinstance(query, exp.Subquery | exp.Lateral):
            query = query.this
        if not isinstance(query, exp.Query):
            return Entry(None, item, lambda: _alias_columns(item))
        return Entry(None, item, lambda: _alias_columns(item) or self.output_names(query), query)

    def output_names(self, query: exp.Expr) -> frozenset[str] | None:
        """The column names that a query returns, in lower case; None where they can't be told."""
        if isinstance(query, exp.SetOperation | exp.Subquery):
            return self.output_names(query.this)
        if not isinstance(query, exp.Select):
            return None
        names: set[str] = set()
        for item in query.expressions:
            found = self._item_names(item, query)
            if found is None:
                return None
            names |= found
        return frozenset(names)

    def _item_names(self, item: exp.Expr, select: exp.Select) -> set[str] | None:
        if not item.is_star:
            return {item.alias_or_name.lower()} if item.alias_or_name else set()
        if isinstance(item, exp.Column) and item.table:
            entry = self.entries(select).get(item.table.lower())
            return set(entry.names) if entry and entry.names is not None else None
        names: set[str] = set()
        for entry in self.entries(select).values():
            if entry.names is None:
                return None
            names |= entry.names
        return names

    def owner(self, column: exp.Column) -> tuple[exp.Select, Entry] | None:
        """The SELECT in whose FROM clause the column is, and what it belongs to there; None where
        unsure.
        """
        name, qualifier = column.name.lower(), column.table.lower()
        for select in enclosing(column):
            entries = self.entries(select)
            if qualifier:
                if qualifier in entries:
                    return select, entries[qualifier]
                continue
            if any(entry.names is None for entry in entries.values()):
                return None
            holders = [entry for entry in entries.values() if entry.names and name in entry.names]
            if holders:
                return (select, holders[0]) if len(holders) == 1 else None
        return None

    def column(self, node: exp.Expr) -> tuple[Source, Column] | None:
        """The base table's column that this node names; None for anything else."""
        node = unwrapped(node)
        if not isinstance(node, exp.Column) or isinstance(node.this, exp.Star):
            return None
        found = self.owner(node)
        if found is None or found[1].source is None or found[1].source.opaque:
            return None
        column = found[1].source.table.schema.by_name.get(node.name.lower())
        return (found[1].source, column) if column is not None and not column.hidden else None

    def free(self, expression: exp.Expr) -> list[exp.Column]:
        """Columns in `expression` that are not certainly bound by a SELECT inside it."""
        return [node for node in _open_columns(expression) if not self._bound(node, expression)]

    def _bound(self, column: exp.Column, within: exp.Expr) -> bool:
        if isinstance(column.this, exp.Star):
            return any(True for _ in enclosing(column, within))
        name, qualifier = column.name.lower(), column.table.lower()
        for select in enclosing(column, within):
            entries = self.entries(select)
            if qualifier in entries:
                return True
            if not qualifier and any(
                entry.names and name in entry.names for entry in entries.values()
            ):
                return True
            if (
                not qualifier
                and name in _aliases(select)
                and _in_clause_with_aliases(column, select)
            ):
                return True
        return not qualifier and _in_set_operation_order(column, within)

    def is_constant(self, expression: exp.Expr) -> bool:
        """Whether it has one value for the whole statement: no column from outside itself, nothing
        volatile.
        """
        return not self.free(expression)

    def identity(self, metric: Metric, source: Source, column: str, constant: exp.Expr) -> str:
        """Equal for equal distances."""
        constant = unwrapped(constant)
        plain = isinstance(constant, exp.Placeholder | exp.Literal)
        text = repr(constant.args) if plain else to_duckdb(constant)
        return f"{metric} {source.name} {column.lower()} {text}"


def common(node: exp.Table) -> exp.CTE | None:
    """The common table expression that a table node names, or None."""
    if node.text("db"):
        return None
    name = node.name.lower()
    for cte in visible_ctes(node):
        if cte.alias.lower() == name:
            return cte
    return None


def qualify(tree: exp.Query) -> None:
    """Say of each table that it is in the catalog, where no name of a WITH is meant."""
    for node in all_of(tree, exp.Table):
        if isinstance(node.this, exp.Identifier) and not node.text("db") and common(node) is None:
            node.set("db", exp.to_identifier("main"))


def visible_ctes(node: exp.Expr) -> Iterator[exp.CTE]:
    """The common table expressions in reach of a node, nearest first."""
    child: exp.Expr = node
    inside: exp.CTE | None = None
    parent = node.parent
    while parent is not None:
        if isinstance(child, exp.CTE):
            inside = child
        if isinstance(parent, exp.With):
            yield from _earlier(parent, inside)
        elif (clause := parent.args.get("with_")) is not None and child is not clause:
            yield from reversed(clause.expressions)
        child, parent = parent, parent.parent


def _earlier(clause: exp.With, inside: exp.CTE | None) -> Iterator[exp.CTE]:
    """What a definition in a WITH clause can see of it: earlier ones; with RECURSIVE itself too."""
    position = next(i for i, one in enumerate(clause.expressions) if one is inside)
    last = position + 1 if clause.args.get("recursive") else position
    yield from reversed(clause.expressions[:last])


def from_items(select: exp.Select) -> list[exp.Expr]:
    """Tables, sub-queries and laterals in this SELECT's own FROM clause, in order."""
    clause = select.args.get("from_")
    found: list[exp.Expr] = []
    for item in [clause.this] if clause else []:
        _gather(item, found)
    for join in select.args.get("joins") or []:
        _gather(join.this, found)
    for lateral in select.args.get("laterals") or []:
        _gather(lateral, found)
    return found


def _gather(item: exp.Expr, found: list[exp.Expr]) -> None:
    if isinstance(item, exp.Paren) or (
        isinstance(item, exp.Subquery) and not isinstance(item.this, exp.Query)
    ):
        _gather(item.this, found)
    else:
        found.append(item)
    for join in item.args.get("joins") or []:
        _gather(join.this, found)


def enclosing(node: exp.Expr, within: exp.Expr | None = None) -> Iterator[exp.Select]:
    """The SELECTs around a node, innermost first, up to and with `within`."""
    current: exp.Expr | None = node
    while current is not None:
        if isinstance(current, exp.Select) and current is not node:
            yield current
        if current is within:
            return
        current = current.parent


def unwrapped(node: exp.Expr) -> exp.Expr:
    """Without its brackets and alias."""
    while isinstance(node, exp.Paren | exp.Alias):
        node = node.this
    return node


def own_nodes(select: exp.Select) -> list[exp.Expr]:
    """Nodes of this SELECT's clauses, those of SELECTs inside it left out."""
    return nodes_below(select, exp.Query)


def _open_columns(expression: exp.Expr) -> list[exp.Column]:
    """The columns in an expression that may be of something outside it."""
    found = [expression]
    for node in found:  # which grows
        if node._meta is None or CLOSED not in node._meta:
            found += below(node)
    return [node for node in found if isinstance(node, exp.Column)]


def _definition(cte: exp.CTE | None) -> exp.Expr | None:
    return None if cte is None or cte.args["alias"].args.get("columns") else cte.this


def _alias_columns(item: exp.Expr) -> frozenset[str] | None:
    alias = item.args.get("alias")
    columns = alias.args.get("columns") if isinstance(alias, exp.TableAlias) else None
    if not columns and isinstance(item, exp.Table) and (cte := common(item)) is not None:
        columns = cte.args["alias"].args.get("columns")
    return frozenset(column.name.lower() for column in columns) if columns else None


def _aliases(select: exp.Select) -> frozenset[str]:
    return frozenset(
        item.alias.lower() for item in select.expressions if isinstance(item, exp.Alias)
    )


def _in_clause_with_aliases(column: exp.Column, select: exp.Select) -> bool:
    """Whether the column stands where an alias of this SELECT's list may: anywhere but its FROM
    clause.
    """
    node: exp.Expr | None = column
    while node is not None and node.parent is not select:
        node = node.parent
    return node is not None and not isinstance(node, exp.From | exp.Join | exp.With)


def _in_set_operation_order(column: exp.Column, within: exp.Expr) -> bool:
    order = column.find_ancestor(exp.Order)
    node: exp.Expr | None = column
    while node is not None and node is not within:
        node = node.parent
        if isinstance(node, exp.SetOperation):
            return order is not None and order.parent is node
    return False
