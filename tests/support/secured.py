"""A real node that asks everybody for a key, over a real socket, and the tokens to try it with."""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import jwt

from nearql.server.access.layer import AccessLayer
from nearql.server.app import create_app
from nearql.server.config import AuthSection, Config
from nearql.server.node import Node
from support.http_node import Served, make_config, serve_app

ROOT_KEY = "root-key-of-these-tests-0123456789abcdef"
JWT_SECRET = b"a secret of these tests, 32 bytes or more"


def bearer(key: str) -> dict[str, str]:
    """The header that carries a key."""
    return {"Authorization": f"Bearer {key}"}


def make_token(
    secret: bytes = JWT_SECRET, header: Mapping[str, Any] | None = None, **claims: Any
) -> str:
    """A signed token, valid unless told otherwise; a claim given as None is left out."""
    now = int(time.time())
    content = {"iss": "nearql", "aud": "nearql", "sub": "jo", "iat": now, "exp": now + 300} | claims
    kept = {name: value for name, value in content.items() if value is not None}
    return jwt.encode(kept, secret, "HS256", headers={"kid": "k1", **(header or {})})


def unsigned_token(**claims: Any) -> str:
    """A token with `alg: none`, which PyJWT would not make."""
    now = int(time.time())
    content = {"iss": "nearql", "aud": "nearql", "sub": "jo", "iat": now, "exp": now + 300} | claims
    parts = [{"alg": "none", "typ": "JWT", "kid": "k1"}, content]
    return (
        ".".join(urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts)
        + "."
    )


def write_key_set(path: Path, secret: bytes = JWT_SECRET, kid: str = "k1") -> None:
    """A key set of one HS256 key."""
    key = {"kty": "oct", "kid": kid, "k": urlsafe_b64encode(secret).decode().rstrip("=")}
    path.write_text(json.dumps({"keys": [key]}))


def secured_config(directory: Path, **auth: Any) -> Config:
    """auth.mode = required, with a bootstrap key and a key set."""
    directory.mkdir(exist_ok=True)
    (directory / "root.key").write_text(ROOT_KEY)
    write_key_set(directory / "keys.json")
    section = AuthSection(
        mode="required",
        bootstrap_admin_key_file=str(directory / "root.key"),
        jwt_key_file=str(directory / "keys.json"),
    )
    return replace(make_config(directory / "data"), auth=replace(section, **auth))


@dataclass
class Secured:
    """A running node and short ways to ask it as somebody."""

    served: Served
    node: Node
    layer: AccessLayer
    config: Config

    def request(self, method: str, path: str, key: str | None, **more: Any) -> httpx.Response:
        """One request with this key, or with none."""
        headers = {**(bearer(key) if key is not None else {}), **more.pop("headers", {})}
        return self.served.client.request(method, path, headers=headers, **more)

    def sql(self, text: str, key: str | None = ROOT_KEY, **members: Any) -> httpx.Response:
        """POST /v1/sql."""
        return self.request("POST", "/v1/sql", key, json={"sql": text, **members})

    def done(self, text: str, key: str | None = ROOT_KEY, **members: Any) -> list[Any]:
        """The rows; AssertionError with the problem on failure."""
        answer = self.sql(text, key, **members)
        assert answer.status_code == 200, answer.text
        rows: list[Any] = answer.json()["rows"]
        return rows

    def new_key(self, user: str, **members: Any) -> str:
        """The text of a new key."""
        answer = self.request("POST", "/v1/keys", ROOT_KEY, json={"user": user, **members})
        assert answer.status_code == 200, answer.text
        text: str = answer.json()["key"]
        return text

    def audit(self) -> list[dict[str, Any]]:
        """The lines of the audit log."""
        lines = (self.config.node.data_dir / "audit.log").read_text().splitlines()
        return [json.loads(line) for line in lines]


@contextmanager
def secured(directory: Path, **auth: Any) -> Iterator[Secured]:
    """A node in `directory` that requires keys."""
    config = secured_config(directory, **auth)
    node = Node.open(config)
    try:
        layer = AccessLayer(node, config)
        with serve_app(
            node, config, create_app(node, config, layer, backups=node.backups)
        ) as served:
            yield Secured(served, node, layer, config)
    finally:
        node.close()
