"""Repositories in a bucket, of a server that speaks S3."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest

from nearql.engine.errors import Corruption, Forbidden, InvalidRequest, NotFound, Unavailable
from nearql.server.backup import s3 as s3_module
from nearql.server.backup.care import Quiet, prune, verify
from nearql.server.backup.places import repository_for
from nearql.server.backup.repository import Repository, object_name
from nearql.server.backup.s3 import S3Options, S3Store
from nearql.server.backup.settings import BackupSection
from support.archives import moment, shipped
from support.backups import DOCS, backup, fill, hashes, restore, run, running, seal
from support.server_process import free_port
from support.waiting import wait_for

SECRET = "the-secret-of-these-tests"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with the bucket `copies`."""
    port, log = free_port(), tmp_path_factory.mktemp("s3") / "log"
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL)

    def made() -> bool:
        assert server.poll() is None, log.read_text()
        try:
            asked = urllib.request.Request(f"{url}/copies", method="PUT")
            with urllib.request.urlopen(asked, timeout=10) as answer:
                return int(answer.status) == 200
        except OSError:
            return False

    try:
        wait_for(made, "the S3 server", 60.0)
        yield url
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def section(endpoint: str, tmp_path: Path) -> BackupSection:
    """A configuration that names the bucket."""
    keys = tmp_path / "keys"
    keys.write_text(f"AKIAIOSFODNN7EXAMPLE\n{SECRET}\n")
    prefix = f"s3://copies/{tmp_path.name.replace('_', '-').lower()}"
    return BackupSection(prefix, endpoint, "us-east-1", str(keys))


def test_the_log_goes_to_a_bucket(section: BackupSection, tmp_path: Path) -> None:
    place = repository_for("", section)
    reached = {f"backup__{f.name}": getattr(section, f.name) for f in fields(section)}
    with running(tmp_path / "a", **{**reached, "backup__archive": True}) as node:
        run(node, DOCS)
        fill(node, 0, 30)
        backup(node, place)
        fill(node, 100, 30)
        at, wanted = moment(), hashes(node)
        run(node, "TRUNCATE docs")
        shipped(node)
        moved = {"tables": ("docs",), "rename": {"docs": "past"}}
        assert dict(restore(node, place, to_ms=at, **moved).rows) == {"past": 60}
        assert hashes(node, "past") == wanted
    assert [found.problem for found in verify(place, "all", Quiet())] == ["", ""]
    assert prune(place, keep=1, days=None, dry_run=False, progress=Quiet()).removed == ()
    with running(tmp_path / "b") as node:
        restore(node, place, to_ms=at)
        assert hashes(node) == wanted


def test_a_backup_lives_in_a_bucket(section: BackupSection, tmp_path: Path) -> None:
    place = repository_for("", section)
    with running(tmp_path / "a") as node:
        run(node, DOCS)
        fill(node, 0, 2000)
        seal(node)
        fill(node, 5000, 7)
        wanted = hashes(node)
        first = backup(node, place)
        assert backup(node, place).new_bytes == 0
        assert place.id == repository_for("", section).id
    with running(tmp_path / "b") as node:
        restore(node, place)
        assert hashes(node) == wanted
    assert [found.problem for found in verify(place, "all", Quiet())] == ["", ""]
    gone = prune(place, keep=1, days=None, dry_run=False, progress=Quiet())
    assert gone.removed == (first.id,)
    one = next(iter(place.backup("latest").blobs())).sha256
    place.store.remove(object_name(one))
    with running(tmp_path / "c") as node, pytest.raises(Corruption, match="is missing"):
        restore(node, place)


def test_an_upload_that_breaks_off_leaves_nothing(section: BackupSection) -> None:
    store = repository_for("", section).store

    def broken() -> Iterator[bytes]:
        yield b"x" * 100
        raise Unavailable("the source went")

    with pytest.raises(Unavailable):
        store.put("objects/ab/broken", broken())
    assert store.size("objects/ab/broken") is None
    with pytest.raises(NotFound):
        list(store.get("objects/ab/broken"))
    store.remove("objects/ab/broken")


@pytest.mark.parametrize("most", [4 << 30, 10])
def test_an_upload_that_breaks_off_leaves_anothers_alone(
    section: BackupSection, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(s3_module, "_COPY_BYTES", most)  # by the bucket, and through here
    store = repository_for("", section).store

    def broken() -> Iterator[bytes]:
        yield b"x" * 100
        assert store.put("objects/ab/shared", iter([b"all of ", b"it"])) == 9
        raise Unavailable("the source went")

    with pytest.raises(Unavailable):
        store.put("objects/ab/shared", broken())
    assert b"".join(store.get("objects/ab/shared")) == b"all of it"
    assert store.put("objects/ab/long", iter([b"y" * 8, b"z" * 8])) == 16
    assert b"".join(store.get("objects/ab/long")) == b"y" * 8 + b"z" * 8
    names = [stored.name for stored in store.list("objects")]
    assert names == ["objects/ab/long", "objects/ab/shared"]


def test_only_the_bucket_of_the_configuration_is_used(section: BackupSection) -> None:
    assert repository_for(f"{section.repository}/below", section).location.endswith("/below")
    for other in ("s3://others", f"{section.repository}-2", "s3://copies"):
        with pytest.raises(Forbidden, match="may not use"):
            repository_for(other, section)
    with pytest.raises(Forbidden):
        repository_for(section.repository, replace(section, repository="/var/backups"))
    for wrong in ("s3://", "s3:///x", "s3://a/../b"):
        with pytest.raises(InvalidRequest, match="names no bucket"):
            S3Store(wrong, S3Options())


def test_errors_name_the_bucket_and_never_a_secret(section: BackupSection, tmp_path: Path) -> None:
    gone = S3Options("http://127.0.0.1:1", "us-east-1", section.s3_key_file)
    with pytest.raises(Unavailable, match="s3://copies/x can't be used") as caught:
        Repository.open(S3Store("s3://copies/x", gone))
    assert SECRET not in str(caught.value)
    no_bucket = S3Options(section.s3_endpoint, "us-east-1", section.s3_key_file)
    with pytest.raises(Unavailable) as caught:
        S3Store("s3://no-such-bucket/x", no_bucket).put("a/b", [b"x"])
    assert SECRET not in str(caught.value)
    (tmp_path / "one-line").write_text("AKIA\n")
    with pytest.raises(InvalidRequest, match="two lines"):
        S3Store("s3://copies/x", S3Options(key_file=str(tmp_path / "one-line")))
