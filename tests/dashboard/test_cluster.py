"""The dashboard of a real cluster of three processes: a follower's, while a node is killed."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

from support.browser import PAGES, opened, visit
from support.cluster_processes import ADMIN_KEY, Processes, cluster

pytestmark = pytest.mark.chaos
LONG = "a_table_whose_name_somebody_generated_from_a_schema_and_a_version_and_a_customer_in_europe"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Three nodes whose followers redirect, with a table."""
    settings = {"write_routing": "redirect"}
    with cluster(tmp_path_factory.mktemp("cluster"), cluster=settings) as started:
        started.write("CREATE TABLE docs (id BIGINT PRIMARY KEY, vec VECTOR(2))")
        started.write("INSERT INTO docs VALUES (1, '[1,2]')")
        started.write(f"CREATE TABLE {LONG} (id BIGINT PRIMARY KEY, t TEXT, vec VECTOR(2))")
        started.write(f"INSERT INTO {LONG} VALUES (1, NULL, NULL)")
        yield started


def card(page: Page, name: str) -> Locator:
    """A node's."""
    return page.locator(".node-card", has=page.get_by_text(name, exact=True))


def sign_in(page: Page) -> None:
    page.goto("/#/cluster")
    page.get_by_label("Key", exact=True).fill(ADMIN_KEY)
    page.locator("#sign-in").get_by_role("button", name="Sign in").click()
    expect(page.locator("#user")).to_contain_text("bootstrap")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_of_a_cluster_passes_axe_and_fits(
    browser: Browser, nodes: Processes, scheme: str
) -> None:
    follower = min(set(nodes.nodes) - {nodes.leader()})
    size = {"width": 1280, "height": 800}
    with opened(browser, nodes[follower].url, color_scheme=scheme, viewport=size) as (page, _):
        page.goto("/#/cluster")
        expect(page.get_by_label("Key", exact=True)).to_be_focused()
        assert Axe().run(page).violations_count == 0
        sign_in(page)
        for name in (*PAGES, f"tables/{LONG}"):
            visit(page, name)
            if name == "cluster":
                expect(page.locator(".node-card")).to_have_count(3)
            found = Axe().run(page)
            assert found.violations_count == 0, f"{name}: {found.generate_report()}"
            assert page.evaluate("document.documentElement.scrollWidth") <= 1280, name


def test_a_follower_shows_the_cluster_and_who_is_gone(browser: Browser, nodes: Processes) -> None:
    leader = nodes.leader()
    here, other = sorted(set(nodes.nodes) - {leader})
    with opened(browser, nodes[here].url) as (page, _):
        sign_in(page)
        visit(page, "cluster")
        expect(page.locator(".node-card")).to_have_count(3)
        expect(card(page, leader)).to_contain_text("leader")
        expect(page.locator(".facts").first).to_contain_text("3 of 3 answer")
        expect(page.locator(".facts").first).to_contain_text(re.compile(r"term[1-9]"))
        rows = page.get_by_role("region", name="Shards and their copies").locator("tbody tr")
        expect(rows).to_have_count(6)
        expect(rows.filter(has_text="primary")).to_have_count(2)
        visit(page, "sql")
        page.locator(".cm-content").click()
        page.keyboard.press("Control+a")
        page.keyboard.insert_text("INSERT INTO docs VALUES (2, '[1,2]')")
        page.keyboard.press("Control+Enter")
        expect(page.get_by_role("alert")).to_contain_text(f"belong to the leader, {leader}")
        expect(page.get_by_role("link", name=nodes[leader].url)).to_be_visible()
        page.keyboard.press("Control+a")
        page.keyboard.insert_text("SELECT id FROM docs")
        page.keyboard.press("Control+Enter")
        expect(page.get_by_role("heading", name="Answer")).to_be_visible()
        visit(page, "cluster")
        nodes[other].kill()
        expect(card(page, other)).to_contain_text("not reachable")
        expect(page.locator(".facts").first).to_contain_text("2 of 3 answer")
