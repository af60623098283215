"""Debian's Chromium, driven by Playwright, and a node to look at."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from nearql.server.node import Node
from support.browser import fill, opened
from support.http_node import Served, make_config, serve


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser for all tests; each page is a profile of its own."""
    chromium = shutil.which("chromium")
    assert chromium, "the tests of the dashboard need Debian's package chromium"
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A node with two tables that asks nobody for a key."""
    config = make_config(tmp_path_factory.mktemp("dashboard"))
    made = Node.open(config)
    try:
        fill(made)
        with serve(made, config) as served:
            yield served
    finally:
        made.close()


@pytest.fixture
def page(browser: Browser, node: Served) -> Iterator[Page]:
    """A page at the node; the test fails where it logs an error or asks for a dialog."""
    with opened(browser, node.url) as (page, _):
        yield page
