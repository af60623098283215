"""A node that answers what a test tells it to, and a real uvicorn that serves it on a free port.

The HTTP edge's own rules (limits, errors, encodings, shutdown) are tested against this double;
SQL and storage have their own tests, and tests/server/test_http_real.py runs the edge over a real
node.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pyarrow as pa
from starlette.applications import Starlette

from nearql.engine.errors import Corruption
from nearql.engine.schema import Column, ColumnType, TableDef, TableSchema
from nearql.engine.types import OnConflict, ShardPosition
from nearql.query.dialect import parse
from nearql.query.nature import Nature, nature_of
from nearql.query.ports import CatalogView
from nearql.query.replicas import ALONE, Reads, Replicas
from nearql.query.running import Statements
from nearql.query.watchdog import Stop
from nearql.query.weight import Deferred
from nearql.server.app import Server, create_app, make_server
from nearql.server.config import Config, HttpSection, LimitsSection, NodeSection
from nearql.server.counts import Count
from nearql.server.gateway.gateway import Gateway

DOCS = TableDef(
    uuid="11111111-2222-3333-4444-555555555555",
    name="docs",
    schema=TableSchema(
        columns=(
            Column(1, "id", ColumnType("BIGINT"), True),
            Column(2, "title", ColumnType("VARCHAR")),
            Column(3, "vec", ColumnType("VECTOR(4)")),
        ),
        key_number=1,
    ),
)


@dataclass(frozen=True)
class FakeColumn:
    """A result's column."""

    name: str
    type: str


@dataclass(frozen=True)
class FakeResult:
    """What a statement answers."""

    table: pa.Table = field(default_factory=lambda: pa.table({}))
    columns: tuple[FakeColumn, ...] = ()
    row_count: int = 0
    stats: Mapping[str, Any] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    values: None = None


def rows_result(table: pa.Table, *types: str, **stats: Any) -> FakeResult:
    """A SELECT's result."""
    columns = tuple(FakeColumn(n, t) for n, t in zip(table.column_names, types, strict=True))
    return FakeResult(table, columns, table.num_rows, {"strategy": "exact/numpy", **stats})


@dataclass
class Call:
    """One call of `execute` or `insert_rows`."""

    text: str
    params: Any = None
    settings: Any = None
    request_id: bytes | None = None
    rows: pa.Table | None = None
    on_conflict: OnConflict | None = None
    stop: Stop | None = None
    reads: Reads | None = None
    waited_s: float = 0.0


@dataclass(frozen=True)
class FakeOutcome:
    """What a batch did."""

    inserted: int = 0
    updated: int = 0
    failed: tuple[Any, ...] = ()
    positions: tuple[Any, ...] = ()


Answer = Callable[[Call], Any]


class FakeSession:
    """Answers by the statement's text; remembers every call."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.answers: dict[str, Answer] = {}
        self.heavy: set[str] = set()  # texts that are more than a search
        self.statements = Statements(1_000, 10)
        self.replicas: Replicas = ALONE
        self.on_insert: Answer = lambda call: FakeOutcome(inserted=call.rows.num_rows)  # type: ignore[union-attr]

    def execute(
        self,
        text: str,
        params: Mapping[str, Any] | Sequence[Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        *,
        request_id: bytes | None = None,
        stop: Stop | None = None,
        user: str | None = None,
        reads: Reads | None = None,
        waited_s: float = 0.0,
        light_only: bool = False,
        prepared: Any = None,
        at_once: bool = False,
    ) -> Any:
        if light_only and text in self.heavy:
            raise Deferred(None)
        call = Call(text, params, settings, request_id, stop=stop, reads=reads, waited_s=waited_s)
        self.calls.append(call)
        answer = self.answers.get(text)
        return FakeResult() if answer is None else answer(call)

    def known_search(self, text: str) -> None:
        return None

    def repeat(self, *_: Any) -> None:
        """Nothing is kept."""

    def nature(self, text: str) -> tuple[Nature, Any]:
        return nature_of(parse(text), CatalogView(1, {"docs": DOCS})), None

    def insert_rows(
        self,
        table_name: str,
        rows: pa.Table,
        on_conflict: OnConflict,
        *,
        settings: Mapping[str, Any] | None = None,
        request_id: bytes | None = None,
    ) -> Any:
        call = Call(table_name, None, settings, request_id, rows, on_conflict)
        self.calls.append(call)
        return self.on_insert(call)

    @property
    def stored(self) -> int:
        """Rows that reached `insert_rows`."""
        return sum(call.rows.num_rows for call in self.calls if call.rows is not None)


class FakeNode:
    """One table `docs`, and a session that the test scripts."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.fake = FakeSession()
        self.tables = {"docs": DOCS}
        self.system: dict[str, pa.Table] = {}
        self.system_sources: dict[str, Callable[[], pa.Table]] = {}
        self.reached: dict[int, tuple[int, int]] = {}  # shard -> (epoch, lsn)
        self.failed: dict[str, Corruption] = {}

    def session(self) -> FakeSession:
        return self.fake

    def has_room(self) -> bool:
        return True

    def catalog(self) -> CatalogView:
        return CatalogView(1, self.tables)

    def table(self, uuid: str) -> Any:
        positions = [ShardPosition(shard, *at) for shard, at in self.reached.items()]
        return SimpleNamespace(read_view=lambda: SimpleNamespace(positions=tuple(positions)))

    def system_table(self, name: str) -> pa.Table | None:
        source = self.system_sources.get(name)
        return self.system.get(name) if source is None else source()

    def counts(self) -> Iterable[Count]:
        return ()

    def failed_tables(self) -> Mapping[str, Corruption]:
        return self.failed


def make_config(directory: Path, **limits: Any) -> Config:
    """A node's settings for a test: a free port, few threads."""
    return Config(
        node=NodeSection(data_dir=directory),
        http=replace(HttpSection(), port=0, workers=4, queue=128),
        limits=replace(LimitsSection(), **limits),
    )


@dataclass
class Served:
    """A running server and a client for it."""

    url: str
    client: httpx.Client
    server: Server
    thread: threading.Thread
    node: Any

    @property
    def session(self) -> FakeSession:
        """The scripted session."""
        found: FakeSession = self.node.fake
        return found

    def sql(self, text: str, **members: Any) -> httpx.Response:
        """POST /v1/sql."""
        return self.client.post("/v1/sql", json={"sql": text, **members})

    @property
    def port(self) -> int:
        """The port that the system chose."""
        return int(self.url.rsplit(":", 1)[1])


@contextmanager
def serve(node: Any, config: Config, gateway: Gateway | None = None) -> Iterator[Served]:
    """A real uvicorn in a thread, on a free port; stopped and joined at the end."""
    backups = getattr(node, "backups", None)
    app = create_app(node, config, gateway=gateway, backups=backups)
    with serve_app(node, config, app) as running:
        yield running


@contextmanager
def serve_app(node: Any, config: Config, app: Starlette) -> Iterator[Served]:
    """As `serve`, with an application that is there already."""
    server = make_server(app, config)
    started = threading.Event()
    startup = server.startup

    async def announce(sockets: Any = None) -> None:
        await startup(sockets)
        started.set()

    server.startup = announce  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert started.wait(20), "the server did not start"
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=url, timeout=30) as client:
            yield Served(url, client, server, thread, node)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the server did not stop"
