"""What a backup says of itself: one text file, written last, with a checksum over all of it.

    line 1    sha256 of everything after it, in hexadecimal
    rest      JSON: the members of `BackupManifest`

Objects are named by the SHA-256 of their bytes, so a manifest that fits its checksum vouches for
every byte that it names. Hashes and links are hexadecimal, times milliseconds since 1970.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from nearql.cluster.metadata.codec import from_plain, to_plain
from nearql.engine.errors import Corruption
from nearql.engine.storage.files import newer_format

FORMAT = 1
_HASH = re.compile(r"[0-9a-f]{64}")
_FILE = re.compile(r"(segment|tombstones|dedup)-[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Blob:
    """An object. sha256: its name, too."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class NamedBlob:
    """A file of a checkpoint, under the name by which the checkpoint's own manifest knows it."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class LogPiece:
    """Records `first` to `last` of a shard's log, as `wal_raw.pack_records` makes them."""

    first: int
    last: int
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class ShardBackup:
    """A shard at LSN `lsn`: a checkpoint of `base_lsn`, and the log from there.

    epoch, link: of the record `lsn`; on a node alone links are zeros. state: the checkpoint's
    manifest. dense, first to last: `log` has every record of base_lsn + 1 to lsn.
    """

    number: int
    lsn: int
    epoch: int
    link: str
    base_lsn: int
    state: Blob
    files: tuple[NamedBlob, ...] = ()
    log: tuple[LogPiece, ...] = ()

    def blobs(self) -> Iterator[Blob]:
        """Every object that it needs."""
        yield self.state
        yield from (Blob(file.sha256, file.size) for file in self.files)
        yield from (Blob(piece.sha256, piece.size) for piece in self.log)


@dataclass(frozen=True, slots=True)
class TableBackup:
    """A table; its definition is in the catalog."""

    uuid: str
    name: str
    shards: tuple[ShardBackup, ...]


@dataclass(frozen=True, slots=True)
class BackupManifest:
    """A whole backup.

    repository: the id of the one it was made in. cut_ms: the clock at the instant that it shows.
    catalog: object with tables, views and users, see `catalog`. new_bytes: what this backup added.
    """

    id: str
    repository: str
    cluster_id: str
    node: str
    nearql: str
    cut_ms: int
    ended_ms: int
    catalog: Blob
    tables: tuple[TableBackup, ...]
    new_bytes: int = 0
    format: int = FORMAT

    def blobs(self) -> Iterator[Blob]:
        """Every object that it needs; some of them twice."""
        yield self.catalog
        for table in self.tables:
            for shard in table.shards:
                yield from shard.blobs()

    @property
    def nbytes(self) -> int:
        """Of all that it needs, each object once."""
        return sum({blob.sha256: blob.size for blob in self.blobs()}.values())

    def pack(self) -> bytes:
        """As the file holds it."""
        return sealed(to_plain(self))


def unpack(data: bytes, where: str) -> BackupManifest:
    """What `pack` made.

    Raises:
        Corruption: names the file. Unavailable: code `newer_format`.
    """
    plain = unsealed(data, where)
    try:
        if int(plain["format"]) > FORMAT:
            raise newer_format(where, int(plain["format"]), FORMAT)
        found = from_plain(BackupManifest, plain)
        _check_names(found)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Corruption(f"{where} is no manifest of a backup: {error!r}.", file=where) from error
    return found


def _check_names(manifest: BackupManifest) -> None:
    """Names become paths: only those that we make ourselves are taken."""
    for blob in manifest.blobs():
        if not _HASH.fullmatch(blob.sha256) or blob.size < 0:
            raise ValueError(f"object {blob.sha256!r}")
    for table in manifest.tables:
        for shard in table.shards:
            for file in shard.files:
                if not _FILE.fullmatch(file.name):
                    raise ValueError(f"file {file.name!r}")


def sealed(plain: Any) -> bytes:
    """JSON below its checksum."""
    body = orjson.dumps(plain, option=orjson.OPT_INDENT_2) + b"\n"
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def unsealed(data: bytes, where: str) -> Any:
    """What `sealed` was given.

    Raises:
        Corruption: names the file.
    """
    checksum, _, body = data.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != checksum:
        raise Corruption(f"{where} is damaged: its checksum does not fit.", file=where)
    return orjson.loads(body)
