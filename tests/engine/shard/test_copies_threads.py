"""Three copies with all their threads: writers and readers while the primary changes hands.

Each writer counts its own row up, every time with a request id, and sends a statement again until
it is answered, wherever the primary is. In the end every count is what was sent, on every copy.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from nearql.engine.context import EngineContext
from nearql.engine.deadline import Deadline
from nearql.engine.errors import NearQLError
from nearql.engine.request_id import make_request_id
from nearql.engine.shard.copy import CopyListener
from nearql.engine.storage.files import LocalFileSystem
from nearql.engine.table import Table
from nearql.engine.types import Change
from nearql.engine.view import TableView
from support.copies import COLUMNS, SETTINGS, soon
from support.tables import CLUSTER, contents, definition, fatal, insert, rows_of, searcher

WRITERS = 4
COUNTS = 25
REIGNS = 6


class Cluster(CopyListener):
    """A thread that ships and agrees; all three copies are always waited for."""

    def __init__(self, directory: Path) -> None:
        self.failures: list[str] = []

        def failed(reason: str) -> NoReturn:
            self.failures.append(reason)
            fatal(reason)

        context = EngineContext(
            SETTINGS, searcher(), LocalFileSystem(), CLUSTER, failed, replicated=True
        )
        self.tables = [
            Table.create(directory / str(number), definition(), context) for number in range(3)
        ]
        self.copies = [table.copies[0] for table in self.tables]
        self.primary = 0
        self.epoch = 0
        self.news = threading.Event()
        self.ended = False
        self.asked: int | None = 0  # who is to be the primary
        for copy in self.copies:
            copy.listen(self)
        self.pool = ThreadPoolExecutor(1)
        self.running = self.pool.submit(self.run)

    def logged(self, lsn: int) -> None:
        self.news.set()

    def durable(self, lsn: int) -> None:
        self.news.set()

    def applied(self, lsn: int) -> None:
        self.news.set()

    def run(self) -> None:
        while not self.ended:
            self.news.wait()
            self.news.clear()
            if self.asked is not None:
                self.promote(self.asked)
                self.asked = None
            self.replicate()

    def promote(self, number: int) -> None:
        """All copies are waited for, so each one has what was committed."""
        self.epoch += 1
        for copy in self.copies:
            copy.follow()
            copy.promise(self.epoch)
        for copy in self.copies:
            common = copy.end.lsn
            while copy.end_at(common) != self.copies[number].end_at(common):
                common -= 1
            copy.truncate(common)
        self.copies[number].lead(self.epoch)
        self.primary = number

    def replicate(self) -> None:
        source = self.copies[self.primary]
        for copy in self.copies:
            while copy is not source and (records := source.read(copy.end.lsn + 1, 1 << 20)):
                appended = copy.append(records)
                assert appended.mismatch is None
                assert not appended.gap
        durable = min(copy.durable_lsn for copy in self.copies)
        for copy in self.copies:
            copy.advance(durable)

    def change(self, number: int) -> None:
        """Have another primary."""
        self.asked = number
        self.news.set()

    def end(self) -> None:
        self.ended = True
        self.news.set()
        self.running.result()
        self.pool.shutdown()


def _count_up(key: int) -> Callable[[TableView], Change]:
    def evaluate(view: TableView) -> Change:
        rows = {row["id"]: row["title"] for row in view.scan(["id", "title"]).to_pylist()}
        return Change(np.empty(0, np.int64), rows_of([key], str(int(rows[key]) + 1)), updated=1)

    return evaluate


def _write(cluster: Cluster, key: int) -> None:
    for number in range(COUNTS):
        request = make_request_id(b"%d-%d" % (key, number), b"")
        while not _sent(cluster.tables[cluster.primary], key, number, request):
            assert not cluster.failures
            if cluster.running.done():
                cluster.running.result()


def _sent(table: Table, key: int, number: int, request: bytes) -> bool:
    """Whether it was answered; else it is to be sent again."""
    try:
        if number == 0:
            insert(table, [key], "0", request_id=request, timeout_ms=60_000)
        else:
            table.modify(_count_up(key), request_id=request, timeout_ms=60_000)
    except NearQLError as error:
        if error.code not in ("not_primary", "write_unknown"):
            raise
        return False
    return True


@pytest.mark.slow
def test_every_count_counts_once_while_the_primary_changes(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.change(0)
    pool = ThreadPoolExecutor(WRITERS)
    writers = [pool.submit(_write, cluster, key) for key in range(WRITERS)]
    reigns = 0
    while not all(writer.done() for writer in writers):
        seen = cluster.copies[cluster.primary].applied_lsn
        cluster.copies[cluster.primary].wait_applied(seen + 12, Deadline(200))
        if reigns < REIGNS:
            reigns += 1
            cluster.change(reigns % 3)
    for writer in writers:
        writer.result()
    pool.shutdown()
    cluster.end()
    end = cluster.copies[cluster.primary].end.lsn
    while not all(copy.wait_applied(end, Deadline(50)) for copy in cluster.copies):
        cluster.replicate()
    hashes = [copy.content_hashes(end, COLUMNS, soon()) for copy in cluster.copies]
    assert hashes[0] == hashes[1] == hashes[2]
    for table in cluster.tables:
        found = contents(table.read_view())
        assert {key: row["title"] for key, row in found.items()} == dict.fromkeys(
            range(WRITERS), str(COUNTS - 1)
        )
        table.check_invariants()
        table.close()
