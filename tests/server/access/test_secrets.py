"""Secrets are planted everywhere they can be, and looked for everywhere they must not be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from support.certificates import write_certificate
from support.secured import JWT_SECRET, ROOT_KEY, bearer, make_token, write_key_set
from support.server_process import free_port
from support.waiting import wait_for

SECRET_TEXT = "planted-literal-9d1f"
SECRET_PARAMETER = "planted-parameter-7c2e"


def ask(client: httpx.Client, token: str) -> str:
    """Every kind of request and error with a secret in it; what was answered."""
    told = ""
    for sql in (
        f"SELECT '{SECRET_TEXT}' AS x, $1",
        f"SELECT nosuch('{SECRET_TEXT}'), $1",
        f"SELECT CAST('{SECRET_TEXT}' AS BIGINT), $1",
        "SELECT * FROM nearql.settings WHERE name <> $1",
        "SHOW SETTINGS",
    ):
        body = {"sql": sql, "params": [SECRET_PARAMETER] if "$1" in sql else None}
        answer = client.post("/v1/sql", json=body, headers=bearer(token))
        told += answer.text if SECRET_TEXT not in sql else ""
    for header in ("nq_planted-key", make_token(b"p" * 32), "Basic x", ROOT_KEY + "x"):
        told += client.get("/v1/whoami", headers=bearer(header)).text
    for path in ("/metrics", "/openapi.json", "/readyz", "/v1/keys", "/v1/cluster", "/docs", "/"):
        answer = client.get(path, headers=bearer(token))
        assert answer.status_code == 200, path
        told += answer.text + str(answer.headers)
    return told


def test_no_secret_is_in_logs_answers_metrics_or_files(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("root.key", "keys.json", "cert.pem", "key.pem")]
    files[0].write_text(ROOT_KEY)
    write_key_set(files[1])
    write_certificate(files[2], files[3])
    private = [line for line in files[3].read_text().splitlines() if "-" not in line]
    port, log = free_port(), tmp_path / "log"
    environment = {
        **os.environ,
        "NEARQL_AUTH_MODE": "required",
        "NEARQL_AUTH_BOOTSTRAP_ADMIN_KEY_FILE": str(files[0]),
        "NEARQL_AUTH_JWT_KEY_FILE": str(files[1]),
        "NEARQL_HTTP_TLS_CERT_FILE": str(files[2]),
        "NEARQL_HTTP_TLS_KEY_FILE": str(files[3]),
        "NEARQL_LOG_LEVEL": "debug",
        "NEARQL_LOG_REQUESTS": "all",
        "NEARQL_LOG_FORMAT": "json",
    }
    command = [sys.executable, "-m", "nearql", "serve", "--port", str(port)]
    with log.open("wb") as written:
        server = subprocess.Popen(
            [*command, "--data-dir", str(tmp_path / "data")], stderr=written, env=environment
        )
    url = f"https://127.0.0.1:{port}"
    with httpx.Client(base_url=url, verify=False, timeout=60) as client:
        try:
            wait_for(lambda: _is_ready(client), f"the server is ready; its log: {log}", 60)
            made = client.post("/v1/keys", json={"user": "ann"}, headers=bearer(ROOT_KEY)).json()
            session = client.post("/v1/login", headers=bearer(made["key"])).json()["token"]
            client.cookies.clear()
            token = make_token(role="admin")
            answers = ask(client, ROOT_KEY) + ask(client, token)
        finally:
            server.terminate()
            server.wait(60)
    secrets = [ROOT_KEY, JWT_SECRET.decode(), *private, made["key"], session, token]
    data = b"".join(p.read_bytes() for p in (tmp_path / "data").rglob("*") if p.is_file())
    lines = log.read_text()
    assert "listening" in lines
    for secret in [*secrets, SECRET_TEXT, SECRET_PARAMETER]:
        assert secret not in lines, "the log"
        assert secret not in answers, "an answer"
    for secret in secrets:
        assert secret.encode() not in data, "the data directory"


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("name", ["root.key", "keys.json"])
def test_a_wrong_file_of_secrets_is_refused_without_its_content(tmp_path: Path, name: str) -> None:
    (tmp_path / "root.key").write_text(ROOT_KEY)
    write_key_set(tmp_path / "keys.json")
    (tmp_path / name).write_text("short-but-secret")
    environment = {
        **os.environ,
        "NEARQL_AUTH_MODE": "required",
        "NEARQL_AUTH_BOOTSTRAP_ADMIN_KEY_FILE": str(tmp_path / "root.key"),
        "NEARQL_AUTH_JWT_KEY_FILE": str(tmp_path / "keys.json"),
    }
    found = subprocess.run(
        [sys.executable, "-m", "nearql", "serve", "--port", "0"]
        + ["--data-dir", str(tmp_path / "data")],
        env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert found.returncode == 2, found.stderr
    assert "auth." in found.stderr
    assert "short-but-secret" not in found.stderr
