"""https: files that must fit, headers, and new files that count for new connections."""

from __future__ import annotations

import socket
import ssl
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from nearql.server.config import Config, ConfigError, HttpSection, load_config
from nearql.server.tls import Certificates
from support.certificates import write_certificate
from support.http_node import FakeNode, Served, make_config, serve


@pytest.fixture
def section(tmp_path: Path) -> HttpSection:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    write_certificate(cert, key, "first")
    return HttpSection(port=0, tls_cert_file=str(cert), tls_key_file=str(key))


def with_tls(tmp_path: Path, section: HttpSection) -> Config:
    return replace(make_config(tmp_path), http=section)


def name_shown(served: Served) -> str:
    """The name in the certificate that a new connection is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", served.port), 10) as plain,
        context.wrap_socket(plain) as connection,
    ):
        shown = connection.getpeercert(binary_form=True)
        assert shown is not None
        return x509.load_der_x509_certificate(shown).subject.rfc4514_string()


def test_a_node_with_certificates_speaks_https_alone(tmp_path: Path, section: HttpSection) -> None:
    config = with_tls(tmp_path, section)
    with serve(FakeNode(config), config) as served:
        context = ssl.create_default_context(cafile=section.tls_cert_file)
        url = f"https://127.0.0.1:{served.port}"
        with httpx.Client(base_url=url, verify=context, trust_env=False) as client:
            answer = client.post("/v1/sql", json={"sql": "SELECT 1"})
            assert answer.status_code == 200
            assert answer.headers["strict-transport-security"] == "max-age=31536000"
        with pytest.raises(httpx.TransportError):
            served.client.get("/livez")
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with (
            socket.create_connection(("127.0.0.1", served.port), 10) as plain,
            old.wrap_socket(plain) as connection,
        ):
            assert connection.version() == "TLSv1.2"


def test_new_files_count_for_new_connections(tmp_path: Path, section: HttpSection) -> None:
    config = with_tls(tmp_path, section)
    with serve(FakeNode(config), config) as served:
        certificates = served.server.config.app.state.edge.certificates  # type: ignore[union-attr]
        assert name_shown(served) == "CN=first"
        write_certificate(Path(section.tls_cert_file), Path(section.tls_key_file), "second")
        certificates.refresh()  # or the watch did already
        assert name_shown(served) == "CN=second"


def test_a_certificate_without_its_key_changes_nothing(
    tmp_path: Path, section: HttpSection
) -> None:
    certificates = Certificates(section)
    assert not certificates.refresh()
    write_certificate(Path(section.tls_cert_file), tmp_path / "other.pem", "second")
    assert not certificates.refresh()
    Path(section.tls_cert_file).unlink()
    assert not certificates.refresh()
    write_certificate(Path(section.tls_cert_file), Path(section.tls_key_file), "third")
    assert certificates.refresh()


def test_wrong_files_are_refused_by_name_and_without_their_content(
    tmp_path: Path, section: HttpSection
) -> None:
    other = tmp_path / "other.pem"
    write_certificate(tmp_path / "more.pem", other)
    junk = tmp_path / "junk.pem"
    marker = "PRIVATE KEY-----"
    junk.write_text(f"-----BEGIN {marker}\nc2VjcmV0\n-----END {marker}\n")
    for wrong, told in (
        (replace(section, tls_key_file=str(other)), "not the certificate's"),
        (replace(section, tls_key_file=str(tmp_path / "absent")), "No such file"),
        (replace(section, tls_key_file=str(junk)), "no PEM certificate"),
    ):
        with pytest.raises(ConfigError, match=told) as caught:
            Certificates(wrong)
        assert "c2VjcmV0" not in str(caught.value)


def test_one_file_alone_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text("http: {tls_cert_file: cert.pem}")
    with pytest.raises(ConfigError, match="belong together"):
        load_config(file, environment={})


def test_paths_count_from_the_file_s_folder(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text("http: {tls_cert_file: cert.pem, tls_key_file: keys/key.pem}")
    http = load_config(file, environment={}).http
    assert http.tls_cert_file == str(tmp_path / "cert.pem")
    assert http.tls_key_file == str(tmp_path / "keys" / "key.pem")
    assert load_config(file, environment={}).advertise_url == "https://127.0.0.1:8470"
