"""The archive of a shard whose primaries die: three nodes in one process, over real links.

What the archive gives back at a moment is compared with hashes of what a living copy held then.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from nearql.cluster.certificates import make_certificates
from nearql.engine.errors import NearQLError
from nearql.engine.schema import TableSchema
from nearql.engine.shard.contents import content_hashes
from nearql.engine.shard.copy import ContentHashes
from nearql.engine.storage.wal_format import ZERO_LINK
from nearql.engine.types import OnConflict
from nearql.server.backup.archive import Archive, path, reach_of
from nearql.server.backup.rebuild import Stop, fresh, replay
from nearql.server.backup.repository import Repository
from nearql.server.backup.shipping import Shipper
from support.archives import moment
from support.backups import Killed, KilledStore, repository
from support.replication_nodes import CLUSTER, TABLE, DataNode, Trio
from support.tables import rows_of
from support.waiting import wait_for


class Archived:
    """Three nodes, each with a shipper, one archive, and what was true at each moment."""

    def __init__(self, folder: Path) -> None:
        make_certificates(folder / "certificates", ["a", "b", "c"])
        self.folder, self.trio = folder, Trio(folder, folder / "certificates")
        self.archive = Archive(repository(folder / "copies"), CLUSTER)
        self.shippers = {name: self.shipper(name) for name in "abc"}
        self.told: list[tuple[int, ContentHashes]] = []
        self._ids, self._numbers = itertools.count(), itertools.count()

    def shipper(self, name: str) -> Shipper:
        """A new one, which knows nothing, as after a start."""
        node = self.trio[name]
        return Shipper(TABLE.uuid, node.table.shards[0], node.copy)

    def write(self, name: str, count: int = 5) -> None:
        """Rows, and what is true now."""
        node = self.trio[name]
        _, lsn = node.write_soon([next(self._ids) for _ in range(count)])
        found = node.hashes(lsn)
        assert found is not None
        self.told.append((moment(), found))

    def round(self, name: str, archive: Archive | None = None) -> None:
        """Once."""
        self.shippers[name].round(archive or self.archive, lambda: False)

    def ship(self, name: str) -> None:
        """Until all that was told is known to be there."""
        shipper, last = self.shippers[name], self.told[-1][0]

        def reached() -> bool:
            self.round(name)
            return shipper.until_ms is not None and shipper.until_ms >= last

        wait_for(reached, f"{name} has shipped everything", 60)

    def kill(self, name: str, successor: str) -> None:
        """The primary falls silent; another node takes over."""
        self.trio.stop(name)
        self.trio.fail_over(successor)

    def at(self, at_ms: int) -> ContentHashes:
        """What the archive says of a moment, from the first record on."""
        parts = path(self.archive.pieces(TABLE.uuid, 0), 0)
        node: DataNode = next(iter(self.trio))
        schema: TableSchema = TABLE.schema
        scratch = self.folder / f"scratch-{next(self._numbers)}"
        state, store = fresh(0, schema, scratch, node.context)
        replay(state, store, self.archive.records(parts, ZERO_LINK), Stop(at_ms=at_ms))
        view = state.view()
        return content_hashes(view, view.lsn, schema.key_number, (1, 2, 3))

    def check(self) -> None:
        """Every moment comes back, and is known to be reached."""
        pieces = self.archive.pieces(TABLE.uuid, 0)
        noted = [told for one in self.shippers.values() if (told := one.reached) is not None]
        reach = reach_of(path(pieces, 0), None, noted)
        for at_ms, wanted in self.told:
            assert reach is not None
            assert reach >= at_ms
            found = self.at(at_ms)
            assert (found.rows, found.buckets) == (wanted.rows, wanted.buckets)


@pytest.fixture
def archived(tmp_path: Path) -> Iterator[Archived]:
    made = Archived(tmp_path)
    yield made
    made.trio.close()


def test_the_next_primary_goes_on_where_the_last_one_was_killed(archived: Archived) -> None:
    archived.write("a")
    archived.ship("a")
    archived.write("a")  # acknowledged, and never shipped by its primary
    archived.write("a")
    archived.trio.all_show(range(15))
    archived.kill("a", "b")
    archived.write("b")
    archived.ship("b")
    archived.check()
    archived.trio.start("a")
    archived.shippers["a"] = archived.shipper("a")
    archived.write("b")
    archived.round("a")  # it follows now: it ships nothing
    assert archived.shippers["a"].reached is None
    archived.ship("b")
    archived.kill("b", "c")
    archived.write("c")
    archived.ship("c")
    archived.check()
    assert [shipper.gaps for shipper in archived.shippers.values()] == [0, 0, 0]


def test_what_a_failover_took_back_was_never_shipped(archived: Archived) -> None:
    archived.write("a")
    archived.ship("a")
    archived.trio.all_show(range(5))
    archived.trio.stop("b")
    archived.trio.stop("c")
    node = archived.trio["a"]
    before = node.copy.end.lsn
    with pytest.raises(NearQLError):  # on one disk, and nowhere else, if its lease lasted so long
        node.table.insert(rows_of([900]), OnConflict.ERROR, timeout_ms=300)
    archived.round("a")
    assert archived.shippers["a"].lsn <= before
    archived.trio.stop("a")
    archived.trio.start("b")
    archived.trio.start("c")
    archived.trio.fail_over("b")
    archived.shippers |= {name: archived.shipper(name) for name in "bc"}
    archived.write("b")
    archived.ship("b")
    archived.trio.start("a")
    wait_for(lambda: archived.trio["a"].copy.end == archived.trio["b"].copy.end, "a follows", 60)
    archived.write("b")
    archived.ship("b")
    archived.check()


@pytest.mark.parametrize("before", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_killed_in_any_write_of_the_archive(archived: Archived, before: bool) -> None:
    store = archived.archive.repository.store
    for nth in range(1, 6):
        archived.write("a", 40)  # several pieces' worth of records
        dying = KilledStore(store, nth % 2 + 1, before=before)
        broken = Archive(Repository(dying, archived.archive.repository.id), CLUSTER)
        archived.shippers["a"].forget()
        try:
            archived.round("a", broken)
            archived.write("a", 1)
            archived.round("a", broken)
        except Killed:
            archived.shippers["a"] = archived.shipper("a")
    archived.ship("a")
    archived.check()


def test_two_that_ship_at_once_agree(archived: Archived) -> None:
    """A node that does not know yet that it is no primary any more ships what is committed."""
    archived.write("a")
    archived.ship("a")
    archived.write("a")
    archived.trio.all_show(range(10))
    late = archived.shipper("b")
    late.finish(archived.archive, lambda: False)  # all that b knows, whoever leads
    archived.write("a")
    archived.ship("a")  # it goes on behind its own last piece
    pieces = archived.archive.pieces(TABLE.uuid, 0)
    assert any(one.last >= two.first for one, two in itertools.pairwise(pieces))
    archived.check()
