"""Every change of metadata is a command that went through the log: nobody else can write it."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

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
