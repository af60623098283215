"""The SQL page: statements, parameters, answers, plans, completion, history, export."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from support.browser import ROWS, visit
from support.http_node import Served

pytestmark = pytest.mark.browser


def write(page: Page, text: str) -> None:
    """Replace what the editor holds."""
    page.locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(text)


def run(page: Page, text: str) -> None:
    """Run a statement; its answer is there."""
    write(page, text)
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("heading", name="Answer")).to_be_visible()


@pytest.fixture
def sql(page: Page) -> Page:
    visit(page, "sql")
    return page


def test_a_search_with_parameters(sql: Page) -> None:
    write(sql, "SELECT id, vec, vec <-> :q AS d FROM docs WHERE lang = :lang ORDER BY d LIMIT 3")
    sql.get_by_label(":q").fill(json.dumps([6, 0, 0, 0, 0, 0, 0, 0]))
    sql.get_by_label(":lang").fill("en")
    sql.get_by_role("button", name="Run", exact=True).click()
    expect(sql.locator("tbody tr")).to_have_count(3)
    expect(sql.locator(".facts").last).to_contain_text("exact_filtered")
    short = sql.locator("button.vector").first
    expect(short).to_contain_text("… 8")
    short.click()
    assert len(json.loads(sql.locator("td pre").first.inner_text())) == 8


def test_parameters_by_number_and_settings(sql: Page) -> None:
    write(sql, "SELECT $2::INT + $1::INT AS sum")
    sql.get_by_label("$1").fill("40")
    sql.get_by_label("$2").fill("2")
    sql.locator("summary", has_text="Settings").click()
    settings = sql.get_by_label("Settings of this request")
    settings.fill("{not json")
    sql.get_by_role("button", name="Run", exact=True).click()
    expect(sql.get_by_role("alert")).to_contain_text("no JSON object")
    settings.fill('{"statement_timeout_ms": 5000}')
    sql.get_by_role("button", name="Run", exact=True).click()
    expect(sql.get_by_role("cell", name="42")).to_be_visible()


def test_a_mistake_shows_its_place(page: Page, node: Served) -> None:
    visit(page, "sql")
    write(page, "SELECT id\nFROM docz")
    with page.expect_response("**/v1/sql") as answer:
        page.keyboard.press("Control+Enter")
    assert answer.value.status == 404
    expect(page.get_by_role("alert")).to_contain_text("Did you mean 'docs'?")
    assert page.locator(".problem pre").inner_text().splitlines() == ["FROM docz", "     ^"]
    expect(page.locator(".cm-lintRange-error")).to_have_text("docz")


def test_explain_analyze_is_a_tree_with_times_and_recall(sql: Page) -> None:
    write(
        sql, "SELECT id FROM docs WHERE lang = 'de' ORDER BY vec <-> '[0,6,0,0,0,0,0,0]' LIMIT 4;"
    )
    sql.get_by_role("button", name="Explain analyze").click()
    plan = sql.locator(".plan")
    expect(plan.locator("li li .step").first).to_contain_text("docs.vec <->")
    expect(plan).to_contain_text("Filter")
    measured = plan.locator(".measured", has_text="recall").first
    expect(measured).to_contain_text("exact")
    expect(measured).to_contain_text("candidates")
    expect(sql.locator(".split-keys")).to_contain_text("search")
    expect(sql.locator(".facts").first).to_contain_text("execution")


def test_explain_analyze_asks_before_it_writes(page: Page, node: Served) -> None:
    visit(page, "sql")
    write(page, "DELETE FROM docs WHERE id = -1")
    page.get_by_role("button", name="Explain analyze").click()
    expect(page.get_by_role("dialog")).to_contain_text("may write")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_role("button", name="Explain", exact=True).click()
    expect(page.locator(".plan")).to_contain_text("Delete")


def test_completion_knows_the_catalog(sql: Page) -> None:
    write(sql, "")
    sql.keyboard.type("SELECT ti")
    expect(sql.locator(".cm-tooltip-autocomplete li", has_text="title").first).to_be_visible()
    write(sql, "")
    sql.keyboard.type("SELECT docs.l")
    expect(sql.locator(".cm-tooltip-autocomplete li", has_text="lang").first).to_be_visible()
    write(sql, "")
    sql.keyboard.type("SELECT * FROM nearql.que")
    expect(sql.locator(".cm-tooltip-autocomplete li", has_text="queries").first).to_be_visible()


def test_history_outlives_a_reload(sql: Page) -> None:
    run(sql, "SELECT 4321 AS number")
    sql.reload()
    expect(sql.locator(".cm-content")).to_contain_text("4321")
    run(sql, "SELECT 1 AS other")
    sql.locator(".history button", has_text="4321").click()
    expect(sql.locator(".cm-content")).to_contain_text("4321")
    sql.get_by_role("button", name="Clear").click()
    expect(sql.locator(".history")).to_have_count(0)


def test_a_long_text_is_folded(sql: Page) -> None:
    run(sql, "SELECT repeat('word ', 100) AS t, 'short' AS s")
    cell = sql.get_by_role("cell").first
    folded = cell.get_by_role("button")
    expect(folded).to_have_text("word " * 32 + "…")
    expect(cell.locator("pre")).to_be_hidden()
    folded.click()
    expect(cell.locator("pre")).to_have_text("word " * 100)
    expect(folded).to_have_attribute("aria-expanded", "true")
    # A list of completions may be open, and axe finds fault with it.
    sql.locator(".cm-content").press("Escape")
    expect(sql.locator(".cm-tooltip-autocomplete")).to_have_count(0)
    found = Axe().run(sql)
    assert found.violations_count == 0, found.response["violations"]


def test_an_answer_is_shown_in_parts_and_saved_whole(sql: Page, tmp_path: Path) -> None:
    run(sql, "SELECT id, CASE WHEN id = 1 THEN 'a, \"b\"' END AS t, vec FROM docs ORDER BY id")
    expect(sql.locator("tbody tr")).to_have_count(200)
    sql.get_by_role("button", name="Show 400 more").click()
    expect(sql.locator("tbody tr")).to_have_count(ROWS)
    with sql.expect_download() as saved:
        sql.get_by_role("button", name="CSV").click()
    saved.value.save_as(tmp_path / "answer.csv")
    with (tmp_path / "answer.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == ROWS + 1
    assert rows[2][:2] == ["1", 'a, "b"']
    assert len(json.loads(rows[1][2])) == 8
    with sql.expect_download() as saved:
        sql.get_by_role("button", name="JSON").click()
    saved.value.save_as(tmp_path / "answer.json")
    assert len(json.loads((tmp_path / "answer.json").read_text())["rows"]) == ROWS
