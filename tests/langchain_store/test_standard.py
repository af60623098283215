"""LangChain's own standard tests of a `VectorStore`, in this process and over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nearql
from support.server_process import ServerProcess

suite = pytest.importorskip(
    "langchain_tests.integration_tests.vectorstores",
    reason="LangChain is not installed; python3 dev.py langchain installs it apart and runs these",
)
EMBEDDED, SERVED = "embedded", "served"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, nearql.Connection]]:
    """A connection of each kind."""
    folder: Path = tmp_path_factory.mktemp("stores")
    with (
        ServerProcess(folder / "served") as server,
        nearql.connect(server.url) as served,
        nearql.connect(folder / "embedded") as embedded,
    ):
        yield {SERVED: served, EMBEDDED: embedded}


class _Standard(suite.VectorStoreIntegrationTests):  # type: ignore[name-defined]
    place = ""

    @pytest.fixture
    def vectorstore(self, places: dict[str, nearql.Connection]) -> Iterator[Any]:
        """An empty store."""
        from nearql.langchain import NearQLVectorStore

        db = places[self.place]
        yield NearQLVectorStore(self.get_embeddings(), db, "docs")
        db.sql("DROP TABLE docs")


class TestEmbedded(_Standard):
    place = EMBEDDED


class TestServed(_Standard):
    place = SERVED
