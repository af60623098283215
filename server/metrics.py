"""`GET /metrics`: what the edge counts as it happens, and what the node says when asked."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from starlette.types import Scope

from nearql.server.ports import NodePort

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The counters of one application; each has its own registry, so that tests can run many."""

    def __init__(self, node: NodePort) -> None:
        self.registry = CollectorRegistry()
        self._counted: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        labels = ("method", "route", "status")
        self.requests = Counter(
            "nearql_http_requests", "Requests answered.", labels, registry=self.registry
        )
        self.seconds = Histogram(
            "nearql_http_request_seconds",
            "Time from a request's headers to the end of its answer.",
            ("method", "route"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.rows_loaded = Counter(
            "nearql_bulk_rows", "Rows stored by bulk requests.", registry=self.registry
        )
        self.bytes_received = Counter(
            "nearql_bulk_bytes", "Body bytes of bulk requests.", registry=self.registry
        )
        self.rows_returned = Counter(
            "nearql_rows_returned", "Rows in answers of /v1/sql.", registry=self.registry
        )
        self.short_searches = Counter(
            "nearql_short_searches",
            "Searches answered from the connection, by the event loop.",
            registry=self.registry,
        )
        self.pending = Gauge(
            "nearql_statements_pending", "Statements running or waiting.", registry=self.registry
        )
        self.bulk_pending = Gauge(
            "nearql_bulk_pending", "Bulk requests running or waiting.", registry=self.registry
        )
        self.heavy_pending = Gauge(
            "nearql_heavy_pending",
            "Statements beyond searches running or waiting.",
            registry=self.registry,
        )
        self.remote_pending = Gauge(
            "nearql_remote_pending",
            "Statements passed on to other nodes, or waiting for it.",
            registry=self.registry,
        )
        self.connections = Gauge(
            "nearql_http_connections", "Open connections.", registry=self.registry
        )
        self.connections_cut = Counter(
            "nearql_http_connections_cut",
            "Connections closed for what they sent, or did not.",
            ("code",),
            registry=self.registry,
        )
        self.auth_failures = Counter(
            "nearql_auth_failures",
            "Requests refused for their credentials.",
            ("code",),
            registry=self.registry,
        )
        self._describe(node)

    def _describe(self, node: NodePort) -> None:
        Info("nearql_build", "What runs.", registry=self.registry).info(
            {"version": version("nearql"), "python": platform.python_version()}
        )
        ProcessCollector(registry=self.registry)
        self.registry.register(_Tables(node))
        self.registry.register(_Counts(node))
        self.registry.register(_Statements(node))

    def add(self, collector: Collector) -> None:
        """Tell what another part of the server knows, too."""
        self.registry.register(collector)

    def observe(self, scope: Scope, status: int, seconds: float) -> None:
        """Count one request; a path without a route is one label, whatever the path."""
        route = scope.get("nearql.route", "none")
        key = scope["method"] if route != "none" else "any", route, status
        counted = self._counted.get(key)
        if counted is None:
            requests = self.requests.labels(*key[:2], str(status))
            counted = self._counted[key] = requests, self.seconds.labels(*key[:2])
        counted[0].inc()
        counted[1].observe(seconds)

    def cut(self, code: str) -> None:
        """Count a connection that was cut short."""
        self.connections_cut.labels(code).inc()

    def refused(self, code: str) -> None:
        """Count a request whose credentials were refused."""
        self.auth_failures.labels(code).inc()

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)


class _Statements(Collector):
    """What the session counts of its statements, read when Prometheus asks."""

    def __init__(self, node: NodePort) -> None:
        self._node = node

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        counted = self._node.session().statements
        yield GaugeMetricFamily(
            "nearql_statements_running", "Statements that run.", value=counted.count
        )
        yield CounterMetricFamily(
            "nearql_slow_statements", "Statements that were slow.", value=counted.slow
        )
        yield CounterMetricFamily(
            "nearql_killed_statements", "Statements that KILL ended.", value=counted.killed
        )


class _Tables(Collector):
    """Rows, bytes and log of each table, read when Prometheus asks."""

    def __init__(self, node: NodePort) -> None:
        self._node = node

    def describe(self) -> list[Metric]:
        return []  # so that registering reads nothing

    def collect(self) -> Iterator[Metric]:
        found = self._node.system_table("tables")
        rows = found.to_pylist() if found is not None else []
        for name, column, text in (
            ("nearql_table_rows", "rows", "Live rows."),
            ("nearql_table_bytes", "bytes", "Bytes of rows and vectors."),
            ("nearql_table_segments", "segments", "Segments."),
            ("nearql_wal_bytes", "wal_bytes", "Bytes of the table's write-ahead log."),
        ):
            family = GaugeMetricFamily(name, text, labels=["table"])
            for row in rows:
                if row.get(column) is not None:
                    family.add_metric([row["name"]], row[column])
            yield family


class _Counts(Collector):
    """What the node counts, read when Prometheus asks."""

    def __init__(self, node: NodePort) -> None:
        self._node = node

    def describe(self) -> list[Metric]:
        return []  # so that registering reads nothing

    def collect(self) -> Iterator[Metric]:
        for count in self._node.counts():
            family = CounterMetricFamily if count.total else GaugeMetricFamily
            yield family(count.name, count.text, value=count.value)
