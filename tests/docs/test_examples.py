"""Every example of the documentation runs, and prints what the page says.

How a page is written:

- `sql` blocks run in order, one database in this process per page. A comment `-- :q = [1, 0, 0]`
  in a block gives a parameter. The last statement's answer, its notices or its error are the
  output.
- `python` blocks run in order with one set of names per page; what they print is the output.
- `sh` blocks are run by bash, `console` blocks command by command (`$ `), with a real server at
  localhost:8470, which here has another port. The output of a console command stands below it.
- A `text` block below a block is its output; `...` stands for what differs from run to run.
- `<!-- not run: reason -->` above a block says why it isn't run; `NOT_RUN` counts these.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

import nearql
from nearql.client.errors import Error
from nearql.client.statements import split
from support.doc_pages import ROOT, Block, blocks, matches, pages
from support.server_process import ServerProcess

pytestmark = pytest.mark.docs

RUN = ("sql", "python", "sh", "console")
DATA = ("", "text", "yaml", "json")
# Run by a test of their own: (page, language) -> that test.
ELSEWHERE = {
    ("docs/client.md", "pycon"): "tests/docs/test_client.py",
    ("docs/http-api.md", "console"): "tests/docs/test_http_api.py",
}
# How many blocks of a page are marked as not run.
NOT_RUN = {
    "README.md": 1,
    "CONTRIBUTING.md": 1,
    "docs/access.md": 3,
    "docs/benchmarks.md": 2,
    "docs/cluster.md": 4,
    "docs/client.md": 4,
    "docs/deployment.md": 2,
    "docs/kubernetes.md": 6,
    "docs/operating.md": 3,
    "docs/sql.md": 1,
    "docs/tutorial.md": 1,
}
PARAMETER = re.compile(r"^-- [:$](\w+) = (.+)$", re.MULTILINE)
ADDRESS = "localhost:8470"


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def runnable(page: Path) -> list[Block]:
    """The blocks that this test runs."""
    return [
        block
        for block in blocks(page)
        if block.language in RUN
        and block.not_run is None
        and (name_of(page), block.language) not in ELSEWHERE
    ]


class Runner:
    """Runs the blocks of one page in an empty folder."""

    def __init__(self, page: Path, folder: Path) -> None:
        self.page = page
        self.folder = folder
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self._open = contextlib.ExitStack()
        self._db: nearql.Connection | None = None
        self._server: ServerProcess | None = None

    def close(self) -> None:
        self._open.close()

    def run(self, block: Block) -> None:
        getattr(self, f"_{block.language}")(block)

    def _compare(self, block: Block, expected: str | None, got: str) -> None:
        if expected is not None:
            place = f"{name_of(self.page)}:{block.line}"
            assert matches(self._here(expected), got), f"{place} prints\n{got}"

    # ---- SQL --------------------------------------------------------------------------

    @property
    def db(self) -> nearql.Connection:
        if self._db is None:
            self._db = self._open.enter_context(nearql.connect(str(self.folder / "sql-data")))
        return self._db

    def _sql(self, block: Block) -> None:
        parameters = {name: orjson.loads(value) for name, value in PARAMETER.findall(block.text)}
        text = PARAMETER.sub("", block.text)
        statements, rest = split(text if text.rstrip().endswith(";") else text + ";")
        assert statements, text
        assert not rest, text
        for statement in statements[:-1]:
            self.db.execute(statement, used(parameters, statement))
        got = self._answer(statements[-1], used(parameters, statements[-1]), block)
        self._compare(block, block.output, got)

    def _answer(self, statement: str, parameters: Any, block: Block) -> str:
        try:
            result = self.db.execute(statement, parameters)
        except Error as error:
            if block.output is None:
                raise
            return f"{error.code}: {error.detail}"
        return "\n".join([repr(result), *(f"notice: {notice}" for notice in result.notices)])

    # ---- what talks to a server -------------------------------------------------------

    @property
    def server(self) -> ServerProcess:
        if self._server is None:
            self._server = self._open.enter_context(ServerProcess(self.folder / "server-data"))
            if self.page.name == "README.md":  # its reader has the demo running
                self._shell("nearql load packages " + shlex.quote(str(demo_data())) + " --create")
        return self._server

    def _here(self, text: str) -> str:
        return text.replace(ADDRESS, f"127.0.0.1:{self._server.port}") if self._server else text

    def _python(self, block: Block) -> None:
        if ADDRESS in block.text:
            _ = self.server
        printed = io.StringIO()
        # As many lines before it as in the page, so that a traceback names the page's line.
        code = compile("\n" * block.line + self._here(block.text), str(self.page), "exec")
        with contextlib.redirect_stdout(printed), contextlib.chdir(self.folder):
            exec(code, self.names)
        self._compare(block, block.output, printed.getvalue())

    def _sh(self, block: Block) -> None:
        _ = self.server
        self._compare(block, block.output, self._shell("set -euo pipefail\n" + block.text))

    def _console(self, block: Block) -> None:
        _ = self.server
        for command, expected in commands(block.text):
            self._compare(block, expected, self._shell(command, codes=(0, 1)))

    def _shell(self, text: str, codes: tuple[int, ...] = (0,)) -> str:
        """What bash prints on stdout and stderr."""
        assert self._server is not None
        script = 'curl() { python -m support.curl "$@"; }\n' * (shutil.which("curl") is None)
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            # A busy machine's warning of a slow statement is no part of what a page shows.
            "NEARQL_LIMITS_SLOW_STATEMENT_MS": "3600000",
            "PYTHONPATH": str(ROOT / "tests"),
            "NEARQL_URL": self._server.url,
            "HOME": str(self.folder),
            "XDG_STATE_HOME": str(self.folder / "state"),
        }
        done = subprocess.run(
            ["bash", "-c", script + self._here(text)], cwd=self.folder, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode in codes, f"{text}\n{done.stdout}"
        return done.stdout


def demo_data() -> Path:
    return ROOT / "client" / "demo_data" / "debian_5k.parquet"


def used(parameters: dict[str, Any], statement: str) -> Any:
    """The parameters that a statement names; a list where they are numbered."""
    if any(name.isdigit() for name in parameters):
        return [parameters[str(n)] for n in range(1, len(parameters) + 1)]
    return {k: v for k, v in parameters.items() if re.search(rf"[:$]{k}\b", statement)} or None


def commands(text: str) -> Iterator[tuple[str, str]]:
    """(command, expected output) of each `$ ` line; a command ends when its quotes are closed."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        end = next(n for n in range(1, len(lines) + 1) if is_whole("\n".join(lines[:n])))
        yield "\n".join(lines[:end]), "\n".join(lines[end:])


def is_whole(command: str) -> bool:
    try:
        shlex.split(command)
    except ValueError:
        return False
    return not command.endswith("\\")


WITH_EXAMPLES = [page for page in pages() if runnable(page)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=name_of)
def test_the_examples_print_what_the_page_says(page: Path, tmp_path: Path) -> None:
    runner = Runner(page, tmp_path)
    try:
        for block in runnable(page):
            runner.run(block)
    finally:
        runner.close()


def test_every_block_is_run_or_says_why_not() -> None:
    left: Counter[str] = Counter()
    for page in pages():
        for block in blocks(page):
            place = f"{name_of(page)}:{block.line}"
            elsewhere = ELSEWHERE.get((name_of(page), block.language))
            if block.not_run is not None:
                left[name_of(page)] += 1
            elif elsewhere is not None:
                assert (ROOT / elsewhere).exists(), elsewhere
            else:
                assert block.language in RUN + DATA, f"{place}: a {block.language} block"
                assert block.language != "yaml" or yaml.safe_load(block.text), place
    assert left == NOT_RUN, "a block more or less is marked as not run"


def test_an_example_that_prints_something_else_is_found(tmp_path: Path) -> None:
    runner = Runner(ROOT / "docs" / "sql.md", tmp_path)
    try:
        runner.run(Block("sql", "SELECT 1 AS one", 1, output="one\n---\n1\n(1 row)"))
        runner.run(Block("sql", "-- :a = 2\nSELECT :a AS a", 1, output="a\n-\n2\n(1 row)"))
        runner.run(Block("sql", "SELECT x", 1, output="undefined_column: ..."))
        runner.run(Block("python", "print(1 + 1)", 1, output="2"))
        wrong = [
            Block("sql", "SELECT 1 AS one", 1, output="one\n---\n2\n(1 row)"),
            Block("python", "print(1 + 1)", 1, output="3"),
        ]
        for block in wrong:
            with pytest.raises(AssertionError):
                runner.run(block)
        with pytest.raises(Error):
            runner.run(Block("sql", "SELECT x", 1))
    finally:
        runner.close()
