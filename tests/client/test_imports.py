"""Importing the client is quick and light."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = (
    "faiss",
    "duckdb",
    "sqlalchemy",
    "psycopg",
    "sqlglot",
    "starlette",
    "pyarrow",
    "numpy",
    "rich",
    "prompt_toolkit",
)


def modules_after(code: str) -> set[str]:
    """What a new process has loaded after the code."""
    program = f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    "code",
    [
        "import nearql",
        "import nearql; nearql.connect('http://h').close()",
        "import nearql.client.errors",
        "from nearql.client.cli import sql, load, imports, cluster, demo",
        "import nearql.dbapi",
    ],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    assert not modules_after(code).intersection(HEAVY)


def test_importing_takes_milliseconds() -> None:
    """Below 150 ms of CPU, connecting included: the best of three new processes."""
    code = (
        "import time; began = time.process_time(); import nearql; nearql.connect('http://h');"
        "print(time.process_time() - began)"
    )
    taken = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(3)
    ]
    assert min(taken) < 0.15


def test_without_sqlalchemy_its_extra_is_named() -> None:
    code = "import sys; sys.modules['sqlalchemy'] = None; import nearql.sqlalchemy"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'nearql[sqlalchemy]'" in done.stderr


def test_without_langchain_its_extra_is_named() -> None:
    code = "import sys; sys.modules['langchain_core'] = None; import nearql.langchain"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'nearql[langchain]'" in done.stderr
