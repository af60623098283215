"""What short requests cost in work, not in time: function calls and plans made.

    python3 dev.py bench work [--record]

Seconds differ from machine to machine and from minute to minute; how many functions a search calls
does not. Each piece of work is done until everything that is kept is kept, then counted five times;
the least count stands, as a garbage collection or a first look-up adds to some. What each may take
is in `benchmarks/work.json`; `tests/test_work.py` fails where one takes more. --record writes the
counts of today, with some room.

    again, in process    a search of a known text by `Session.execute`
    again, over HTTP     the same from the bytes of a request to those of its answer, no sockets
    under a filter       likewise, of the rows that a kept filter leaves
    a new text           the first run of a text: parsed, checked, planned
    upsert of 1,000      rows that are all there before, as a bulk request stores them

calls: of Python functions and of C functions from Python, in the thread that does the work.
planned: texts that the plan cache did not know. Allocated bytes are not counted: `tracemalloc` sees
those of every thread, so that a background thread's fall into a count once in a while.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from uvicorn.server import ServerState

from nearql.engine.types import OnConflict
from nearql.server.app import create_app, uvicorn_config
from nearql.server.config import Config
from nearql.server.node import Node

BUDGETS = Path(__file__).with_suffix(".json")
ROWS, DIMENSIONS, UPSERTED = 2_000, 32, 1_000
WARM, COUNTED = 30, 5
ROOM = {"calls": 1.1, "planned": 1}
SEARCH = "SELECT id, title FROM docs ORDER BY vec <-> :q LIMIT 10"
FILTERED = "SELECT id, title FROM docs WHERE n < 20 ORDER BY vec <-> :q LIMIT 10"
Work = Callable[[], None]
Counts = dict[str, dict[str, int]]


class _Transport:
    """Where a protocol writes its answers."""

    def __init__(self) -> None:
        self.written = asyncio.Event()
        self.first = b""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else default

    def write(self, data: bytes) -> None:
        if not self.written.is_set():
            self.first = data
        self.written.set()

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None: ...


@contextmanager
def node() -> Iterator[tuple[Node, Config]]:
    """A node of one table, in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        config = Config()
        config = replace(
            config,
            node=replace(config.node, data_dir=Path(folder) / "data"),
            http=replace(config.http, inline_ms=60_000),  # a slow minute must not change the way
        )
        opened = Node.open(config)
        try:
            opened.session().execute(
                "CREATE TABLE docs (id BIGINT PRIMARY KEY, title TEXT, n INTEGER, "
                f"vec VECTOR({DIMENSIONS}))"
            )
            opened.session().insert_rows("docs", rows(ROWS), OnConflict.ERROR)
            yield opened, config
        finally:
            opened.close()


def rows(number: int) -> pa.Table:
    """So many rows, the same each time."""
    vectors = np.random.default_rng(1).standard_normal((number, DIMENSIONS)).astype(np.float32)
    return pa.table({
        "id": pa.array(range(number), pa.int64()),
        "title": pa.array([f"title {at}" for at in range(number)]),
        "n": pa.array([at % 100 for at in range(number)], pa.int32()),
        "vec": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIMENSIONS),
    })  # fmt: skip


def pieces_of(opened: Node, config: Config, loop: asyncio.AbstractEventLoop) -> dict[str, Work]:
    """What is counted, by name."""
    session, vector, number = opened.session(), [0.5] * DIMENSIONS, count()
    stored = rows(UPSERTED)

    def again(text: str) -> Work:
        return lambda: (session.execute(text, {"q": vector}), None)[1]

    def new() -> None:
        session.execute(f"{SEARCH} OFFSET {next(number)}", {"q": vector})

    def upsert() -> None:
        session.insert_rows("docs", stored, OnConflict.REPLACE)

    return {
        "again, in process": again(SEARCH),
        "under a filter, in process": again(FILTERED),
        "again, over HTTP": over_http(opened, config, loop, SEARCH),
        "under a filter, over HTTP": over_http(opened, config, loop, FILTERED),
        "a new text": new,
        f"upsert of {UPSERTED:,}": upsert,
    }


def over_http(opened: Node, config: Config, loop: asyncio.AbstractEventLoop, text: str) -> Work:
    """A request given to a connection's protocol, until its answer was written."""
    settings = uvicorn_config(create_app(opened, config), config)
    settings.load()
    protocol: Any = settings.http_protocol_class(  # type: ignore[operator,union-attr,call-arg]
        config=settings, server_state=ServerState(), app_state={}, _loop=loop
    )
    transport = _Transport()
    protocol.connection_made(transport)
    body = json.dumps({"sql": text, "params": {"q": [0.5] * DIMENSIONS}}).encode()
    head = "POST /v1/sql HTTP/1.1\r\nHost: node\r\nContent-Type: application/json\r\n"
    request = head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body

    async def ask() -> None:
        transport.written.clear()
        protocol.data_received(request)
        await transport.written.wait()
        if not transport.first.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"The request was not answered: {transport.first!r}")

    return lambda: loop.run_until_complete(ask())


def calls_of(work: Work) -> int:
    """How many functions it calls, in this thread."""
    called = 0

    def look(_: Any, event: str, __: Any) -> None:
        nonlocal called
        called += event in ("call", "c_call")

    sys.setprofile(look)
    try:
        work()
    finally:
        sys.setprofile(None)
    return called


def counts() -> Counts:
    """Of each piece of work, the least of several counts."""
    found: Counts = {}
    with node() as (opened, config), closing(asyncio.new_event_loop()) as loop:
        plans = opened.session().plans
        for name, work in pieces_of(opened, config, loop).items():
            for _ in range(WARM):
                work()
            gc.collect()
            missed = plans.misses
            work()
            found[name] = {
                "calls": min(calls_of(work) for _ in range(COUNTED)),
                "planned": 0,
            }
            found[name]["planned"] = (plans.misses - missed) // (1 + COUNTED)
    return found


def grown(found: Counts, budgets: Counts) -> list[str]:
    """What takes more than it may, for people; empty = nothing."""
    return [
        f"{name}: {what} {value}, at most {budgets[name][what]}"
        for name, values in found.items()
        for what, value in values.items()
        if value > budgets[name][what]
    ]


def main() -> None:
    """Count, and print or record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help="write what each may take")
    found = counts()
    print(json.dumps(found, indent=1))
    if parser.parse_args().record:
        budgets = {
            name: {what: int(value * ROOM[what]) for what, value in values.items()}
            for name, values in found.items()
        }
        BUDGETS.write_text(json.dumps(budgets, indent=1) + "\n")


if __name__ == "__main__":
    main()
