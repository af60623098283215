"""What a node of a cluster hands on of its settings."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nearql.cluster.replication.node import ReplicationConfig
from nearql.server import member
from nearql.server.cluster_settings import cluster_config
from nearql.server.config import Config, load_config

SETTINGS = """\
node: {name: n1, data_dir: data}
cluster: {enabled: true, voters: ["n1@127.0.0.1:8471"], ca_file: ca, cert_file: cert, key_file: key}
replication: {sync_rate: 3MiB, call_threads: 5, disk_slow_ms: 700, disk_stuck_ms: 9000}
"""


def test_settings_of_replication_reach_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "nearql.yaml"
    path.write_text(SETTINGS)
    config: Config = load_config(path, environment={})
    given: list[ReplicationConfig] = []
    monkeypatch.setattr(member, "Replication", lambda settings, **_: given.append(settings))
    cluster = SimpleNamespace(
        config=cluster_config(config), node_id="id-n1", metadata=SimpleNamespace(propose=None)
    )
    member.Member(config, cast(Any, cluster))._replicate()
    (found,) = given
    assert found.sync_bytes_per_s == 3 << 20
    assert found.call_threads == 5
    assert (found.disk_slow_ms, found.disk_stuck_ms) == (700, 9000)
