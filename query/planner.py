"""A bound tree -> a plan: every rule on every SELECT, innermost first, then each source becomes a
relation.

Lowering: the trees that rules took out of the statement (filters, query vectors, left sides of
    joins) and what is left of it become `Query` values. In each of them a table's node is replaced
    by a sub-query over the relation with the columns that are named, cast where Arrow has no type
    for them; stars leave helper columns out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

from sqlglot import exp

from nearql.engine.schema import Column, TableDef
from nearql.query import duck, patience
from nearql.query.binder import (
    Binding,
    PendingDistance,
    PendingKnnJoin,
    PendingMade,
    PendingNearest,
    PendingScan,
    PendingValue,
    PendingWithin,
    Source,
    enclosing,
    from_items,
    unwrapped,
)
from nearql.query.constants import (
    bit_literal,
    check_literal,
    number_literal,
    quantized,
    vector_literal,
)
from nearql.query.dialect import bit_distance_of, distance_of, to_duckdb, to_nearql
from nearql.query.dialect.bounds import is_bounded
from nearql.query.dialect.render import bit_length
from nearql.query.direct import direct_outputs
from nearql.query.guard import placed, position_of
from nearql.query.parameters import names_in, parameter_name
from nearql.query.plan import (
    INTERNAL,
    Access,
    Distance,
    KnnJoin,
    Made,
    Materialized,
    Nearest,
    Plan,
    Query,
    Relation,
    Scan,
    Step,
    SystemRelation,
    TextScore,
    Value,
    Within,
    sql_name,
)
from nearql.query.ports import CatalogView
from nearql.query.rows import sql_value
from nearql.query.rules import MERGES, RULES
from nearql.query.rules.common import NAME, is_volatile, item_name
from nearql.query.set_functions import expand_set_functions
from nearql.query.shown import vector_outputs
from nearql.query.trees import all_of, below, copy_of, nodes_of
from nearql.query.vector_types import duck_type, vector_type
from nearql.query.views import expand
from nearql.query.whole_rows import spell_rows
from nearql.query.wording import Words, mark_texts, text_of

_VECTOR_CALLS = frozenset(
    {"nq_l2", "nq_ip", "nq_cos", "nq_l1", "nq_add", "nq_subtract", "nq_multiply", "nq_sum",
     "nq_avg", "l2_distance", "inner_product", "cosine_distance", "l1_distance", "l2_normalize",
     "vector_norm", "vector_dims", "subvector", "l2_norm", "binary_quantize", "nq_concat"}
)  # fmt: skip


def plan_query(tree: exp.Query, catalog: CatalogView) -> Plan:
    """Plan a query; the tree is left as it is.

    Raises:
        NotFound: no such table.
        NearQLError: whatever else is wrong with the text and can be told without running it.
    """
    own = copy_of(tree)
    text = Words(tree)
    mark_texts(own, tree)
    own = expand(own, catalog)
    expand_set_functions(own, catalog)
    binding = Binding(catalog, duck.shared().aggregates, apply_rules)
    binding.bind(own)
    plan = _planned(own, binding)
    return replace(plan, query=replace(plan.query, text=text))


def plan_rows(tree: exp.Select, catalog: CatalogView, *, pair: TableDef | None = None) -> Plan:
    """Plan a query over a table that is being written: its row numbers come first in the answer.

    pair: rows to stand beside the table's under this name, the two matched by row number.
    """
    own = copy_of(tree)
    if pair is not None:
        catalog = replace(catalog, tables={**catalog.tables, pair.name.lower(): pair})
        own.append(
            "joins", exp.Join(this=exp.Table(this=exp.to_identifier(pair.name, quoted=True)))
        )
    mark_texts(own, tree)
    expand(own, catalog)
    expand_set_functions(own, catalog)
    binding = Binding(catalog, duck.shared().aggregates, apply_rules)
    binding.bind(own)
    sources = [binding.source_of(item) for item in from_items(own)]
    target, beside = sources[0], sources[-1]
    assert target is not None
    own.set("expressions", [target.row_reference(), *own.expressions])
    if pair is not None and beside is not None:
        condition = exp.EQ(this=target.row_reference(), expression=beside.row_reference())
        own.args["joins"][-1].set("on", condition)
    return _planned(own, binding)


def _planned(own: exp.Query, binding: Binding) -> Plan:
    shown = _shown(own)
    for item in shown.expressions if shown else []:
        if not _has_name(item):
            item.meta[NAME] = to_nearql(item)
    for select in inside_out(own):
        for merge in MERGES:
            merge(select, binding)
    for select in inside_out(own):
        apply_rules(select, binding)
    for item in list(shown.expressions) if shown else []:  # columns of stars have their names
        if (text := item.meta_get(NAME)) is not None:
            _keep_name(item, text)
    vectors = vector_outputs(shown, binding)
    return replace(Lowering(binding).plan(own), vectors=vectors)


def _shown(tree: exp.Expr) -> exp.Select | None:
    """The SELECT whose list names the answer's columns."""
    while isinstance(tree, exp.SetOperation | exp.Subquery):
        tree = tree.this
    return tree if isinstance(tree, exp.Select) else None


def _has_name(item: exp.Expr) -> bool:
    return bool(item.is_star or isinstance(item, exp.Alias | exp.Column))


def _keep_name(item: exp.Expr, text: str) -> None:
    """A column without an alias is named as it was written, whatever becomes of it."""
    rewritten = "$" in text or item.find(exp.Query) or to_nearql(item) != text
    if rewritten or any(_is_ours(node) for node in nodes_of(item)):
        item.replace(exp.alias_(copy_of(item), item_name(text), quoted=True, copy=False))


def _is_ours(node: exp.Expr) -> bool:
    """Whether DuckDB gets other words for it, which it would name a column after."""
    if isinstance(node, exp.Cast | exp.TryCast):
        return vector_type(node.to) is not None or bit_length(node.to) is not None
    known = distance_of(node) is not None or bit_distance_of(node) is not None
    return known or is_bounded(node)


def apply_rules(select: exp.Select, binding: Binding) -> None:
    """Every rule but merges, in order."""
    for rule in RULES:
        patience.check()
        rule(select, binding)


def inside_out(tree: exp.Expr) -> list[exp.Select]:
    """The SELECTs of a tree: definitions before uses, FROM before the rest, inner before outer."""
    found: list[exp.Select] = []
    _gather(tree, found)
    return found


def _gather(node: exp.Expr, found: list[exp.Select]) -> None:
    parts = below(node)
    if isinstance(node, exp.Query):
        parts.sort(key=_turn)
    for part in parts:
        if part.args:
            _gather(part, found)
    if isinstance(node, exp.Select):
        found.append(node)


_TURNS = {"with_": 0, "from_": 1, "joins": 2}


def _turn(node: exp.Expr) -> int:
    return _TURNS.get(node.arg_key or "", 3)


class Lowering:
    """Turns what the rules left into a plan. Each source and each query is lowered once."""

    def __init__(self, binding: Binding) -> None:
        self.binding = binding
        self._needs: dict[str, set[str]] = {}
        self._steps: dict[str, Step] = {}

    def plan(self, tree: exp.Query) -> Plan:
        """The plan of the whole statement."""
        self._collect(tree)
        for source in list(self.binding.sources.values()):
            for part in _parts(source):
                self._collect(part)
        direct = direct_outputs(tree, self.binding)
        query = self._query(tree)
        notes = tuple(self.binding.notes)
        return Plan(query, direct, notes=notes, columns=self._column_names())

    def _column_names(self) -> tuple[str, ...]:
        sources = self.binding.sources.values()
        names = (column.name for source in sources for column in source.table.schema.visible)
        return tuple(dict.fromkeys(names))

    # ---- which columns each source must give ------------------------------------------

    def _collect(self, tree: exp.Expr) -> None:
        for node in all_of(tree, exp.Column, exp.Star, exp.Columns, exp.Join, exp.Table):
            if isinstance(node, exp.Column):
                self._need_column(node)
            elif isinstance(node, exp.Join):
                self._need_join(node)
            elif isinstance(node, exp.Table):
                source = self.binding.source_of(node)
                if source is not None and source.opaque:
                    self._all_of(source)
            elif not _is_counted(node):
                self._need_all(node, "")

    def _need_join(self, node: exp.Join) -> None:
        for identifier in node.args.get("using") or []:
            self._need_everywhere(identifier.name)
        if node.args.get("method") == "NATURAL":
            self._need_all(node, "")

    def _need_column(self, node: exp.Column) -> None:
        if isinstance(node.this, exp.Star):
            self._need_all(node, node.table.lower())
            return
        if node.name.startswith(INTERNAL):
            return
        found = self.binding.column(node)
        if found is not None:
            self._needs.setdefault(found[0].name, set()).add(found[1].name)
        elif (owner := self.binding.owner(node)) is None or owner[1].source is not None:
            self._need_everywhere(node.name)
            self._need_whole_row(node)

    def _need_everywhere(self, name: str) -> None:
        for source in self.binding.sources.values():
            column = source.table.schema.by_name.get(name.lower())
            if column is not None and not column.hidden:
                self._needs.setdefault(source.name, set()).add(column.name)

    def _need_whole_row(self, node: exp.Column) -> None:
        """`SELECT docs FROM docs`: the whole row as a struct."""
        for source in self.binding.sources.values():
            if (
                source.alias.lower() in (node.name.lower(), node.table.lower())
                and node.name.lower() not in source.table.schema.by_name
            ):
                self._all_of(source)

    def _need_all(self, node: exp.Expr, alias: str) -> None:
        """`*` or `alias.*`."""
        select = next(enclosing(node), None)
        for item in from_items(select) if select is not None else []:
            source = self.binding.source_of(item)
            if source is not None and (not alias or source.alias.lower() == alias):
                self._all_of(source)

    def _all_of(self, source: Source) -> None:
        names = {column.name for column in source.table.schema.visible}
        self._needs.setdefault(source.name, set()).update(names)

    # ---- queries ----------------------------------------------------------------------

    def _query(self, tree: exp.Expr) -> Query:
        steps: list[Step] = []
        text = text_of(tree)
        tables = [(node, self.binding.source_of(node)) for node in all_of(tree, exp.Table)]
        self._hide_helpers(tree)
        spell_rows(tree, self.binding)
        for node, source in tables:
            if source is not None:
                step = self._step(source)
                if not any(step is known for known in steps):
                    steps.append(step)
                node.replace(self._read(node, source))
        vectors = self._bind_vectors(tree)
        parameters = tuple(name for name in names_in([tree]) if name not in vectors)
        for placeholder in all_of(tree, exp.Placeholder):
            placeholder.set("this", sql_name(str(placeholder.this)))
        volatile = is_volatile(tree)
        return Query(
            steps=tuple(steps),
            sql=to_duckdb(tree, spent=True),
            parameters=parameters,
            vectors=vectors,
            volatile=volatile,
            text=text,
        )

    def _hide_helpers(self, tree: exp.Expr) -> None:
        """`SELECT *` shows no helper column."""
        for select in all_of(tree, exp.Select):
            for item in select.expressions:
                star = item.this if isinstance(item, exp.Column) else item
                if isinstance(star, exp.Star):
                    wanted = item.table.lower() if isinstance(item, exp.Column) else ""
                    hidden = [name for s in self._sources_in(select, wanted) for name in s.hidden()]
                    for name in hidden:
                        star.append("except_", exp.column(exp.to_identifier(name)))

    def _sources_in(self, select: exp.Select, alias: str) -> list[Source]:
        sources = [self.binding.source_of(item) for item in from_items(select)]
        return [one for one in sources if one is not None and alias in ("", one.alias.lower())]

    def _read(self, node: exp.Table, source: Source) -> exp.Expr:
        """What stands in the FROM clause instead of a table."""
        relation = exp.Table(this=exp.to_identifier(source.name))
        alias = node.args.get("alias")
        if alias is None or not alias.this:
            alias = exp.TableAlias(this=exp.to_identifier(source.alias, quoted=True))
        if source.system or source.materialized is not None:
            item: exp.Expr = exp.Table(this=relation.this, alias=alias)
        else:
            item = exp.Subquery(this=self._projection(source, relation), alias=alias)
        for key in ("joins", "laterals", "pivots", "sample"):
            if node.args.get(key):
                item.set(key, node.args[key])
        return item

    def _projection(self, source: Source, relation: exp.Table) -> exp.Select:
        items = [_as_sql_type(column) for column in self._columns(source)]
        items += [exp.column(exp.to_identifier(name)) for name in source.hidden()]
        select = exp.select(*(items or [exp.Literal.number(1)]))
        select.set("from_", exp.From(this=relation))
        return select

    def _columns(self, source: Source) -> list[Column]:
        wanted = self._needs.get(source.name, set())
        return [column for column in source.table.schema.visible if column.name in wanted]

    def _bind_vectors(self, tree: exp.Expr) -> dict[str, Value]:
        """Parameters and casts where a vector is meant: bound as vectors, whatever was given for
        them.
        """
        vectors: dict[str, Value] = {}
        for cast in all_of(tree, exp.Cast):
            kind = vector_type(cast.to)
            if kind is not None:
                check_literal(unwrapped(cast.this), kind[1])
                if isinstance(unwrapped(cast.this), exp.Placeholder):
                    self._bind_vector(unwrapped(cast.this), kind[1], vectors)
        for node in all_of(tree, exp.Placeholder):
            if parameter_name(node) not in vectors and _is_vector_argument(node):
                self._bind_vector(node, _dimensions_beside(node, self.binding), vectors)
        return vectors

    def _bind_vector(
        self, node: exp.Expr, dimensions: int | None, vectors: dict[str, Value]
    ) -> None:
        parameter = parameter_name(node)
        for name, value in vectors.items():  # one name, so that equal expressions stay equal
            if (value.parameter, value.dimensions) == (parameter, dimensions):
                node.replace(exp.Placeholder(this=name))
                return
        name = f"{self.binding.fresh()}v"
        vectors[name] = Value(f":{parameter}", parameter=parameter, dimensions=dimensions)
        node.replace(exp.Placeholder(this=name))

    # ---- sources ----------------------------------------------------------------------

    def _step(self, source: Source) -> Step:
        if source.name not in self._steps:
            self._steps[source.name] = self._lowered(source)
        return self._steps[source.name]

    def _lowered(self, source: Source) -> Step:
        if source.system:
            return SystemRelation(source.name, source.table.name)
        if source.materialized is not None:
            return Materialized(source.name, self._query(source.materialized))
        distances = {one.name: self._distance(one) for one in source.distances}
        return Relation(
            name=source.name,
            table=source.table,
            columns=tuple(column.name for column in self._columns(source)),
            access=self._access(source, distances),
            distances=tuple(distances.values()),
            texts=tuple(TextScore(t.name, t.column, self._words(t.words)) for t in source.texts),
            row=source.row if source.wants_row else None,
            key=source.key if source.wants_key else None,
        )

    def _distance(self, pending: PendingDistance) -> Distance:
        query = self._value(pending.query, is_vector=True)
        return Distance(
            pending.name, pending.column, pending.metric, query, pending.derived, pending.shown
        )

    def _access(self, source: Source, distances: dict[str, Distance]) -> Access:
        access = source.access
        if isinstance(access, PendingNearest):
            return Nearest(
                distances[access.distance.name],
                self._value(access.limit), self._optional(access.offset),
                self._filter(access.filter), self._survivors(source, access.survivors),
                access.partial, access.index,
            )  # fmt: skip
        if isinstance(access, PendingWithin):
            return Within(distances[access.distance.name], self._value(access.radius))
        if isinstance(access, PendingKnnJoin):
            return KnnJoin(
                name=access.name, column=access.column, metric=access.metric,
                left=self._query(access.left), left_name=access.left_name,
                limit=self._value(access.limit), offset=self._optional(access.offset),
                filter=self._filter(access.filter),
                survivors=self._survivors(source, access.survivors),
            )  # fmt: skip
        if isinstance(access, PendingMade):
            return self._made(access)
        return Scan(self._filter(access.filter))

    def _made(self, access: PendingMade) -> Made:
        query = None if access.query is None else self._value(access.query, is_vector=True)
        return Made(
            access.function, access.column, access.metric, access.names, self._value(access.count),
            query, self._optional(access.balance), self._optional(access.fetch),
        )  # fmt: skip

    def _survivors(self, source: Source, tree: exp.Select | None) -> Query | None:
        """Its SQL names the relation that is being made, which therefore is no step of it."""
        if tree is None:
            return None
        self._steps[source.name] = SystemRelation(source.name, "")
        query = self._query(tree)
        del self._steps[source.name]
        steps = tuple(step for step in query.steps if step.name != source.name)
        return replace(query, steps=steps)

    def _filter(self, tree: exp.Select | None) -> Query | None:
        return None if tree is None else self._query(tree)

    def _optional(self, pending: PendingValue | None) -> Value | None:
        return None if pending is None else self._value(pending)

    def _value(self, pending: PendingValue, *, is_vector: bool = False) -> Value:
        """A parameter or a literal where the expression is one, else a query for one value."""
        if pending.bits is not None:
            return self._bits(pending, pending.bits)
        node = unwrapped(pending.select.expressions[0])
        dimensions = pending.dimensions
        if isinstance(node, exp.Cast) and (vector_type(node.to) or ("",))[0] == "VECTOR":
            node = unwrapped(node.this)
        place = position_of(node)
        if (name := parameter_name(node)) is not None:
            return Value(pending.where, parameter=name, dimensions=dimensions, position=place)
        with placed(place):
            literal = vector_literal(node, pending) if is_vector else number_literal(node)
        if literal is not None:
            return Value(pending.where, literal=literal, dimensions=dimensions, position=place)
        asked = self._asked(pending, duck_type(None) if is_vector else _duck("DOUBLE"))
        return replace(asked, position=place)

    def _bits(self, pending: PendingValue, bits: int) -> Value:
        """A bit string: quantized here where it is `binary_quantize` of a plain vector."""
        node = unwrapped(pending.select.expressions[0])
        if (vector := quantized(node, bits)) is not None:
            inner = PendingValue(exp.Select(expressions=[vector]), pending.where, bits)
            value = self._value(inner, is_vector=True)
            if value.query is None:
                return replace(value, bits=bits, signs=True)
        if (literal := bit_literal(node, bits)) is not None:
            return Value(pending.where, literal=literal, bits=bits)
        item = pending.select.expressions[0]
        as_bits = exp.Cast(this=exp.paren(copy_of(item), copy=False), to=_duck("BIT"))
        pending.select.set("expressions", [as_bits])
        asked = self._asked(pending, _duck("VARCHAR"))
        return replace(asked, bits=bits, parameter=parameter_name(node))

    def _words(self, pending: PendingValue) -> Value:
        """A parameter or a text literal where the expression is one, else a query for one value."""
        node = unwrapped(pending.select.expressions[0])
        if (name := parameter_name(node)) is not None:
            return Value(pending.where, parameter=name)
        if isinstance(node, exp.Literal) and node.is_string:
            return Value(pending.where, literal=node.name)
        return self._asked(pending, _duck("VARCHAR"))

    def _asked(self, pending: PendingValue, kind: exp.DataType) -> Value:
        item = pending.select.expressions[0]
        pending.select.set(
            "expressions", [exp.Cast(this=exp.paren(copy_of(item), copy=False), to=kind)]
        )
        return Value(
            pending.where, query=self._query(pending.select), dimensions=pending.dimensions
        )


def _duck(name: str) -> exp.DataType:
    return copy_of(_built(name))


@lru_cache(maxsize=16)
def _built(name: str) -> exp.DataType:
    return exp.DataType.build(name, dialect="duckdb")


def _is_counted(node: exp.Expr) -> bool:
    """Whether a star is that of `count(*)`, or of `alias.*`, which its column node stands for."""
    parent = node.parent
    counted = isinstance(parent, exp.Anonymous) and str(parent.this).lower() == "count"
    return counted or isinstance(parent, exp.Column)


def _parts(source: Source) -> Iterator[exp.Expr]:
    """The trees that a source holds."""
    if source.materialized is not None:
        yield source.materialized
    for distance in source.distances:
        yield distance.query.select
    for text in source.texts:
        yield text.words.select
    access = source.access
    if isinstance(access, PendingNearest | PendingKnnJoin):
        yield from (value.select for value in (access.limit, access.offset) if value is not None)
    if (
        isinstance(access, PendingNearest | PendingKnnJoin | PendingScan)
        and access.filter is not None
    ):
        yield access.filter
    if isinstance(access, PendingWithin):
        yield access.radius.select
    if isinstance(access, PendingKnnJoin):
        yield access.left
    if isinstance(access, PendingMade):
        yield from (value.select for value in access.values)
    if isinstance(access, PendingNearest | PendingKnnJoin) and access.survivors is not None:
        yield access.survivors


def _as_sql_type(column: Column) -> exp.Expr:
    """The column as SQL sees it."""
    made = sql_value(column)
    if made is None:
        return exp.column(exp.to_identifier(column.name, quoted=True))
    return exp.alias_(exp.Var(this=made), column.name, quoted=True)


def _is_vector_argument(node: exp.Placeholder) -> bool:
    child: exp.Expr = node
    while isinstance(child.parent, exp.Paren):
        child = child.parent
    parent = child.parent
    if parent is not None and distance_of(parent) is not None:
        return True
    if not isinstance(parent, exp.Anonymous) or str(parent.this).lower() not in _VECTOR_CALLS:
        return False
    return str(parent.this).lower() != "subvector" or parent.expressions[0] is child


def _dimensions_beside(node: exp.Expr, binding: Binding) -> int | None:
    """The dimensions of the column on the other side of a distance."""
    parent = node.parent
    sides = list(below(parent)) if parent is not None else []
    found = [binding.column(side) for side in sides if side is not node]
    return found[0][1].type.dimensions if len(found) == 1 and found[0] else None
