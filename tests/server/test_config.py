"""Settings: precedence, units, and errors that name the setting, its source and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from nearql.server import sizes
from nearql.server.config import SECTIONS, ConfigError, load_config


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "conf" / "node.yaml"


def written(file: Path, text: str) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return file


def test_flags_override_variables_which_override_the_file(file: Path) -> None:
    path = written(file, "http: {port: 1}\nnode: {name: from-file}\nlimits: {max_limit: 7}")
    config = load_config(
        path,
        environment={"NEARQL_HTTP_PORT": "2", "NEARQL_LIMITS_MAX_LIMIT": "8"},
        flags={"http.port": "3", "node.data_dir": None},
    )
    assert (config.http.port, config.limits.max_limit, config.node.name) == (3, 8, "from-file")


def test_relative_paths_count_from_the_files_folder(file: Path) -> None:
    config = load_config(written(file, "node: {data_dir: ./d}"), environment={})
    assert config.node.data_dir == file.parent / "d"
    config = load_config(written(file, "node: {data_dir: ./d, copy_dir: ./c}"), environment={})
    assert config.session_settings().copy_dir == str(file.parent / "c")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("htpp: {port: 1}", "unknown section 'htpp'; did you mean http"),
        ("http: {prot: 1}", "unknown key http.prot; did you mean http.port"),
        ("cluster: {voter: []}", "unknown key cluster.voter; did you mean cluster.voters"),
        ("cluster: {enabled: true}", "0 voters; there must be 1, 3, 5"),
        ("cluster: {enabled: perhaps}", "must be true or false"),
        ("cluster: {write_routing: follow}", "must be one of redirect, proxy"),
        ("http: {port: eighty}", "http.port = 'eighty'.*whole number"),
        ("http: {port: 70000}", "0 to 65535"),
        ("limits: {json_body: lots}", "a size such as 64MiB"),
        ("limits: {max_limit: 0}", "at least 1"),
        ("engine: {device: tpu}", "one of auto, cpu, gpu"),
        ("engine: {memory_limit: 0%}", "80% or 8GiB"),
        ("auth: {mode: perhaps}", "one of none, required"),
        ("auth: {jwt_leeway_s: 31}", "0 to 30"),
        ("http: {tls_cert_file: a.pem}", "belong together"),
        ("node: {data_dir: ./d, copy_dir: ./d}", "apart from node.data_dir"),
        ("node: {data_dir: ./d, copy_dir: ./d/e}", "apart from node.data_dir"),
        ("node: {data_dir: ./d/e, copy_dir: ./d}", "apart from node.data_dir"),
        ("http: {host: 0.0.0.0}", "auth.mode to required.*--insecure"),
        ("http: [", "not valid YAML"),
        ("- 1", "must map sections"),
        ("http: 3", "must map keys"),
    ],
)
def test_a_wrong_file_is_refused_by_name(file: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_config(written(file, text), environment={})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere.yaml can't be read: No such file"):
        load_config(tmp_path / "nowhere.yaml", environment={})


def test_an_unknown_variable_is_only_a_warning() -> None:
    config = load_config(environment={"NEARQL_HTTP_PROT": "1", "NEARQL_SERVICE_HOST": "10.0.0.1"})
    assert len(config.warnings) == 2
    assert "did you mean NEARQL_HTTP_PORT" in config.warnings[0]


def test_the_contracts_example_file_is_accepted(file: Path) -> None:
    text = """
node:        {name: n1, data_dir: ./nearql-data, advertise_url: "http://10.0.0.1:8470"}
http:        {host: 127.0.0.1, port: 8470, tls_cert_file: null, tls_key_file: null}
auth:        {mode: none, jwt_key_file: null, bootstrap_admin_key_file: null}
cluster:     {enabled: false, write_routing: redirect, voters: ["n1@node-1.example:8471"],
              discovery: static, dns_name: null, bootstrap: false, join_token_file: null,
              ca_file: ca.pem, cert_file: n1.pem, key_file: n1.key}
raft:        {host: 127.0.0.1, port: 8471, election_timeout_ms: [1000, 2500]}
replication: {host: 127.0.0.1, port: 8472, advertise: "10.0.0.1:8472",
              write_concern: majority, write_timeout_ms: 5000}
engine:      {device: auto, memory_limit: "80%", gpu_memory_limit: "90%", wal_retention: 1GiB}
limits:      {json_body: 64MiB, stream_body: 1GiB, max_limit: 16384, statement_timeout_ms: 30000}
"""
    config = load_config(written(file, text), environment={})
    assert config.advertise_url == "http://10.0.0.1:8470"
    assert config.limits.stream_body == 1 << 30


def test_other_addresses_need_insecure_by_flag_or_variable() -> None:
    flags = {"http.host": "0.0.0.0"}
    assert load_config(environment={}, flags=flags, insecure=True).insecure
    assert load_config(environment={"NEARQL_INSECURE": "1"}, flags=flags).insecure


@pytest.mark.parametrize(
    ("text", "size"), [("4096", 4096), ("64MiB", 64 << 20), ("1.5g", 3 << 29), ("2 kb", 2048)]
)
def test_sizes(text: str, size: int) -> None:
    assert sizes.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1q", "MiB", "1 2"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        sizes.parse_size(text)


V2, V1 = "memory.max", "memory/memory.limit_in_bytes"


@pytest.mark.parametrize(
    ("own", "files"),
    [
        ("", {V2: 1 << 20}),  # a container with version 2
        ("", {V1: 1 << 20}),  # a container with version 1
        ("0::/docker/abc", {V2: 1 << 20}),  # the path is the host's
        ("0::/../..", {V2: 1 << 20}),
        ("0::/a.slice/b.service", {"a.slice/b.service/memory.max": 1 << 20}),
        (
            "0::/a.slice/b.service",
            {"a.slice/memory.max": 1 << 20, "a.slice/b.service/" + V2: 1 << 30},
        ),
        ("9:cpu,memory:/x/y\n0::/", {"memory/x/memory.limit_in_bytes": 1 << 20}),
        ("4:memory:/x/y", {"memory/x/y/memory.limit_in_bytes": 1 << 20, V1: 1 << 62}),
        ("0::/x", {"unified/x/memory.max": 1 << 20}),
    ],
)
def test_memory_respects_the_cgroup_and_those_above(
    own: str, files: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, limit in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(f"{limit}\n")
    (tmp_path / "own").write_text(own)
    monkeypatch.setattr(sizes, "_CGROUPS", tmp_path / "fs")
    monkeypatch.setattr(sizes, "_OWN_GROUPS", tmp_path / "own")
    assert sizes.available_memory() == 1 << 20
    assert sizes.resolve_memory("50%") == 1 << 19
    assert sizes.resolve_memory("3MiB") == 3 << 20, "a setting wins"


def test_an_unlimited_cgroup_leaves_the_machines_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / V2).write_text("max\n")
    monkeypatch.setattr(sizes, "_CGROUPS", tmp_path)
    monkeypatch.setattr(sizes, "_OWN_GROUPS", tmp_path / "none")
    assert sizes.available_memory() > 1 << 20


def test_parts_of_the_engine_fit_a_small_node() -> None:
    small = load_config(environment={"NEARQL_ENGINE_MEMORY_LIMIT": "512MiB"})
    engine, session = small.engine_settings(), small.session_settings()
    assert engine.memory_limit_bytes == 512 << 20
    assert engine.seal_bytes == engine.column_cache_bytes == 32 << 20
    assert engine.scan_codes_bytes == engine.join_bytes == 64 << 20
    assert session.duck_memory_bytes <= (512 << 20) // 3
    assert session.result_bytes == 128 << 20
    large = load_config(environment={"NEARQL_ENGINE_MEMORY_LIMIT": "64GiB"}).engine_settings()
    assert large.seal_bytes == 256 << 20, "the default"


def test_every_setting_explains_itself() -> None:
    from dataclasses import fields

    for kind in SECTIONS.values():
        for setting in fields(kind):
            assert setting.metadata["help"].endswith("."), setting.name
