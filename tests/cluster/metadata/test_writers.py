"""Every change of metadata is a command that went through the log: nobody else can write it."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from nearql.cluster.metadata.state import COMMANDS
from nearql.query.dialect import parse
from nearql.query.statements import AlterTable, Statement
from nearql.server.routes.all import ROUTES as ROUTES_OF_A_NODE
from support.metadata_changes import (
    BY_STATEMENT,
    HARMLESS_ACTIONS,
    HARMLESS_ROUTES,
    HARMLESS_STATEMENTS,
    ROUTES,
    STATEMENTS,
    UNUSED,
    wanted,
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


def test_only_the_log_puts_a_state_in_the_place_of_another() -> None:
    """Moves, restores, jobs, keys: whoever decides them proposes a command, and waits for it."""
    holders = {
        path.relative_to(ROOT / "cluster/metadata").as_posix().removesuffix(".py")
        for path in (ROOT / "cluster/metadata").rglob("*.py")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del)
        if node.attr in ("state", "_state")
    }
    assert holders == {"local", "raft/told", "raft/sidecar"}
    reaching = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del)
        if isinstance(node.value, ast.Attribute) and node.value.attr in ("metadata", "_metadata")
    ]
    assert not reaching


def test_only_the_state_machine_uses_the_handlers_of_commands() -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for path in files()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load)
        if ast.unparse(node).split(".")[-1] in ("HANDLERS", "apply_access")
    }
    assert users == {"cluster/metadata/state.py", "cluster/metadata/restores.py"}


def test_only_the_node_names_the_folder_of_the_metadata() -> None:
    named = {
        path.relative_to(ROOT).as_posix()
        for path in files()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
        if isinstance(node.right, ast.Constant) and node.right.value == "metadata"
    }
    assert named == {"server/node.py"}


def test_every_statement_that_changes_metadata_is_looked_at() -> None:
    """A new one needs a line in support.metadata_changes, and is then looked for in real logs."""
    texts = {text: parse(text)[0] for text, _, _ in STATEMENTS}
    for text, kind, _ in STATEMENTS:
        assert type(texts[text]).__name__ == kind, text
    named = {kind for _, kind, _ in STATEMENTS}
    assert not named & HARMLESS_STATEMENTS
    assert {kind.__name__ for kind in _kinds(Statement)} == named | HARMLESS_STATEMENTS
    (actions,) = get_args(get_type_hints(AlterTable)["actions"])[:1]
    altered = {action for s in texts.values() if isinstance(s, AlterTable) for action in s.actions}
    tried = {type(action).__name__ for action in altered}
    assert {kind.__name__ for kind in get_args(actions)} == tried | HARMLESS_ACTIONS


def _kinds(kind: type) -> Iterator[type]:
    children: list[type] = kind.__subclasses__()
    for child in children:
        yield from (child, *_kinds(child))


def test_every_route_that_changes_metadata_is_asked() -> None:
    asked = {(route.method, route.path) for route in ROUTES_OF_A_NODE if route.method != "GET"}
    listed = (ROUTES.keys(), BY_STATEMENT, HARMLESS_ROUTES)
    assert asked == set().union(*listed)
    assert len(asked) == sum(map(len, listed))


def test_every_command_is_looked_for() -> None:
    assert wanted().keys() | UNUSED == COMMANDS.keys()
    made = {
        ast.unparse(node.func).split(".")[-1]
        for path in files()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call)
    }
    assert not made & UNUSED, "somebody proposes it now: have the test of real logs do so, too"
    assert not wanted().keys() & UNUSED


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
