"""The dashboard and the API's viewer: served by the node itself, asking nobody else."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from nearql.server.routes.pages import ASSETS
from support.http_node import Served

PAGES = {"/": "dashboard.html", "/docs": "docs.html"}


@pytest.mark.parametrize("path", PAGES)
def test_a_page_comes_with_a_policy_that_forbids_everything_else(served: Served, path: str) -> None:
    answer = served.client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy


@pytest.mark.parametrize("path", PAGES)
def test_what_a_page_names_is_served_by_the_node(served: Served, path: str) -> None:
    text = served.client.get(path).text
    named = re.findall(r'(?:src|href)="([^"#]+)', text)  # a # leads to a place in the page itself
    assert len(named) > 3
    for target in named:
        assert target.startswith("/"), target
        assert served.client.get(target).status_code == 200, target


@pytest.mark.parametrize("asset", ASSETS)
def test_assets_have_their_types_and_name_no_other_host(served: Served, asset: str) -> None:
    answer = served.client.get(f"/assets/{asset}")
    kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    assert answer.headers["content-type"].startswith(kinds[asset.rsplit(".", 1)[1]])
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", answer.text)


def test_only_the_listed_assets_are_served(served: Served) -> None:
    for name in ("__init__.py", "dashboard.html", "..%2F..%2Fapp.py", "%2e%2e%2fapp.py", "x"):
        answer = served.client.get(f"/assets/{name}")
        assert (answer.status_code, answer.json()["code"]) == (404, "no_such_route")


def test_pages_have_no_inline_script_or_style_and_scripts_make_no_markup(served: Served) -> None:
    folder = files("nearql.server.dashboard")
    for page in PAGES.values():
        text = folder.joinpath(page).read_text()
        assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]*src)", text)
    for asset in ASSETS:
        if asset.endswith(".js"):
            assert not re.search(
                r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(",
                served.client.get(f"/assets/{asset}").text,
            )


def test_every_file_of_the_dashboard_is_served() -> None:
    names = {f.name for f in files("nearql.server.dashboard").iterdir() if f.is_file()}
    served = set(ASSETS) | set(PAGES.values())
    assert (names | {"codemirror.js"}) - {"__init__.py"} == served


@pytest.mark.parametrize("path", ["/", "/assets/page.css"])
def test_a_file_comes_compressed_and_once(served: Served, path: str) -> None:
    packed = served.client.get(path, headers={"Accept-Encoding": "gzip"})
    plain = served.client.get(path, headers={"Accept-Encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.content == plain.content
    assert packed.headers["vary"] == "Accept-Encoding"
    again = served.client.get(path, headers={"If-None-Match": packed.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["content-security-policy"] == packed.headers["content-security-policy"]
