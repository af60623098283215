"""Every route, in one tuple; `server.openapi` documents each, and a test compares."""

from __future__ import annotations

from nearql.server.routes import (
    Endpoint,
    Kind,
    Rule,
    cluster,
    health,
    jobs,
    keys,
    maps,
    membership,
    operations,
    pages,
    rows,
    sessions,
    sql,
    tables,
)

ROUTES: tuple[Endpoint, ...] = (
    Endpoint("POST", "/v1/sql", Kind.SQL, sql.sql, Rule.BY_TABLE),
    Endpoint("POST", "/v1/tables/{table}/rows", Kind.WRITE, rows.rows, Rule.BY_TABLE),
    Endpoint("GET", "/v1/tables", Kind.READ, tables.tables, Rule.BY_TABLE),
    Endpoint("GET", "/v1/tables/{table}", Kind.READ, tables.table, Rule.BY_TABLE),
    Endpoint("GET", "/v1/tables/{table}/map", Kind.READ, maps.table_map, Rule.BY_TABLE),
    Endpoint("GET", "/v1/cluster", Kind.READ, cluster.cluster, Rule.BY_TABLE),
    Endpoint("GET", "/v1/cluster/nodes", Kind.READ, cluster.nodes, Rule.ANYBODY),
    Endpoint("GET", "/v1/cluster/shards", Kind.READ, cluster.shards, Rule.BY_TABLE),
    Endpoint("POST", "/v1/cluster/tokens", Kind.SESSION, membership.create_token, Rule.ADMIN),
    Endpoint(
        "DELETE", "/v1/cluster/nodes/{node}", Kind.SESSION, membership.remove_node, Rule.ADMIN
    ),
    Endpoint("POST", "/v1/cluster/move", Kind.SESSION, operations.move, Rule.ADMIN),
    Endpoint("POST", "/v1/cluster/drain", Kind.SESSION, operations.drain, Rule.ADMIN),
    Endpoint("POST", "/v1/cluster/rebalance", Kind.SESSION, operations.rebalance, Rule.ADMIN),
    Endpoint("POST", "/v1/cluster/failover", Kind.SESSION, operations.failover, Rule.ADMIN),
    Endpoint("GET", "/v1/jobs", Kind.READ, jobs.list_jobs, Rule.ADMIN),
    Endpoint("GET", "/v1/jobs/{job}", Kind.READ, jobs.job, Rule.ADMIN),
    Endpoint("DELETE", "/v1/jobs/{job}", Kind.SESSION, jobs.cancel, Rule.ADMIN),
    Endpoint("GET", "/v1/keys", Kind.READ, keys.list_keys, Rule.ADMIN),
    Endpoint("POST", "/v1/keys", Kind.WRITE, keys.create_key, Rule.ADMIN),
    Endpoint("DELETE", "/v1/keys/{key}", Kind.WRITE, keys.revoke_key, Rule.ADMIN),
    Endpoint("POST", "/v1/keys/{key}/rotate", Kind.WRITE, keys.rotate_key, Rule.ANYBODY),
    Endpoint("POST", "/v1/revocations", Kind.WRITE, keys.revoke_token, Rule.ADMIN),
    Endpoint("POST", "/v1/login", Kind.SESSION, sessions.login, Rule.OPEN),
    Endpoint("DELETE", "/v1/login", Kind.SESSION, sessions.logout, Rule.ANYBODY),
    Endpoint("GET", "/v1/whoami", Kind.READ, sessions.whoami, Rule.ANYBODY),
    Endpoint("GET", "/livez", Kind.OPEN, health.livez, Rule.OPEN),
    Endpoint("GET", "/readyz", Kind.OPEN, health.readyz, Rule.OPEN),
    Endpoint("GET", "/leaderz", Kind.OPEN, health.leaderz, Rule.OPEN),
    Endpoint("GET", "/metrics", Kind.READ, health.metrics, Rule.ALL_TABLES),
    Endpoint("GET", "/openapi.json", Kind.OPEN, pages.openapi, Rule.OPEN),
    Endpoint("GET", "/docs", Kind.OPEN, pages.docs, Rule.OPEN),
    Endpoint("GET", "/", Kind.OPEN, pages.dashboard, Rule.OPEN),
    Endpoint("GET", "/assets/{asset}", Kind.OPEN, pages.asset, Rule.OPEN),
)
