"""Examples in the client's docstrings run as they are printed."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

from nearql import client

LANGCHAIN = "nearql.client.langchain.store"  # its examples are run by tests/langchain_store
FOUND = {found.name for found in pkgutil.walk_packages(client.__path__, "nearql.client.")}
MODULES = sorted(FOUND - {LANGCHAIN})


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples() -> None:
    from nearql.client import statements

    assert doctest.testmod(statements).attempted > 0
