"""docker/compose.ha.yaml: its settings are those that a node takes, and nothing in it is secret.

docker/test-ha.sh runs it; here is what needs no container.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from nearql.server.config import load_config

ROOT = Path(__file__).resolve().parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.ha.yaml").read_text())
NODES = ("n1", "n2", "n3")
VARIABLE = re.compile(r"\$\{(\w+)(?::[-?]([^}]*))?\}")


def filled(text: str) -> str:
    """With the defaults of its variables."""
    return VARIABLE.sub(lambda match: match[2] or "", text)


@pytest.mark.parametrize("name", NODES)
def test_a_nodes_environment_is_a_clusters_configuration(name: str) -> None:
    service = COMPOSE["services"][name]
    given = {key: filled(str(value)) for key, value in service["environment"].items()}
    image = {"NEARQL_HTTP_HOST": "0.0.0.0", "NEARQL_DATA_DIR": "/var/lib/nearql"}
    config = load_config(environment={**image, **given})
    assert config.warnings == ()  # every variable is a setting
    assert config.node.name == name
    assert config.cluster.enabled
    assert config.auth.mode == "required"
    assert [voter.partition("@")[0] for voter in config.cluster.voters] == list(NODES)
    port = config.advertise_url.rpartition(":")[2]
    assert filled(service["ports"][0]) == f"127.0.0.1:{port}:8470"
    assert Path(config.cluster.cert_file).name == f"{name}.pem"


def test_nodes_share_nothing_but_what_is_mounted_for_reading() -> None:
    for name in NODES:
        service = COMPOSE["services"][name]
        assert f"{name}-data:/var/lib/nearql" in service["volumes"]
        assert "secrets:/secrets:ro" in service["volumes"]
        assert not any(volume.startswith("authority:") for volume in service["volumes"])
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]


def test_there_is_no_default_password() -> None:
    key = COMPOSE["services"]["secrets"]["environment"]["NEARQL_ADMIN_KEY"]
    assert key.startswith("${NEARQL_ADMIN_KEY:?")  # compose refuses to start without it
    example = dict(
        line.split("=", 1)
        for line in (ROOT / "docker" / ".env.example").read_text().splitlines()
        if line and not line.startswith("#")
    )
    assert example["NEARQL_ADMIN_KEY"] == ""
    used = set(VARIABLE.findall((ROOT / "docker" / "compose.ha.yaml").read_text()))
    assert set(example) <= {name for name, _ in used}


def test_the_balancer_asks_every_node_who_leads() -> None:
    text = (ROOT / "docker" / "haproxy.cfg").read_text()
    assert "option httpchk GET /leaderz" in text
    assert re.findall(r"^ +server (\w+) (\w+):8470$", text, re.MULTILINE) == [
        (name, name) for name in NODES
    ]


def test_what_it_mounts_is_tracked_and_what_is_secret_is_not() -> None:
    mounted = [
        volume.split(":")[0].removeprefix("./")
        for service in COMPOSE["services"].values()
        for volume in service.get("volumes", ())
        if volume.startswith("./")
    ]
    assert mounted == ["haproxy.cfg"]
    tracked = _git("ls-files", "docker")
    assert {f"docker/{name}" for name in (*mounted, ".env.example", "compose.ha.yaml")} <= tracked
    assert _git("check-ignore", "docker/.env", "docker/admin.key") == {
        "docker/.env", "docker/admin.key"
    }  # fmt: skip


def _git(*arguments: str) -> set[str]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a checkout of git")
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())
