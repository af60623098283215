"""A progress bar on a terminal: rows, rate, time left. Quiet where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int], None]


@contextmanager
def progress_bar(title: str, total: int | None, *, shown: bool, done: int = 0) -> Iterator[Advance]:
    """Yields a function that is told of rows done; draws on stderr if that is a terminal."""
    if not shown or not sys.stderr.isatty():
        yield lambda rows: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    texts = TextColumn("{task.description}"), TextColumn("{task.completed:,.0f} rows")
    columns = (*texts, TextColumn("{task.fields[rate]}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=10) as progress:
        task = progress.add_task(title, total=total, completed=done, rate="")

        def advance(rows: int) -> None:
            progress.advance(task, rows)
            speed = progress.tasks[0].speed
            progress.update(task, rate=f"{speed:,.0f} rows/s" if speed else "")

        yield advance
