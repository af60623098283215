"""No text ends the process: neither by its nesting nor by the depth of the tree that it becomes."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import NoReturn

import pytest
from sqlglot import exp

from nearql.engine.errors import NearQLError, Overloaded, SqlError
from nearql.query.dialect import to_duckdb
from nearql.query.dialect.stack import LAYERS, PARSED_BYTES, SHORT, with_room
from nearql.query.trees import nodes_of, nodes_of_shallow
from support.nesting import NESTING
from support.sql import Sql


@pytest.mark.parametrize("limits", ["DEFAULT_LIMITS", "NO_LIMITS"])
def test_no_nesting_ends_the_process(limits: str) -> None:
    """A child asks, on a thread with a small stack, and lives."""
    code = (
        "import sys, threading\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "from support import nesting\n"
        "threading.stack_size(4 << 20)\n"
        f"threading.Thread(target=nesting.ask_all, args=[nesting.{limits}]).start()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout.count("\n"), done.stderr)
    assert done.stdout.count("\n") == 2 * len(NESTING), done.stderr


def test_a_trees_layers_are_limited() -> None:
    """At the limit a tree is written, one layer more is refused."""

    def nested(layers: int) -> exp.Expr:
        tree: exp.Expr = exp.Literal.number(1)
        for _ in range(layers - 1):
            tree = exp.Paren(this=tree)
        return tree

    assert nodes_of_shallow(nested(5), 5) == nodes_of(nested(5))
    with pytest.raises(RecursionError):
        nodes_of_shallow(nested(6), 5)
    with pytest.raises(SqlError) as caught:
        to_duckdb(nested(LAYERS))  # which puts one more around it
    assert caught.value.code == "statement_too_complex"


def test_many_tokens_get_a_stack_of_their_own() -> None:
    """A few are parsed where they are; errors come back; threads' stacks are as before."""
    before = threading.stack_size()
    here = threading.get_ident()
    assert with_room(SHORT, threading.get_ident) == here
    assert with_room(SHORT + 1, threading.get_ident) != here
    seen = with_room(2_000, threading.stack_size)
    assert seen in (before, 2_200 * PARSED_BYTES)  # that of threads to come, perhaps not yet reset
    with pytest.raises(ZeroDivisionError):
        with_room(SHORT + 1, lambda: 1 // 0)
    assert threading.stack_size() == before


def test_merged_layers_are_limited(docs: Sql) -> None:
    """Each definition is shallow; what a search merges of them is not."""
    deep = "x" + " + 1" * 300
    parts = ["c0 AS (SELECT id AS x, vec FROM docs)"]
    parts += [f"c{i} AS (SELECT {deep} AS x, vec FROM c{i - 1})" for i in range(1, 4)]
    text = f"WITH {', '.join(parts)} SELECT x FROM c3 ORDER BY vec <-> '[0,0]' LIMIT 1"
    with pytest.raises(NearQLError) as caught:
        docs.rows(text)
    assert caught.value.code == "statement_too_complex"


def test_no_thread_left_is_told_and_the_next_statement_is_parsed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where a container's limit of processes is reached."""
    before = threading.stack_size()

    def full(_: threading.Thread) -> NoReturn:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", full)
        with pytest.raises(Overloaded, match="no thread left") as told:
            with_room(SHORT + 1, int)
        assert told.value.retryable
    assert threading.stack_size() == before
    assert with_room(SHORT + 1, lambda: 7) == 7
