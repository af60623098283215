"""docs/http-api.md is true: its commands answer what is printed, and its tables match the code."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path

import httpx
import pytest

from nearql.server.config import Config
from nearql.server.decoding.formats import FORMATS
from nearql.server.routes.all import ROUTES
from nearql.server.wire_values import __doc__ as json_values
from support.doc_pages import matches
from support.server_process import ServerProcess

PAGE = Path(__file__).resolve().parents[2] / "docs" / "http-api.md"
TEXT = PAGE.read_text()

pytestmark = pytest.mark.docs


def examples() -> list[tuple[str, str]]:
    """(command, expected output) of each `$` line in the console blocks."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


def curl(command: str, client: httpx.Client) -> httpx.Response:
    """Do what a curl command would; only the options that the page uses."""
    words = shlex.split(command)
    assert words.pop(0) == "curl"
    headers: dict[str, str] = {}
    body, target = None, ""
    while words:
        word = words.pop(0)
        if word == "-H":
            name, _, value = words.pop(0).partition(": ")
            headers[name] = value
        elif word == "-d":
            body = words.pop(0)
        elif word == "--data-binary":  # $'...' in the shell
            body = words.pop(0).removeprefix("$").replace("\\n", "\n")
        elif word != "-s":
            target = word.removeprefix("localhost:8470")
    method = "GET" if body is None else "POST"
    return client.request(method, target, headers=headers, content=body)


def test_the_commands_answer_what_is_printed(tmp_path: Path) -> None:
    assert len(examples()) >= 10
    with ServerProcess(tmp_path / "data") as server:
        for command, expected in examples():
            got = curl(command, server.http).text
            assert matches(expected, got), f"{command}\n{got}"


def test_the_comparison_of_this_test_finds_differences() -> None:
    assert matches('{"a": ..., "b": 1}', '{"a":7,"b":1}')
    assert not matches('{"a": ..., "b": 1}', '{"a":7,"b":2}')
    assert not matches("{}", '{"a":7}')


def test_every_route_is_on_the_page() -> None:
    for route in ROUTES:
        path = route.path.replace("{table}", "{t}")
        if path != "/assets/{asset}":
            assert f"`{path}`" in TEXT or f" {path}`" in TEXT, path


def test_settings_and_formats_that_the_page_names_exist() -> None:
    for section, key in re.findall(r"`(limits|http)\.(\w+)`", TEXT):
        names = {f.name for f in fields(getattr(Config(), section))}
        assert key in names, f"{section}.{key}"
    for kind in re.findall(r"`(application/[\w.-]+)` \|", TEXT):
        assert kind in FORMATS, kind


def test_the_table_of_json_values_is_the_code_s() -> None:
    rows = [line for line in (json_values or "").splitlines() if line.startswith("| ")]
    assert len(rows) > 8
    for row in rows:
        assert row in TEXT, row
