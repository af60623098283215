"""Rewrites of one SELECT, applied to every SELECT of a statement from the inside out, in this
order; `merge_subquery` to all of them before the others, so that what it merges is as written.

A rule is a function `(select, binding) -> None` in a file of its name; it changes the SELECT's tree
and its sources in place, or leaves them. After the last one, what still is a distance calls the
canonical function.
"""

from nearql.query.rules.computed_distances import computed_distances
from nearql.query.rules.expand_aliases import expand_aliases
from nearql.query.rules.filtered_scan import filtered_scan
from nearql.query.rules.knn_join import knn_join
from nearql.query.rules.merge_subquery import merge_subquery
from nearql.query.rules.nearest import nearest
from nearql.query.rules.order_unpushed import order_unpushed
from nearql.query.rules.range_search import range_search
from nearql.query.rules.text_scores import text_scores
from nearql.query.rules.vector_arithmetic import vector_arithmetic

MERGES = (
    merge_subquery,  # FROM (SELECT * FROM docs WHERE ...) ORDER BY vec <-> :q LIMIT k
)
RULES = (
    expand_aliases,  # WHERE d < 1, d an alias of a distance
    vector_arithmetic,  # + - * avg sum over vectors
    knn_join,  # a LATERAL's ORDER BY d.vec <-> q.vec LIMIT k
    nearest,  # ORDER BY vec <-> :q LIMIT k
    order_unpushed,  # the same where it couldn't be pushed down: NULL vectors out, ties by key
    range_search,  # WHERE vec <-> :q < r
    computed_distances,  # distances to a constant anywhere else
    text_scores,  # bm25(column, words), rrf(rank, ...)
    filtered_scan,  # compute those for the rows that WHERE leaves
)
