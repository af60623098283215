"""Three real nodes on machines of their own that find each other by names alone, as the pods of a
StatefulSet do behind a headless service: machines come back with other addresses.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from support.chaos_network import DOMAIN, Network, network, possible
from support.cluster_processes import PATIENCE_S, Processes
from support.waiting import wait_for

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not possible(), reason="needs root and network namespaces"),
]
NAMES = ("n1", "n2", "n3")
RAFT_PORT, ROWS_PORT, HTTP_PORT = 8471, 8472, 8470


@pytest.fixture
def net() -> Iterator[Network]:
    with network(NAMES, resolving=True) as made:
        yield made


@pytest.fixture
def nodes(net: Network, tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(tmp_path, 3, network=net)
    for name in NAMES:
        configure(processes, net, name)
    try:
        processes.start()
        yield processes
    finally:
        processes.stop()


def configure(nodes: Processes, net: Network, name: str) -> None:
    """As the chart does it: names for the nodes, addresses only for the test's own requests."""
    node = nodes[name]
    config = yaml.safe_load(node.config.read_text())
    node.url = f"http://{net.host(name)}:{HTTP_PORT}"
    config["node"]["advertise_url"] = f"http://{net.full_name(name)}:{HTTP_PORT}"
    config["http"].update(host="0.0.0.0", port=HTTP_PORT)
    config["raft"].update(host="0.0.0.0", port=RAFT_PORT)
    config["replication"].update(
        host="0.0.0.0", port=ROWS_PORT, advertise=f"{net.full_name(name)}:{ROWS_PORT}"
    )
    config["cluster"].update(discovery="dns", dns_name=DOMAIN, voters=list(NAMES))
    node.config.write_text(yaml.safe_dump(config))


def test_nodes_find_each_other_wherever_they_are_now(nodes: Processes, net: Network) -> None:
    nodes.write("CREATE TABLE docs (id BIGINT PRIMARY KEY, vec VECTOR(2))")
    nodes.write("INSERT INTO docs VALUES (0, '[0,1]')")
    for at, name in enumerate(NAMES, 1):
        come_back_elsewhere(nodes, net, name)
        nodes.write(f"INSERT INTO docs VALUES ({at}, '[{at},1]')")
        for node in nodes.running():
            shown = lambda node=node, at=at: ids_on(nodes, node.name) == list(range(at + 1))  # noqa: E731
            wait_for(shown, f"{node.name} shows row {at}", PATIENCE_S)
    members = nodes["n1"].get("/v1/cluster")[1]["nodes"]
    assert sorted(node["name"] for node in members) == list(NAMES)


def come_back_elsewhere(nodes: Processes, net: Network, name: str) -> None:
    """The machine vanishes without a word, and a new one has its disk and its name."""
    for other in NAMES:
        if other != name:
            net.cut(name, other)
            net.cut(other, name)
    nodes[name].kill()
    old = net.host(name)
    net.move(name)
    assert net.host(name) != old
    net.heal()
    configure(nodes, net, name)
    nodes.start(name)


def ids_on(nodes: Processes, name: str) -> list[int]:
    """What this very node shows; nothing where it does not answer."""
    status, answer = nodes[name].sql(
        "SELECT id FROM docs ORDER BY id", settings={"read_level": "any"}
    )
    return [row[0] for row in answer["rows"]] if status == 200 else []
