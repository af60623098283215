"""`nearql token` against a node that asks for keys."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nearql.client.cli import token as command
from support.certificates import write_certificate
from support.http_node import FakeNode, make_config, serve
from support.secured import ROOT_KEY, Secured, secured


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with secured(tmp_path_factory.mktemp("cli")) as running:
        running.done("CREATE TABLE docs (id BIGINT PRIMARY KEY)")
        yield running


@pytest.fixture
def token(node: Secured, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    (tmp_path / "key").write_text(ROOT_KEY + "\n")

    def run(*words: str, code: int = 0) -> str:
        options = ["--url", node.served.url, "--token-file", str(tmp_path / "key")]
        found = command.main([*words, *options])
        told = capsys.readouterr()
        assert found == code, told.err
        return told.out if code == 0 else told.err

    return run


def test_a_key_is_made_listed_rotated_and_revoked(node: Secured, token: Callable[..., str]) -> None:
    made = token("create", "app", "--role", "writer", "--table", "docs", "--expires", "90d")
    key = made.splitlines()[-1]
    assert node.done("SELECT * FROM docs", key) == []
    listed = json.loads(token("list", "--json"))
    (row,) = [k for k in listed["keys"] if k["user"] == "app"]
    assert row["expires_at"] is not None
    assert key not in token("list")
    new = token("rotate", row["id"], "--grace", "0s").splitlines()[-1]
    assert node.sql("SELECT 1", key).status_code == 401
    assert node.sql("SELECT 1", new).status_code == 200
    assert token("revoke", row["id"]).splitlines()[-1] == f"key {row['id']} is void"
    assert node.sql("SELECT 1", new).status_code == 401


def test_whoami(token: Callable[..., str]) -> None:
    assert token("whoami").startswith("bootstrap (by bootstrap), on all tables: ADMIN")


def test_wrong_usage(token: Callable[..., str]) -> None:
    assert "takes a name" in token("create", code=2)
    assert "takes nothing" in token("list", "x", code=2)
    assert "There is no key" in token("revoke", "0" * 12, code=1)


@pytest.mark.parametrize(("text", "seconds"), [("90d", 7_776_000), ("12h", 43_200), ("5s", 5)])
def test_durations(text: str, seconds: int) -> None:
    assert command.duration(text) == seconds


def test_a_node_with_a_certificate_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    write_certificate(cert, key)
    config = make_config(tmp_path / "data")
    http = replace(config.http, tls_cert_file=str(cert), tls_key_file=str(key))
    config = replace(config, http=http)
    with serve(FakeNode(config), config) as served:
        url = f"https://127.0.0.1:{served.port}"
        assert command.main(["whoami", "--url", url]) == 1
        assert "certificate" in capsys.readouterr().err
        assert command.main(["whoami", "--url", url, "--ca-file", str(cert)]) == 0
        assert "local" in capsys.readouterr().out
