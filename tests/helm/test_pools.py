"""Nodes that don't vote, nodes with GPUs, and what stands beside nodes: the leader's service,
cert-manager, Prometheus, files of secrets; and every combination fits Kubernetes' schema.
"""

from __future__ import annotations

import base64
import itertools
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from nearql.server.config import load_config
from support.chart import render, template

pytestmark = pytest.mark.skipif(
    shutil.which("helm") is None, reason="helm is not installed; .ci/run brings it"
)
ON = "cluster.enabled=true"
GPU = "gpu.replicas=2"
MEMBERS = "members.replicas=1"
JOIN = "cluster.joinSecret=tokens"
GIVEN = "cluster.existingSecret=ours"
NODE_SELECTOR = {"app.kubernetes.io/name": "nearql", "app.kubernetes.io/instance": "demo"}


def pool(name: str, *settings: str) -> dict[str, Any]:
    """The StatefulSet of a pool; certificates are given, as making them takes helm a while."""
    objects = render(ON, GIVEN, *settings)
    spec: dict[str, Any] = objects["StatefulSet", f"demo-nearql{name}"]["spec"]
    return spec


def pod_of(name: str, *settings: str) -> dict[str, Any]:
    spec: dict[str, Any] = pool(name, *settings)["template"]["spec"]
    return spec


def variables(pod: dict[str, Any], name: str) -> dict[str, str]:
    """Of its container, as Kubernetes fills them in."""
    listed = {e["name"]: e.get("value", name) for e in pod["containers"][0]["env"]}
    return {key: value.replace("$(NEARQL_NODE_NAME)", name) for key, value in listed.items()}


# ---- nodes that don't vote ----------------------------------------------------------------------


@pytest.mark.parametrize(("name", "setting"), [("-member", MEMBERS), ("-gpu", GPU)])
def test_further_nodes_never_vote_and_come_with_a_token(name: str, setting: str) -> None:
    pod = f"demo-nearql{name}-0"
    given = variables(pod_of(name, setting, JOIN), pod)
    config = load_config(environment={"NEARQL_HTTP_HOST": "0.0.0.0", **given}, insecure=True)
    assert config.warnings == ()
    assert config.node.name == pod
    assert config.cluster.voters == ("demo-nearql-0", "demo-nearql-1", "demo-nearql-2")
    assert not config.cluster.bootstrap
    assert config.cluster.join_token_file == f"/etc/nearql/join/{pod}"
    volumes = {v["name"]: v for v in pod_of(name, setting, JOIN)["volumes"]}
    assert volumes["join"]["secret"] == {
        "secretName": "tokens", "defaultMode": 0o440, "optional": True
    }  # fmt: skip
    without = pod_of(name, setting)
    assert "NEARQL_CLUSTER_JOIN_TOKEN_FILE" not in variables(without, pod)
    assert "join" not in {v["name"] for v in without["volumes"]}


def test_scaling_adds_nodes_that_do_not_vote() -> None:
    few, many = (variables(pod_of("", f"members.replicas={n}", GPU), "p") for n in (1, 7))
    assert few["NEARQL_CLUSTER_VOTERS"] == many["NEARQL_CLUSTER_VOTERS"]
    assert few["NEARQL_CLUSTER_BOOTSTRAP"] == "true"
    for number in (1, 7):
        assert pool("", f"members.replicas={number}", GPU)["replicas"] == 3
        assert pool("-member", f"members.replicas={number}", GPU)["replicas"] == number
    assert ("StatefulSet", "demo-nearql-member") not in render(ON, GIVEN)


def test_every_pool_is_a_set_of_its_own_behind_the_same_services() -> None:
    objects = render(ON, GIVEN, MEMBERS, GPU)
    sets = {
        o["metadata"]["name"]: o["spec"]
        for (kind, _), o in objects.items()
        if kind == "StatefulSet"
    }
    assert len(sets) == 3
    selectors = [spec["selector"]["matchLabels"] for spec in sets.values()]
    assert all(a != b for a, b in itertools.combinations(selectors, 2))
    for spec in sets.values():
        labels = spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"].items() <= labels.items()
        assert spec["serviceName"] == "demo-nearql-headless"
        assert NODE_SELECTOR.items() <= labels.items()
    for name in ("demo-nearql", "demo-nearql-headless"):
        assert objects["Service", name]["spec"]["selector"] == NODE_SELECTOR


def test_nodes_that_are_added_have_certificates_of_the_same_authority() -> None:
    objects = render(ON, MEMBERS, GPU)
    files = objects["Secret", "demo-nearql-nodes"]["data"]
    nodes = {file.removesuffix(".key") for file in files if file.endswith(".key")}
    assert nodes == {
        *(f"demo-nearql-{n}" for n in range(3)), "demo-nearql-member-0",
        "demo-nearql-gpu-0", "demo-nearql-gpu-1",
    }  # fmt: skip
    authority = objects["Secret", "demo-nearql-nodes-authority"]
    assert authority["data"]["ca.pem"] == files["ca.pem"]
    assert base64.b64decode(authority["data"]["ca.key"]).startswith(b"-----BEGIN")
    assert "ca.key" not in files  # no pod mounts what signs
    gpu = objects["StatefulSet", "demo-nearql-gpu"]["spec"]["template"]["spec"]
    mounted = [v["secret"]["secretName"] for v in gpu["volumes"] if "secret" in v]
    assert mounted == ["demo-nearql-nodes"]


def test_pools_without_a_cluster_are_refused() -> None:
    for setting in (MEMBERS, GPU):
        done = template(setting)
        assert done.returncode != 0
        assert "cluster.enabled" in done.stderr


# ---- GPUs ---------------------------------------------------------------------------------------


def test_gpu_nodes_stand_beside_cpu_nodes() -> None:
    gpu, cpu = pod_of("-gpu", GPU), pod_of("", GPU)
    container = gpu["containers"][0]
    assert container["image"].startswith("nearql-gpu:")
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert variables(gpu, "p")["NEARQL_ENGINE_DEVICE"] == "gpu"  # else it is never ready
    assert gpu["runtimeClassName"] == "nvidia"
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in (
        gpu["tolerations"]
    )
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert cpu["containers"][0]["image"].startswith("nearql:")
    assert "nvidia.com/gpu" not in cpu["containers"][0]["resources"]["limits"]
    assert "NEARQL_ENGINE_DEVICE" not in variables(cpu, "p")
    assert not {"runtimeClassName", "tolerations", "nodeSelector"} & cpu.keys()


def test_where_gpu_nodes_run_is_the_operators_choice() -> None:
    chosen = pod_of(
        "-gpu", GPU, "gpu.nodeSelector.pool=gpus", "gpu.runtimeClassName=", "gpu.count=2",
        "gpu.tolerations[0].key=ours",
    )  # fmt: skip
    assert chosen["nodeSelector"] == {"pool": "gpus"}
    assert chosen["tolerations"] == [{"key": "ours"}]
    assert "runtimeClassName" not in chosen
    assert chosen["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 2


def test_one_node_may_have_a_gpu() -> None:
    found = render("runtimeClassName=nvidia")["StatefulSet", "demo-nearql"]["spec"]
    assert found["template"]["spec"]["runtimeClassName"] == "nvidia"


# ---- beside the nodes ---------------------------------------------------------------------------


def test_the_leaders_service_asks_every_voter_who_leads() -> None:
    objects = render(ON, GIVEN, MEMBERS, "leaderService.enabled=true")
    config = objects["ConfigMap", "demo-nearql-leader"]["data"]["haproxy.cfg"]
    assert "option httpchk GET /leaderz" in config
    servers = [
        line.split()[1:] for line in config.splitlines() if line.strip().startswith("server ")
    ]
    domain = "demo-nearql-headless.search.svc:8470"
    assert servers == [[f"demo-nearql-{n}", f"demo-nearql-{n}.{domain}"] for n in range(3)]
    balancer = objects["Deployment", "demo-nearql-leader"]["spec"]["template"]
    labels = balancer["metadata"]["labels"]
    assert objects["Service", "demo-nearql-leader"]["spec"]["selector"] == labels
    assert not NODE_SELECTOR.items() <= labels.items()  # it is behind no service of nodes
    assert balancer["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"]
    own = objects["NetworkPolicy", "demo-nearql-leader"]["spec"]
    assert own["podSelector"]["matchLabels"] == labels
    clients = objects["NetworkPolicy", "demo-nearql"]["spec"]["ingress"][0]["from"]
    assert {"podSelector": {"matchLabels": labels}} in clients
    assert own["ingress"][0]["from"] == [
        c for c in clients if c["podSelector"]["matchLabels"] != labels
    ]
    assert not any("leader" in name for _, name in render(ON, GIVEN))


def test_cert_manager_makes_a_certificate_for_each_node() -> None:
    settings = ("cluster.certManager.enabled=true", "cluster.certManager.issuerRef.name=ours")
    objects = render(ON, GPU, *settings)
    assert not any(kind == "Secret" for kind, _ in objects)
    made = {name: o["spec"] for (kind, name), o in objects.items() if kind == "Certificate"}
    assert len(made) == 5
    for name, spec in made.items():
        assert (spec["dnsNames"], spec["secretName"]) == ([name], f"{name}-certificate")
        assert set(spec["usages"]) == {"server auth", "client auth"}
        assert spec["issuerRef"] == {"name": "ours"}
    (nodes,) = (v for v in pod_of("", GPU, *settings)["volumes"] if v["name"] == "nodes")
    items = [item for source in nodes["projected"]["sources"] for item in source["secret"]["items"]]
    paths = {item["path"] for item in items}
    assert paths == {"ca.pem", *(f"{name}.{end}" for name in made for end in ("pem", "key"))}
    refused = template(ON, "cluster.certManager.enabled=true")
    assert refused.returncode != 0
    assert "name" in refused.stderr


def test_prometheus_finds_every_node() -> None:
    settings = (
        "serviceMonitor.enabled=true", "serviceMonitor.labels.release=prometheus",
        "serviceMonitor.keySecret.name=reader", "serviceMonitor.keySecret.key=key",
    )  # fmt: skip
    objects = render(ON, GIVEN, *settings)
    monitor = objects["ServiceMonitor", "demo-nearql"]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    (endpoint,) = monitor["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")
    assert endpoint["authorization"]["credentials"] == {"name": "reader", "key": "key"}
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    found = [
        name for (kind, name), o in objects.items()
        if kind == "Service" and wanted <= o["metadata"]["labels"].items()
    ]  # fmt: skip
    assert found == ["demo-nearql-headless"]
    assert ("ServiceMonitor", "demo-nearql") not in render(ON, GIVEN)


def test_keys_and_certificates_are_files_of_secrets() -> None:
    settings = ("auth.existingSecret=keys", "auth.jwtKeySet=jwks.json", "tls.existingSecret=web")
    pod = pod_of("", *settings)
    given = variables(pod, "p")
    assert given["NEARQL_AUTH_JWT_KEY_FILE"] == "/etc/nearql/auth/jwks.json"
    assert given["NEARQL_HTTP_TLS_CERT_FILE"] == "/etc/nearql/tls/tls.crt"
    assert given["NEARQL_HTTP_TLS_KEY_FILE"] == "/etc/nearql/tls/tls.key"
    assert given["NEARQL_NODE_ADVERTISE_URL"].startswith("https://")
    mounts = {m["name"]: m for m in pod["containers"][0]["volumeMounts"]}
    assert (mounts["tls"]["mountPath"], mounts["tls"]["readOnly"]) == ("/etc/nearql/tls", True)
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert pod["containers"][0][probe]["httpGet"]["scheme"] == "HTTPS"
    names = {v["name"]: v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v}
    assert (names["auth"], names["tls"]) == ("keys", "web")
    assert "NEARQL_HTTP_TLS_CERT_FILE" not in variables(pod_of(""), "p")


def test_pods_are_spread_over_zones() -> None:
    (spread,) = pod_of("")["topologySpreadConstraints"]
    assert spread["topologyKey"] == "topology.kubernetes.io/zone"
    assert spread["labelSelector"]["matchLabels"] == NODE_SELECTOR
    assert "topologySpreadConstraints" not in pod_of("", "cluster.topologyKey=")


# ---- combinations -------------------------------------------------------------------------------

FEATURES = (
    ("cluster.voters=5", MEMBERS, GPU, JOIN),
    ("auth.existingSecret=keys", "auth.jwtKeySet=jwks.json", "tls.existingSecret=web"),
    ("cluster.certManager.enabled=true", "cluster.certManager.issuerRef.name=ours"),
    ("leaderService.enabled=true", "cluster.antiAffinity=required", "serviceMonitor.enabled=true"),
    ("persistence.enabled=false", "config.limits.max_limit=9", "networkPolicy.enabled=false"),
)  # fmt: skip
OF_OTHERS = {"Certificate", "ServiceMonitor"}  # their schemas come with their operators


@pytest.mark.skipif(shutil.which("kubernetes-validate") is None, reason=".ci/run brings it")
def test_every_combination_fits_the_schema_of_kubernetes() -> None:
    """All of them in one go: the checker takes a second to start."""
    documents = {}  # by their text: most combinations have most of them alike
    for chosen in itertools.product((False, True), repeat=len(FEATURES)):
        features = [f for f, wanted in zip(FEATURES, chosen, strict=True) if wanted]
        settings = [setting for feature in features for setting in feature]
        for found in render(ON, GIVEN, *settings).values():
            if found["kind"] not in OF_OTHERS:
                documents[yaml.safe_dump(found)] = found
    text = "---\n".join(documents)
    done = subprocess.run(
        ["kubernetes-validate", "--strict", "-"], input=text, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
