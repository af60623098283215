"""Puts a gateway and an application together."""

from __future__ import annotations

from functools import partial

from nearql.server.edge import Edge
from nearql.server.gateway import concerns, envelope, rows, statements, status, tables
from nearql.server.gateway.gateway import Gateway
from nearql.server.gateway.metrics import ClusterMetrics
from nearql.server.jobs import cluster_jobs
from nearql.server.routes.sql import answer_forwarded


def attach(gateway: Gateway, edge: Edge) -> None:
    """From now on writes wait for copies, requests of other nodes are answered, and system tables
    and metrics tell of the cluster.
    """
    gateway.failed = edge.node.failed_tables
    edge.node.session().replicas = concerns.ClusterReplicas(gateway)
    calls = gateway.replication.calls
    run = partial(answer_forwarded, edge)
    calls.serve(envelope.SQL, statements.served(run, edge.access), long=True)
    calls.serve(envelope.ROWS, rows.served(edge.node_as, edge.access), long=True)
    calls.serve(envelope.WAIT, concerns.served(gateway))
    calls.serve(envelope.SHARDS, status.served(gateway))
    edge.node.system_sources["shards"] = partial(tables.shards, gateway)
    edge.node.system_sources["nodes"] = partial(tables.nodes, gateway)
    edge.jobs.sources.append(partial(cluster_jobs, gateway))
    edge.metrics.add(ClusterMetrics(gateway))
