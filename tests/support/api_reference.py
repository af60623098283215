"""docs/api.md, from the docstrings: `python -m support.api_reference` in tests/ prints it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import nearql
from nearql import client, dbapi
from nearql.client import calls, errors
from nearql.client.loader import FailedRow, InsertReport
from nearql.client.stream import BatchStream
from nearql.client.sync import connect

HEAD = """# The Python client: reference

Made from the docstrings, which `tests/docs/test_api.py` checks. [client.md](client.md) is the
guide. `AsyncConnection` has the methods of `Connection`, awaited.
"""
OPERATIONS = ("sql", "execute", "stream", "explain", "insert", "tables", "table", "health")


def page() -> str:
    """The whole page."""
    parts = [HEAD, "## nearql", *_entry("nearql.connect", connect)]
    parts += ["## Connection", _docstring(client.Connection)]
    for name in OPERATIONS:
        parts += _entry(f"Connection.{name}", getattr(calls, name), first="self")
    for made in (client.Result, BatchStream, InsertReport, FailedRow):
        parts += [f"## {made.__name__}", _docstring(made), *_members(made)]
    parts += ["## Errors", _errors()]
    parts += ["## nearql.dbapi", _docstring(dbapi)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _members(made: type) -> Iterator[str]:
    for name, member in vars(made).items():
        if not name.startswith("_") and inspect.isfunction(member):
            yield from _entry(f"{made.__name__}.{name}", member, first="self")


def _entry(name: str, function: Any, first: str = "") -> Iterator[str]:
    yield f"### `{name}`"
    yield _fenced(f"{name.split('.')[-1]}{_signature(function, first)}\n\n{_text(function)}")


def _signature(function: Any, first: str) -> str:
    signature = inspect.signature(function)
    kept = [p for p in signature.parameters.values() if p.name != first]
    texts = list(_starred(kept))
    flat = ", ".join(texts)
    shown = flat if len(flat) <= 80 else "\n    " + ",\n    ".join(texts) + "\n"
    returned = re.sub(r"^Steps\[(.*)\]$", r"\1", str(signature.return_annotation))
    return f"({shown}) -> {returned}"


def _starred(kept: list[inspect.Parameter]) -> Iterator[str]:
    """The parameters, with a lone `*` before the first that is only given by name."""
    star = False
    for parameter in kept:
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            star = True
            yield "*"
        star = star or parameter.kind is parameter.VAR_POSITIONAL
        yield _parameter(parameter)


def _parameter(parameter: inspect.Parameter) -> str:
    stars: dict[Any, str] = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
    text = f"{stars.get(parameter.kind, '')}{parameter.name}: {parameter.annotation}"
    return text if parameter.default is parameter.empty else f"{text} = {parameter.default!r}"


def _errors() -> str:
    text = inspect.getdoc(errors) or ""
    return _fenced(text)


def _docstring(documented: Any) -> str:
    return _fenced(_text(documented))


def _text(documented: Any) -> str:
    return inspect.getdoc(documented) or ""


def _fenced(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```"


if __name__ == "__main__":
    assert nearql
    print(page(), end="")
