"""Problem documents become exceptions: by code, SQLSTATE and status, with everything they say."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest

from nearql.client import errors
from nearql.client.errors import class_of, from_problem
from nearql.engine import errors as engine_errors

ENGINE_CLASSES = [
    found
    for _, found in inspect.getmembers(engine_errors, inspect.isclass)
    if issubclass(found, engine_errors.NearQLError) and found is not engine_errors.NearQLError
]


@pytest.mark.parametrize("engine_class", ENGINE_CLASSES, ids=lambda c: c.__name__)
def test_each_class_of_the_engine_has_its_twin(engine_class: Any) -> None:
    raised = engine_class("Detail.")
    problem = {
        "status": raised.http_status,
        "code": raised.code,
        "sqlstate": raised.sql_state,
        "definite": raised.definite,
        "retryable": raised.retryable,
        "detail": raised.detail,
    }
    assert class_of(problem).__name__ == engine_class.__name__
    twin = from_problem(problem)
    assert (twin.definite, twin.retryable) == (raised.definite, raised.retryable)


@pytest.mark.parametrize(
    ("status", "code", "sqlstate", "expected"),
    [
        (409, "duplicate_key", "23505", errors.Conflict),
        (404, "undefined_table", "42P01", errors.NotFound),
        (400, "undefined_column", "42703", errors.UndefinedColumn),
        (400, "wrong_dimensions", "22000", errors.InvalidValue),
        (400, "newer_feature", "0A000", errors.Unsupported),
        (400, "anything", "99999", errors.InvalidRequest),
        (413, "body_too_large", "54000", errors.TooLarge),
        (503, "data_dir_in_use", "57P03", errors.Unavailable),
        (418, "teapot", "", errors.ServerError),
    ],
)
def test_other_codes_are_classified(
    status: int, code: str, sqlstate: str, expected: type[errors.ServerError]
) -> None:
    assert class_of({"status": status, "code": code, "sqlstate": sqlstate}) is expected


def test_everything_the_problem_says_is_there() -> None:
    error = from_problem(
        {
            "title": "SQL error", "status": 400, "detail": "No.", "code": "syntax_error",
            "sqlstate": "42601", "position": 8, "request_id": "r", "definite": True,
            "retryable": False, "hint": "x",
        }
    )  # fmt: skip
    assert isinstance(error, errors.SqlError)
    assert isinstance(error, ValueError)
    assert (str(error), error.code, error.sqlstate, error.status) == (
        "No.",
        "syntax_error",
        "42601",
        400,
    )
    assert (error.position, error.request_id, error.extra) == (8, "r", {"hint": "x"})


def test_the_tree_at_the_top_is_the_tree() -> None:
    """Every class is in the docstring's drawing, at its depth."""
    assert errors.__doc__ is not None
    drawn = {}
    for line in errors.__doc__.splitlines():
        words = line.replace("│", " ").replace("├──", "   ").replace("└──", "   ").split()
        if line.startswith("    ") and words:
            drawn[words[0]] = (line.index(words[0]) - 4) // 4
    tree = ast.parse(Path(inspect.getfile(errors)).read_text())
    names = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    depths = {
        name: sum(base.__module__ == errors.__name__ for base in getattr(errors, name).__mro__) - 1
        for name in names
    }
    assert drawn == depths
