"""The process of `nearql serve`: what it keeps out, how it starts and stops."""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_a_server_never_loads_pandas() -> None:
    """PyArrow would import it with its first array, in the middle of somebody's first request."""
    pytest.importorskip("pandas")
    code = (
        "import sys, pyarrow as pa; from nearql.server.run import keep_pandas_out; "
        "keep_pandas_out(); pa.array([1, 2]).to_pylist(); assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
