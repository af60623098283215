"""One instant across nodes: what does not count as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import msgpack
import pytest

from nearql.cluster.replication.link.calls import Calls
from nearql.server.backup import cut as cut_module
from support.backups import DOCS, backup, repository, run, running
from support.waiting import wait_for


class Parts:
    """A holder's answer: where it is, and then nothing while it holds."""

    ended = False

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = True

    def __iter__(self) -> Parts:
        return self

    def __next__(self) -> bytes:
        return cast("bytes", msgpack.packb([[7, 2, b"link", 2]]))


class Links:
    """Calls to one node that holds a shard."""

    def __init__(self) -> None:
        self.parts = Parts()

    def stream(self, *_: Any, **__: Any) -> Parts:
        return self.parts


@pytest.mark.parametrize("breaks", [False, True])
def test_a_hold_whose_connection_broke_was_none(breaks: bool) -> None:
    links, told = Links(), []

    def hold() -> None:
        with cut_module._held_there(cast("Calls", links), "n2", ["s"], 1.0) as held:
            told.append(held["s"].end.lsn)
            links.parts.ended = breaks

    if breaks:
        with pytest.raises(cut_module._Busy):
            hold()
    else:
        hold()
    assert told == [7]


def test_a_backup_that_waits_for_a_writer_can_be_cancelled(tmp_path: Path) -> None:
    place = repository(tmp_path / "copies")
    with running(tmp_path / "a") as node:
        run(node, DOCS)
        first = backup(node, place)  # makes the checkpoint that the next one pins
        shard = node.copies.table(node.catalog().tables["docs"].uuid).shards[1]
        with shard.lock:  # as a long UPDATE does
            job = node.backups.backup(place.location, place.id)
            wait_for(lambda: job.detail == "cutting", "it wants to hold the writers", 60)
            assert node.backups.cancel(job.job)
            assert job.ended.wait(60)  # though the writer goes on
        assert (job.state, job.error and job.error.code) == ("cancelled", "job_cancelled")
        assert place.ids() == [first.id]
        run(node, "INSERT INTO docs (id) VALUES (1)")
