"""The value of a column that was added after rows existed: its DEFAULT, if that is a literal.

The engine knows no SQL, so it understands literals only: numbers, quoted text, TRUE, FALSE, NULL,
each also inside CAST(... AS type) or before ::type. Others are refused while there are rows.
"""

from __future__ import annotations

import re

import pyarrow as pa

from nearql.engine.bits import packed
from nearql.engine.errors import InvalidValue, Unsupported
from nearql.engine.schema import Column

_TYPE = r"[\w\s(),\[\]]+"
_CAST = re.compile(rf"^(?:TRY_)?CAST\s*\(\s*(.+?)\s+AS\s+{_TYPE}\)$", re.IGNORECASE | re.DOTALL)
_SUFFIX = re.compile(rf"^(.+?)\s*::\s*{_TYPE}$", re.DOTALL)
_QUOTED = re.compile(r"^'((?:[^']|'')*)'$", re.DOTALL)
_NUMBER = re.compile(r"^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$")
_WORDS = {"TRUE": "true", "FALSE": "false"}


def literal_default(column: Column) -> pa.Scalar | None:
    """The default as a value of the column's storage type; None where there is none or it is NULL.

    Raises:
        Unsupported: the default is an expression. InvalidValue: it doesn't fit the column's type.
    """
    if column.default is None or _bare(column.default).upper() == "NULL":
        return None
    text = _literal(_bare(column.default))
    if text is None or column.type.is_vector or column.type.name.endswith("[]"):
        raise Unsupported(
            f"Column {column.name}: rows exist, so the default of an added column must be a "
            f"number, a quoted text, TRUE, FALSE or NULL, not {column.default}. Add the column "
            "without a default, then fill it with UPDATE.",
            column=column.name,
        )
    try:
        if column.type.bits is not None:
            return pa.scalar(packed(text, column.type.bits), column.type.storage)
        return pa.scalar(text, pa.string()).cast(column.type.storage)
    except (ValueError, pa.ArrowNotImplementedError) as error:
        raise InvalidValue(
            f"The default {column.default} of column {column.name} is no {column.type.display}.",
            column=column.name,
        ) from error


def _bare(text: str) -> str:
    """The expression without the brackets and casts around it."""
    text = text.strip()
    if text.startswith("(") and text.endswith(")"):
        return _bare(text[1:-1])
    for pattern in (_CAST, _SUFFIX):
        if not _QUOTED.match(text) and (match := pattern.match(text)):
            return _bare(match[1])
    return text


def _literal(text: str) -> str | None:
    if match := _QUOTED.match(text):
        return match[1].replace("''", "'")
    if _NUMBER.match(text):
        return text
    return _WORDS.get(text.upper())
