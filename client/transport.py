"""How a call reaches a database: the `Transport` Protocol and the values that cross it.

`nearql.client.http.HttpTransport` talks to a node, `nearql.server.embedded.EmbeddedTransport` is
the engine in this process. Neither side imports the other: a call and its answer are plain values.

    Call -> Answer = (status, body, table)

`body` is the JSON body of a success without its rows, or the problem document; `table` the rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

Answer = tuple[int, dict[str, Any], "pa.Table | None"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One operation on a database.

    kind: `sql` (text, parameters, settings), `insert` (table, rows, mode, settings), `get` (text is
        the route), `ask` (mode is the method, text the route, parameters the JSON body).
    parameters: JSON values; vectors as base64 of little-endian float32.
    repeatable: doing it twice is harmless, or `request_id` keeps it from happening twice.
    writes: belongs to the leader.
    """

    kind: str
    text: str = ""
    parameters: dict[str, Any] | list[Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    request_id: str = ""
    session: str | None = None
    table: str = ""
    mode: str = "insert"
    rows: pa.Table | None = None
    repeatable: bool = True
    writes: bool = False


class Transport(Protocol):
    """Carries calls to one database; both forms of each method do the same."""

    @property
    def name(self) -> str:
        """Where it leads, for messages: an address or a directory."""

    def call(self, call: Call) -> Answer:
        """Do one call; an error of the database is an answer, not an exception."""

    async def acall(self, call: Call) -> Answer:
        """`call` for asyncio."""

    def close(self) -> None:
        """Let go of everything it holds."""

    async def aclose(self) -> None:
        """`close` for asyncio."""
