"""Spans: which part of a request took how long, for whoever asked to see it.

    request -> statement -> parse, plan, recency, scan, search, duckdb, commit, copies
                                                       search -> segments -> device
    request -> forward -> (on another node) forwarded -> statement -> ...

Off unless `tracer` is set, at a process's start: then a place that has something to tell looks at
one variable of this module and goes on. What a tracer does with spans is its own affair; NearQL's
is `server.tracing`, which sends them to OpenTelemetry.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol


class Span(Protocol):
    """A part of a request, while it lasts."""

    def tell(self, **attributes: Any) -> None:
        """What is known of it by now; None is left out."""


class Tracer(Protocol):
    """Takes note of spans. Thread-safe."""

    def span(self, name: str, **attributes: Any) -> AbstractContextManager[Span]:
        """A part of what this thread is doing now, for as long as the block lasts."""

    def helping(self, work: Callable[[], None]) -> Callable[[], None]:
        """The work, to be done in other threads as a part of what this one is doing."""

    def carried(self) -> str | None:
        """What this thread is doing, in words that another node understands."""

    def carried_on(
        self, carried: str | None, name: str, **attributes: Any
    ) -> AbstractContextManager[Span]:
        """A part of what another node is doing, for as long as the block lasts."""


class _Nothing:
    """The span of nobody."""

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def tell(self, **attributes: Any) -> None:
        pass


tracer: Tracer | None = None
_NOTHING = _Nothing()


def span(name: str, **attributes: Any) -> AbstractContextManager[Span]:
    """A span of the tracer's, where there is one."""
    return _NOTHING if tracer is None else tracer.span(name, **attributes)


def carried() -> str | None:
    """What a request that goes to another node takes with it; None where nobody looks."""
    return None if tracer is None else tracer.carried()


def carried_on(carried: str | None, name: str, **attributes: Any) -> AbstractContextManager[Span]:
    """A span within that of the node that sent `carried`."""
    return _NOTHING if tracer is None else tracer.carried_on(carried, name, **attributes)
