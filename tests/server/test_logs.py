"""Log lines: their two forms, and what must not be in them."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator

import orjson
import pytest
import structlog

from nearql.server.log_settings import LogSection
from nearql.server.logs import configure_logs, quiet_logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave logging as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def fail() -> None:
    """An error with something in its variables that must not be told."""
    password = "hunter2"
    raise ValueError("broken" + password[:0])


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_code_and_no_values(
    form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs(LogSection(format=form, level="info"))
    try:
        fail()
    except ValueError as error:
        structlog.get_logger("nearql.test").error("it_failed", exc_info=error)
    told = capsys.readouterr().err
    assert "it_failed" in told
    assert "ValueError: broken" in told
    assert "hunter2" not in told.replace('password = "hunter2"', "")


def test_json_lines_are_json_with_the_request_id(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(LogSection(format="json", level="info"))
    with structlog.contextvars.bound_contextvars(request_id="abc"):
        structlog.get_logger("nearql.test").info("hello", rows=3)
    logging.getLogger("uvicorn.error").warning("from uvicorn")
    first, second = map(orjson.loads, capsys.readouterr().err.splitlines())
    assert (first["event"], first["rows"], first["request_id"]) == ("hello", 3, "abc")
    assert first["level"] == "info"
    assert second["event"] == "from uvicorn"


def test_lines_below_the_level_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(LogSection(format="console", level="warning"))
    structlog.get_logger("nearql.test").info("hidden")
    structlog.get_logger("nearql.test").warning("shown")
    told = capsys.readouterr().err
    assert "shown" in told
    assert "hidden" not in told


def test_a_library_logs_to_what_stderr_is_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structlog, "is_configured", lambda: False)
    first, second = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", first)
    quiet_logs()
    structlog.get_logger("x").warning("one")
    told = first.getvalue()
    first.close()
    monkeypatch.setattr(sys, "stderr", second)
    structlog.get_logger("x").warning("two")
    assert "one" in told
    assert "two" in second.getvalue()
