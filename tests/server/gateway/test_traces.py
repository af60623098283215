"""A trace that goes on at another node: one tree, whichever node does the work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from nearql.engine import spans
from nearql.engine.types import ShardPosition, WriteOutcome
from nearql.query.replicas import Freshness
from nearql.server import tracing
from support.cluster_edges import MakePair
from support.http_node import DOCS, FakeResult, make_config

INSERT = "INSERT INTO docs (id) VALUES (1)"
NDJSON = {"Content-Type": "application/x-ndjson"}


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[InMemorySpanExporter]:
    """Every span of this process."""
    exporter = InMemorySpanExporter()
    traced = tracing.Tracing(make_config(tmp_path), SimpleSpanProcessor(exporter))
    try:
        yield exporter
    finally:
        traced.end()


def by_name(kept: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in kept.get_finished_spans()}


def is_below(span: ReadableSpan, above: ReadableSpan) -> bool:
    assert span.context is not None
    assert above.context is not None
    return (
        span.context.trace_id == above.context.trace_id
        and span.parent is not None
        and span.parent.span_id == above.context.span_id
    )


def test_a_forwarded_statement_goes_on_in_its_trace(
    kept: InMemorySpanExporter, make_pair: MakePair
) -> None:
    with make_pair(1, primary=2) as pair:

        def run(call: Any) -> Any:
            with spans.span("statement"):
                return FakeResult()

        pair.there.session.answers[INSERT] = run
        assert pair.here.client.post("/v1/sql", json={"sql": INSERT}).status_code == 200
    found = by_name(kept)
    assert is_below(found["forward"], found["POST /v1/sql"])
    assert is_below(found["forwarded"], found["forward"])
    assert is_below(found["statement"], found["forwarded"])
    assert dict(found["forward"].attributes or {})["nearql.node"] == "id-2"


def test_forwarded_rows_go_on_in_their_trace(
    kept: InMemorySpanExporter, make_pair: MakePair
) -> None:
    with make_pair(1, primary=2) as pair:
        route = "/v1/tables/docs/rows"
        answer = pair.here.client.post(route, content=b'{"id": 1}', headers=NDJSON)
        assert answer.status_code == 200
    found = by_name(kept)
    assert is_below(found["forwarded"], found["forward"])
    assert is_below(found["forward"], found["POST /v1/tables/{table}/rows"])


def test_a_request_that_nobody_traces_leaves_no_span_elsewhere(
    kept: InMemorySpanExporter, make_pair: MakePair
) -> None:
    with make_pair(1, primary=2) as pair:
        unsampled = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-00"}
        answer = pair.here.client.post("/v1/sql", json={"sql": INSERT}, headers=unsampled)
        assert answer.status_code == 200
        assert len(pair.there.session.calls) == 1
    assert kept.get_finished_spans() == ()


def test_what_waits_for_copies_is_told(kept: InMemorySpanExporter, make_pair: MakePair) -> None:
    outcome = WriteOutcome(1, 0, 0, (ShardPosition(0, 4, 17),))
    with make_pair() as pair:
        tracer = spans.tracer
        assert isinstance(tracer, tracing.OpenTelemetry)
        with tracer.request({"method": "POST", "path": "/", "headers": []}):
            soon = time.monotonic() + 60
            pair.here.session.replicas.settle(DOCS, outcome, "2", soon)
            pair.here.gateway.reads({}).enter((DOCS.uuid,), Freshness("linearizable", None, soon))
    found = by_name(kept)
    told = dict(found["copies"].attributes or {})
    assert (told["nearql.concern"], told["nearql.copies"]) == ("2", 3)
    assert dict(found["recency"].attributes or {})["nearql.level"] == "linearizable"
