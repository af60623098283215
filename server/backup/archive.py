"""The archive of a cluster's log in a repository: what was committed since a backup, all of it.

    archive/<cluster>/log/<table>/<shard>/<first>-<last>-<epoch>-<mark>-<newest>.log
                                            a piece: records `first` to `last` of a shard's log
    archive/<cluster>/catalogs/<at>-<index>.json
                                            tables, views and users from this moment on
    archive/<cluster>/nodes/<node>.json     how far a node has shipped, and until when that is all;
                                            of which moments it vouches that metadata is there

Numbers in names are hexadecimal; times are milliseconds since 1970 by the clocks of primaries. A
piece's name tells its last record, by epoch and `mark` (a hash of its header), and the newest time
in it: names are enough to know what the archive holds. Pieces may overlap: two primaries, one of
which does not know yet that it is none any more, both ship what is committed, which is the same.

The invariant is that nothing is in it that was not committed. Where histories part all the same (an
operator made a copy the primary that lacked something), those of the higher epoch count: `path`.

`reach_of` says how far a shard's archive goes: to the time of its last record, or further, where a
node has noted that until then there was none behind it. Metadata is known of the moments that
somebody vouches for (`Known`), and of no others.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from nearql.engine.errors import Conflict, Corruption, NotFound
from nearql.engine.storage.files import newer_format
from nearql.engine.storage.wal_format import ZERO_LINK
from nearql.engine.storage.wal_raw import RawRecord, pack_records, unpack_records
from nearql.server.backup.catalog import Catalog, unpack_catalog
from nearql.server.backup.manifest import sealed, unsealed
from nearql.server.backup.repository import Repository, damaged
from nearql.server.backup.store import Store, read_all

FORMAT = 1
ROOT = "archive"
_SMALL = 64 << 20
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_PIECE = re.compile(
    rf"archive/(?P<cluster>{_UUID})/log/(?P<table>{_UUID})/(?P<shard>[0-9]{{4}})/"
    r"(?P<first>[0-9a-f]{16})-(?P<last>[0-9a-f]{16})-(?P<epoch>[0-9a-f]{16})-"
    r"(?P<mark>[0-9a-f]{16})-(?P<newest>[0-9a-f]{12})[.]log"
)
_CATALOG = re.compile(
    rf"archive/{_UUID}/catalogs/(?P<at>[0-9a-f]{{12}})-(?P<index>[0-9a-f]{{16}})[.]json"
)


@dataclass(frozen=True, slots=True)
class Piece:
    """Records `first` to `last` of a shard. epoch, mark: of the last one; newest_ms: of all."""

    first: int
    last: int
    epoch: int
    mark: str
    newest_ms: int
    name: str = ""
    size: int = 0


@dataclass(frozen=True, slots=True)
class Reached:
    """What a node notes of a shard: after the record `lsn` none came up to `until_ms`."""

    lsn: int
    epoch: int
    mark: str
    until_ms: int


@dataclass(frozen=True, slots=True)
class Known:
    """Every change of metadata from since_ms to until_ms is here. since_version, version: those of
    metadata at both ends, or a moment later: equal ones tell that nothing came between.
    """

    since_ms: int
    until_ms: int
    since_version: int
    version: int


@dataclass(frozen=True, slots=True)
class Noted:
    """What a node's file says: of shards, each named by `shard_key`, and of metadata."""

    shards: Mapping[str, Reached] = field(default_factory=dict)
    known: tuple[Known, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """What is read of a piece: its records `first` to `last`."""

    piece: Piece
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class CatalogAt:
    """Metadata as it was from `at_ms` on. index: of the metadata's log."""

    at_ms: int
    index: int
    name: str


def mark_of(record: RawRecord) -> str:
    """16 hexadecimal digits that tell this record from any other of its LSN: a hash of its header,
    which has the payload's checksum, but for the link, which a node alone does not have.
    """
    header = record.header._replace(link=ZERO_LINK).pack()
    return hashlib.blake2b(header, digest_size=8).hexdigest()


def clusters(store: Store) -> list[str]:
    """Whose logs are in this repository; reads every name."""
    found = {stored.name.split("/")[1] for stored in store.list(ROOT)}
    return sorted(name for name in found if re.fullmatch(_UUID, name))


class Archive:
    """That of one cluster. Thread-safe; writes nothing but what it is told to."""

    def __init__(self, repository: Repository, cluster_id: str) -> None:
        self.repository, self.cluster_id = repository, cluster_id
        self._root = f"{ROOT}/{cluster_id}"

    # ---- Writing ---------------------------------------------------------------------------

    def put(self, table: str, shard: int, records: Sequence[RawRecord], before: str) -> Piece:
        """Keep these records. before: mark of the one before them, empty where nobody knows."""
        newest = max(record.header.timestamp_ms for record in records)
        first, last = records[0], records[-1]
        piece = Piece(first.lsn, last.lsn, last.epoch, mark_of(last), newest)
        name = (
            f"{self._folder(table, shard)}/{piece.first:016x}-{piece.last:016x}-"
            f"{piece.epoch:016x}-{piece.mark}-{newest:012x}.log"
        )
        head = orjson.dumps({"format": FORMAT, "before": before}) + b"\n"
        data = head + b"".join(bytes(part) for part in pack_records(records))
        sha256 = hashlib.sha256(data).hexdigest().encode() + b"\n"
        size = self.repository.store.put(name, [sha256, data])
        return Piece(piece.first, piece.last, piece.epoch, piece.mark, newest, name, size)

    def put_catalog(self, at_ms: int, index: int, catalog: Catalog) -> None:
        """From this moment on metadata is this."""
        name = f"{self._root}/catalogs/{at_ms:012x}-{index:016x}.json"
        data = catalog.pack()
        head = hashlib.sha256(data).hexdigest().encode() + b"\n"
        self.repository.store.put(name, [head, data])

    def put_reached(
        self, node: str, at_ms: int, shards: Mapping[str, Reached], known: Sequence[Known] = ()
    ) -> None:
        """What a node notes of its shards, each named by `shard_key`; before a gap, with `@<LSN>`
        behind that. known: all that it vouches for.
        """
        plain = {
            "format": FORMAT, "at": at_ms,
            "shards": {key: [r.lsn, r.epoch, r.mark, r.until_ms] for key, r in shards.items()},
            "known": [[k.since_ms, k.until_ms, k.since_version, k.version] for k in known],
        }  # fmt: skip
        self.repository.store.put(f"{self._root}/nodes/{node}.json", [sealed(plain)])

    # ---- What there is ---------------------------------------------------------------------

    def _folder(self, table: str, shard: int) -> str:
        return f"{self._root}/log/{table}/{shard:04d}"

    def pieces(self, table: str, shard: int) -> list[Piece]:
        """Of a shard, by their first record."""
        found = self.repository.store.list(self._folder(table, shard))
        return sorted(
            (piece for _, _, piece in _pieces((one.name, one.size) for one in found)),
            key=lambda piece: (piece.first, piece.last),
        )

    def all_pieces(self) -> dict[tuple[str, int], list[Piece]]:
        """Of all shards, by table and shard."""
        stored = self.repository.store.list(f"{self._root}/log")
        found: dict[tuple[str, int], list[Piece]] = {}
        for table, shard, piece in _pieces((one.name, one.size) for one in stored):
            found.setdefault((table, shard), []).append(piece)
        for pieces in found.values():
            pieces.sort(key=lambda piece: (piece.first, piece.last))
        return found

    def catalogs(self) -> list[CatalogAt]:
        """All of them, the oldest first."""
        found = []
        for stored in self.repository.store.list(f"{self._root}/catalogs"):
            if (name := _CATALOG.fullmatch(stored.name)) is not None:
                found.append(CatalogAt(int(name["at"], 16), int(name["index"], 16), stored.name))
        return sorted(found, key=lambda one: (one.index, one.at_ms))

    def catalog(self, one: CatalogAt) -> Catalog:
        """Raises Corruption where it is damaged."""
        data = read_all(self.repository.store, one.name, _SMALL)
        where = f"{self.repository.location}/{one.name}"
        head, _, body = data.partition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != head:
            raise damaged(f"{where} does not fit its checksum")
        return unpack_catalog(body, where)

    def notes(self) -> list[Noted]:
        """What every node has noted."""
        return [self.noted(one.name) for one in self.repository.store.list(f"{self._root}/nodes")]

    def reached(self, notes: Sequence[Noted] | None = None) -> dict[str, list[Reached]]:
        """What nodes have noted of shards, each named by `shard_key`. notes: where they are read
        already.
        """
        found: dict[str, list[Reached]] = {}
        for noted in self.notes() if notes is None else notes:
            for key, reached in noted.shards.items():
                found.setdefault(key.partition("@")[0], []).append(reached)
        return found

    def nodes(self) -> set[str]:
        """Ids of the nodes that archive here, or did."""
        found = self.repository.store.list(f"{self._root}/nodes")
        return {stored.name.rpartition("/")[2].removesuffix(".json") for stored in found}

    def noted_by(self, node: str) -> Noted:
        """What this node noted; nothing where it never did."""
        name = f"{self._root}/nodes/{node}.json"
        return self.noted(name) if self.repository.store.size(name) is not None else Noted()

    def noted(self, name: str) -> Noted:
        """What one of the files of nodes says.

        Raises:
            Corruption: it is damaged.
        """
        plain = unsealed(read_all(self.repository.store, name, _SMALL), name)
        if int(plain["format"]) > FORMAT:
            raise newer_format(name, int(plain["format"]), FORMAT)
        shards = {key: Reached(*values) for key, values in plain["shards"].items()}
        return Noted(shards, tuple(Known(*values) for values in plain.get("known", ())))

    # ---- Reading ---------------------------------------------------------------------------

    def read(self, piece: Piece) -> tuple[str, list[RawRecord]]:
        """(mark of the record before, records).

        Raises:
            Corruption: code `backup_damaged`; names the piece.
        """
        where = f"{self.repository.location}/{piece.name}"
        try:
            data = b"".join(self.repository.store.get(piece.name))
        except NotFound:
            raise damaged(f"{where} is missing") from None
        head, _, body = data.partition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != head:
            raise damaged(f"{where} does not fit its checksum")
        told, _, packed = body.partition(b"\n")
        plain = orjson.loads(told)
        if int(plain["format"]) > FORMAT:
            raise newer_format(where, int(plain["format"]), FORMAT)
        records = unpack_records(packed)
        if [r.lsn for r in records] != list(range(piece.first, piece.last + 1)):
            raise damaged(f"{where} has other records than its name says")
        return str(plain["before"]), records

    def records(
        self, parts: Sequence[Part], link: bytes, epoch: int = 0,
        advance: Callable[[int], None] = lambda _: None,
    ) -> Iterator[RawRecord]:  # fmt: skip
        """Of a path, each following the one before it.

        link, epoch: of the backup's last record, which they follow; zeros where nobody knows.
        advance: told the bytes of each piece that was read; may raise.

        Raises:
            Conflict: code `backup_given_up`: a later epoch begins before the backup's end, in a
                copy that lacked what the backup has. Corruption: code `backup_damaged`; also where
                a piece is of another history otherwise.
        """
        before = ""
        for part in parts:
            told, records = self.read(part.piece)
            advance(part.piece.size)
            skipped = part.first - part.piece.first
            known = mark_of(records[skipped - 1]) if skipped else told
            if before and known and known != before:
                raise _parted(self.repository, part)
            for record in records[skipped : part.last - part.piece.first + 1]:
                has_links = link != ZERO_LINK and record.previous_link != ZERO_LINK
                if has_links and record.previous_link != link:
                    if not before and record.epoch > epoch:
                        raise _given_up(self.repository, part, record)
                    raise _parted(self.repository, part)
                link = record.link if record.previous_link != ZERO_LINK else ZERO_LINK
                before = mark_of(record)
                yield record


def _pieces(stored: Iterator[tuple[str, int]]) -> Iterator[tuple[str, int, Piece]]:
    """(table, shard, piece); what else people put there is none."""
    for name, size in stored:
        if (found := _PIECE.fullmatch(name)) is not None:
            first, last, epoch, newest = (
                int(found[key], 16) for key in ("first", "last", "epoch", "newest")
            )
            piece = Piece(first, last, epoch, found["mark"], newest, name, size)
            yield found["table"], int(found["shard"]), piece


def shard_key(table: str, shard: int) -> str:
    """How files of nodes name a shard."""
    return f"{table}/{shard}"


def path(pieces: Sequence[Piece], after: int, epoch: int = 0) -> list[Part]:
    """What to read behind this LSN, each record once, up to the end or to a gap. pieces: by their
    first record. epoch: of the record at `after`.

    Of pieces that overlap, a higher epoch counts from where it begins: it survived. Behind it a
    lower one is never gone on with: that is what was lost when histories parted.
    """
    parts: list[Part] = []
    begun: list[tuple[int, int, int]] = []  # a heap: the highest epoch first, then the longest
    wanted, at = after + 1, 0
    while True:
        while at < len(pieces) and pieces[at].first <= wanted:
            heapq.heappush(begun, _order(pieces, at))
            at += 1
        while begun and -begun[0][1] < wanted:
            heapq.heappop(begun)
        if not begun or -begun[0][0] < epoch:
            return parts
        best = pieces[begun[0][2]]
        last, epoch = best.last, best.epoch
        while at < len(pieces) and pieces[at].first <= best.last:
            if pieces[at].epoch > epoch:
                last = pieces[at].first - 1
                break
            heapq.heappush(begun, _order(pieces, at))
            at += 1
        parts.append(Part(best, wanted, last))
        wanted = last + 1


def _order(pieces: Sequence[Piece], at: int) -> tuple[int, int, int]:
    return -pieces[at].epoch, -pieces[at].last, at


def reach_of(parts: Sequence[Part], base: Reached | None, noted: Sequence[Reached]) -> int | None:
    """Until when, in ms, a path holds everything; None where nothing says.

    base: the place and time of the backup that it follows. noted: by nodes.
    """
    times = []
    if parts:
        tip = parts[-1].piece
        times.append(tip.newest_ms - 1)  # another record of the same millisecond may follow
        times += [n.until_ms for n in noted if (n.lsn, n.mark) == (tip.last, tip.mark)]
    elif base is not None:
        times.append(base.until_ms)
        times += [n.until_ms for n in noted if (n.lsn, n.epoch) == (base.lsn, base.epoch)]
    else:
        times += [n.until_ms for n in noted if n.lsn == 0]
    return max(times, default=None)


def _given_up(repository: Repository, part: Part, record: RawRecord) -> Conflict:
    return Conflict(
        f"The backup in {repository.location} has records, up to LSN {record.lsn - 1}, that were "
        f"given up after it was taken: an unclean failover (epoch {record.epoch}) made a copy the "
        f"primary that lacked them, and {part.piece.name} follows that copy's log. Restore this "
        "backup as it is, without a moment; or choose a moment with --backup and an earlier "
        "backup, or with one that was taken after the failover.",
        code="backup_given_up", shard_lsn=record.lsn - 1, epoch=record.epoch,
    )  # fmt: skip


def _parted(repository: Repository, part: Part) -> Corruption:
    return damaged(
        f"{repository.location}/{part.piece.name} is of another history of the shard than what it "
        "follows"
    )
