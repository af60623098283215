"""Signed tokens: every algorithm that is offered, key sets that are not, files that change."""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from nearql.engine.errors import NearQLError, Unauthenticated
from nearql.server.access.authenticate import Authenticator
from nearql.server.access.files import CHECK_EVERY_S, WatchedFile
from nearql.server.access.principal import Principal
from nearql.server.access.store import AccessStore
from nearql.server.access.tokens import parse_key_set, verify
from nearql.server.config import AuthSection, ConfigError
from support.access import MemoryMetadata
from support.secured import JWT_SECRET, make_token, write_key_set

SECTION = AuthSection(mode="required")
ED = ed25519.Ed25519PrivateKey.generate()
EC = ec.generate_private_key(ec.SECP256R1())


def jwk(algorithm: Any, key: Any, **more: Any) -> dict[str, Any]:
    """A key as a member of a set."""
    return {**json.loads(algorithm.to_jwk(key)), **more}


def claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    return {"iss": "nearql", "aud": "nearql", "sub": "jo", "iat": now, "exp": now + 60, **changed}


def key_set(*members: dict[str, Any]) -> bytes:
    return json.dumps({"keys": members}).encode()


ED_JWK = jwk(jwt.algorithms.OKPAlgorithm, ED.public_key(), kid="ed")
EC_JWK = jwk(jwt.algorithms.ECAlgorithm, EC.public_key(), kid="ec")
OCT_JWK = {"kty": "oct", "kid": "k1", "k": urlsafe_b64encode(JWT_SECRET).decode()}


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"),
    [(ED, "EdDSA", "ed"), (EC, "ES256", "ec"), (JWT_SECRET, "HS256", "k1")],
)
def test_each_offered_algorithm(key: Any, algorithm: str, kid: str) -> None:
    keys = parse_key_set(key_set(ED_JWK, EC_JWK, OCT_JWK))
    token = jwt.encode(claims(role="reader"), key, algorithm, headers={"kid": kid})
    assert verify(token, keys, SECTION).subject == "jo"


def test_a_key_has_one_algorithm_whatever_the_header_says() -> None:
    """The public key of an EC pair must not serve as an HMAC secret."""
    keys = parse_key_set(key_set(EC_JWK))
    token = jwt.encode(claims(), EC_JWK["x"] * 2, "HS256", headers={"kid": "ec"})
    with pytest.raises(Unauthenticated, match="algorithm is not the key's"):
        verify(token, keys, SECTION)


def test_a_private_key_in_the_set_is_used_for_its_public_half() -> None:
    keys = parse_key_set(key_set(jwk(jwt.algorithms.OKPAlgorithm, ED, kid="ed")))
    token = jwt.encode(claims(), ED, "EdDSA", headers={"kid": "ed"})
    assert verify(token, keys, SECTION).subject == "jo"


def test_a_single_key_needs_no_kid() -> None:
    single = {name: value for name, value in OCT_JWK.items() if name != "kid"}
    keys = parse_key_set(key_set(single))
    assert verify(jwt.encode(claims(), JWT_SECRET, "HS256"), keys, SECTION).subject == "jo"


RSA_JWK = jwk(
    jwt.algorithms.RSAAlgorithm, rsa.generate_private_key(65537, 2048).public_key(), kid="r"
)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"not json", "JSON Web Key Set"),
        (b"[]", "JSON Web Key Set"),
        (b'{"keys": []}', "holds no key"),
        (b'{"keys": [1]}', "key 1 is no JSON object"),
        (key_set(RSA_JWK), "not offered"),
        (key_set({**OCT_JWK, "alg": "HS512"}), "not offered"),
        (key_set({**OCT_JWK, "k": "c2hvcnQ"}), "at least 32 bytes"),
        (key_set({"kty": "oct", "kid": "x"}), "can't be read"),
        (key_set({**EC_JWK, "crv": "P-521"}), "curve P-256"),
        (key_set(OCT_JWK, OCT_JWK), "that no other key has"),
        (key_set(ED_JWK, {"kty": "oct", "k": OCT_JWK["k"]}), "needs a kid"),
    ],
)
def test_key_sets_that_are_refused(content: bytes, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        parse_key_set(content)
    assert OCT_JWK["k"] not in caught.value.detail


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"exp": int(time.time()) - 60}, "has expired"),
        ({"iat": int(time.time()) + 3600, "exp": int(time.time()) + 3700}, "not valid yet"),
        ({"nbf": int(time.time()) + 3600}, "not valid yet"),
        ({"aud": "other"}, "another audience"),
        ({"aud": ["x", "y"]}, "another audience"),
        ({"iss": "other"}, "another issuer"),
        ({"exp": int(time.time()) + 100_000}, "valid for more than"),
        ({"role": "king"}, "its role"),
        ({"role": "reader", "tables": "docs"}, "list of names"),
        ({"sub": 7}, "malformed"),
        ({"iat": "now"}, "malformed|not valid"),
    ],
)
def test_claims_that_are_refused(changed: dict[str, Any], told: str) -> None:
    token = jwt.encode(claims(**changed), JWT_SECRET, "HS256", headers={"kid": "k1"})
    with pytest.raises(Unauthenticated, match=told):
        verify(token, parse_key_set(key_set(OCT_JWK)), SECTION)


@pytest.mark.parametrize("missing", ["exp", "iat", "aud", "iss", "sub"])
def test_each_required_claim(missing: str) -> None:
    content = {name: value for name, value in claims().items() if name != missing}
    token = jwt.encode(content, JWT_SECRET, "HS256", headers={"kid": "k1"})
    with pytest.raises(Unauthenticated, match="lacks one of"):
        verify(token, parse_key_set(key_set(OCT_JWK)), SECTION)


def test_clocks_may_differ_by_the_leeway_and_no_more() -> None:
    keys, now = parse_key_set(key_set(OCT_JWK)), int(time.time())
    for ago, passes in ((SECTION.jwt_leeway_s - 5, True), (SECTION.jwt_leeway_s + 5, False)):
        token = make_token(iat=now - 100, exp=now - ago)
        if passes:
            assert verify(token, keys, SECTION).subject == "jo"
        else:
            with pytest.raises(Unauthenticated):
                verify(token, keys, SECTION)


@pytest.mark.parametrize(
    "token",
    ["", ".", "..", "a.b.c", "x" * 10_000, "eyJhbGciOiJIUzI1NiJ9.e30.", "é.é.é", "a.b.c.d.e"],
)
def test_what_is_no_token(token: str) -> None:
    with pytest.raises(Unauthenticated):
        verify(token, parse_key_set(key_set(OCT_JWK)), SECTION)


def test_the_header_s_addresses_and_keys_are_ignored() -> None:
    forged = b"f" * 32
    header = {
        "jku": "http://evil.example/keys", "x5u": "http://evil.example/x",
        "jwk": {"kty": "oct", "k": urlsafe_b64encode(forged).decode()},
    }  # fmt: skip
    with pytest.raises(Unauthenticated, match="signature is wrong"):
        verify(make_token(forged, header=header), parse_key_set(key_set(OCT_JWK)), SECTION)


# ---- files that change --------------------------------------------------------------------------


def reader(tmp_path: Path) -> tuple[Authenticator, list[float]]:
    """An authenticator over a key set, and the clock by which it looks at the file."""
    write_key_set(tmp_path / "keys.json")
    section = AuthSection(mode="required", jwt_key_file=str(tmp_path / "keys.json"))
    made = Authenticator(AccessStore(MemoryMetadata(), 100), section)
    now = [0.0]
    assert made._key_set is not None
    made._key_set._clock = lambda: now[0]
    made._key_set._checked = 0.0
    return made, now


def whose(made: Authenticator, token: str) -> Principal | None:
    try:
        return made.principal(token.encode())
    except NearQLError:
        return None


def test_a_new_key_set_counts_at_once_and_for_tokens_that_were_seen(tmp_path: Path) -> None:
    made, now = reader(tmp_path)
    old, new = make_token(role="reader"), make_token(b"n" * 40, role="reader")
    assert whose(made, old) is not None
    assert whose(made, new) is None
    write_key_set(tmp_path / "keys.json", b"n" * 40)
    now[0] += CHECK_EVERY_S
    assert whose(made, new) is not None
    assert whose(made, old) is None


def test_a_broken_key_set_leaves_the_old_one_in_force(tmp_path: Path) -> None:
    made, now = reader(tmp_path)
    token = make_token(role="reader")
    (tmp_path / "keys.json").write_text("{")
    now[0] += CHECK_EVERY_S
    assert whose(made, token) is not None
    (tmp_path / "keys.json").unlink()
    now[0] += CHECK_EVERY_S
    assert whose(made, token) is not None


def test_a_verified_token_still_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = reader(tmp_path)
    token = make_token(role="reader")
    assert whose(made, token) is not None
    ahead = time.time() + 3600
    monkeypatch.setattr(made._store, "_now", lambda: ahead)
    assert whose(made, token) is None


def test_a_file_is_looked_at_no_more_than_it_must(tmp_path: Path) -> None:
    file, now = tmp_path / "f", [0.0]
    file.write_bytes(b"one")
    watched = WatchedFile(file, bytes.upper, lambda: now[0])
    file.write_bytes(b"three")
    assert watched.get() == b"ONE"
    now[0] += CHECK_EVERY_S
    assert watched.get() == b"THREE"
    assert watched.version == 2
