"""Functions over a whole table, in FROM: each is replaced by the query that it stands for.

    knn_graph(table, column, k [, metric])

is the k nearest rows to every row of a table, itself left out: a nearest-neighbour join of the
table with itself, as one batch. Columns: `id` and `neighbour`, keys of the table; `distance`; and
`rank`, 1 for the nearest. The metric is l2, cosine, inner_product or l1.

    kmeans(table, column, k [, metric])

cuts the table's rows into k clusters by l2 or cosine. Columns: `id`; `cluster`, 1 for the largest;
and `distance`, to the cluster's centre.

    mmr(table, column, query, k [, balance [, fetch [, metric]]])

is k rows near to a query and unlike each other, by maximal marginal relevance. Columns: `id`,
`distance` to the query and `rank`, in the order in which they are chosen.

The last two become a table whose node names what the engine makes of it (`binder.PendingMade`).
"""

from __future__ import annotations

from functools import lru_cache

from sqlglot import exp

from nearql.engine.errors import NotFound, SqlError
from nearql.engine.kmeans import METRICS as KMEANS_METRICS
from nearql.engine.schema import Column, TableDef
from nearql.engine.types import Metric
from nearql.query.binder import MADE, PendingMade
from nearql.query.dialect import did_you_mean, parse
from nearql.query.guard import is_view, position_of, undefined_table
from nearql.query.plan import INTERNAL
from nearql.query.ports import CatalogView
from nearql.query.rules.common import pending_value
from nearql.query.statements import Select
from nearql.query.trees import all_of, copy_of, nodes_of

_KEPT_TEXTS = 64
KNN_GRAPH, KMEANS, MMR = "knn_graph", "kmeans", "mmr"
_FORMS = {
    KNN_GRAPH: "knn_graph(table, column, k, metric)",
    KMEANS: "kmeans(table, column, k, metric)",
    MMR: "mmr(table, column, query, k, balance, fetch, metric)",
}
_OPERATORS = {Metric.L2: "<->", Metric.INNER_PRODUCT: "<#>", Metric.COSINE: "<=>", Metric.L1: "<+>"}
_GRAPH = """
SELECT a.{key} AS id, n.id AS neighbour, n.distance,
       row_number() OVER (PARTITION BY a.{key} ORDER BY n.distance, n.id) AS rank
FROM main.{table} AS a
CROSS JOIN LATERAL (
    SELECT b.{key} AS id, b.{column} {operator} a.{column} AS distance FROM main.{table} AS b
    WHERE b.{key} <> a.{key} ORDER BY distance LIMIT 1
) AS n"""


_NAMES = (f"{INTERNAL}number", f"{INTERNAL}distance")
_KMEANS = """
SELECT a.{key} AS id, a.{first} AS cluster, a.{second} AS distance FROM main.{table} AS a"""
_MMR = """
SELECT a.{key} AS id, a.{second} AS distance, a.{first} AS rank FROM main.{table} AS a"""


def table_of(node: exp.Table) -> exp.Expr | None:
    """The table that a set function in FROM is asked about; None for anything else."""
    call = node.this
    if _function(node) is None:
        return None
    return call.expressions[0] if call.expressions else None


def _function(node: exp.Table) -> str | None:
    call = node.this
    name = call.name.lower() if isinstance(call, exp.Anonymous) else ""
    return name if name in _FORMS else None


def expand_set_functions(tree: exp.Query, catalog: CatalogView) -> None:
    """Replace every set function below the tree.

    Raises:
        SqlError: code `wrong_arguments`, or `wrong_type` for a column that is no vector.
        NotFound: code `undefined_table`. UndefinedColumn: no such column.
    """
    for node in all_of(tree, exp.Table):
        name = _function(node)
        if name is None:
            continue
        made = {KNN_GRAPH: _graph, KMEANS: _kmeans, MMR: _mmr}[name](node.this, catalog)
        alias = node.args.get("alias")
        if alias is None or not alias.this:
            columns = alias.args.get("columns") if alias is not None else None
            alias = exp.TableAlias(this=exp.to_identifier(name), columns=columns)
        item = exp.Subquery(this=made, alias=alias)
        for key in ("joins", "laterals", "pivots", "sample"):
            if node.args.get(key):
                item.set(key, node.args[key])
        node.replace(item)


def _graph(call: exp.Anonymous, catalog: CatalogView) -> exp.Select:
    given = call.expressions
    if not 3 <= len(given) <= 4:
        raise _wrong(
            call, f"takes a table, a column, k and perhaps a metric, not {len(given)} values"
        )
    table = _table(given[0], call, catalog)
    column = _column(given[1], call, table)
    metric = _metric(given[3], call) if len(given) == 4 else Metric.L2
    text = _GRAPH.format(
        table=_quoted(table.name), key=_quoted(table.schema.key.name), column=_quoted(column.name),
        operator=_OPERATORS[metric],
    )  # fmt: skip
    tree = _parsed(text)
    limit = tree.find(exp.Limit)
    assert limit is not None
    limit.set("expression", _count(given[2], call).copy())
    return tree


def _kmeans(call: exp.Anonymous, catalog: CatalogView) -> exp.Select:
    given = call.expressions
    if not 3 <= len(given) <= 4:
        raise _wrong(
            call, f"takes a table, a column, k and perhaps a metric, not {len(given)} values"
        )
    table = _table(given[0], call, catalog)
    column = _column(given[1], call, table)
    metric = _metric(given[3], call, KMEANS_METRICS) if len(given) == 4 else Metric.L2
    k = pending_value(_count(given[2], call), "k of kmeans()")
    return _made(_KMEANS, table, PendingMade(KMEANS, column.name, metric, _NAMES, k))


def _mmr(call: exp.Anonymous, catalog: CatalogView) -> exp.Select:
    given = call.expressions
    if not 4 <= len(given) <= 7:
        raise _wrong(
            call,
            "takes a table, a column, a query vector, k and perhaps a balance, how many rows to "
            f"choose from and a metric, not {len(given)} values",
        )
    table = _table(given[0], call, catalog)
    column = _column(given[1], call, table)
    metric = _metric(given[6], call) if len(given) == 7 else Metric.L2
    where = f"{table.name}.{column.name}"
    made = PendingMade(
        MMR, column.name, metric, _NAMES,
        pending_value(_count(given[3], call), "k of mmr()"),
        pending_value(_constant(given[2], call), where, column.type.dimensions),
        pending_value(_number(given[4], call), "the balance of mmr()") if len(given) > 4 else None,
        pending_value(_count(given[5], call), "fetch of mmr()") if len(given) > 5 else None,
    )  # fmt: skip
    return _made(_MMR, table, made)


def _made(form: str, table: TableDef, made: PendingMade) -> exp.Select:
    first, second = made.names
    tree = _parsed(
        form.format(
            table=_quoted(table.name), key=_quoted(table.schema.key.name),
            first=first, second=second,
        )
    )  # fmt: skip
    node = tree.find(exp.Table)
    assert node is not None
    node.meta[MADE] = made
    return tree


def _parsed(text: str) -> exp.Select:
    """Our own text as a tree that is the caller's."""
    return copy_of(_read(text))


@lru_cache(maxsize=_KEPT_TEXTS)
def _read(text: str) -> exp.Select:
    """Its places say nothing about the user's text."""
    [statement] = parse(text)
    assert isinstance(statement, Select)
    tree = statement.tree
    assert isinstance(tree, exp.Select)
    for node in nodes_of(tree):
        for key in ("start", "end", "line", "col"):
            node.meta.pop(key, None)
    return tree


def _table(node: exp.Expr, call: exp.Anonymous, catalog: CatalogView) -> TableDef:
    if not isinstance(node, exp.Column) or node.table:
        raise _wrong(call, "takes a table's name first, without quotation marks")
    found = catalog.tables.get(node.name.lower())
    if found is None:
        at = position_of(node)
        error = is_view(node.name, catalog, at)
        raise error or _undefined(node.name, catalog, at)
    if found.schema.key.hidden:
        raise SqlError(
            f"{call.name.lower()}() names rows by their key, and table {found.name!r} has no "
            "PRIMARY KEY.",
            code="wrong_arguments", sqlstate="22023", position=position_of(node),
        )  # fmt: skip
    return found


def _undefined(name: str, catalog: CatalogView, at: int | None) -> NotFound:
    return undefined_table(name, [table.name for table in catalog.tables.values()], at)


def _column(node: exp.Expr, call: exp.Anonymous, table: TableDef) -> Column:
    if not isinstance(node, exp.Column) or node.table:
        raise _wrong(call, "takes a column's name second, without quotation marks")
    column = table.schema.by_name.get(node.name.lower())
    if column is None or column.hidden:
        known = [one.name for one in table.schema.vectors]
        raise SqlError(
            f"Table {table.name!r} has no column {node.name!r}.{did_you_mean(node.name, known)}",
            code="undefined_column", sqlstate="42703", position=position_of(node),
        )  # fmt: skip
    if not column.type.is_vector:
        raise SqlError(
            f"Column {column.name!r} of {table.name!r} is {column.type.display}; "
            f"{call.name.lower()}() needs vectors.",
            code="wrong_type", sqlstate="42804", position=position_of(node),
        )  # fmt: skip
    return column


def _count(node: exp.Expr, call: exp.Anonymous) -> exp.Expr:
    if isinstance(node, exp.Placeholder) or (isinstance(node, exp.Literal) and node.is_int):
        return node
    raise _wrong(call, "takes whole numbers or parameters to count by")


def _number(node: exp.Expr, call: exp.Anonymous) -> exp.Expr:
    if isinstance(node, exp.Placeholder) or (isinstance(node, exp.Literal) and node.is_number):
        return node
    raise _wrong(call, "takes a number from 0 to 1, or a parameter, as its balance")


def _constant(node: exp.Expr, call: exp.Anonymous) -> exp.Expr:
    """A query vector: anything that names no column of the statement around it."""
    if isinstance(node, exp.Column):
        raise _wrong(call, "takes a vector third: a parameter, a literal or a sub-query")
    return node


def _metric(
    node: exp.Expr, call: exp.Anonymous, offered: tuple[Metric, ...] = tuple(_OPERATORS)
) -> Metric:
    if isinstance(node, exp.Literal) and node.is_string:
        for metric in offered:
            if node.name.lower() == str(metric):
                return metric
    raise _wrong(call, f"takes a metric last: {', '.join(map(repr, map(str, offered)))}")


def _wrong(call: exp.Anonymous, what: str) -> SqlError:
    return SqlError(
        f"{_FORMS[call.name.lower()]} {what}.",
        code="wrong_arguments", sqlstate="22023", position=position_of(call),
    )  # fmt: skip


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
