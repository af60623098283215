"""What runs now and what was slow: the rows of `nearql.queries`, and how KILL ends a statement.

A statement is known from before it is planned until its answer is complete. One that took longer
than `slow_statement_ms`, or that was killed, is kept in a ring of the last `slow_statements`.

    running -> done | failed | killed

Invariants: an id is given once in the life of a process; a statement is either among those that
run or, slow or killed, in the ring, never in both.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from nearql.engine.errors import Conflict, NearQLError, NotFound, StatementTimeout
from nearql.query.statements import Kill, Statement
from nearql.query.watchdog import Stop
from nearql.query.weight import Deferred

if TYPE_CHECKING:
    from nearql.query.trace import Trace

TEXT_CHARS = 4096  # of a statement's text; an INSERT may have megabytes of values
TIMES = ("scan", "search", "duckdb")  # parts of a statement's time that a run measures
QUERIES = pa.schema(
    [("id", pa.int64()), ("text", pa.string()), ("user", pa.string()), ("state", pa.string()),
     ("started", pa.timestamp("us", tz="UTC")), ("elapsed_ms", pa.float64()),
     ("strategy", pa.string()), ("scan_ms", pa.float64()), ("search_ms", pa.float64()),
     ("duckdb_ms", pa.float64()), ("rows", pa.int64()), ("error", pa.string())]
)  # fmt: skip


@dataclass(eq=False)
class RunningStatement:
    """A statement from its start to its end. user: who asked, None where nobody had to say.

    traces: of its runs so far; written by the statement's own thread, read by others.
    """

    id: int
    text: str
    user: str | None
    started: float = field(default_factory=time.time)  # seconds since 1970
    begun: float = field(default_factory=time.monotonic)
    stop: Stop = field(default_factory=Stop)
    traces: list[Trace] = field(default_factory=list)
    state: str = "running"
    elapsed_s: float | None = None
    rows: int | None = None
    error: str | None = None

    def row(self) -> dict[str, Any]:
        """Its row of `nearql.queries`."""
        elapsed_s = time.monotonic() - self.begun if self.elapsed_s is None else self.elapsed_s
        traces = list(self.traces)
        labels = dict.fromkeys(trace.strategy() for trace in traces)
        return {
            "id": self.id,
            "text": self.text if len(self.text) <= TEXT_CHARS else f"{self.text[:TEXT_CHARS]}...",
            "user": self.user,
            "state": self.state,
            "started": datetime.fromtimestamp(self.started, UTC),
            "elapsed_ms": elapsed_s * 1000,
            "strategy": " + ".join(labels) or None,
            **{f"{part}_ms": _spent(traces, part) for part in TIMES},
            "rows": self.rows,
            "error": self.error,
        }


def _spent(traces: list[Trace], part: str) -> float | None:
    times = [trace.times[part] for trace in traces if part in trace.times]
    return sum(times) if times else None


class Statements:
    """The statements of a node. Thread-safe.

    Args:
        slow_ms: how long a statement takes at least to be kept as slow.
        kept: how many slow statements are kept.
    """

    def __init__(self, slow_ms: int, kept: int) -> None:
        self._slow_s = slow_ms / 1000
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._running: dict[int, RunningStatement] = {}
        self._slow: deque[RunningStatement] = deque(maxlen=kept)
        self.slow = 0
        self.killed = 0
        self.on_slow: Callable[[RunningStatement], None] | None = None  # told of each, at its end

    @contextmanager
    def running(self, text: str, user: str | None = None) -> Iterator[RunningStatement]:
        """Know a statement while the block runs; how the block ends is how it ended.

        Raises:
            Conflict: code `statement_killed`, where KILL cut the block's work short.
        """
        statement = RunningStatement(next(self._ids), text, user)
        with self._lock:
            self._running[statement.id] = statement
        try:
            yield statement
        except Deferred:
            statement.state = "deferred"
            raise
        except StatementTimeout as error:
            if statement.state == "running" or not error.definite:
                statement.error = error.code
                raise
            statement.error = "statement_killed"
            raise _killed(statement.id) from error
        except NearQLError as error:
            statement.error = error.code
            raise
        except BaseException:
            statement.error = "internal_error"
            raise
        finally:
            self._end(statement)

    def is_slow(self, elapsed_s: float) -> bool:
        """Whether a statement that took so long is kept."""
        return elapsed_s >= self._slow_s

    def noted(self, text: str, user: str | None, elapsed_s: float, trace: Trace) -> None:
        """One has ended that was not listed meanwhile, and that `is_slow`."""
        statement = RunningStatement(
            next(self._ids), text, user, time.time() - elapsed_s, traces=[trace], state="done",
            elapsed_s=elapsed_s, rows=sum(trace.rows.values()),
        )  # fmt: skip
        with self._lock:
            self.slow += 1
            self._slow.append(statement)
        if self.on_slow is not None:
            self.on_slow(statement)

    def _end(self, statement: RunningStatement) -> None:
        with self._lock:
            del self._running[statement.id]
            if statement.state == "deferred":  # it has not begun
                return
            statement.elapsed_s = time.monotonic() - statement.begun
            was_killed = statement.error == "statement_killed"
            ended = "failed" if statement.error else "done"
            statement.state = "killed" if was_killed else ended
            self.killed += was_killed
            is_slow = statement.elapsed_s >= self._slow_s
            self.slow += is_slow
            if is_slow or was_killed:
                statement.text = statement.text[: TEXT_CHARS + 1]  # lets go of a long text
                self._slow.append(statement)
        if is_slow and self.on_slow is not None:
            self.on_slow(statement)

    def kill(self, number: int) -> None:
        """End a statement: at once where DuckDB runs, else before its next step.

        A write that is in the log already stands, and answers as if nothing had been asked.

        Raises:
            NotFound: code `undefined_statement`; it has ended, or never was.
        """
        with self._lock:
            statement = self._running.get(number)
            if statement is not None:
                statement.state = "stopping"
                statement.stop.stop()
        if statement is None:
            raise NotFound(
                f"No statement {number} is running; nearql.queries lists those that are.",
                code="undefined_statement", sqlstate="42704",
            )  # fmt: skip

    def owns(self, statement: Statement, user: str | None) -> bool:
        """Whether it is a KILL of what this user runs, for which nobody needs a right."""
        if not isinstance(statement, Kill) or user is None:
            return False
        with self._lock:
            found = self._running.get(statement.id)
        return found is not None and found.user == user

    @property
    def count(self) -> int:
        """How many run now."""
        return len(self._running)

    def table(self) -> pa.Table:
        """`nearql.queries`: what runs, oldest first, then what was slow, newest first."""
        with self._lock:
            listed = [*self._running.values(), *reversed(self._slow)]
        return pa.Table.from_pylist([statement.row() for statement in listed], QUERIES)


def _killed(number: int) -> Conflict:
    return Conflict(
        f"Statement {number} was ended by KILL; nothing was written.",
        code="statement_killed", sqlstate="57014",
    )  # fmt: skip
