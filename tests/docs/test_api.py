"""docs/api.md is what the docstrings say; NEARQL_REWRITE=1 writes it anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nearql.client import AsyncConnection, Connection
from support.api_reference import OPERATIONS, page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"

pytestmark = pytest.mark.docs


def test_the_reference_is_what_the_docstrings_say() -> None:
    made = page()
    if os.environ.get("NEARQL_REWRITE"):
        PAGE.write_text(made, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == made


@pytest.mark.parametrize("connection", [Connection, AsyncConnection])
def test_every_operation_is_in_it_and_on_both_connections(connection: type) -> None:
    public = {name for name in vars(connection) if not name.startswith("_")}
    assert set(OPERATIONS) == public - {"run", "close"}
