"""What the chart renders: a safe, durable single node; and what it refuses."""

from __future__ import annotations

import json
import shutil
import tomllib
from typing import Any

import pytest
import yaml

from support.chart import CHART, ROOT, pod, render, template

pytestmark = pytest.mark.skipif(
    shutil.which("helm") is None, reason="helm is not installed; .ci/run brings it"
)


def test_default_objects() -> None:
    assert set(render()) == {
        ("NetworkPolicy", "demo-nearql"),
        ("Service", "demo-nearql"),
        ("Service", "demo-nearql-headless"),
        ("StatefulSet", "demo-nearql"),
    }


def test_versions_follow_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == project["version"]
    assert pod()["containers"][0]["image"] == f"nearql:{project['version']}"


def test_pod_is_locked_down() -> None:
    spec = pod()
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["fsGroup"] == 10001
    assert spec["automountServiceAccountToken"] is False
    container = spec["containers"][0]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_service_variables_never_reach_our_settings() -> None:
    """A service called nearql-http would otherwise set NEARQL_HTTP_PORT to `tcp://...`."""
    assert pod()["enableServiceLinks"] is False


def test_probes() -> None:
    container = pod()["containers"][0]
    assert container["startupProbe"]["httpGet"]["path"] == "/livez"
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_unauthenticated_port_is_open_to_labelled_pods_only() -> None:
    policy = render()["NetworkPolicy", "demo-nearql"]["spec"]
    (rule,) = policy["ingress"]
    assert rule["from"] == [{"podSelector": {"matchLabels": {"nearql-client": "true"}}}]


def test_a_secret_makes_keys_required() -> None:
    found = pod("auth.existingSecret=nearql-admin")
    container = found["containers"][0]
    assert "args" not in container
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert environment["NEARQL_AUTH_MODE"] == "required"
    file = environment["NEARQL_AUTH_BOOTSTRAP_ADMIN_KEY_FILE"]
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert file == f"{mounts['auth']['mountPath']}/admin.key"
    assert mounts["auth"]["readOnly"]
    volumes = {volume["name"]: volume for volume in found["volumes"]}
    assert volumes["auth"]["secret"]["secretName"] == "nearql-admin"
    assert "auth" not in {mount["name"] for mount in pod()["containers"][0]["volumeMounts"]}


def test_peers_replace_the_label() -> None:
    setting = "networkPolicy.from[0].namespaceSelector.matchLabels.team=search"
    policy = render(setting)["NetworkPolicy", "demo-nearql"]["spec"]
    assert policy["ingress"][0]["from"] == [
        {"namespaceSelector": {"matchLabels": {"team": "search"}}}
    ]


def test_policy_can_be_left_to_the_cluster() -> None:
    assert ("NetworkPolicy", "demo-nearql") not in render("networkPolicy.enabled=false")


def test_data_outlives_the_pod() -> None:
    spec = render("persistence.size=5Gi")["StatefulSet", "demo-nearql"]["spec"]
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "5Gi"
    assert "storageClassName" not in claim["spec"]
    assert spec["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Retain"


def test_data_without_a_claim_is_an_empty_directory() -> None:
    objects = render("persistence.enabled=false")
    assert "volumeClaimTemplates" not in objects["StatefulSet", "demo-nearql"]["spec"]
    volumes = {v["name"]: v for v in pod("persistence.enabled=false")["volumes"]}
    assert volumes["data"] == {"name": "data", "emptyDir": {}}


def test_configuration_is_mounted_and_restarts_the_pod() -> None:
    setting = "config.limits.max_limit=100"
    objects = render(setting)
    node = yaml.safe_load(objects["ConfigMap", "demo-nearql"]["data"]["node.yaml"])
    assert node == {"limits": {"max_limit": 100}}
    environment = {e["name"]: e.get("value") for e in pod(setting)["containers"][0]["env"]}
    assert environment["NEARQL_CONFIG"] == "/etc/nearql/config/node.yaml"
    assert checksum(setting) != checksum()


def checksum(*settings: str) -> str:
    """The annotation that changes with the configuration."""
    template_of_pod = render(*settings)["StatefulSet", "demo-nearql"]["spec"]["template"]
    value: str = template_of_pod["metadata"]["annotations"]["checksum/config"]
    return value


def test_every_setting_of_the_pod_is_one_that_the_node_knows() -> None:
    from nearql.server.config import load_config

    environment = {
        e["name"]: e.get("value", "n1")
        for e in pod()["containers"][0]["env"]
        if e["name"].startswith("NEARQL_")
    }
    assert load_config(environment=environment, insecure=True).warnings == ()


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("imagee.tag=1", "imagee"),
        ("service.port=70000", "port"),
        ("persistence.size=big", "size"),
        ("config.limits=5", "limits"),
    ],
)
def test_wrong_values_are_refused_by_name(setting: str, named: str) -> None:
    done = template(setting)
    assert done.returncode != 0
    assert named in done.stderr


def test_global_values_of_a_parent_chart_are_allowed() -> None:
    assert template("global.region=eu").returncode == 0


def test_every_value_is_described() -> None:
    def undescribed(schema: dict[str, Any], path: str) -> list[str]:
        found = []
        for name, value in schema.get("properties", {}).items():
            if "properties" in value:
                found += undescribed(value, f"{path}{name}.")
            elif not value.get("description"):
                found.append(path + name)
        return found

    assert undescribed(json.loads((CHART / "values.schema.json").read_text()), "") == []
