"""Functions over a whole table, in FROM: each is replaced by the query that it stands for.

    knn_graph(table, column, k [, metric])

is the k nearest rows to every row of a table, itself left out: a nearest-neighbour join of the
table with itself, as one batch. Columns: `id` and `neighbour`, keys of the table; `distance`; and
`rank`, 1 for the nearest. The metric is l2, cosine, inner_product or l1.
"""

from __future__ import annotations

from sqlglot import exp

from nearql.engine.errors import NotFound, SqlError
from nearql.engine.schema import TableDef
from nearql.engine.types import Metric
from nearql.query.dialect import did_you_mean, parse
from nearql.query.guard import is_view, position_of, undefined_table
from nearql.query.ports import CatalogView
from nearql.query.statements import Select

KNN_GRAPH = "knn_graph"
_OPERATORS = {Metric.L2: "<->", Metric.INNER_PRODUCT: "<#>", Metric.COSINE: "<=>", Metric.L1: "<+>"}
_GRAPH = """
SELECT a.{key} AS id, n.id AS neighbour, n.distance,
       row_number() OVER (PARTITION BY a.{key} ORDER BY n.distance, n.id) AS rank
FROM main.{table} AS a
CROSS JOIN LATERAL (
    SELECT b.{key} AS id, b.{column} {operator} a.{column} AS distance FROM main.{table} AS b
    WHERE b.{key} <> a.{key} ORDER BY distance LIMIT 1
) AS n"""


def table_of(node: exp.Table) -> exp.Expr | None:
    """The table that a set function in FROM is asked about; None for anything else."""
    call = node.this
    if not isinstance(call, exp.Anonymous) or call.name.lower() != KNN_GRAPH:
        return None
    return call.expressions[0] if call.expressions else None


def expand_set_functions(tree: exp.Query, catalog: CatalogView) -> None:
    """Replace every set function below the tree.

    Raises:
        SqlError: code `wrong_arguments`, or `wrong_type` for a column that is no vector.
        NotFound: code `undefined_table`. UndefinedColumn: no such column.
    """
    for node in list(tree.find_all(exp.Table)):
        call = node.this
        if isinstance(call, exp.Anonymous) and call.name.lower() == KNN_GRAPH:
            alias = node.args.get("alias")
            if alias is None or not alias.this:
                alias = exp.TableAlias(this=exp.to_identifier(KNN_GRAPH))
            item = exp.Subquery(this=_graph(call, catalog), alias=alias)
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
        table=_quoted(table.name), key=_quoted(table.schema.key.name), column=_quoted(column),
        operator=_OPERATORS[metric],
    )  # fmt: skip
    [statement] = parse(text)
    assert isinstance(statement, Select)
    tree = statement.tree
    assert isinstance(tree, exp.Select)
    limit = tree.find(exp.Limit)
    assert limit is not None
    limit.set("expression", _count(given[2], call).copy())
    for node in tree.walk():  # places in our text say nothing about the user's
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
            f"{KNN_GRAPH}() names rows by their key, and table {found.name!r} has no PRIMARY KEY.",
            code="wrong_arguments", sqlstate="22023", position=position_of(node),
        )  # fmt: skip
    return found


def _undefined(name: str, catalog: CatalogView, at: int | None) -> NotFound:
    return undefined_table(name, [table.name for table in catalog.tables.values()], at)


def _column(node: exp.Expr, call: exp.Anonymous, table: TableDef) -> str:
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
            f"{KNN_GRAPH}() needs vectors.",
            code="wrong_type", sqlstate="42804", position=position_of(node),
        )  # fmt: skip
    return column.name


def _count(node: exp.Expr, call: exp.Anonymous) -> exp.Expr:
    if isinstance(node, exp.Placeholder) or (isinstance(node, exp.Literal) and node.is_int):
        return node
    raise _wrong(call, "takes k third: a whole number or a parameter")


def _metric(node: exp.Expr, call: exp.Anonymous) -> Metric:
    if isinstance(node, exp.Literal) and node.is_string:
        for metric in _OPERATORS:
            if node.name.lower() == str(metric):
                return metric
    raise _wrong(call, f"takes a metric last: {', '.join(map(repr, map(str, _OPERATORS)))}")


def _wrong(call: exp.Anonymous, what: str) -> SqlError:
    return SqlError(
        f"{KNN_GRAPH}(table, column, k, metric) {what}.",
        code="wrong_arguments", sqlstate="22023", position=position_of(call),
    )  # fmt: skip


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
