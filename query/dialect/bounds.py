"""Calls whose value grows with a number or with the product of their arguments, bounded.

DuckDB is interrupted between chunks of rows, not inside a call: `repeat('a', 4e9)` ran for 36 s,
whatever the statement's timeout. So the argument that decides is wrapped, and the call never
starts where its value would be too long:

    lpad(title, n, ' ')   ->  lpad(title, nq_bounded(n, n, 1, 100), ' ')
    repeat(a, b)          ->  repeat(a, nq_bounded(b, b * nq_size(a), 1, 100))

`nq_bounded(value, size, parts, room)` is `value` where `size` is at most `limits.call_length /
parts`, and the sizes of a chunk of rows, 2,048 at most, together at most `room` times that; else an
error. It stands inside the call's argument, because DuckDB evaluates constant branches of a
CASE before it knows whether they are needed. `parts` rises by a factor of 100 in each lambda,
whose body is evaluated for every element. Literals are checked by the guard and left as they are.

Rooms are measured: what a chunk may make is read again by the slowest function there is
(`list_distinct`, `regexp_replace`) in some 200 ms, within which a statement is cancelled.

What `list_reduce` makes is bounded after each step, because `lambda a, b: a || a` doubles it:

    list_reduce(l, lambda a, b: a || b)   ->   list_reduce(l, lambda a, b: nq_bounded(a || b, ...))

A size names an argument once more, so nested calls would double the text at each level: at most
`NESTED` of them stand inside each other.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from sqlglot import exp

from nearql.engine.errors import SqlError
from nearql.query.trees import copy_of, has

NESTED = 6
_LAMBDA = 100
_LAMBDA_ROOM = 10
_REPLACED = 10  # replacing takes longer values: they come from rows, not from a number
_PAIRS = 2  # comparing two texts letter by letter takes the product of their lengths
_INTERSECTED = 2_000  # so do the elements of two lists, at 5 a nanosecond
_ROOM = 100  # the longest calls in a chunk
_ROOMS: dict[float, int] = {
    _REPLACED: 1_000,
    _PAIRS: 1_500,
    _INTERSECTED: 25,
}  # by factor, where they differ
WIDE = r"\d{5,}|\{[^}]*\{|%[^a-zA-Z%]*\*"  # a width of five digits, or one from an argument
_WIDE = re.compile(WIDE)
Arguments = list[exp.Expr]
Bound = Callable[[Arguments], tuple[int, exp.Expr, float] | None]


def bounded(node: exp.Anonymous) -> exp.Expr:
    """The call with its deciding argument bounded; itself where nothing can grow."""
    name = str(node.name).lower()
    if name in REDUCING:
        return _reduced(node)
    bound = BOUNDS.get(name)
    if bound is None or isinstance(node.parent, exp.Table | exp.Lateral):
        return node
    arguments = list(node.expressions)
    if isinstance(node.parent, exp.Dot):  # 'x'.repeat(3): the first argument is before the dot
        return _refused_dot(node)
    found = bound(arguments)
    if found is None:
        return node
    _check_nesting(node)
    place, size, factor = found
    arguments[place] = _bounded(arguments[place], size, _lambdas(node), factor)
    return exp.Anonymous(this=node.this, expressions=[copy_of(one) for one in arguments])


def is_bounded(node: exp.Expr) -> bool:
    """Whether DuckDB may get other words for this call."""
    return isinstance(node, exp.Anonymous) and str(node.name).lower() in (*BOUNDS, *REDUCING)


def _reduced(node: exp.Anonymous) -> exp.Expr:
    """`list_reduce` whose lambda's value is bounded, unless it is a number's arithmetic."""
    found = [one for one in node.expressions if isinstance(one, exp.Lambda)]
    if not found or not has(found[0].this, *_LENGTHENING):
        return node
    _check_nesting(node)
    body = found[0].this
    found[0].set("this", _bounded(body, _size(body), _lambdas(node)))
    return node


def _bounded(value: exp.Expr, size: exp.Expr, lambdas: int, factor: float = 1) -> exp.Expr:
    """A lambda's chunk is of elements: a tenth of a chunk's room, for calls of a hundredth."""
    parts = exp.Literal.number(_LAMBDA**lambdas / factor)
    room = exp.Literal.number(_ROOMS.get(factor, _ROOM) * _LAMBDA_ROOM**lambdas)
    return _call("nq_bounded", value, size, parts, room)


def _refused_dot(node: exp.Anonymous) -> exp.Expr:
    raise SqlError(f"Write {node.name}() as a call: {node.name}(value, ...).", code="unsupported")


def _check_nesting(node: exp.Expr) -> None:
    depth, parent = 0, node.parent
    while parent is not None:
        depth += is_bounded(parent)
        parent = parent.parent
    if depth >= NESTED:
        raise SqlError(
            f"More than {NESTED} calls that make longer values stand inside each other; take "
            "steps, in CTEs.",
            code="statement_too_complex", sqlstate="54001",
        )  # fmt: skip


def _lambdas(node: exp.Expr) -> int:
    """How many stand around the node."""
    found, parent = 0, node.parent
    while parent is not None:
        found += isinstance(parent, exp.Lambda | exp.Comprehension)
        parent = parent.parent
    return found


def _call(name: str, *arguments: exp.Expr) -> exp.Anonymous:
    return exp.Anonymous(this=name, expressions=[copy_of(one) for one in arguments])


def _size(node: exp.Expr) -> exp.Expr:
    return _call("nq_size", node)


def _literal(node: exp.Expr) -> bool:
    return isinstance(node, exp.Literal | exp.Boolean | exp.Null) or (
        isinstance(node, exp.Neg) and isinstance(node.this, exp.Literal)
    )


def _counted(place: int) -> Bound:
    """The argument at `place` is the length of the value."""

    def bound(arguments: Arguments) -> tuple[int, exp.Expr, float] | None:
        if place >= len(arguments) or (_literal(arguments[place]) and not _in_lambda(arguments)):
            return None
        return place, arguments[place], 1

    return bound


def _in_lambda(arguments: Arguments) -> bool:
    return any(one.find_ancestor(exp.Lambda, exp.Comprehension) for one in arguments)


def _repeated(arguments: Arguments) -> tuple[int, exp.Expr, float] | None:
    if len(arguments) != 2 or (all(map(_literal, arguments)) and not _in_lambda(arguments)):
        return None
    return 1, exp.Mul(this=_double(arguments[1]), expression=_size(arguments[0])), 1


def _double(node: exp.Expr) -> exp.Expr:
    return exp.Cast(this=copy_of(node), to=exp.DataType.build("DOUBLE", dialect="duckdb"))


def _series(arguments: Arguments) -> tuple[int, exp.Expr, float] | None:
    if not 1 <= len(arguments) <= 3:
        return None
    if all(map(_literal, arguments)) and not _in_lambda(arguments):
        return None
    if len(arguments) == 1:
        return 0, arguments[0], 1
    step = arguments[2] if len(arguments) == 3 else exp.Literal.number(1)
    return 1, _call("nq_steps", arguments[0], arguments[1], step), 1


def _formatted(arguments: Arguments) -> tuple[int, exp.Expr, float] | None:
    if not arguments:
        return None
    form = arguments[0]
    if isinstance(form, exp.Literal) and not _WIDE.search(form.name):
        return None
    return 0, _call("nq_widths", form), 1


def _replaced(arguments: Arguments) -> tuple[int, exp.Expr, float] | None:
    if len(arguments) < 3:
        return None
    text, pattern, by = arguments[:3]
    if _is_short(by):
        return None
    return 2, exp.Mul(this=_size(text), expression=_size(by)), _REPLACED


def _is_short(by: exp.Expr) -> bool:
    """Whether a replacement is at most one character, and no reference to the match."""
    return isinstance(by, exp.Literal) and len(by.name) <= 1


def _compared(arguments: Arguments) -> tuple[int, exp.Expr, float] | None:
    if len(arguments) < 2:
        return None
    product = exp.Mul(this=_size(arguments[0]), expression=_size(arguments[1]))
    return 0, product, _PAIRS


def _intersected(arguments: Arguments) -> tuple[int, exp.Expr, float] | None:
    if len(arguments) != 2:
        return None
    lengths = [_double(_call("len", one)) for one in arguments]
    return 0, exp.Mul(this=lengths[0], expression=lengths[1]), _INTERSECTED


REDUCING = frozenset({"list_reduce", "array_reduce", "reduce"})
_LENGTHENING = (exp.DPipe, exp.Anonymous, exp.Array, exp.Bracket, exp.Struct, exp.Dot, exp.Cast)
BOUNDS: dict[str, Bound] = {
    "repeat": _repeated,
    "lpad": _counted(1),
    "rpad": _counted(1),
    "list_resize": _counted(1),
    "array_resize": _counted(1),
    "bitstring": _counted(1),
    "bar": _counted(3),
    "range": _series,
    "generate_series": _series,
    "format": _formatted,
    "printf": _formatted,
    "replace": _replaced,
    "regexp_replace": _replaced,
    "levenshtein": _compared,
    "editdist3": _compared,
    "damerau_levenshtein": _compared,
    "jaro_similarity": _compared,
    "jaro_winkler_similarity": _compared,
    "list_intersect": _intersected,
    "array_intersect": _intersected,
}
