"""DuckDB's exceptions in NearQL's words: a code, an SQLSTATE, no internal names, the hint kept.

`translate` knows the exception alone; `in_words_of` adds what only the statement knows: where in
the user's text the mistake is and which names are near.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

import duckdb

from nearql.engine.errors import (
    InternalError,
    InvalidValue,
    NearQLError,
    SqlError,
    StatementTimeout,
    TooLarge,
    UndefinedColumn,
    Unsupported,
)

INTERNAL = "nq0_"  # how generated names start; see plan.Names

_KINDS: tuple[tuple[type[duckdb.Error], type[NearQLError], str, str], ...] = (
    (duckdb.InterruptException, StatementTimeout, "statement_timeout", "57014"),
    (duckdb.OutOfMemoryException, TooLarge, "memory_limit", "53200"),
    (duckdb.ParserException, SqlError, "syntax_error", "42601"),
    (duckdb.SyntaxException, SqlError, "syntax_error", "42601"),
    (duckdb.CatalogException, SqlError, "undefined_object", "42704"),
    (duckdb.BinderException, SqlError, "invalid_sql", "42601"),
    (duckdb.ConversionException, InvalidValue, "invalid_value", "22P02"),
    (duckdb.OutOfRangeException, InvalidValue, "out_of_range", "22003"),
    (duckdb.TypeMismatchException, InvalidValue, "wrong_type", "42804"),
    (duckdb.NotImplementedException, Unsupported, "unsupported", "0A000"),
    (duckdb.PermissionException, Unsupported, "unsupported", "42501"),
    (duckdb.InternalException, InternalError, "internal_error", "XX000"),
    (duckdb.FatalException, InternalError, "internal_error", "XX000"),
    (duckdb.IOException, InternalError, "internal_error", "58030"),
)
_OURS = re.compile(r"nearql:(\w+):([^\n]*)")
_PREFIX = re.compile(r"^[\w\- ]*Error: ")
_CARET = re.compile(r"\n\n?LINE (\d+): ([^\n]*)\n( *)\^", re.S)
_COLUMN = re.compile(
    r'Referenced column "([^"]+)" (?:was )?not found'
    r'|does not have a column named "([^"]+)"'
    r'|Column "([^"]+)" in \w+ list not found'
    r'|column "([^"]+)" does not exist'
)
_UNEQUAL_BITS = re.compile(r"Cannot (?:XOR|AND|OR) bit strings of different sizes")
_JSON_PARTS = re.compile(r"argument types '(@>|<@|&&)\([^)]*\bJSON\b")
_ALIAS = re.compile(r'Referenced table "([^"]+)" not found')
_FUNCTION = re.compile(r"(?:Function|Macro)s? with name (\w+) does not exist")
_PARAMETER = re.compile(r"[Pp]arameter ([:$]\w+)")
_VALUE = re.compile(r"string ('(?:[^']|'')*')")
_WRITTEN = {
    "nq_l2": "<->", "nq_ip": "<#>", "nq_cos": "<=>", "nq_l1": "<+>", "nq_add": "+",
    "nq_subtract": "-", "nq_multiply": "*", "nq_sum": "sum", "nq_avg": "avg", "nq_total": "avg",
    "nq_hamming": "<~>", "nq_jaccard": "<%>", "nq_bits": "::bit", "nq_try_bits": "::bit",
    "nq_half": "::halfvec", "nq_signs": "binary_quantize", "nq_concat": "||",
}  # fmt: skip
_FUNCTIONS = re.compile(rf'"*\b({"|".join(_WRITTEN)})(?:_raw)?\b"*')
_WORD = re.compile(r"[\w$]+|'(?:[^']|'')*'")


def translate(error: duckdb.Error | OSError) -> NearQLError:
    """The NearQL error that says the same."""
    text = str(error)
    if "INTERRUPT Error" in text or "Interrupted!" in text:  # also through Arrow's reader
        return StatementTimeout(_clean(text), code="statement_timeout", sqlstate="57014")
    if ours := _OURS.search(text):
        if ours[1] == "too_large":
            return TooLarge(ours[2].strip(), setting="call_length")
        return InvalidValue(ours[2].strip(), code=ours[1])
    if (named := _named(text)) is not None:
        return named
    for kind, ours_kind, code, sqlstate in _KINDS:
        if isinstance(error, kind):
            return ours_kind(_clean(text), code=code, sqlstate=sqlstate)
    return SqlError(_clean(text), code="invalid_sql", sqlstate="42000")


def _named(text: str) -> NearQLError | None:
    if match := _COLUMN.search(text):
        name = next(group for group in match.groups() if group)
        detail = f"There is no column {name!r} here."
        return UndefinedColumn(detail, name=name)
    if "More than one row returned by a subquery" in text:
        detail = "A sub-query that stands for one value returns more than one row; add LIMIT 1."
        return InvalidValue(detail, code="cardinality_violation", sqlstate="21000")
    if _UNEQUAL_BITS.search(text):
        detail = "The bit strings have different lengths."
        return InvalidValue(detail, code="different_dimensions")
    if match := _JSON_PARTS.search(text):
        detail = f"{match[1]} is for lists; json_contains(value, part) asks what JSON contains."
        return Unsupported(detail)
    if match := _ALIAS.search(text):
        detail = f"Nothing in the FROM clause is named {match[1]!r}."
        return SqlError(detail, code="undefined_alias", sqlstate="42P01", name=match[1])
    if match := _FUNCTION.search(text):
        detail = f"There is no function {match[1]!r}.{_hint(text)}"
        return SqlError(detail, code="undefined_function", sqlstate="42883", name=match[1])
    return None


def _hint(text: str) -> str:
    match = re.search(r'Did you mean "([^"]+)"', text)
    return f" Did you mean {match[1]!r}?" if match and INTERNAL not in match[1] else ""


def _clean(text: str) -> str:
    """DuckDB's first paragraph without its prefix, its echo of our SQL and our internal names."""
    kept = _CARET.split(_PREFIX.sub("", text))[0]
    lines = [line.strip() for line in kept.splitlines() if line.strip() and INTERNAL not in line]
    first = " ".join(lines[:12]) or "The statement can't be run."
    return _FUNCTIONS.sub(lambda match: _WRITTEN[match[1]], first)


def word_at_caret(text: str) -> str | None:
    """The word of our SQL that DuckDB's caret points at, for finding it in the user's text."""
    match = _CARET.search(text)
    if not match:
        return None
    prefix = len(f"LINE {match[1]}: ")
    found = _WORD.match(match[2], max(0, len(match[3]) - prefix))
    return found[0] if found else None


def in_words_of(error: NearQLError, text: str, offset: int, columns: Iterable[str]) -> NearQLError:
    """Add the position in the user's text (1-based, `offset` characters before it) and near names.

    The place is given only where it is certain: the word occurs once in the statement.
    """
    cause = error.__cause__
    name = error.extra.get("name")
    if error.position is None:
        words = [name, _named_in(error.detail)]
        if isinstance(cause, duckdb.Error):
            words.append(word_at_caret(str(cause)))
        error.position = _place(words, text, offset)
    if error.code == "undefined_column" and name and "Did you mean" not in error.detail:
        _suggest(error, name, columns)
    return error


def _named_in(detail: str) -> str | None:
    """A parameter or a quoted value that the message names."""
    match = _PARAMETER.search(detail) or _VALUE.search(detail)
    return match[1] if match else None


def _place(words: list[str | None], text: str, offset: int) -> int | None:
    for word in words:
        found = occurrences(text, word) if word else []
        if len(found) == 1:
            return offset + found[0] + 1
    return None


def _suggest(error: NearQLError, name: str, columns: Iterable[str]) -> None:
    near = nearest_name(name, columns)
    if near is not None:
        error.detail = f"{error.detail} Did you mean {near!r}?"
        error.args = (error.detail,)
        error.extra["nearest"] = near


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` was probably meant to be, or None."""
    by_lower = {one.lower(): one for one in known}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[found[0]] if found else None


def occurrences(text: str, word: str) -> list[int]:
    """Where the word stands in the text as a whole word, 0-based, whatever its case."""
    before = r"(?<![\w$])" if word[0] not in "':$" else ""
    after = r"(?![\w$])" if word[-1] != "'" else ""
    pattern = f"{before}{re.escape(word)}{after}"
    return [match.start() for match in re.finditer(pattern, text, re.I)]
