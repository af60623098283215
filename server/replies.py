"""Answers as Starlette responses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

SEND_BYTES = 1 << 20


def json_reply(
    content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A JSON answer; dates and the like as text."""
    encoded = orjson.dumps(content, default=str, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(encoded, status, dict(headers or {}), "application/json")


def _nothing() -> None:
    return


class PiecesResponse(Response):
    """A body that is known wholly, sent in parts, so that a slow client costs no extra copy."""

    def __init__(
        self,
        pieces: Sequence[Any],
        media_type: str,
        headers: Mapping[str, str] | None = None,
        sent: Callable[[], None] = _nothing,
    ) -> None:
        """sent: called when the last part is sent, or cannot be any more."""
        self.sent = sent
        self.pieces = [memoryview(piece) for piece in pieces]
        self.media_type = media_type
        self.status_code = 200
        self.body = b""
        self.background = None
        length = str(sum(piece.nbytes for piece in self.pieces))
        self.init_headers({**(headers or {}), "Content-Length": length})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._send(send)
        finally:
            self.pieces = []
            self.sent()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        for piece in self.pieces:
            for start in range(0, piece.nbytes, SEND_BYTES):
                body = bytes(piece[start : start + SEND_BYTES])
                await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
