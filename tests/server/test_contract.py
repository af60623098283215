"""`/openapi.json` is valid OpenAPI 3.1, and a live server keeps to it whatever it is sent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from nearql.server.openapi import document
from nearql.server.routes.all import ROUTES
from support.secured import ROOT_KEY, secured

ROOT = Path(__file__).resolve().parents[2]
# Valid JSON may be invalid SQL: whether data "should have been accepted" no schema can say.
LEFT_OUT = "positive_data_acceptance"


def test_the_description_is_valid() -> None:
    OpenAPIV31SpecValidator(document(ROUTES)).validate()


@pytest.mark.slow
def test_a_live_server_keeps_to_its_description(tmp_path: Path) -> None:
    """The same cases each time: nothing here is left to chance."""
    with secured(tmp_path / "node") as node:
        node.done("CREATE TABLE docs (id BIGINT PRIMARY KEY, title TEXT, vec VECTOR(3))")
        node.done("INSERT INTO docs VALUES (1, 'one', '[1,2,3]')")
        found = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", f"{node.served.url}/openapi.json"]
            + ["--header", f"Authorization: Bearer {ROOT_KEY}", "--generation-deterministic"]
            + ["--max-examples", "15", "--phases", "examples,coverage,fuzzing", "--no-color"]
            + ["--exclude-checks", LEFT_OUT, "--workers", "1", "--request-timeout", "30"],
            cwd=tmp_path,
            env={**os.environ, "SCHEMATHESIS_HOOKS": "support.contract_hooks",
                 "PYTHONPATH": str(ROOT / "tests")},
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
    assert found.returncode == 0, found.stdout[-12_000:] + found.stderr[-2_000:]
