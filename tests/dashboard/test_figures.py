"""What the pages show is what the routes say; what they do is done by the routes."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect

from support.browser import ROWS, fill, opened, visit
from support.http_node import Served
from support.secured import ROOT_KEY, secured
from support.waiting import wait_for

pytestmark = pytest.mark.browser
ENDLESS = "SELECT count(*) FROM docs a, docs b, docs c, docs d WHERE a.id + b.id + c.id + d.id < 0"


def tile(page: Page, name: str) -> Any:
    """A figure of the overview."""
    return page.locator(".tile", has=page.get_by_role("heading", name=name)).locator(".value")


def test_the_overview(page: Page, node: Served) -> None:
    visit(page, "overview")
    expect(tile(page, "Rows")).to_have_text(f"{ROWS + 1}")
    expect(tile(page, "Recall")).to_have_text("exact")
    chosen = node.sql("SELECT backend FROM nearql.devices WHERE status = 'chosen'").json()
    expect(tile(page, "Device")).to_have_text(f"CPU, {chosen['rows'][0][0]}")
    expect(tile(page, "Memory")).to_contain_text("iB")
    chart = page.get_by_role("img", name="Memory that is not of files")
    expect(chart).to_have_attribute("aria-label", re.compile(r"used [\d.]+ [KMG]iB"))


def test_a_table_and_its_map(page: Page) -> None:
    visit(page, "tables/docs")
    expect(page.get_by_role("cell", name="VECTOR(8)")).to_be_visible()
    expect(page.locator("#main .facts").first).to_contain_text(str(ROWS))
    page.get_by_role("button", name="Show the map").click()
    canvas = page.locator("canvas")
    expect(canvas).to_have_attribute("aria-label", re.compile(rf"^Map of vec: {ROWS} of {ROWS}"))
    expect(page.locator(".legend")).to_contain_text("fr")
    page.get_by_label("Colour by").select_option("title")
    expect(page.locator(".legend")).to_contain_text("more")
    page.get_by_label("Colour by").select_option("id")
    expect(page.locator(".ramp")).to_be_visible()
    wait_for(lambda: drawn_colours(page) > 20, "the points, which follow their legend")


def drawn_colours(page: Page) -> int:
    """Different colours on the canvas."""
    found: int = page.evaluate("""() => {
        const canvas = document.querySelector("canvas");
        const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        const seen = new Set();
        for (let i = 0; i < data.length; i += 4) seen.add(data.slice(i, i + 4).join());
        return seen.size;
    }""")
    return found


def test_one_node_says_so_and_offers_no_moves(page: Page) -> None:
    visit(page, "cluster")
    expect(page.get_by_role("heading", name="One node")).to_be_visible()
    expect(page.locator(".title")).to_contain_text("data of")
    for action in ("Drain", "Move", "Rebalance", "Failover"):
        expect(page.get_by_role("button", name=action)).to_have_count(0)


def test_a_running_statement_is_killed(page: Page, node: Served) -> None:
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, f"{node.url}/v1/sql", json={"sql": ENDLESS}, timeout=60)
        visit(page, "queries")
        line = page.get_by_role("row", name="docs d WHERE")
        line.get_by_role("button", name="Kill").click()
        page.get_by_role("dialog").get_by_role("button", name="Kill it").click()
        answer = asked.result(60)
    assert (answer.status_code, answer.json()["code"]) == (409, "statement_killed")
    ended = page.get_by_role("region", name="Slow statements")
    expect(ended.get_by_text("statement_killed").first).to_be_visible()


def test_settings_are_searched(page: Page, node: Served) -> None:
    visit(page, "settings")
    page.get_by_role("searchbox").fill("http port")
    expect(page.get_by_role("row", name="http.port")).to_contain_text("0")
    expect(page.get_by_role("row", name="limits.max_tables")).to_have_count(0)


def test_access_from_sign_in_to_revocation(browser: Browser, tmp_path: Path) -> None:
    with secured(tmp_path / "node") as node:
        fill(node.node)
        with opened(browser, node.served.url) as (page, _):
            page.goto("/#/access")
            sign_in(page, "nq_wrong")
            expect(page.locator(".wrong")).not_to_be_empty()
            sign_in(page, ROOT_KEY)
            expect(page.locator("#user")).to_contain_text("bootstrap")
            key = make_key(page, "rita", "reader")
            assert node.sql("SELECT count(*) FROM docs", key).status_code == 200
            row = page.get_by_role("region", name="Keys").get_by_role("row", name="rita")
            row.get_by_role("button", name="Revoke").click()
            page.get_by_role("dialog").get_by_role("button", name="Revoke it").click()
            expect(row).to_have_count(0)
            assert node.sql("SELECT 1", key).status_code == 401
            page.get_by_role("button", name="Sign out").click()
            expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def sign_in(page: Page, key: str) -> None:
    page.get_by_label("Key", exact=True).fill(key)
    page.locator("#sign-in").get_by_role("button", name="Sign in").click()


def make_key(page: Page, user: str, role: str) -> str:
    """The text that the page shows once."""
    page.get_by_label("User, new or known").fill(user)
    page.get_by_label("Role of a new user").select_option(role)
    page.get_by_role("button", name="Make a key").click()
    text = page.locator(".secret").inner_text()
    page.get_by_role("button", name="Done").click()
    expect(page.locator(".secret")).to_have_count(0)
    return text


def test_somebody_without_rights_is_told_what_is_missing(browser: Browser, tmp_path: Path) -> None:
    with secured(tmp_path / "node") as node:
        key = node.new_key("nobody")
        with opened(browser, node.served.url) as (page, _):
            page.goto("/#/overview")
            sign_in(page, key)
            expect(page.locator("#user")).to_contain_text("nobody")
            expect(page.get_by_text("The live figures are missing")).to_be_visible()
            expect(tile(page, "Memory")).to_have_text("no data")
            page.goto("/#/access")
            expect(page.get_by_text("Only administrators")).to_be_visible()


NODES = [
    ("n1", "leader", True, 0),
    ("n2", "follower", True, 120),
    ("n3", "follower", False, 61_000),
]
COPIES = [("n1", 900, 0, 0), ("n2", 899, 1, 12), ("n3", 640, None, None)]
CLUSTER = {
    "leader": "n1",
    "term": 7,
    "nodes": [
        {"name": name, "role": role, "url": f"http://{name}", "alive": alive, "last_seen_ms": ms}
        for name, role, alive, ms in NODES
    ],
    "shards": [
        {
            "table": "docs", "shard": 0, "epoch": 3, "primary": "n1", "in_sync": ["n1", "n2"],
            "copies": [
                {"node": node, "lsn": lsn, "lag_records": records, "lag_ms": ms}
                for node, lsn, records, ms in COPIES
            ],
        }
    ],
    "moves": [{"table": "docs", "shard": 0, "adding": "n4", "removing": None}],
}  # fmt: skip


def test_a_cluster_with_a_node_that_is_gone(page: Page) -> None:
    """What a node would answer, answered by the test: the page shows it and adds nothing."""
    page.route("**/v1/cluster", lambda route: route.fulfill(json=CLUSTER))
    visit(page, "cluster")
    expect(page.locator(".facts").first).to_contain_text("2 of 3 answer")
    expect(page.locator(".facts").first).to_contain_text("term7")
    gone = page.locator(".node-card", has_text="n3")
    expect(gone).to_contain_text("not reachable")
    expect(gone).to_contain_text("1 min 1 s ago")
    rows = page.get_by_role("region", name="Shards and their copies").locator("tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.nth(0)).to_contain_text("primary")
    expect(rows.nth(1)).to_contain_text("in sync")
    expect(rows.nth(2)).to_contain_text("not reachable")
    expect(rows.nth(2)).to_contain_text("not known")
    expect(page.get_by_role("region", name="Moves under way")).to_contain_text("n4")
    assert page.get_by_text("One node").count() == 0
    assert Axe().run(page).violations_count == 0


def test_actions_are_offered_where_there_are_routes_and_asked_about(page: Page) -> None:
    asked: list[tuple[str, Any]] = []
    job = {
        "job": "j1", "kind": "failover", "state": "waiting", "detail": "for n2", "done": 0,
        "total": 1, "unit": "copies", "started_at": "2026-11-23T09:00:00Z", "ended_at": None,
        "steps": [],
    }  # fmt: skip

    def begin(route: Route) -> None:
        asked.append((route.request.url.rsplit("/", 1)[1], route.request.post_data_json))
        route.fulfill(json=job)

    def cancel(route: Route) -> None:
        asked.append((route.request.method, route.request.url.rsplit("/", 1)[1]))
        job.update(state="cancelled")
        route.fulfill(json={"cancelled": "j1"})

    page.route("**/v1/cluster", lambda route: route.fulfill(json=CLUSTER))
    for name in ("rebalance", "move", "drain", "failover"):
        page.route(f"**/v1/cluster/{name}", begin)
    page.route("**/v1/jobs", lambda route: route.fulfill(json={"jobs": [job]}))
    page.route("**/v1/jobs/j1", cancel)
    visit(page, "cluster")
    page.get_by_role("button", name="Failover").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert asked == []
    page.get_by_role("button", name="Failover").click()
    page.get_by_role("dialog").get_by_role("button", name="Fail over").click()
    jobs = page.get_by_role("region", name="Jobs")
    expect(jobs).to_contain_text("for n2")
    assert asked == [("failover", {"table": "docs"})]
    jobs.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel it").click()
    expect(jobs).to_contain_text("cancelled")
    assert asked[1:] == [("DELETE", "j1")]
