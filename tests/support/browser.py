"""Pages in a real browser, and a node with something to look at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from playwright.sync_api import Browser, ConsoleMessage, Page, Response, expect

from nearql.server.node import Node

ROWS = 600
EVIL_TABLE = "<img src=x onerror=alert(1)>"
EVIL_COLUMN = "<b>bold</b>"
EVIL_TEXT = "<script>alert(1)</script>"
expect.set_options(timeout=30_000)  # a machine may be slow

PAGES = ("overview", "sql", "tables", "cluster", "queries", "access", "settings")


@dataclass
class Seen:
    """What a page did: requests by URL, and everything that went wrong."""

    urls: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


@contextmanager
def opened(browser: Browser, url: str, **options: Any) -> Iterator[tuple[Page, Seen]]:
    """A page of a fresh profile; at the end nothing may have gone wrong in it."""
    profile = browser.new_context(base_url=url, reduced_motion="reduce", **options)
    page, seen = profile.new_page(), Seen()
    page.set_default_timeout(30_000)
    page.on("request", lambda request: seen.urls.append(request.url))
    page.on("pageerror", lambda error: seen.wrong.append(str(error)))
    page.on("console", lambda said: _listen(seen, said))
    page.on("response", lambda answer: _look(seen, answer))
    page.on("dialog", lambda dialog: seen.wrong.append(f"a dialog: {dialog.message}"))
    try:
        yield page, seen
        assert not seen.wrong, seen.wrong
    finally:
        profile.close()


def _listen(seen: Seen, said: ConsoleMessage) -> None:
    """The browser logs each answer of 4xx; whether it is one that there should be, `_look` says."""
    if said.type == "error" and not said.text.startswith("Failed to load resource"):
        seen.wrong.append(said.text)


def _look(seen: Seen, answer: Response) -> None:
    if answer.status >= 400 and "/assets/" in answer.url:
        seen.wrong.append(f"{answer.status} {answer.url}")


def visit(page: Page, name: str) -> None:
    """Open a page of the dashboard and wait until it shows what it is about."""
    page.goto(f"/#/{name}")
    expect(page.locator("#main h1")).to_be_visible()
    shown = {
        "overview": "#main .panel table", "sql": ".catalog details", "tables": "#main .panel table",
        "cluster": ".node-card", "queries": "#main .none, #main table", "access": "#main .facts",
        "settings": "#main table",
    }[name.split("/")[0]]  # fmt: skip
    expect(page.locator(shown).first).to_be_visible()
    if name == "sql":
        expect(page.locator(".cm-content")).to_be_visible()


def fill(node: Node) -> None:
    """A table of vectors in three groups, and one whose names and values are markup."""
    session = node.session()
    session.execute(
        "CREATE TABLE docs (id BIGINT PRIMARY KEY, title TEXT, lang TEXT, vec VECTOR(8))"
    )
    chance = np.random.default_rng(5)
    values = []
    for number in range(ROWS):
        lang = ("en", "de", "fr")[number % 3]
        vector = chance.standard_normal(8) + 6 * np.eye(8)[number % 3]
        values.append(f"({number}, 'title {number}', '{lang}', '{vector.round(3).tolist()}')")
    session.execute(f"INSERT INTO docs VALUES {', '.join(values)}")
    session.execute(
        f'CREATE TABLE "{EVIL_TABLE}" (id BIGINT PRIMARY KEY, "{EVIL_COLUMN}" TEXT, vec VECTOR(2))'
    )
    session.execute(f"""INSERT INTO "{EVIL_TABLE}" VALUES (1, '{EVIL_TEXT}', '[1,2]')""")
