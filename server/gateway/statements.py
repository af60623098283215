"""SQL requests that run on another node: sent as they came, answered as they are relayed.

The receiving node runs the whole request as its own, but places it no further: where it turns out
not to have the primary (a failover meanwhile), it refuses before anything is logged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from nearql.server.access.layer import AccessLayer
from nearql.server.access.principal import Principal
from nearql.server.cluster_ports import CallPort, Serve
from nearql.server.gateway import envelope, principals
from nearql.server.gateway.gateway import Gateway, joined

Answer = tuple[list[Any], str, int]  # pieces, media type, rows


@dataclass(frozen=True, slots=True)
class Asked:
    """A SQL request as it came. request_id: 16 bytes; session: the client's token."""

    body: bytes
    content_type: str
    request_id: bytes | None
    session: str | None
    arrow: bool
    principal: Principal


def forward(gateway: Gateway, node: str, asked: Asked, timeout_ms: int, *, writes: bool) -> Answer:
    """Have a request answered by another node.

    Raises:
        As `Gateway.ask`.
    """
    head = {
        "type": asked.content_type,
        "request_id": asked.request_id,
        "session": asked.session,
        "arrow": asked.arrow,
        "who": principals.told(asked.principal),
    }
    message = envelope.pack(head, asked.body)
    told, body = gateway.ask(node, envelope.SQL, message, timeout_ms, writes=writes)
    return [body.tobytes()], str(told["kind"]), int(told["rows"])


def served(run: Callable[[Asked], Answer], access: AccessLayer | None) -> Serve:
    """The handler for requests that others forward; run: does them here."""

    def handle(call: CallPort) -> Iterable[bytes]:
        head, body = envelope.unpack(call.payload)
        asked = Asked(
            body=body.tobytes(),
            content_type=str(head["type"]),
            request_id=head["request_id"],
            session=head["session"],
            arrow=bool(head["arrow"]),
            principal=principals.believed(head["who"], access),
        )
        pieces, kind, rows = run(asked)
        yield envelope.pack({"kind": kind, "rows": rows})
        yield from joined(pieces)

    return handle
