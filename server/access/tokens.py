"""Signed tokens (JWT, RFC 7519) as RFC 8725 wants them checked.

The key set is a file: JWKS, `{"keys": [{"kid": ..., "kty": ..., ...}]}`. A key has one algorithm,
by its type: `oct` HS256, `OKP` (Ed25519) EdDSA, `EC` (P-256) ES256. The token's header chooses a
key by `kid` and nothing else; its `alg` must be that key's; addresses and keys in it are ignored.

Claims: `iss`, `aud`, `sub`, `iat` and `exp` are required, and `exp - iat` is bounded. `sub` names
the user. Where there is no such user, `role` and `tables` of the token say what it may do.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt

from nearql.engine.errors import Unauthenticated
from nearql.server.access.rights import Role
from nearql.server.config import AuthSection, ConfigError

ALGORITHMS = {"oct": "HS256", "OKP": "EdDSA", "EC": "ES256"}
CURVES = {"OKP": "Ed25519", "EC": "P-256"}
SECRET_BYTES = 32  # RFC 8725 3.5: at least as long as the hash
TOKEN_CHARS = 8192
_REQUIRED = ["exp", "iat", "aud", "iss", "sub"]


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says. Times in seconds. role None: only the user `subject` counts."""

    subject: str
    issued_s: float
    expires_s: float
    token_id: str | None
    role: Role | None
    tables: tuple[str, ...] | None  # by name


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key of the set with its only algorithm."""

    algorithm: str
    key: jwt.PyJWK


KeySet = Mapping[str, SigningKey]


def parse_key_set(content: bytes) -> KeySet:
    """The keys of a JWKS file by `kid`; a single key may have none and is then `""`.

    Raises:
        ConfigError: names the key and what is wrong with it, never its content.
    """
    try:
        listed = json.loads(content)["keys"]
    except (ValueError, TypeError, KeyError):
        raise ConfigError(
            'auth.jwt_key_file must hold a JSON Web Key Set: {"keys": [...]}.'
        ) from None
    if not isinstance(listed, list) or not listed:
        raise ConfigError("auth.jwt_key_file holds no key.")
    found: dict[str, SigningKey] = {}
    for number, member in enumerate(listed, 1):
        name = f"auth.jwt_key_file, key {number}"
        if not isinstance(member, dict):
            raise ConfigError(f"{name} is no JSON object.")
        kid = member.get("kid", "")
        if not isinstance(kid, str) or kid in found or (not kid and len(listed) > 1):
            raise ConfigError(f"{name} needs a kid (a string) that no other key has.")
        found[kid] = _signing_key(name, member)
    return found


def _signing_key(name: str, member: dict[str, Any]) -> SigningKey:
    kind = str(member.get("kty"))
    algorithm = ALGORITHMS.get(kind)
    if algorithm is None or member.get("alg", algorithm) != algorithm:
        allowed = ", ".join(f"{a} (kty {k})" for k, a in ALGORITHMS.items())
        raise ConfigError(f"{name} is of a kind that is not offered; offered: {allowed}.")
    if kind in CURVES and member.get("crv") != CURVES[kind]:
        raise ConfigError(f"{name} must be on the curve {CURVES[kind]}.")
    try:
        if kind == "oct" and len(_decoded(member["k"])) < SECRET_BYTES:
            raise ConfigError(f"{name}: a secret needs at least {SECRET_BYTES} bytes.")
        public = {part: value for part, value in member.items() if part not in ("d", "alg")}
        return SigningKey(algorithm, jwt.PyJWK(public, algorithm))
    except (jwt.PyJWTError, KeyError, ValueError, TypeError):
        raise ConfigError(f"{name} can't be read as a key of kty {kind}.") from None


def _decoded(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def verify(token: str, keys: KeySet, section: AuthSection) -> Claims:
    """The claims of a token, signature and times checked.

    Raises:
        Unauthenticated: says which rule the token breaks, and nothing of its content.
    """
    if len(token) > TOKEN_CHARS:
        raise _refused("it is too long")
    try:
        claims = _decode(token, keys, section)
    except jwt.PyJWTError as error:
        raise _refused(_REASONS.get(type(error), "it is malformed")) from None
    issued, expires = _seconds(claims["iat"]), _seconds(claims["exp"])
    if expires - issued > section.jwt_lifetime_s:
        raise _refused(
            f"it is valid for more than {section.jwt_lifetime_s} s (auth.jwt_lifetime_s)"
        )
    token_id = claims.get("jti")
    return Claims(
        subject=claims["sub"],
        issued_s=issued,
        expires_s=expires,
        token_id=token_id if isinstance(token_id, str) else None,
        role=_role(claims.get("role")),
        tables=_tables(claims.get("tables")),
    )


def _decode(token: str, keys: KeySet, section: AuthSection) -> dict[str, Any]:
    header = jwt.get_unverified_header(token)
    kid = header.get("kid", "")
    found = keys.get(kid) if isinstance(kid, str) else None
    if found is None and not kid and len(keys) == 1:
        found = next(iter(keys.values()))
    if found is None:
        raise _refused("it names no key of the key set")
    if header.get("alg") != found.algorithm:
        raise jwt.InvalidAlgorithmError
    decoded: dict[str, Any] = jwt.decode(
        token,
        found.key,
        algorithms=[found.algorithm],
        audience=section.jwt_audience,
        issuer=section.jwt_issuer,
        leeway=section.jwt_leeway_s,
        options={"require": _REQUIRED, "strict_aud": False},
    )
    return decoded


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refused("iat and exp must be numbers")
    return float(value)


def _role(value: Any) -> Role | None:
    if value is None:
        return None
    try:
        return Role(value)
    except ValueError:
        raise _refused("its role is none of reader, writer, admin") from None


def _tables(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise _refused("its tables must be a list of names")
    return tuple(value)


_REASONS: dict[type[Exception], str] = {
    jwt.ExpiredSignatureError: "it has expired",
    jwt.ImmatureSignatureError: "it is not valid yet",
    jwt.InvalidSignatureError: "its signature is wrong",
    jwt.InvalidAlgorithmError: "its algorithm is not the key's",
    jwt.InvalidAudienceError: "it is for another audience",
    jwt.InvalidIssuerError: "it is of another issuer",
    jwt.MissingRequiredClaimError: f"it lacks one of {', '.join(_REQUIRED)}",
}


def _refused(reason: str) -> Unauthenticated:
    return Unauthenticated(f"The token is refused: {reason}.", code="invalid_token")
