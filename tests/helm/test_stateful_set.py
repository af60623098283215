"""What the chart renders, run: real servers in the places of pods, which are made again with other
addresses, as Kubernetes would (support/pods.py).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.chaos_network import network, possible
from support.chart import render
from support.cluster_jobs import Writer, copies, ended, started
from support.cluster_processes import ADMIN_KEY, PATIENCE_S
from support.pods import Release, image_environment, pod_names, secret
from support.waiting import wait_for

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("helm") is None, reason="helm is not installed"),
    pytest.mark.skipif(not possible(), reason="needs root and network namespaces"),
]
VOTERS = ("demo-nearql-0", "demo-nearql-1", "demo-nearql-2")
MEMBER = "demo-nearql-member-0"
SETTINGS = (
    "cluster.enabled=true", "auth.existingSecret=nearql-admin",
    "members.replicas=1", "cluster.joinSecret=nearql-join",
)  # fmt: skip


@pytest.fixture
def release(tmp_path: Path) -> Iterator[Release]:
    """Three voters that are ready. A member's pod is rendered, and not made yet."""
    objects: dict[tuple[str, str], Any] = render(*SETTINGS)
    objects["Secret", "nearql-admin"] = secret({"admin.key": ADMIN_KEY})
    with network(pod_names(objects), resolving=True) as net:
        made = Release(objects, tmp_path, net)
        try:
            made.create(*VOTERS)
            yield made
        finally:
            for pod in made.pods.values():
                if pod.runs:
                    pod.kill()


def everywhere(release: Release, table: str, writer: Writer) -> None:
    """Each pod shows every row that was answered, once."""
    assert not writer.errors, writer.errors
    for pod in release.running():

        def shown(pod: Any = pod) -> bool:
            status, told = pod.sql(f"SELECT id FROM {table}", settings={"read_level": "any"})
            ids = [row[0] for row in told["rows"]] if status == 200 else []
            assert len(ids) == len(set(ids))
            return set(writer.answered) <= set(ids)

        wait_for(shown, f"{pod.name} shows {len(writer.answered)} rows", PATIENCE_S)


def test_the_image_and_the_chart_agree_on_where_data_lies(release: Release) -> None:
    data = image_environment()["NEARQL_DATA_DIR"]
    for name in VOTERS:
        mounted = {m["mountPath"] for m in release.pods[name].container["volumeMounts"]}
        assert data in mounted
        assert any((release.pods[name].folder / "claim-data").iterdir())


def test_pods_are_replaced_one_by_one_while_rows_are_written(release: Release) -> None:
    release.write("CREATE TABLE docs (id BIGINT PRIMARY KEY, title TEXT, vec VECTOR(2))")
    before = {name: release.pods[name].url for name in VOTERS}
    with Writer(release, "docs") as writer:
        writer.written(10)
        release.roll(*VOTERS)
        writer.written(10)
    assert all(release.pods[name].url != before[name] for name in VOTERS), "other addresses"
    everywhere(release, "docs", writer)


def test_a_pod_that_dies_and_all_that_are_deleted_come_back_to_their_claims(
    release: Release,
) -> None:
    release.write("CREATE TABLE docs (id BIGINT PRIMARY KEY, title TEXT, vec VECTOR(2))")
    with Writer(release, "docs") as writer:
        writer.written(10)
        leader = release.leader()
        release.pods[leader].kill()  # the container dies, and is started again in the same pod
        writer.written(10)
        release.create(leader)
        writer.written(10)
    for name in VOTERS:
        release.delete(name)
    assert release.running() == []
    release.create(*VOTERS)
    everywhere(release, "docs", writer)


def test_a_node_is_added_by_the_chart_with_its_token_and_is_given_copies(release: Release) -> None:
    release.write("CREATE TABLE docs (id BIGINT PRIMARY KEY, title TEXT, vec VECTOR(2))")
    status, told = release.running()[0].request("POST", "/v1/cluster/tokens", {})
    assert status == 200
    release.objects["Secret", "nearql-join"] = secret({MEMBER: told["token"]})
    release.create(MEMBER)
    with Writer(release, "docs") as writer:
        writer.written(5)
        source = str(release.primary("docs"))
        name = started(release, "move", table="docs", **{"from": source, "to": MEMBER})
        assert ended(release, name)["state"] == "done"
        writer.written(5)
    assert copies(release, "docs") == {*VOTERS, MEMBER} - {source}
    del release.objects["Secret", "nearql-join"]  # good for one disk, and not needed any more
    release.replace(MEMBER)
    everywhere(release, "docs", writer)
