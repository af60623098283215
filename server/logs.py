"""Logs: one event a line on stderr, for people or as JSON."""

from __future__ import annotations

import logging
import sys

import structlog

from nearql.server.config import LogSection


def configure_logs(section: LogSection) -> None:
    """Send structlog's events to stderr in the configured format, at the configured level."""
    level = getattr(logging, section.level.upper())
    render = (
        structlog.processors.JSONRenderer()
        if section.format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
