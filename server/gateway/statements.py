"""SQL requests that run on another node: sent as they came, answered as they are relayed.

The receiving node runs the whole request as its own, but places it no further: where it turns out
not to have the primary (a failover meanwhile), it refuses before anything is logged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from nearql.engine import spans
from nearql.query.watchdog import Stop
from nearql.server.access.layer import AccessLayer
from nearql.server.access.principal import Principal
from nearql.server.cluster_ports import CallPort, Serve
from nearql.server.gateway import envelope, principals
from nearql.server.gateway.gateway import Gateway, joined

Answer = tuple[list[Any], str, int]  # pieces, media type, rows


@dataclass(frozen=True, slots=True)
class Asked:
    """A SQL request as it came. request_id: 16 bytes; session: the client's token; waited_ms: how
    long its client has waited already, which counts against its time.
    """

    body: bytes
    content_type: str
    request_id: bytes | None
    session: str | None
    arrow: bool
    principal: Principal
    waited_ms: int = 0


Run = Callable[[Asked, Stop], Answer]


@dataclass(frozen=True, slots=True)
class There:
    """The node that runs a request, and whether that writes."""

    node: str
    writes: bool


def forward(gateway: Gateway, there: There, asked: Asked, timeout_ms: int, stop: Stop) -> Answer:
    """Have a request answered by another node; timeout_ms: of the statement. stop: ends it.

    Raises:
        As `Gateway.ask`.
    """
    with spans.span("forward", node=there.node, writes=there.writes):
        return _forwarded(gateway, there, asked, timeout_ms, stop)


def _forwarded(gateway: Gateway, there: There, asked: Asked, timeout_ms: int, stop: Stop) -> Answer:
    head = {
        "type": asked.content_type,
        "request_id": asked.request_id,
        "session": asked.session,
        "arrow": asked.arrow,
        "who": principals.told(asked.principal),
        "waited_ms": asked.waited_ms,
        "trace": spans.carried(),
    }
    message = envelope.pack(head, asked.body)
    left_ms = max(0, timeout_ms - asked.waited_ms)
    told, body = gateway.ask(
        there.node, envelope.SQL, message, left_ms, writes=there.writes, stop=stop
    )
    return [body.tobytes()], str(told["kind"]), int(told["rows"])


def served(run: Run, access: AccessLayer | None) -> Serve:
    """The handler for requests that others forward; run: does them here, until it is stopped."""

    def handle(call: CallPort) -> Iterable[bytes]:
        head, body = envelope.unpack(call.payload)
        asked = Asked(
            body=body.tobytes(),
            content_type=str(head["type"]),
            request_id=head["request_id"],
            session=head["session"],
            arrow=bool(head["arrow"]),
            principal=principals.believed(head["who"], access),
            waited_ms=int(head.get("waited_ms", 0)),
        )
        stop = Stop()
        call.cancelled.then(stop.stop)
        with spans.carried_on(head.get("trace"), "forwarded", by=call.node_id):
            pieces, kind, rows = run(asked, stop)
        yield envelope.pack({"kind": kind, "rows": rows})
        yield from joined(pieces)

    return handle
