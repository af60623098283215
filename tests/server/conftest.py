"""A server over a scripted node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nearql.server.inline import Inline
from nearql.server.node import Node
from support.http_node import FakeNode, Served, make_config, serve


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Small limits, so that tests reach their edges: JSON 4 KiB, streams 64 KiB."""
    config = make_config(tmp_path, json_body=4096, stream_body=65536)
    with serve(FakeNode(config), config) as running:
        yield running


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Served]:
    """A node with a table of 50 rows; every search counts as short, on any machine."""
    config = make_config(tmp_path)
    with closing(Node.open(config)) as node, serve(node, config) as running:
        edge = running.server.config.app.state.edge  # type: ignore[union-attr]
        edge.inline = Inline(3_600_000, node.has_room)
        assert running.sql("CREATE TABLE docs (id BIGINT PRIMARY KEY, vec VECTOR(2))").is_success
        rows = ", ".join(f"({n}, '[{n}, 0]')" for n in range(50))
        assert running.sql(f"INSERT INTO docs VALUES {rows}").is_success
        yield running
