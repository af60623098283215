"""A server over a scripted node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.http_node import FakeNode, Served, make_config, serve


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Small limits, so that tests reach their edges: JSON 4 KiB, streams 64 KiB."""
    config = make_config(tmp_path, json_body=4096, stream_body=65536)
    with serve(FakeNode(config), config) as running:
        yield running
