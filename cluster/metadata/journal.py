"""Durable bytes of the metadata log on one disk: a journal of entries behind a snapshot.

    journal   "NQMJ0001", then entries: | magic 4 | length 4 | crc32c 4 | index 8 | payload |
    snapshot  | crc32c 4 | packed {"index", "state"} |

Invariants: an entry is answered only after its fdatasync; indexes rise by one; entries at or
below the snapshot's index are history. At start a bad entry at the very end is a torn write that
was never answered, and is cut; a bad entry with a good one behind it is damage, and is reported,
never cut.

Compaction writes the snapshot first and the shorter journal second, each whole or not at all, so
that a crash between them leaves only entries that the snapshot already covers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import crc32c

from nearql.cluster.metadata.codec import pack, unpack
from nearql.engine.errors import Corruption, InternalError
from nearql.engine.storage.files import FileSystem, is_full, storage_full, write_new

HEADER = b"NQMJ0001"
_MAGIC = b"NQme"
_ENTRY = struct.Struct("<4sIIQ")
COMPACT_BYTES = 4 << 20


class Journal:
    """An append-only file of numbered entries. Not thread-safe: one owner appends."""

    def __init__(
        self, directory: Path, fs: FileSystem, on_fatal: Callable[[str], NoReturn]
    ) -> None:
        """Open or create, and recover.

        After this, `snapshot` is the newest snapshot's plain state or None, and `entries` are the
        payloads behind it, in order, the first with index `snapshot_index + 1`.

        Raises:
            Corruption: damage that is not a torn end; or a newer format (code `newer_format`).
        """
        self._fs, self._on_fatal = fs, on_fatal
        self._path, self._snapshot_path = directory / "journal", directory / "snapshot"
        fs.make_directory(directory)
        self.snapshot_index, self.snapshot = self._load_snapshot()
        if not fs.exists(self._path):
            write_new(fs, self._path, [HEADER])
        self.entries, self._end = self._recover()
        self.last_index = self.snapshot_index + len(self.entries)
        self._handle = fs.open(self._path)
        if fs.size(self._path) > self._end:  # a torn entry; nothing of it was ever answered
            fs.truncate(self._handle, self._end)
            self._sync()

    @property
    def size_bytes(self) -> int:
        """Length of the journal file."""
        return self._end

    def append(self, payload: bytes) -> int:
        """Make one entry durable; its index.

        Raises:
            StorageFull: nothing was written. A failed fsync ends the process by `on_fatal`.
        """
        index = self.last_index + 1
        entry = _ENTRY.pack(_MAGIC, len(payload), crc32c.crc32c(payload), index)
        try:
            self._fs.pwritev(self._handle, [entry, payload], self._end)
        except OSError as error:
            self._fs.truncate(self._handle, self._end)
            if is_full(error):
                raise storage_full(self._path, "a change of metadata") from error
            raise InternalError(f"Writing {self._path} failed: {error}.") from error
        self._sync()
        self._end += len(entry) + len(payload)
        self.last_index = index
        return index

    def compact(self, plain_state: object) -> None:
        """Replace all entries by a snapshot of the state that they lead to."""
        body = pack({"index": self.last_index, "state": plain_state})
        checksum = struct.pack("<I", crc32c.crc32c(body))
        write_new(self._fs, self._snapshot_path, [checksum, body])
        self.snapshot_index = self.last_index
        write_new(self._fs, self._path, [HEADER])
        self._fs.close(self._handle)
        self._handle = self._fs.open(self._path)
        self._end = len(HEADER)

    def close(self) -> None:
        """Close the file; everything in it is durable already."""
        self._fs.close(self._handle)

    def _sync(self) -> None:
        try:
            self._fs.fdatasync(self._handle)
        except OSError as error:
            self._on_fatal(f"fsync of {self._path} failed ({error}); its pages may be lost")

    def _load_snapshot(self) -> tuple[int, object | None]:
        if not self._fs.exists(self._snapshot_path):
            return 0, None
        data = bytes(self._fs.map(self._snapshot_path))
        if len(data) < 4 or struct.unpack("<I", data[:4])[0] != crc32c.crc32c(data[4:]):
            raise Corruption(
                f"The metadata snapshot {self._snapshot_path} fails its checksum; restore the file "
                "from a backup of the data directory."
            )
        plain = unpack(data[4:])
        return int(plain["index"]), plain["state"]

    def _recover(self) -> tuple[list[bytes], int]:
        data = bytes(self._fs.map(self._path))
        if not data.startswith(HEADER):
            raise Corruption(f"{self._path} is no metadata journal of this version.")
        entries: list[bytes] = []
        position, expected = len(HEADER), None
        while (found := _entry_at(data, position)) is not None:
            index, payload = found
            if expected is not None and index != expected:
                raise Corruption(f"{self._path}: entry {index} at byte {position} follows a gap.")
            expected = index + 1
            if index > self.snapshot_index:
                entries.append(payload)
            position += _ENTRY.size + len(payload)
        if entries and expected != self.snapshot_index + len(entries) + 1:
            raise Corruption(
                f"{self._path} starts behind the snapshot's index; entries are missing."
            )
        self._refuse_damage(data, position)
        return entries, position

    def _refuse_damage(self, data: bytes, position: int) -> None:
        """A good entry behind the bad one at `position` proves damage rather than a torn write."""
        later = data.find(_MAGIC, position + 1)
        while later >= 0:
            if _entry_at(data, later) is not None:
                raise Corruption(
                    f"{self._path} is damaged at byte {position}: a valid entry follows at byte "
                    f"{later}, so this is no torn write. Nothing was cut; restore the file from a "
                    "backup of the data directory."
                )
            later = data.find(_MAGIC, later + 1)


def _entry_at(data: bytes, position: int) -> tuple[int, bytes] | None:
    """(index, payload) of the whole, valid entry that starts at `position`, else None."""
    if position + _ENTRY.size > len(data):
        return None
    magic, length, checksum, index = _ENTRY.unpack_from(data, position)
    start = position + _ENTRY.size
    payload = data[start : start + length]
    if magic != _MAGIC or len(payload) != length or crc32c.crc32c(payload) != checksum:
        return None
    return index, payload
