"""Every change of metadata is a command that went through the log: nobody else can write it."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from nearql.cluster.metadata.state import COMMANDS
from nearql.query.statements import Statement
from nearql.server.routes.all import ROUTES as ROUTES_OF_A_NODE
from support.metadata_changes import (
    BY_ITSELF,
    BY_STATEMENT,
    ELSEWHERE,
    HARMLESS_STATEMENTS,
    LOOKED_AT_ELSEWHERE,
    ROUTES,
    STATEMENTS,
    STATEMENTS_ELSEWHERE,
)

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("client", "engine", "query", "cluster", "server")
STATE = "nearql.cluster.metadata.state"

# What makes or changes a state, and who may: the log of a node alone, and the two ends of a voter.
MAKERS = {
    (STATE, "apply"): {"local", "raft/told", "raft/sidecar"},
    ("nearql.cluster.metadata.journal", "Journal"): {"local"},
    ("nearql.cluster.metadata.raft.journal", "RaftJournal"): {
        "raft/guard", "raft/library", "raft/member", "raft/sidecar",
    },
}  # fmt: skip


def files() -> Iterator[Path]:
    """Those that speak of metadata at all."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if "etadata" in path.read_text():
                yield path


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of what a file imports when it runs, type annotations left out."""
    for node in ast.walk(_without_type_checking(parsed(path))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)


def _without_type_checking(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    return tree


@pytest.mark.parametrize(("module", "name"), MAKERS)
def test_only_the_log_makes_a_state(module: str, name: str) -> None:
    allowed = {f"cluster/metadata/{file}.py" for file in MAKERS[module, name]}
    users = {
        path.relative_to(ROOT).as_posix() for path in files() if (module, name) in imported(path)
    }
    assert users - {module.removeprefix("nearql.").replace(".", "/") + ".py"} <= allowed
    assert users, "the list above names something that is not there"


def test_only_the_log_starts_from_an_empty_state() -> None:
    makers = {
        path.relative_to(ROOT / "cluster/metadata").as_posix().removesuffix(".py")
        for path in files()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Metadata"
    }
    assert makers == {"local", "raft/told", "raft/sidecar"}


def test_every_statement_and_route_that_changes_metadata_is_looked_at() -> None:
    """A new one needs a line in support.metadata_changes, and is then looked for in real logs."""
    kinds = {kind.__name__ for kind in Statement.__subclasses__()}
    named = {kind for _, kind, _ in STATEMENTS} | HARMLESS_STATEMENTS
    assert kinds <= named | STATEMENTS_ELSEWHERE.keys()
    asked = {(route.method, route.path) for route in ROUTES_OF_A_NODE if route.method != "GET"}
    assert asked <= ROUTES.keys() | BY_STATEMENT | LOOKED_AT_ELSEWHERE.keys()


def test_every_command_is_looked_at() -> None:
    by_request = [*(c for _, _, c in STATEMENTS), *ROUTES.values()]
    seen = {name for commands in by_request for name in commands} | BY_ITSELF.keys()
    assert not seen & ELSEWHERE.keys()
    assert seen | ELSEWHERE.keys() == COMMANDS.keys()
    elsewhere = (ELSEWHERE, LOOKED_AT_ELSEWHERE, STATEMENTS_ELSEWHERE)
    for file in {file for known in elsewhere for file in known.values()}:
        assert (ROOT / file).exists(), file


def test_a_state_can_not_be_changed_in_place() -> None:
    """Its maps are never written: every handler makes new ones."""
    for path in (ROOT / "cluster/metadata").glob("*.py"):
        tree = ast.parse(path.read_text())
        written = [
            f"{path.name}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Subscript)
            and isinstance(node.ctx, ast.Store | ast.Del)
            and isinstance(node.value, ast.Attribute)
            and isinstance(node.value.value, ast.Name)
            and node.value.value.id in ("state", "row", "shard", "access")
        ]
        assert not written
