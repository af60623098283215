"""Two nodes of a scripted cluster, each an HTTP application over a scripted session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette

from nearql.server.app import create_app
from nearql.server.gateway.gateway import Gateway
from support.fake_cluster import (
    FakeClusterState,
    FakeCopy,
    FakeMesh,
    FakeMetadata,
    FakeReplication,
    Member,
)
from support.http_node import DOCS, FakeNode, FakeSession, make_config

MEMBERS = [Member("id-1", "n1", "http://n1.example:8470"),
           Member("id-2", "n2", "http://n2.example:8470/base"),
           Member("id-3", "n3", "http://n3.example:8470")]  # fmt: skip


class Client:
    """A plain client of an application, without a socket; it follows no redirect."""

    def __init__(self, app: Starlette) -> None:
        self.app = app

    def request(self, method: str, url: str, **asked: Any) -> httpx.Response:
        """One request, in an event loop of its own."""

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
                return await client.request(method, url, **asked)

        return asyncio.run(ask())

    def get(self, url: str, **asked: Any) -> httpx.Response:
        """GET."""
        return self.request("GET", url, **asked)

    def post(self, url: str, **asked: Any) -> httpx.Response:
        """POST."""
        return self.request("POST", url, **asked)


@dataclass
class Edge:
    """One node of the cluster, and what its doubles were asked."""

    client: Client
    node: FakeNode
    cluster: FakeClusterState
    replication: FakeReplication
    gateway: Gateway

    @property
    def session(self) -> FakeSession:
        """The scripted session."""
        return self.node.fake

    @property
    def copy(self) -> FakeCopy:
        """Its copy of docs."""
        return self.replication.copies[f"{DOCS.uuid}/0"]


@dataclass
class Pair:
    """`here` is asked by clients; `there` is another node. n1 leads, and has the primary."""

    here: Edge
    there: Edge
    metadata: FakeMetadata
    mesh: FakeMesh


MakePair = Callable[..., AbstractContextManager[Pair]]


@contextmanager
def pair_of(
    directory: Path,
    here: int = 1,
    *,
    leader: int | None = 1,
    primary: int | None = 1,
    routing: str = "redirect",
) -> Iterator[Pair]:
    """A pair of nodes: `here` by its number, `primary` and `leader` by theirs, or None."""
    mesh, metadata = FakeMesh(), FakeMetadata(MEMBERS)
    nodes = [m.node_id for m in MEMBERS]
    metadata.put_table(DOCS, [f"id-{primary}" if primary else None], nodes)

    @contextmanager
    def edge(number: int) -> Iterator[Edge]:
        cluster = FakeClusterState(f"id-{number}", MEMBERS, f"id-{leader}" if leader else None)
        replication = FakeReplication(mesh, f"id-{number}")
        replication.copies[f"{DOCS.uuid}/0"] = FakeCopy()
        gateway = Gateway(metadata, cluster, replication, routing)
        config = make_config(directory / str(number))
        node = FakeNode(config)
        app = create_app(node, config, gateway=gateway)
        try:
            yield Edge(Client(app), node, cluster, replication, gateway)
        finally:
            made = app.state.edge
            for workers in (made.workers, made.bulk_workers, made.heavy_workers):
                workers.close()
            made.remote_workers.close()

    other = 2 if here == 1 else 1
    with edge(here) as first, edge(other) as second:
        yield Pair(first, second, metadata, mesh)
