"""An answer that is read while it arrives over HTTP: its head at once, its batches as asked for.

Until the schema is there, a failed attempt is repeated like any other. Afterwards rows may have
been used, so a broken connection is told and not repaired.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from nearql.client.arrow_stream import BadStream, BatchDecoder
from nearql.client.errors import ConnectionFailed
from nearql.client.http1 import BadResponse, ResponseParser
from nearql.client.network import AsyncNetwork, BlockingNetwork, Link, Step, Steps, adrive, drive

if TYPE_CHECKING:
    import pyarrow as pa


class HttpBatches:
    """The rest of an answer on its connection, which goes back to the pool after the last byte."""

    def __init__(
        self, link: Link, parser: ResponseParser, network: BlockingNetwork | AsyncNetwork
    ) -> None:
        self._link: Link | None = link
        self._parser = parser
        self._network = network
        self._decoder = BatchDecoder()
        self._ready: deque[pa.RecordBatch] = deque()

    @property
    def schema(self) -> pa.Schema:
        """The columns; there once `receive_schema` has run."""
        assert self._decoder.schema is not None
        return self._decoder.schema

    def receive_schema(self) -> Steps[None]:
        """Read up to the schema. Raises what sockets raise, BadResponse and BadStream."""
        self._take()
        while self._decoder.schema is None:
            yield from self._receive()
        self._end_if_complete()

    def read(self) -> pa.RecordBatch | None:
        """The next batch; ConnectionFailed where the answer breaks off."""
        assert isinstance(self._network, BlockingNetwork)
        return drive(self._next(), self._network)

    async def aread(self) -> pa.RecordBatch | None:
        """`read` for asyncio."""
        return await adrive(self._next(), self._network)

    def close(self) -> None:
        """Drop the connection if the answer is not read whole."""
        self._ready.clear()
        if self._link is not None:
            self._network.shut(self._link)
            self._link = None

    def _next(self) -> Steps[pa.RecordBatch | None]:
        try:
            while not self._ready and self._link is not None:
                yield from self._receive()
                self._end_if_complete()
        except (OSError, BadResponse, BadStream) as error:
            assert self._link is not None
            address = self._link.address
            self.close()
            raise ConnectionFailed(
                f"The answer of {address} broke off ({str(error) or 'timed out'}) after some of "
                "its rows were read. Run the statement again from the start."
            ) from error
        return self._ready.popleft() if self._ready else None

    def _receive(self) -> Steps[None]:
        if self._parser.complete:
            raise BadStream("the answer ends in the middle of the Arrow stream")
        self._parser.feed((yield Step("receive", (self._link,))))
        self._take()

    def _take(self) -> None:
        self._ready += self._decoder.feed(self._parser.take_body())

    def _end_if_complete(self) -> None:
        if not self._parser.complete:
            return
        self._decoder.finish()
        link, self._link = self._link, None
        if link is not None:
            self._network.put(link) if self._parser.reusable else self._network.shut(link)
