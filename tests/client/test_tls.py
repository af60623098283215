"""https: certificates are checked, a private authority can be named, connections are kept."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from nearql.client import errors
from support.clients import Connect
from support.scripted_server import ScriptedServer, http, in_turn, rows, stored


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of 127.0.0.1, and its key beside it."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ]
        + ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
        + ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")],
        check=True,
        capture_output=True,
    )
    return folder / "cert.pem"


@pytest.fixture
def context(certificate: Path) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificate, certificate.with_name("key.pem"))
    return made


def test_a_named_authority_is_trusted(
    connect: Connect, context: ssl.SSLContext, certificate: Path
) -> None:
    with (
        ScriptedServer(in_turn(rows()), tls=context) as node,
        connect(node.url, ca_file=str(certificate)) as db,
    ):
        for _ in range(5):
            assert db.sql("SELECT 1").fetchall() == [(1,)]
        assert node.connections == 1


def test_large_bodies_pass(connect: Connect, context: ssl.SSLContext, certificate: Path) -> None:
    with (
        ScriptedServer(stored, tls=context) as node,
        connect(node.url, ca_file=str(certificate)) as db,
    ):
        assert db.insert("t", {"n": list(range(500_000))}, batch_bytes=1 << 30).rows == 500_000


def test_an_unknown_authority_is_not_trusted(connect: Connect, context: ssl.SSLContext) -> None:
    with ScriptedServer(in_turn(rows()), tls=context) as node, connect(node.url) as db:
        with pytest.raises(errors.ConnectionFailed, match=r"not trusted.*ca_file") as caught:
            db.sql("SELECT 1")
        assert "tried once" not in str(caught.value)
        assert not node.received


def test_http_against_https_is_named(connect: Connect, context: ssl.SSLContext) -> None:
    with (
        ScriptedServer(in_turn(rows()), tls=context) as node,
        connect(node.url.replace("https", "http"), retries=0) as db,
        pytest.raises(errors.Error, match=node.url.removeprefix("https://")),
    ):
        db.sql("SELECT 1")


def test_a_redirect_from_https_to_http_is_refused(
    connect: Connect, context: ssl.SSLContext, certificate: Path
) -> None:
    moved = http(307, location="http://127.0.0.1:9/v1/sql")
    with (
        ScriptedServer(in_turn(moved), tls=context) as node,
        connect(node.url, ca_file=str(certificate), token="secret") as db,
        pytest.raises(errors.ProtocolError, match="unencrypted"),
    ):
        db.sql("INSERT INTO t VALUES (1)")


def test_a_missing_authority_file_is_named(connect: Connect) -> None:
    with (
        connect("https://127.0.0.1:9", ca_file="missing.pem", retries=0) as db,
        pytest.raises(errors.UsageError, match=r"ca_file.*missing\.pem"),
    ):
        db.sql("SELECT 1")
