"""Spans of a request, from its headers to the device, kept in memory instead of sent."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from nearql.engine import spans
from nearql.server import tracing
from nearql.server.config import ConfigError
from nearql.server.log_settings import TraceSection
from nearql.server.node import Node
from support.http_node import Served, make_config, serve
from support.waiting import wait_for

SEARCH = "SELECT id FROM docs WHERE id < 45000 ORDER BY vec <-> '[1,2]' LIMIT 3"


class Kept:
    """The spans of a served node."""

    def __init__(self, served: Served, exporter: InMemorySpanExporter) -> None:
        self.served = served
        self._exporter = exporter

    def of(self, text: str, headers: dict[str, str] | None = None) -> dict[str, list[ReadableSpan]]:
        """By name, those that one statement leaves."""
        self._exporter.clear()
        self.served.client.post("/v1/sql", json={"sql": text}, headers=headers)
        if not (headers or {}).get("traceparent", "").endswith("-00"):
            self.wait()
        found: dict[str, list[ReadableSpan]] = {}
        for span in self._exporter.get_finished_spans():
            found.setdefault(span.name, []).append(span)
        return found

    def wait(self) -> None:
        """Until the request's own span has ended, a moment after its answer has come."""
        wait_for(
            lambda: any(s.kind is SpanKind.SERVER for s in self._exporter.get_finished_spans()),
            "the request's span has ended", 60,
        )  # fmt: skip


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    """A node whose every request is traced."""
    config = replace(make_config(tmp_path / "data"), trace=TraceSection("otlp"))
    exporter = InMemorySpanExporter()
    traced = tracing.Tracing(config, SimpleSpanProcessor(exporter))
    try:
        node = Node.open(config)
        try:
            with serve(node, config) as served:
                found = Kept(served, exporter)
                found.of("CREATE TABLE docs (id BIGINT PRIMARY KEY, vec VECTOR(2))")
                found.of("INSERT INTO docs SELECT i, [i, 1] FROM range(50000) AS t(i)")
                yield found
        finally:
            node.close()
    finally:
        traced.end()
    assert spans.tracer is None


def parent_of(span: ReadableSpan) -> int:
    """The id of a span's parent."""
    assert span.parent is not None
    return span.parent.span_id


def one(found: dict[str, list[ReadableSpan]], name: str) -> ReadableSpan:
    """The only span of this name."""
    (span,) = found[name]
    return span


def attributes(span: ReadableSpan) -> dict[str, Any]:
    """Its attributes."""
    return dict(span.attributes or {})


def test_a_search_is_a_tree_from_the_request_to_the_device(kept: Kept) -> None:
    found = kept.of(SEARCH)
    request, statement = one(found, "POST /v1/sql"), one(found, "statement")
    assert request.kind is SpanKind.SERVER
    assert request.parent is None
    told = attributes(request)
    assert told["http.response.status_code"] == 200
    assert told["http.route"] == "/v1/sql"
    assert len(told["nearql.request_id"]) == 32
    assert parent_of(statement) == request.context.span_id
    assert parent_of(one(found, "plan")) == statement.context.span_id
    search, segments = one(found, "search"), one(found, "segments")
    assert parent_of(search) == statement.context.span_id
    assert parent_of(segments) == search.context.span_id
    assert attributes(segments)["nearql.segments"] == 1
    assert attributes(segments)["nearql.candidates"] == 45000
    assert found["device"]
    for device in found["device"]:
        assert parent_of(device) == segments.context.span_id
        assert attributes(device)["nearql.device"] == "cpu"
        assert attributes(device)["nearql.rows"] > 0
    assert len({span.context.trace_id for spans_ in found.values() for span in spans_}) == 1


def test_what_was_planned_is_not_planned_again(kept: Kept) -> None:
    assert {"parse", "plan"} <= set(kept.of(SEARCH))
    again = kept.of(SEARCH)
    assert not {"parse", "plan"} & set(again)
    assert "device" in again


def test_a_heavy_statement_is_one_span_in_the_same_trace(kept: Kept) -> None:
    found = kept.of("SELECT count(*) FROM docs a, docs b")
    begun = found["statement"]  # where it was found to be heavy, and where it ran
    assert [attributes(span).get("nearql.rows") for span in begun] == [None, 1]
    assert {"scan", "duckdb"} <= set(found)
    assert {parent_of(span) for span in begun} == {one(found, "POST /v1/sql").context.span_id}


def test_a_write_shows_how_long_its_log_took(kept: Kept) -> None:
    found = kept.of("INSERT INTO docs VALUES (100000, '[1,2]')")
    commit = one(found, "commit")
    assert parent_of(commit) == one(found, "statement").context.span_id
    told = attributes(commit)
    assert (told["nearql.shard"], told["nearql.until"]) == (0, "applied")
    assert told["nearql.lsn"] > 0


def test_no_value_is_in_a_span(kept: Kept) -> None:
    found = kept.of(
        "SELECT id FROM docs WHERE id = 424242 AND 'se''cret' <> '' ORDER BY id LIMIT 1"
    )
    (statement,) = [s for s in found["statement"] if "nearql.rows" in attributes(s)]
    told = attributes(statement)["nearql.text"]
    assert told.startswith("SELECT id FROM docs WHERE id = ?")
    for spans_ in found.values():
        for span in spans_:
            assert "424242" not in span.to_json()
            assert "cret" not in span.to_json()


def test_an_error_is_its_code_and_nothing_of_its_words(kept: Kept) -> None:
    found = kept.of("SELECT id FROM docs ORDER BY vec <-> '[8,7,6,5]' LIMIT 1")
    statement = one(found, "statement")
    assert statement.status.status_code is StatusCode.ERROR
    assert attributes(statement)["error.type"] == "wrong_dimensions"
    assert not statement.events
    request = one(found, "POST /v1/sql")
    assert attributes(request)["http.response.status_code"] == 400
    assert request.status.status_code is not StatusCode.ERROR  # the sender's, not the server's


def test_a_request_is_a_part_of_its_sender_s_trace(kept: Kept) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    found = kept.of("SELECT 1", {"traceparent": f"00-{trace}-{parent}-01"})
    request = one(found, "POST /v1/sql")
    assert f"{request.context.trace_id:032x}" == trace
    assert f"{parent_of(request):016x}" == parent
    assert kept.of("SELECT 1", {"traceparent": f"00-{trace}-{parent}-00"}) == {}  # not sampled
    assert one(kept.of("SELECT 1", {"traceparent": "nonsense"}), "POST /v1/sql").parent is None


def test_a_path_without_a_route_is_no_name(kept: Kept) -> None:
    kept._exporter.clear()
    kept.served.client.get("/some/secret/path")
    kept.wait()
    (span,) = kept._exporter.get_finished_spans()
    assert (span.name, attributes(span)["http.response.status_code"]) == ("GET", 404)


def test_work_that_no_request_asked_for_leaves_no_span(kept: Kept) -> None:
    kept._exporter.clear()
    with spans.span("device") as span:
        span.tell(rows=1)
    assert kept._exporter.get_finished_spans() == ()


def test_sampling_none_keeps_none(tmp_path: Path) -> None:
    config = replace(make_config(tmp_path), trace=TraceSection("otlp", sample_percent=0))
    exporter = InMemorySpanExporter()
    traced = tracing.Tracing(config, SimpleSpanProcessor(exporter))
    try:
        assert isinstance(spans.tracer, tracing.OpenTelemetry)
        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        with spans.tracer.request(scope), spans.span("something"):
            pass
    finally:
        traced.end()
    assert exporter.get_finished_spans() == ()


def test_without_a_tracer_nothing_is_imported_and_nothing_is_wrapped(tmp_path: Path) -> None:
    code = """
import json, sys
from pathlib import Path
from nearql.engine import spans
from nearql.server import tracing
from nearql.server.config import Config, NodeSection
from nearql.server.node import Node
from nearql.server.app import create_app
config = Config(node=NodeSection(data_dir=Path(sys.argv[1])))
assert tracing.begin(config) is None
node = Node.open(config)
app = create_app(node, config)
layers = [layer.cls.__name__ for layer in app.user_middleware]
backend = type(node._context.searcher.backend).__name__
node.close()
otel = [name for name in sys.modules if name.startswith("opentelemetry")]
print(json.dumps([otel, layers, backend, spans.span("x") is spans.span("y")]))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "data")],
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    otel, layers, backend, same = json.loads(ran.stdout.splitlines()[-1])
    assert otel == []
    assert "TracedRequests" not in layers
    assert backend != "_Traced"
    assert same


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(make_config(tmp_path), trace=TraceSection("otlp"))
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace.export", None)
    with pytest.raises(ConfigError, match=r"nearql\[otel\]"):
        tracing.begin(config)
    assert spans.tracer is None
