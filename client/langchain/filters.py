"""Filters on metadata, as LangChain's stores take them, turned into SQL on a JSON column.

    {"section": "games"}                                   equal
    {"section": "games", "size": {"$lt": 500}}             both
    {"$or": [{"year": {"$gte": 2024}}, {"year": None}]}    either; None: null, or not there
    {"tag": {"$in": ["a", "b"]}}, {"tag": {"$exists": False}}, {"$not": {"tag": "a"}}

A value is compared with values of its own kind only: text "5" is not the number 5. `$ne` and `$nin`
take rows without the key too. Keys and values become parameters or quoted paths, never SQL text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nearql.client.errors import UsageError

COMPARED = {"$lt": "<", "$lte": "<=", "$gt": ">", "$gte": ">="}
NUMBERS = "('UBIGINT', 'BIGINT', 'HUGEINT', 'DOUBLE')"  # what json_type says of numbers


def where_of(given: Mapping[str, Any] | None, column: str) -> tuple[str, dict[str, Any]]:
    """A condition on a JSON column (its name as SQL text), and its parameters; TRUE for no filter.

    Raises:
        UsageError: an operator that there is not, or a value that no operator takes.
    """
    made = _Filter(column)
    return made.every(given or {}), made.parameters


class _Filter:
    """Gathers parameters `:f1`, `:f2`, ... while conditions are written."""

    def __init__(self, column: str) -> None:
        self.parameters: dict[str, Any] = {}
        self._column = column

    def every(self, given: Any) -> str:
        """All members of a filter hold."""
        if not isinstance(given, Mapping):
            raise UsageError(f"A filter is a dict such as {{'section': 'games'}}, not {given!r}.")
        return _joined("AND", [self._member(str(key), value) for key, value in given.items()])

    def _member(self, key: str, value: Any) -> str:
        if key == "$not":
            return f"NOT {self.every(value)}"
        if key in ("$and", "$or"):
            if not isinstance(value, list | tuple) or not value:
                raise UsageError(f"{key} takes a list of filters, not {value!r}.")
            return _joined(key[1:].upper(), [self.every(each) for each in value])
        if key.startswith("$"):
            raise UsageError(
                f"There is no operator {key} between filters; there are $and, $or, $not."
            )
        if isinstance(value, Mapping):
            return self._operators(key, value)
        return self._equal(key, value)

    def _operators(self, key: str, given: Mapping[str, Any]) -> str:
        conditions = []
        for name, value in given.items():
            if name in COMPARED:
                conditions.append(self._compared(key, COMPARED[name], value))
            elif name in _OPERATORS:
                conditions.append(_OPERATORS[name](self, key, value))
            else:
                known = ", ".join([*COMPARED, *_OPERATORS])
                raise UsageError(f"There is no operator {name!r} for {key!r}; there are {known}.")
        return _joined("AND", conditions)

    # ---- Conditions on one key -------------------------------------------------------------

    def _equal(self, key: str, value: Any) -> str:
        return f"NOT {self._exists(key)}" if value is None else self._compared(key, "=", value)

    def _unequal(self, key: str, value: Any) -> str:
        return f"NOT {self._equal(key, value)}"

    def _among(self, key: str, values: Any) -> str:
        if not isinstance(values, Sequence) or isinstance(values, str | bytes):
            raise UsageError(f"$in and $nin of {key!r} take a list, not {values!r}.")
        return _joined("OR", [self._equal(key, each) for each in values]) if values else "FALSE"

    def _not_among(self, key: str, values: Any) -> str:
        return f"NOT {self._among(key, values)}"

    def _between(self, key: str, values: Any) -> str:
        if not isinstance(values, list | tuple) or len(values) != 2:
            raise UsageError(f"$between of {key!r} takes two values, not {values!r}.")
        return _joined("AND", [self._compared(key, ">=", values[0]),
                               self._compared(key, "<=", values[1])])  # fmt: skip

    def _like(self, key: str, pattern: Any, operator: str = "LIKE") -> str:
        if not isinstance(pattern, str):
            raise UsageError(f"${operator.lower()} of {key!r} takes text, not {pattern!r}.")
        return self._compared(key, operator, pattern)

    def _ilike(self, key: str, pattern: Any) -> str:
        return self._like(key, pattern, "ILIKE")

    def _exists_or_not(self, key: str, wanted: Any) -> str:
        if not isinstance(wanted, bool):
            raise UsageError(f"$exists of {key!r} takes True or False, not {wanted!r}.")
        return self._exists(key) if wanted else f"NOT {self._exists(key)}"

    def _exists(self, key: str) -> str:
        return f"(COALESCE(json_type({self._at(key)}), 'NULL') <> 'NULL')"

    def _compared(self, key: str, operator: str, value: Any) -> str:
        """Never NULL, so that NOT takes the rows without the key. `value` says the kind."""
        at = self._at(key)
        kind, text = f"json_type({at})", f"json_extract_string({at})"
        if isinstance(value, bool):
            return self._holds(f"{kind} = 'BOOLEAN' AND {text} {operator} ", str(value).lower())
        if isinstance(value, str):
            return self._holds(f"{kind} = 'VARCHAR' AND {text} {operator} ", value)
        if isinstance(value, int | float) and math.isfinite(value):
            # As decimals whole numbers beyond 2^53 stay apart, which as floats they would not.
            number = "DECIMAL(38, 9)" if isinstance(value, int) else "DOUBLE"
            cast = f"TRY_CAST({text} AS {number})"
            return self._holds(f"{kind} IN {NUMBERS} AND {cast} {operator} ", value)
        raise UsageError(
            f"The filter on {key!r} compares with {value!r}; it must be text, a finite number, "
            "True, False or None."
        )

    def _holds(self, condition: str, value: Any) -> str:
        return f"COALESCE({condition}{self._parameter(value)}, FALSE)"

    def _at(self, key: str) -> str:
        """`metadata, '$."key"'`: any key, dots and dollars included."""
        if '"' in key or "\\" in key:
            raise UsageError(f"The key {key!r} has a quote or backslash; filter on another one.")
        path = f'$."{key}"'.replace("'", "''")
        return f"{self._column}, '{path}'"

    def _parameter(self, value: Any) -> str:
        name = f"f{len(self.parameters) + 1}"
        self.parameters[name] = value
        return f":{name}"


_OPERATORS: dict[str, Callable[[_Filter, str, Any], str]] = {
    "$eq": _Filter._equal,
    "$ne": _Filter._unequal,
    "$in": _Filter._among,
    "$nin": _Filter._not_among,
    "$between": _Filter._between,
    "$like": _Filter._like,
    "$ilike": _Filter._ilike,
    "$exists": _Filter._exists_or_not,
}


def _joined(word: str, conditions: list[str]) -> str:
    return "(" + f" {word} ".join(conditions) + ")" if conditions else "TRUE"
