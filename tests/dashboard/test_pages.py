"""Every page of the dashboard in a real browser: light and dark, narrow, offline, by keyboard."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from nearql.server.routes.pages import ASSETS
from support.browser import EVIL_TABLE, EVIL_TEXT, PAGES, opened, visit
from support.http_node import Served

pytestmark = pytest.mark.browser
FIRST_BYTES = 150_000  # before the editor, uncompressed


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_no_other_host_is_asked(
    browser: Browser, node: Served, scheme: str
) -> None:
    with opened(browser, node.url, color_scheme=scheme) as (page, seen):
        for name in PAGES:
            visit(page, name)
            found = Axe().run(page)
            assert found.violations_count == 0, f"{name}: {found.generate_report()}"
        assert {urlsplit(url).netloc for url in seen.urls} == {urlsplit(node.url).netloc}


def test_an_answer_a_plan_and_a_map_pass_axe_too(page: Page) -> None:
    visit(page, "sql")
    page.get_by_role("button", name="Nearest").last.click()
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("heading", name="Answer")).to_be_visible()
    assert Axe().run(page).violations_count == 0
    page.keyboard.press("Control+Shift+Enter")
    expect(page.get_by_role("heading", name="Plan, as it ran")).to_be_visible()
    assert Axe().run(page).violations_count == 0
    visit(page, "tables/docs")
    page.get_by_role("button", name="Show the map").click()
    expect(page.locator("canvas")).to_be_visible()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_a_first_visit_is_light(browser: Browser, node: Served) -> None:
    sizes: dict[str, int] = {}
    with opened(browser, node.url) as (page, _):
        page.on("response", lambda r: sizes.update({urlsplit(r.url).path: len(r.body())}))
        visit(page, "overview")
    assets = {path.removeprefix("/assets/") for path in sizes} & set(ASSETS)
    assert "codemirror.js" not in assets
    assert "overview.js" in assets
    assert sum(size for path, size in sizes.items() if not path.startswith("/v1")) < FIRST_BYTES


def test_nothing_is_wider_than_a_phone(browser: Browser, node: Served) -> None:
    with opened(browser, node.url, viewport={"width": 390, "height": 800}) as (page, _):
        for name in PAGES:
            visit(page, name)
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= 390, name


def test_markup_in_names_and_values_stays_text(page: Page) -> None:
    for name in PAGES:
        visit(page, name)
        assert page.locator("img[src=x], script:not([src]), #main b:text('bold')").count() == 0
    visit(page, "overview")
    page.get_by_role("link", name=EVIL_TABLE).click()
    expect(page.get_by_role("cell", name=EVIL_TEXT)).to_be_visible()
    page.get_by_role("button", name="Show the map").click()
    expect(page.locator("canvas")).to_be_visible()
    visit(page, "sql")
    page.get_by_role("button", name="Rows").first.click()
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("cell", name=EVIL_TEXT)).to_be_visible()
    assert page.locator("img[src=x], script:not([src])").count() == 0


def test_keys_choose_pages_and_colours(page: Page) -> None:
    visit(page, "overview")
    page.keyboard.press("4")
    expect(page.get_by_role("heading", name="Cluster", level=1)).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the page")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.keyboard.press("t")
    page.keyboard.press("t")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_what_is_typed_is_no_shortcut(page: Page) -> None:
    visit(page, "sql")
    page.locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.type("4t")
    expect(page.locator(".cm-content")).to_contain_text("4t")
    expect(page.get_by_role("heading", name="SQL", level=1)).to_be_visible()
    visit(page, "settings")
    page.get_by_role("searchbox").fill("4")
    expect(page.get_by_role("heading", name="Settings", level=1)).to_be_visible()


def test_a_node_that_is_gone_leaves_no_old_figures_unmarked(browser: Browser, node: Served) -> None:
    with opened(browser, node.url) as (page, _):
        page.clock.install()  # five seconds pass at once
        visit(page, "cluster")
        page.route("**/v1/**", lambda route: route.abort())
        page.clock.run_for(6_000)
        expect(page.get_by_text("No data since")).to_be_visible()
        assert page.locator(".node-card").count() == 0
        page.unroute("**/v1/**")
        page.clock.run_for(6_000)
        expect(page.locator(".node-card")).to_be_visible()
