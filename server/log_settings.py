"""The sections `log` and `trace` of the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from nearql.server.setting import key as _key


@dataclass(frozen=True)
class LogSection:
    """What the node writes to stderr."""

    format: str = _key("console", "console or json.")
    level: str = _key("info", "debug, info, warning or error.")
    requests: str = _key("none", "none or all: one line for each HTTP request.")


@dataclass(frozen=True)
class TraceSection:
    """Spans to OpenTelemetry (pip install 'nearql[otel]')."""

    exporter: str = _key("none", "none or otlp: whether spans are sent.")
    endpoint: str = _key(
        "http://127.0.0.1:4318/v1/traces", "Where spans go: OTLP over HTTP, with its path."
    )
    sample_percent: int = _key(
        100, "Share of requests that are traced, where the sender does not say.", low=0, high=100
    )
