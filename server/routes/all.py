"""Every route, in one tuple; `server.openapi` documents each, and a test compares."""

from __future__ import annotations

from nearql.server.routes import Endpoint, Kind, cluster, health, pages, rows, sql, tables

ROUTES: tuple[Endpoint, ...] = (
    Endpoint("POST", "/v1/sql", Kind.SQL, sql.sql),
    Endpoint("POST", "/v1/tables/{table}/rows", Kind.WRITE, rows.rows),
    Endpoint("GET", "/v1/tables", Kind.READ, tables.tables),
    Endpoint("GET", "/v1/tables/{table}", Kind.READ, tables.table),
    Endpoint("GET", "/v1/cluster", Kind.READ, cluster.cluster),
    Endpoint("GET", "/v1/cluster/nodes", Kind.READ, cluster.nodes),
    Endpoint("GET", "/v1/cluster/shards", Kind.READ, cluster.shards),
    Endpoint("GET", "/livez", Kind.OPEN, health.livez),
    Endpoint("GET", "/readyz", Kind.OPEN, health.readyz),
    Endpoint("GET", "/leaderz", Kind.OPEN, health.leaderz),
    Endpoint("GET", "/metrics", Kind.READ, health.metrics),
    Endpoint("GET", "/openapi.json", Kind.OPEN, pages.openapi),
    Endpoint("GET", "/docs", Kind.OPEN, pages.docs),
    Endpoint("GET", "/", Kind.OPEN, pages.dashboard),
    Endpoint("GET", "/assets/{asset}", Kind.OPEN, pages.asset),
)
