"""Whether the conditions of a WHERE imply that of a partial index, as PostgreSQL would find out.

Conditions are brought to one form first (`normal`), as tuples: brackets, spelling and the side on
which the column stands don't matter then.

    'en' = lang AND size BETWEEN 2 AND 5     ("and", ("cmp", "=", lang, 'en'),
                                                     ("cmp", ">=", size, 2), ("cmp", "<=", size, 5))

A fact implies a goal that is equal to it, and for comparisons of one expression with constants what
follows from their order: `size = 3` implies `size > 2`, `size IN (3, 4)`, `size IS NOT NULL`. A
parameter is an unknown constant until the statement runs (`with_values`). What isn't found costs
time, never an answer: a search reads the rows that its index doesn't hold.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from sqlglot import exp

from nearql.query.binder import unwrapped
from nearql.query.dialect import to_nearql
from nearql.query.parameters import parameter_name
from nearql.query.trees import nodes_of

Form = tuple[Any, ...]
_OPERATORS: dict[type[exp.Expr], str] = {
    exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">=",
}  # fmt: skip
_FLIPPED = {"=": "=", "<>": "<>", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_OPPOSITE = {"=": "<>", "<>": "=", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}
_TEXTS = ("TEXT", "VARCHAR", "CHAR", "STRING")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d:\d\d(\.\d+)?)?")  # whose texts sort as they do
_CONSTANTS = ("number", "text", "truth", "parameter")


def normal(node: exp.Expr) -> Form:
    """A condition or an expression in the form that all its spellings share."""
    node = unwrapped(node)
    for kinds, made in _FORMS:
        if isinstance(node, kinds):
            return made(node)
    return ("sql", _text(node))


def holds(facts: Sequence[Form], goal: Form) -> bool:
    """Whether the goal is true wherever all facts are."""
    if goal[0] == "and":
        return all(holds(facts, part) for part in goal[1:])
    if any(_implies(fact, goal) for fact in facts):
        return True
    return goal[0] == "or" and any(holds(facts, part) for part in goal[1:])


def parameters_in(form: Form) -> frozenset[str]:
    """The parameters that a form names as constants."""
    if form[0] == "parameter":
        return frozenset((form[1],))
    parts = [*form[1:2], *form[2]] if form[0] == "in" else form[1:]
    found = [parameters_in(part) for part in parts if isinstance(part, tuple) and part]
    return frozenset().union(*found)


def with_values(form: Form, values: Mapping[str, Any]) -> Form:
    """The form with its parameters' values in their places."""
    if form[0] == "parameter":
        return _constant(values.get(form[1]), form)
    if form[0] == "in":
        kept = frozenset(with_values(one, values) for one in form[2])
        return ("in", form[1], kept)
    return tuple(
        with_values(part, values) if isinstance(part, tuple) and part else part for part in form
    )


@dataclass(frozen=True, eq=False)
class PartialIndex:
    """An index over the rows of a condition, which the filter of a search may imply.

    facts, goal: the filter's conditions and the index's, where it takes the values of `parameters`
    to know; without parameters it is known.
    """

    uuid: str
    name: str
    facts: tuple[Form, ...] = ()
    goal: Form = ()
    parameters: tuple[str, ...] = ()

    def serves(self, values: Mapping[str, object]) -> bool:
        """Whether the search may ask it, its parameters having these values."""
        if not self.parameters:
            return True
        facts = [with_values(fact, values) for fact in self.facts]
        return holds(facts, with_values(self.goal, values))


# ---- forms ------------------------------------------------------------------------------


def _and_or(word: str) -> Callable[[exp.Expr], Form]:
    def made(node: exp.Expr) -> Form:
        parts: list[Form] = []
        for side in (node.this, node.expression):
            form = normal(side)
            parts += form[1:] if form[0] == word else [form]
        return (word, *parts)

    return made


def _not(node: exp.Expr) -> Form:
    form = normal(node.this)
    if form[0] == "cmp":
        return ("cmp", _OPPOSITE[form[1]], *form[2:])
    if form[0] == "column":  # NOT active
        return ("cmp", "=", form, ("truth", False))
    if form[0] == "null":
        return ("present", form[1])
    inner: Form = form[1] if form[0] == "not" else ("not", form)
    return inner


def _comparison(node: exp.Expr) -> Form:
    operator = _OPERATORS[type(node)]
    left, right = normal(node.this), normal(node.expression)
    if left[0] in _CONSTANTS and right[0] not in _CONSTANTS:
        left, right, operator = right, left, _FLIPPED[operator]
    return _told(operator, left, right)


def _told(operator: str, left: Form, right: Form) -> Form:
    if right == ("truth", True) and operator == "=":
        return left if left[0] == "column" else ("cmp", operator, left, right)
    return ("cmp", operator, left, right)


def _between(node: exp.Expr) -> Form:
    if node.args.get("symmetric"):
        return ("sql", _text(node))
    this = normal(node.this)
    low, high = normal(node.args["low"]), normal(node.args["high"])
    return ("and", ("cmp", ">=", this, low), ("cmp", "<=", this, high))


def _in(node: exp.Expr) -> Form:
    values = [normal(one) for one in node.expressions]
    if node.args.get("query") or not values or any(one[0] not in _CONSTANTS for one in values):
        return ("sql", _text(node))
    this = normal(node.this)
    return ("cmp", "=", this, values[0]) if len(values) == 1 else ("in", this, frozenset(values))


def _is(node: exp.Expr) -> Form:
    this, other = normal(node.this), unwrapped(node.expression)
    if isinstance(other, exp.Null):
        return ("null", this)
    if isinstance(other, exp.Boolean):
        return _told("=", this, ("truth", bool(other.this)))
    return ("sql", _text(node))


def _column(node: exp.Expr) -> Form:
    return ("column", node.name.lower())


def _literal(node: exp.Expr) -> Form:
    return ("text", node.name) if node.is_string else _decimal(node)


def _decimal(node: exp.Expr, sign: int = 1) -> Form:
    try:
        return ("number", sign * Decimal(node.name.replace("_", "")))
    except InvalidOperation:
        return ("sql", _text(node))


def _negative(node: exp.Expr) -> Form:
    inner = unwrapped(node.this)
    is_number = isinstance(inner, exp.Literal) and not inner.is_string
    return _decimal(inner, -1) if is_number else ("sql", _text(node))


def _cast(node: exp.Expr) -> Form:
    """A text that is cast to text is itself; another cast is part of what is compared."""
    this = normal(node.this)
    kind = node.args["to"].sql().upper()
    if type(node) is exp.Cast and this[0] == "text" and kind in _TEXTS:
        return this
    return ("cast", type(node).__name__, this, kind)


def _call(node: exp.Expr) -> Form:
    return ("call", str(node.this).lower(), *(normal(one) for one in node.expressions))


def _parameter(node: exp.Expr) -> Form:
    return ("parameter", parameter_name(node))


_FORMS: tuple[tuple[Any, Callable[[Any], Form]], ...] = (
    (exp.And, _and_or("and")),
    (exp.Or, _and_or("or")),
    (exp.Not, _not),
    (tuple(_OPERATORS), _comparison),
    (exp.Between, _between),
    (exp.In, _in),
    (exp.Is, _is),
    (exp.Column, _column),
    (exp.Literal, _literal),
    (exp.Boolean, lambda node: ("truth", bool(node.this))),
    (exp.Neg, _negative),
    ((exp.Cast, exp.TryCast), _cast),
    (exp.Placeholder, _parameter),
    (exp.Anonymous, _call),
)


def _text(node: exp.Expr) -> str:
    """Anything else as text, its columns without their table."""
    own = node.copy()
    for column in [one for one in nodes_of(own) if isinstance(one, exp.Column)]:
        column.set("table", None)
        column.set("this", exp.to_identifier(column.name.lower(), quoted=True))
    return to_nearql(own)


def _constant(value: Any, otherwise: Form) -> Form:
    if isinstance(value, bool):
        return ("truth", value)
    if isinstance(value, str):
        return ("text", value)
    if isinstance(value, int | float | Decimal):
        try:
            number = Decimal(str(value))
        except InvalidOperation:
            return otherwise
        return ("number", number) if number.is_finite() else otherwise
    return otherwise


# ---- what follows from what -------------------------------------------------------------


def _implies(fact: Form, goal: Form) -> bool:
    if fact == goal:
        return True
    if fact[0] == "or":
        return all(holds([part], goal) for part in fact[1:])
    if fact[0] == "and":
        return holds(fact[1:], goal)
    if goal[0] == "present":
        return goal[1] in _required(fact)
    if fact[0] == "in" and goal[0] in ("in", "cmp"):
        return all(_implies(("cmp", "=", fact[1], value), goal) for value in fact[2])
    if fact[0] != "cmp" or goal[0] not in ("in", "cmp"):
        return False
    if goal[0] == "in":
        return fact[1] == "=" and fact[2] == goal[1] and fact[3] in goal[2]
    return fact[2] == goal[2] and _follows(fact[1], fact[3], goal[1], goal[3])


def _required(fact: Form) -> Iterable[Form]:
    """What is not NULL where a fact is true."""
    if fact[0] == "cmp":
        return (fact[2], fact[3])
    return (fact[1],) if fact[0] in ("in", "present") else (fact,) if fact[0] == "column" else ()


def _follows(is_so: str, known: Form, asked: str, limit: Form) -> bool:
    """Whether `x is_so known` implies `x asked limit`, for constants of one kind."""
    if is_so == asked and known == limit:
        return True
    order = _order(known, limit)
    if order is None:
        return is_so == "=" and asked == "<>" and known[0] == limit[0] == "text" and known != limit
    return order in _ORDERS.get((is_so, asked), ())


# (what is known, what is asked): how the known constant may stand to the one asked about
_ORDERS: dict[tuple[str, str], tuple[int, ...]] = {
    ("=", "="): (0,), ("=", "<>"): (-1, 1),
    ("=", "<"): (-1,), ("=", "<="): (-1, 0), ("=", ">"): (1,), ("=", ">="): (0, 1),
    ("<", "<"): (-1, 0), ("<", "<="): (-1, 0), ("<", "<>"): (-1, 0),
    ("<=", "<"): (-1,), ("<=", "<="): (-1, 0), ("<=", "<>"): (-1,),
    (">", ">"): (0, 1), (">", ">="): (0, 1), (">", "<>"): (0, 1),
    (">=", ">"): (1,), (">=", ">="): (0, 1), (">=", "<>"): (1,),
}  # fmt: skip


def _order(left: Form, right: Form) -> int | None:
    """-1, 0 or 1; None where the constants have no order that is known here."""
    if left[0] != right[0] or left[0] not in ("number", "text"):
        return None
    if left[0] == "text" and left != right:
        # Texts of columns of other types (dates, enums) are compared as those; dates sort alike.
        if not all(_MOMENT.fullmatch(one[1]) for one in (left, right)):
            return None
        if len(left[1]) != len(right[1]):
            return None
    return int(left[1] > right[1]) - int(left[1] < right[1])
