"""`nearql backup` and `nearql restore`, as a person uses them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nearql.__main__ import main
from nearql.server.backup.moment import moment_text
from nearql.server.backup.settings import BackupSection
from nearql.server.node import Node
from support.archives import moment, shipped
from support.http_node import Served, make_config, serve
from support.secured import ROOT_KEY, secured

Command = Callable[..., str]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Served]:
    config = make_config(tmp_path / "data")
    opened = Node.open(config)
    try:
        with serve(opened, config) as served:
            for text in (
                "CREATE TABLE docs (id BIGINT PRIMARY KEY, vec VECTOR(2))",
                "INSERT INTO docs VALUES (1, '[1,2]'), (2, '[3,4]')",
            ):
                assert served.sql(text).status_code == 200
            yield served
    finally:
        opened.close()


@pytest.fixture
def nearql(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command; what it says, on stdout where it must succeed, else on stderr."""

    def run(*words: str, code: int = 0) -> str:
        found = main([str(word) for word in words])
        told = capsys.readouterr()
        assert found == code, told.err
        return told.out if code == 0 else told.err

    return run


def rows(served: Served, text: str) -> list[list[object]]:
    answer = served.sql(text)
    assert answer.status_code == 200, answer.text
    found: list[list[object]] = answer.json()["rows"]
    return found


def test_from_the_first_backup_to_a_restored_table(
    node: Served, nearql: Command, tmp_path: Path
) -> None:
    place, url = tmp_path / "copy", ["--url", node.url]
    told = nearql("backup", place, *url)
    assert "1 tables" in told
    rows(node, "INSERT INTO docs VALUES (3, '[5,6]')")
    made = json.loads(nearql("backup", place, "--json", *url))
    assert made["tables"] == ["docs"]
    listed = json.loads(nearql("backup", "list", place, "--json"))["backups"]
    assert [one["backup"] for one in listed] == [told.split(":")[0], made["backup"]]
    assert made["backup"] in nearql("backup", "list", place)
    assert "is whole" in nearql("backup", "verify", place, "--all")
    done = nearql("restore", place, "--table", "docs", "--as", "old", *url)
    assert "table old: 3 rows" in done
    first = ("--backup", listed[0]["backup"], "--table", "docs", "--as", "older")
    assert "table older: 2 rows" in nearql("restore", place, *first, *url)
    assert rows(node, "SELECT id FROM old ORDER BY id") == [[1], [2], [3]]
    refused = nearql("restore", place, *url, code=1)
    assert "'docs' exists already" in refused
    gone = json.loads(nearql("backup", "prune", place, "--keep", "1", "--json"))
    assert gone["removed"] == [listed[0]["backup"]]


def test_a_moment_between_two_backups(nearql: Command, tmp_path: Path) -> None:
    place = tmp_path / "copy"
    nearql("backup", "init", place)
    section = BackupSection(repository=str(place), archive=True, archive_interval_ms=50)
    config = replace(make_config(tmp_path / "data"), backup=section)
    opened = Node.open(config)
    try:
        with serve(opened, config) as node:
            url = ["--url", node.url]
            rows(node, "CREATE TABLE docs (id BIGINT PRIMARY KEY)")
            nearql("backup", place, *url)
            rows(node, "INSERT INTO docs VALUES (1), (2)")
            at = moment()
            rows(node, "DELETE FROM docs WHERE id = 1")
            shipped(opened)
            to = ("--to-time", moment_text(at), "--table", "docs", "--as")
            told = nearql("restore", place, *to, "past", *url)
            assert f"as of {moment_text(at)}:" in told
            assert "table past: 2 rows" in told
            assert rows(node, "SELECT id FROM past ORDER BY id") == [[1], [2]]
            lsn = str(rows(node, "SELECT lsn FROM nearql.shards WHERE \"table\" = 'docs'")[0][0])
            done = json.loads(
                nearql("restore", "--to-lsn", lsn, "--table", "docs", "--as", "l", "--json", *url)
            )
            assert (done["to"], done["tables"]) == (f"LSN {lsn}", [{"name": "l", "rows": 1}])
            late = nearql("restore", place, "--to-time", "2100-01-01", *to[2:], "no", *url, code=1)
            assert "The archive of metadata ends at" in late
            for wrong in (
                {"to_time": "soon"}, {"to_lsn": "5"}, {"to_time": "latest", "to_lsn": "5"},
                {"to_time": 5}, {"to_lsn": "x", "tables": ["docs"]},
            ):  # fmt: skip
                assert node.client.post("/v1/restore", json=wrong).status_code == 400
            shipped(opened)
            (log_of,) = json.loads(nearql("backup", "list", place, "--json"))["logs"]
            assert log_of["cluster_id"] == opened.metadata.state.cluster_id
            assert log_of["gaps"] == 0
            assert log_of["to"] > moment_text(at)
            assert f"Log of {log_of['cluster_id']}: " in nearql("backup", "list", place)
            assert f"log of {log_of['cluster_id']} is whole" in nearql(
                "backup", "verify", place, "--all"
            )
    finally:
        opened.close()
    again = nearql("restore", place, "--to-time", "latest", "--data-dir", tmp_path / "new")
    assert "table docs: 1 rows" in again


def test_a_new_data_directory_appears_when_it_is_complete(
    node: Served, nearql: Command, tmp_path: Path
) -> None:
    place, target = tmp_path / "copy", tmp_path / "new"
    nearql("backup", place, "--url", node.url)
    assert "table docs: 2 rows" in nearql("restore", place, "--data-dir", target)
    again = nearql("backup", place, "--url", target)
    assert "1 tables" in again
    assert "exists already" in nearql("restore", place, "--data-dir", target, code=1)
    (object_file, *_) = [p for p in (place / "objects").rglob("*") if p.is_file()]
    for path in (place / "objects").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    assert "damaged" in nearql("restore", place, "--data-dir", tmp_path / "other", code=1)
    assert not (tmp_path / "other").exists()
    assert object_file.name in nearql("backup", "verify", place, "--all", code=1)


def test_wrong_usage_and_wrong_places_are_told(
    node: Served, nearql: Command, tmp_path: Path
) -> None:
    url = ["--url", node.url]
    assert "needs a repository" in nearql("backup", "list", code=2)
    assert "--keep" in nearql("backup", "prune", tmp_path, code=2)
    assert "new name" in nearql("restore", tmp_path, "--as", "x", *url, code=2)
    assert "is no repository" in nearql("backup", "list", tmp_path / "nothing", code=1)
    assert "is no repository" in nearql("restore", tmp_path / "nothing", *url, code=1)
    assert "set backup.repository" in nearql("backup", *url, code=1)
    assert "may not use s3://x/y" in nearql("backup", "s3://x/y", *url, code=1)
    assert "neither a directory nor" in nearql("backup", "list", "ftp://x/y", code=1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "objects").mkdir()
    assert "parts of a repository" in nearql("backup", tmp_path / "full", *url, code=1)


def test_what_the_node_is_asked_directly(node: Served, nearql: Command, tmp_path: Path) -> None:
    nearql("backup", "init", tmp_path / "copy")
    ask = node.client.post
    for body, code in (
        ({"repository": "copy"}, "invalid_request"),
        ({"repository": "/a\0b"}, "invalid_request"),
        ({"repository": "/" + "x" * 5000}, "repository_unavailable"),
        ({"repository": str(tmp_path)}, "not_a_repository"),
        ({"repository": str(tmp_path / "copy"), "repository_id": "x"}, "not_a_repository"),
        ({"place": "x"}, "unknown_member"),
    ):
        answer = ask("/v1/backup", json=body)
        assert answer.status_code in (400, 404, 503)
        assert answer.json()["code"] == code
    place = {"repository": str(tmp_path / "copy")}
    wrong: list[dict[str, list[str]]] = [{"tables": []}, {"as": ["x"]}, {"tables": ["a"], "as": []}]
    for more in wrong:
        assert ask("/v1/restore", json={**place, **more}).status_code == 400
    assert ask("/v1/restore", json={**place, "tables": ["a"], "as": ["nearql"]}).status_code == 400
    job = ask("/v1/backup", json=place).json()
    assert job["kind"] == "backup"
    assert any(one["job"] == job["job"] for one in node.client.get("/v1/jobs").json()["jobs"])


def test_only_administrators_may_and_it_is_recorded(nearql: Command, tmp_path: Path) -> None:
    with secured(tmp_path / "node") as running:
        running.done("CREATE TABLE docs (id BIGINT PRIMARY KEY)")
        (tmp_path / "key").write_text(ROOT_KEY)
        (tmp_path / "reader").write_text(running.new_key("ann", role="writer"))
        common = ("backup", tmp_path / "copy", "--url", running.served.url, "--token-file")
        assert "role admin" in nearql(*common, tmp_path / "reader", code=1)
        nearql(*common, tmp_path / "key")
        audit = (tmp_path / "node" / "data" / "audit.log").read_text()
        acts = [json.loads(line) for line in audit.splitlines()]
        assert ("backup", str(tmp_path / "copy"), "done") in [
            (act["act"], act["target"], act["outcome"]) for act in acts
        ]


def test_help_teaches_by_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("backup", "restore"):
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
        assert f"nearql {command} ./copy" in capsys.readouterr().out
