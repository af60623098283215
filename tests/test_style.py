"""The style budget, checked on every file: short functions, small files, everything annotated.

A function's length is counted without its docstring, so that explaining it costs nothing.
"""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("client", "engine", "query", "cluster", "server", "src")
OTHERS = ("tests", "benchmarks", "docker", "dev.py")

FILE_LINES = 600
FUNCTION_LINES = 60
FUNCTION_LINES_P90 = 30
FUNCTION_LINES_MEDIAN = 8
POSITIONAL = 5

# Pure cores are driven by events: a clock, a socket or chance inside would break seeded replay.
SANS_IO = ("cluster/replication/core", "cluster/metadata/state", "cluster/placement")
WORLD = {"asyncio", "datetime", "os", "random", "secrets", "socket", "threading", "time"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Source(NamedTuple):
    """A parsed file and its name relative to the repository."""

    name: str
    text: str
    tree: ast.Module


def sources(*folders: str) -> Iterator[Source]:
    """Every Python file below the folders; the symlinks in src/nearql are not followed."""
    for folder in folders:
        top = ROOT / folder
        for path in [top] if top.is_file() else sorted(top.rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith(tuple(f"src/nearql/{package}/" for package in PACKAGES)):
                text = path.read_text()
                yield Source(name, text, ast.parse(text, name))


def functions(tree: ast.AST) -> list[Function]:
    """Every function and method, nested ones too."""
    return [node for node in ast.walk(tree) if isinstance(node, Function)]


def length(function: Function) -> int:
    """Lines from `def` to the end, without the docstring."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        lines -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
    return lines


def report(problems: list[str]) -> None:
    """Fail with every problem at once, each on a line that an editor can open."""
    assert not problems, "\n" + "\n".join(problems)


def test_files_are_small() -> None:
    report(
        [
            f"{file.name}:1: {lines} lines; split it by noun to at most {FILE_LINES}"
            for file in sources(*PACKAGES, *OTHERS)
            if (lines := file.text.count("\n")) > FILE_LINES
        ]
    )


def test_no_function_is_longer_than_a_screen() -> None:
    report(
        [
            f"{file.name}:{f.lineno}: {f.name} has {length(f)} lines; "
            f"name its steps as functions, at most {FUNCTION_LINES} lines each"
            for file in sources(*PACKAGES, *OTHERS)
            for f in functions(file.tree)
            if length(f) > FUNCTION_LINES
        ]
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_most_functions_are_short(package: str) -> None:
    found = [
        (length(f), f"{file.name}:{f.lineno}: {f.name}")
        for file in sources(package)
        for f in functions(file.tree)
    ]
    lengths = sorted(lines for lines, _ in found)
    if len(lengths) < 30:
        pytest.skip(f"{package} has {len(lengths)} functions, too few for a statistic")
    median = statistics.median(lengths)
    p90 = statistics.quantiles(lengths, n=10)[-1]
    print(
        f"{package}: {len(lengths)} functions, median {median:.0f} lines, 90th percentile {p90:.0f}"
    )
    longest = "\n".join(f"{where} ({lines} lines)" for lines, where in sorted(found)[:-11:-1])
    assert median <= FUNCTION_LINES_MEDIAN, f"shorten what is typical in {package}/:\n{longest}"
    assert p90 <= FUNCTION_LINES_P90, f"shorten the longest of {package}/:\n{longest}"


def test_everything_is_annotated() -> None:
    report(
        [
            f"{file.name}:{f.lineno}: {f.name}: annotate {', '.join(missing)}"
            for file in sources(*PACKAGES, *OTHERS)
            for f in functions(file.tree)
            if (missing := list(unannotated(f)))
        ]
    )


def unannotated(function: Function) -> Iterator[str]:
    """Names of parameters without an annotation, and `return` where it is missing."""
    arguments = function.args
    extra = [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
    for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *extra]:
        if argument.annotation is None and argument.arg not in ("self", "cls"):
            yield argument.arg
    if function.returns is None:
        yield "return"


def test_few_positional_parameters() -> None:
    report(
        [
            f"{file.name}:{f.lineno}: {f.name} takes {len(names)} positional parameters; "
            f"make all but {POSITIONAL} keyword-only (`*`) or group them in a dataclass"
            for file in sources(*PACKAGES)
            for f in functions(file.tree)
            if len(names := positional(f)) > POSITIONAL
        ]
    )


def positional(function: Function) -> list[str]:
    """Parameters that a caller can give by position."""
    arguments = [*function.args.posonlyargs, *function.args.args]
    return [a.arg for a in arguments if a.arg not in ("self", "cls")]


def test_public_names_have_docstrings() -> None:
    report(
        [
            f"{file.name}:{getattr(node, 'lineno', 1)}: say in a docstring what {name} is for"
            for file in sources(*PACKAGES)
            for name, node in public(file)
            if ast.get_docstring(node) is None
        ]
    )


def public(
    file: Source,
) -> Iterator[tuple[str, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
    """The module and its public classes and functions, without their methods."""
    yield f"the file {file.name}", file.tree
    for node in file.tree.body:
        if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
            yield node.name, node


def test_product_code_never_sleeps_in_a_thread() -> None:
    report(
        [
            f"{file.name}:{node.lineno}: time.sleep; wait on an event or a condition with a timeout"
            for file in sources(*PACKAGES)
            for node in ast.walk(file.tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.sleep", "sleep")
        ]
    )


def test_pure_cores_touch_no_world() -> None:
    report(
        [
            f"{file.name}:{node.lineno}: imports {', '.join(world)}; pass time, chance and I/O in"
            for file in sources("cluster")
            if file.name.startswith(SANS_IO)
            for node in ast.walk(file.tree)
            if (world := sorted(WORLD.intersection(imported(node))))
            and isinstance(node, ast.Import | ast.ImportFrom)
        ]
    )


def imported(node: ast.AST) -> set[str]:
    """Top-level names of the modules that an import statement loads."""
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    return (
        {node.module.split(".")[0]} if isinstance(node, ast.ImportFrom) and node.module else set()
    )
