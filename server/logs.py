"""Logs on stderr: one line per event, for people (`console`) or machines (`json`).

Every line of a request carries its `request_id`. Tracebacks show code, never the values of
variables, which may hold rows, statements or keys.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from nearql.server.log_settings import LogSection

_TALKATIVE = ("faiss.loader", "uvicorn")  # their news is told by our own events


def quiet_logs() -> None:
    """Of a library or a command: an application that set up structlog keeps its way; else only
    warnings, on stderr.
    """
    if not structlog.is_configured():
        plain = structlog.dev.ConsoleRenderer(
            colors=False, exception_formatter=structlog.dev.plain_traceback
        )
        structlog.configure(
            processors=[structlog.processors.add_log_level, plain],
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            logger_factory=_to_stderr,
        )


def _to_stderr(*_: Any) -> structlog.PrintLogger:
    """A logger for what stderr is now: an application may put another in its place and close it."""
    return structlog.PrintLogger(sys.stderr)


def configure_logs(section: LogSection) -> None:
    """Set up structlog and the standard library's logging (uvicorn) alike."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelName(section.level.upper())
        ),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_tail(section.format),
            ],
            foreign_pre_chain=shared,
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(section.level.upper())
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))


def _tail(form: str) -> list[Any]:
    """What turns an event into a line."""
    if form == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    plain = structlog.dev.plain_traceback
    colors = sys.stderr.isatty()
    return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]
