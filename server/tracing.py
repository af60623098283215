"""Spans to OpenTelemetry (`pip install 'nearql[otel]'`): from the request's headers to the device.

`begin` sets the engine's tracer, so it comes before a node is opened; until then, and without it,
nothing of OpenTelemetry is imported and no span costs anything. A request that carries a W3C
`traceparent` becomes a part of its sender's trace. Texts of statements are without their values,
errors only their codes: a trace leaves the node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nearql.engine import spans
from nearql.engine.errors import NearQLError
from nearql.server.config import Config, ConfigError
from nearql.server.log_settings import TraceSection

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

_NO_PACKAGE = (
    "trace.exporter is otlp, and OpenTelemetry is not installed: pip install 'nearql[otel]'."
)


class Tracing:
    """What was begun; `end` sends what is left and makes spans cost nothing again."""

    def __init__(self, config: Config, processor: SpanProcessor) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

        about = {
            "service.name": "nearql",
            "service.version": version("nearql"),
            "service.instance.id": config.node.name,
        }
        share = config.trace.sample_percent / 100
        self._provider = TracerProvider(
            resource=Resource.create(about), sampler=ParentBased(TraceIdRatioBased(share)),
            shutdown_on_exit=False,
        )  # fmt: skip
        self._provider.add_span_processor(processor)
        spans.tracer = OpenTelemetry(self._provider.get_tracer("nearql", version("nearql")))

    def end(self) -> None:
        """Once no request is under way."""
        spans.tracer = None
        self._provider.shutdown()


def begin(config: Config) -> Tracing | None:
    """Take note of spans from now on, if the configuration asks for it.

    Raises:
        ConfigError: OpenTelemetry is not installed.
    """
    if config.trace.exporter == "none":
        return None
    try:
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise ConfigError(_NO_PACKAGE) from None
    return Tracing(config, BatchSpanProcessor(_otlp(config.trace)))


def _otlp(section: TraceSection) -> SpanExporter:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise ConfigError(_NO_PACKAGE) from None
    return OTLPSpanExporter(endpoint=section.endpoint)


class OpenTelemetry:
    """Implements `engine.spans.Tracer`."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    @contextmanager
    def span(self, name: str, **attributes: Any) -> Iterator[_Told | _Nobody]:
        """A child of what this thread's context is doing; what no request asked for is nobody's."""
        from opentelemetry.trace import get_current_span

        if not get_current_span().get_span_context().is_valid:
            yield _NOBODY
            return
        with self._tracer.start_as_current_span(
            name, attributes=_known(attributes), record_exception=False,
            set_status_on_exception=False,
        ) as span:  # fmt: skip
            try:
                yield _Told(span)
            except BaseException as error:
                _failed(span, error)
                raise

    def helping(self, work: Callable[[], None]) -> Callable[[], None]:
        """The work, with this thread's context."""
        from opentelemetry.context import attach, detach, get_current

        context = get_current()

        def help_out() -> None:
            token = attach(context)
            try:
                work()
            finally:
                detach(token)

        return help_out

    def carried(self) -> str | None:
        """As a W3C `traceparent`; None where no request is under way."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        headers: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(headers)
        return headers.get("traceparent")

    @contextmanager
    def carried_on(
        self, carried: str | None, name: str, **attributes: Any
    ) -> Iterator[_Told | _Nobody]:
        """A span within another node's, if that node named its own and samples it."""
        from opentelemetry.context import Context, attach, detach
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        headers = {"traceparent": carried or ""}
        token = attach(TraceContextTextMapPropagator().extract(headers, Context()))
        try:
            with self.span(name, **attributes) as span:
                yield span
        finally:
            detach(token)

    @contextmanager
    def request(self, scope: Scope) -> Iterator[Span]:
        """The span of one HTTP request, within its sender's trace if it names one."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        with self._tracer.start_as_current_span(
            scope["method"], context=TraceContextTextMapPropagator().extract(headers),
            kind=SpanKind.SERVER, record_exception=False, set_status_on_exception=False,
            attributes={"http.request.method": scope["method"], "url.path": scope["path"][:200]},
        ) as span:  # fmt: skip
            yield span


class _Nobody:
    """Work of the node's own: calibration, builds of indexes."""

    def tell(self, **attributes: Any) -> None:
        """Nothing is kept."""


_NOBODY = _Nobody()


class _Told:
    """Implements `engine.spans.Span`."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def tell(self, **attributes: Any) -> None:
        """As attributes `nearql.<name>`."""
        self._span.set_attributes(_known(attributes))


def _known(attributes: dict[str, Any]) -> dict[str, Any]:
    return {f"nearql.{name}": value for name, value in attributes.items() if value is not None}


def _failed(span: Span, error: BaseException) -> None:
    from opentelemetry.trace import StatusCode

    code = error.code if isinstance(error, NearQLError) else type(error).__name__
    span.set_attribute("error.type", code)
    span.set_status(StatusCode.ERROR)


class TracedRequests:
    """The layer that makes each request a span; only there where spans are asked for."""

    def __init__(self, app: ASGIApp, tracer: OpenTelemetry) -> None:
        self.app = app
        self.tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with self.tracer.request(scope) as span:

            async def observed(message: Message) -> None:
                if message["type"] == "http.response.start":
                    _answered(span, scope, message["status"])
                await send(message)

            await self.app(scope, receive, observed)


def _answered(span: Span, scope: Scope, status: int) -> None:
    from opentelemetry.trace import StatusCode

    route = scope.get("nearql.route")
    if route is not None:
        span.update_name(f"{scope['method']} {route}")
        span.set_attribute("http.route", route)
    span.set_attribute("http.response.status_code", status)
    span.set_attribute("nearql.request_id", scope.get("request_id", ""))
    if status >= 500:
        span.set_status(StatusCode.ERROR)
