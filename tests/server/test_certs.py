"""`nearql cluster certs` makes what the links between nodes need, as private as it should be."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography import x509

from nearql import __main__ as cli
from nearql.cluster.tls import TlsFiles


def run(*argv: str) -> int:
    return cli.main(["cluster", "certs", *argv])


def test_certificates_name_their_node_and_keys_are_private(tmp_path: Path) -> None:
    assert run("--out", str(tmp_path / "c"), "n1", "node-2.example") == 0
    for name in ("n1", "node-2.example"):
        certificate = x509.load_pem_x509_certificate((tmp_path / "c" / f"{name}.pem").read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == [name]
        key = tmp_path / "c" / f"{name}.key"
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        files = TlsFiles(tmp_path / "c" / "ca.pem", key.with_suffix(".pem"), key)
        assert files.context(server=True) is not None


def test_one_more_node_gets_the_same_authority(tmp_path: Path) -> None:
    assert run("--out", str(tmp_path), "n1") == 0
    authority = (tmp_path / "ca.pem").read_bytes()
    assert run("--out", str(tmp_path), "n2") == 0
    assert (tmp_path / "ca.pem").read_bytes() == authority


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--out", str(tmp_path), "n1") == 0
    before = (tmp_path / "n1.key").read_bytes()
    assert run("--out", str(tmp_path), "n2", "n1") == 1
    assert "n1.key exists; remove it" in capsys.readouterr().err
    assert (tmp_path / "n1.key").read_bytes() == before
    assert not (tmp_path / "n2.key").exists()


@pytest.mark.parametrize("name", ["../n1", "", "n 1"])
def test_a_name_is_no_path(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--out", str(tmp_path / "c"), name) == 1
    assert "can't be named" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_it_is_listed_with_the_other_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    assert "nearql cluster certs --out certs n1 n2 n3" in capsys.readouterr().out
