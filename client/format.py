"""Results as text for people: an aligned table, and HTML for notebooks."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence
from typing import Any

from nearql.client.parameters import blob_text, interval_text, is_interval

CELL_WIDTH = 60  # characters of a value that are shown
WHOLE_WIDTH = 2000  # characters of a value that stands alone in its row
ROWS_SHOWN = 40  # of a printed result; the rest is counted
_VECTOR_SHOWN = 3  # elements of a long list


def text_table(
    names: Sequence[str], rows: Sequence[Sequence[Any]], *, total: int | None = None,
    cell_width: int = CELL_WIDTH,
) -> str:  # fmt: skip
    """An aligned table with a line that counts the rows; numbers to the right.

    A result of one column, such as a plan, has nothing beside it and is shown whole.
    """
    if len(names) == 1:
        cell_width = max(cell_width, WHOLE_WIDTH)
    cells = [[cell(value, cell_width) for value in row] for row in rows]
    widths = [
        max([display_width(name), *(display_width(row[i]) for row in cells)])
        for i, name in enumerate(names)
    ]
    right = [
        all(_is_number(row[i]) for row in rows) and any(row[i] is not None for row in rows)
        for i in range(len(names))
    ]
    lines = [
        " | ".join(pad(name, width) for name, width in zip(names, widths, strict=True)),
        "-+-".join("-" * width for width in widths),
    ]
    lines += [
        " | ".join(pad(c, w, r) for c, w, r in zip(row, widths, right, strict=True))
        for row in cells
    ]
    return "\n".join([line.rstrip() for line in lines] + [count_line(len(rows), total)])


def count_line(shown: int, total: int | None) -> str:
    """`(3 rows)`, and how many of them are shown where that is not all."""
    total = shown if total is None else total
    count = f"{total} row" + ("" if total == 1 else "s")
    return f"({count})" if shown == total else f"({count}, {shown} shown)"


def html_table(names: Sequence[str], rows: Sequence[Sequence[Any]], total: int) -> str:
    """The same for a notebook; every value escaped."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell(v, CELL_WIDTH))}</td>" for v in row) + "</tr>"
        for row in rows
    )
    count = html.escape(count_line(len(rows), total))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{count}</p>"


def cell(value: Any, width: int) -> str:
    """One value as short text; control characters are escaped, so that a row stays a line."""
    text = _plain(value)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if display_width(text) <= width else _cut(text, width - 1) + "…"


def _plain(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return _list(value)
    if isinstance(value, bytes):
        return blob_text(value[:WHOLE_WIDTH])
    return interval_text(value) if is_interval(value) else str(value)


def iso_interval(value: Any) -> str:
    """ISO 8601, as the server's JSON has it: `P14M-2DT3.5S`."""
    date = (f"{value.months}M" if value.months else "") + (f"{value.days}D" if value.days else "")
    if value.nanoseconds or not date:
        seconds, rest = divmod(abs(value.nanoseconds), 1_000_000_000)
        sign = "-" if value.nanoseconds < 0 else ""
        date += f"T{sign}" + f"{seconds}.{rest:09}".rstrip("0").rstrip(".") + "S"
    return "P" + date


def _list(values: list[Any]) -> str:
    if len(values) <= _VECTOR_SHOWN + 2:
        return "[" + ", ".join(map(_plain, values)) + "]"
    shown = ", ".join(map(_plain, values[:_VECTOR_SHOWN]))
    return f"[{shown}, … {len(values)} values]"


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def display_width(text: str) -> int:
    """Columns of a terminal: wide East Asian characters take two, combining ones none."""
    return len(text) if text.isascii() else sum(map(_character_width, text))


def _character_width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _cut(text: str, width: int) -> str:
    taken = 0
    for i, character in enumerate(text):
        taken += _character_width(character)
        if taken > width:
            return text[:i]
    return text


def pad(text: str, width: int, right: bool = False) -> str:
    """Text filled up with spaces to a display width."""
    space = " " * (width - display_width(text))
    return space + text if right else text + space
