"""What the chart renders for a cluster: identities, addresses and certificates that fit."""

from __future__ import annotations

import base64
import shutil
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from nearql.cluster.tls import TlsFiles
from nearql.server.config import load_config
from support.chart import pod, render, template

pytestmark = pytest.mark.skipif(
    shutil.which("helm") is None, reason="helm is not installed; .ci/run brings it"
)
ON = "cluster.enabled=true"
PODS = ("demo-nearql-0", "demo-nearql-1", "demo-nearql-2")
DOMAIN = "demo-nearql-headless.search.svc"


def environment(name: str, *more: str) -> dict[str, str]:
    """The variables of one pod, as Kubernetes fills them in."""
    listed = {e["name"]: e.get("value", name) for e in pod(ON, *more)["containers"][0]["env"]}
    return {key: value.replace("$(NEARQL_NODE_NAME)", name) for key, value in listed.items()}


@pytest.mark.parametrize("name", PODS)
def test_each_pod_is_one_voter_under_its_own_name(name: str) -> None:
    image = {"NEARQL_HTTP_HOST": "0.0.0.0"}
    config = load_config(environment={**image, **environment(name)}, insecure=True)
    assert config.warnings == ()
    assert config.node.name == name
    assert config.cluster.voters == PODS
    assert config.cluster.dns_name == DOMAIN
    assert config.advertise_url == f"http://{name}.{DOMAIN}:8470"
    assert config.replication.advertise == f"{name}.{DOMAIN}:8472"
    assert config.cluster.write_routing == "proxy"
    assert config.cluster.cert_file == f"/etc/nearql/nodes/{name}.pem"


def test_the_set_has_as_many_pods_as_voters_and_starts_them_together() -> None:
    for voters in (3, 5):
        spec = render(ON, f"cluster.voters={voters}")["StatefulSet", "demo-nearql"]["spec"]
        assert (spec["replicas"], spec["podManagementPolicy"]) == (voters, "Parallel")
    alone = render()["StatefulSet", "demo-nearql"]["spec"]
    assert alone["replicas"] == 1
    assert "podManagementPolicy" not in alone


def test_certificates_name_their_pods_and_serve_both_ends(tmp_path: Path) -> None:
    secret = render(ON)["Secret", "demo-nearql-nodes"]
    assert secret["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    files = {name: base64.b64decode(data) for name, data in secret["data"].items()}
    assert set(files) == {"ca.pem", *(f"{p}.{e}" for p in PODS for e in ("pem", "key"))}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for name in PODS:
        made = TlsFiles(tmp_path / "ca.pem", tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
        assert isinstance(made.context(server=True), ssl.SSLContext)
        certificate = x509.load_pem_x509_certificate(files[f"{name}.pem"])
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == [name]
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert set(usages) >= {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(files["ca.pem"]))


def test_a_secret_of_ones_own_takes_their_place() -> None:
    given = "cluster.existingSecret=our-nodes"
    assert not any(kind == "Secret" for kind, _ in render(ON, given))
    volumes = {v["name"]: v for v in pod(ON, given)["volumes"]}
    assert volumes["nodes"]["secret"]["secretName"] == "our-nodes"


def test_only_nodes_reach_the_ports_of_nodes() -> None:
    policy = render(ON)["NetworkPolicy", "demo-nearql"]["spec"]
    clients, nodes = policy["ingress"]
    assert [port["port"] for port in clients["ports"]] == ["http"]
    assert [port["port"] for port in nodes["ports"]] == ["raft", "replication"]
    assert nodes["from"] == [{"podSelector": policy["podSelector"]}]
    ports = {p["name"]: p["containerPort"] for p in pod(ON)["containers"][0]["ports"]}
    assert ports == {"http": 8470, "raft": 8471, "replication": 8472}


def test_names_are_known_before_pods_are_ready() -> None:
    headless = render(ON)["Service", "demo-nearql-headless"]["spec"]
    assert headless["publishNotReadyAddresses"] is True
    assert {p["name"]: p["port"] for p in headless["ports"]} == {
        "http": 8470, "raft": 8471, "replication": 8472
    }  # fmt: skip
    assert render(ON)["StatefulSet", "demo-nearql"]["spec"]["serviceName"] == (
        "demo-nearql-headless"
    )


def test_one_pod_at_a_time_may_be_taken_away() -> None:
    objects = render(ON)
    budget = objects["PodDisruptionBudget", "demo-nearql"]["spec"]
    assert budget["maxUnavailable"] == 1
    everybody = objects["Service", "demo-nearql-headless"]["spec"]["selector"]
    assert budget["selector"]["matchLabels"] == everybody
    without = render(ON, "cluster.podDisruptionBudget=false")
    assert ("PodDisruptionBudget", "demo-nearql") not in without


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("preferred", "preferredDuringSchedulingIgnoredDuringExecution"),
        ("required", "requiredDuringSchedulingIgnoredDuringExecution"),
        ("none", None),
    ],
)
def test_pods_keep_apart(setting: str, found: str | None) -> None:
    affinity: dict[str, Any] = pod(ON, f"cluster.antiAffinity={setting}").get("affinity", {})
    assert list(affinity.get("podAntiAffinity", {})) == ([found] if found else [])


def test_a_number_that_cannot_agree_is_refused() -> None:
    done = template(ON, "cluster.voters=2")
    assert done.returncode != 0
    assert "voters" in done.stderr
