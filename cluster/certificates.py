"""A private authority and one certificate per node, for people who have none.

The authority's key is written beside the certificates and is needed only to make more of them: it
belongs off the nodes. A node's certificate names the node alone (DNS name = node name), and serves
both ends of a link.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nearql.engine.errors import InvalidRequest

VALID_DAYS = 3650
_BACKDATED = datetime.timedelta(hours=1)  # for clocks that differ a little


def make_certificates(folder: Path, names: Sequence[str]) -> list[Path]:
    """Write `ca.pem`, `ca.key` and `<name>.pem`, `<name>.key` per node; the files made.

    An authority that lies there already is used again, so that nodes can be added.

    Raises:
        InvalidRequest: a node's files exist, or a name is no DNS label.
    """
    for name in names:
        if not name or not all(c.isalnum() or c in "-_." for c in name):
            raise InvalidRequest(f"A node can't be named {name!r}: use letters, digits, - and _.")
        if (folder / f"{name}.key").exists():
            raise InvalidRequest(f"{folder / name}.key exists; remove it to make another.")
    folder.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    authority, authority_key = _authority(folder, made)
    for name in names:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(name, authority.subject, key)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(_BOTH_ENDS), critical=False)
            .add_extension(_identifier(authority_key), critical=False)
            .sign(authority_key, hashes.SHA256())
        )
        made += _write(folder, name, certificate, key)
    return made


_BOTH_ENDS = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


def _authority(
    folder: Path, made: list[Path]
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    if (folder / "ca.key").exists():
        loaded = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        return x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes()), loaded
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "NearQL private authority")])
    certificate = (
        _builder("NearQL private authority", name, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_CA_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    made += _write(folder, "ca", certificate, key)
    return certificate, key


_CA_USAGE = x509.KeyUsage(
    digital_signature=False, content_commitment=False, key_encipherment=False,
    data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
    encipher_only=False, decipher_only=False,
)  # fmt: skip


def _identifier(key: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
    )


def _write(
    folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> list[Path]:
    """The certificate, and the key for its owner's eyes only."""
    pem, secret = folder / f"{name}.pem", folder / f"{name}.key"
    handle = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return [pem, secret]
