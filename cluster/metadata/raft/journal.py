"""The log of one Raft member on its disk: entries, votes, and a snapshot that stands for the past.

    file    | "NQRJ0001" | file id 16 | frame | frame | ...
    frame   | magic 4 | crc32c 4 | length 4 | records |       crc over file id, length and records
    record  | kind 1 | length 4 | payload |

A frame is what one `sync` writes, followed by one fdatasync. So only the last frame of a file can
be torn, whatever order its pages reach the disk in; a bad frame with a good one behind it is
damage, and is reported, never cut. The file id makes it impossible that bytes inside a command pass
for a frame.

Everything that shortens the log from the front (compaction, a snapshot from the leader) writes a
new file with the snapshot, the vote and the entries kept, and renames it over the old one: the
three can never disagree after a crash. Opening does the same, so that bytes which a killed process
left in the kernel's cache are on the disk before this member answers for them.

Example: add twice, sync          | header | [VOTE COMMIT] | [ADD ADD] |
         truncate to 1, add, sync  ...                     | [TRUNCATE ADD COMMIT] |
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

import crc32c

from nearql.engine.errors import Corruption, NearQLError
from nearql.engine.storage.files import Buffer, FileSystem, is_full, newer_format, write_new

MAGIC = b"NQRJ0001"
_FAMILY, _FRAME_MAGIC = MAGIC[:4], b"NQrf"
_FRAME = struct.Struct("<4sII")
_RECORD = struct.Struct("<BI")
_ENTRY = struct.Struct("<QQ")  # index, term
_NUMBER = struct.Struct("<Q")
_FILE_ID_BYTES = 16
_SNAPSHOT, _ADD, _TRUNCATE, _VOTE, _COMMIT = 1, 2, 3, 4, 5


class Entry(NamedTuple):
    """One entry of the log, in the order that PySyncObj has them in."""

    command: bytes
    log_index: int
    term: int


def _random_id() -> bytes:
    return os.urandom(_FILE_ID_BYTES)


class RaftJournal:
    """Entries in memory and on disk. What is added is durable after `sync`. One thread uses it."""

    def __init__(
        self,
        path: Path,
        fs: FileSystem,
        on_fatal: Callable[[str], NoReturn],
        new_file_id: Callable[[], bytes] = _random_id,
    ) -> None:
        """Open or create, and recover.

        Raises:
            Corruption: damage that is not a torn end. Unavailable: a newer format.
            StorageFull: no room.
        """
        self._path, self._fs, self._on_fatal, self._new_file_id = path, fs, on_fatal, new_file_id
        self.entries: list[Entry] = []
        self.snapshot: bytes | None = None
        self.term, self.vote, self.commit_index = 0, "", 1
        self.syncs = 0  # fdatasyncs since opening
        self._pending: list[bytes] = []
        self._committed_on_disk = 1
        self._adopting: bytes | None = None  # a snapshot for the next new file
        self._replacing = False
        self._handle = -1
        fs.make_directory(path.parent)
        self.existed = fs.exists(path)
        if self.existed:
            self._recover(bytes(fs.map(path)))
        self._rewrite()

    # ---- what the Raft rules ask for ------------------------------------------------------------

    def add(self, command: bytes, index: int, term: int) -> None:
        """Append an entry; durable after `sync`."""
        self.entries.append(Entry(command, index, term))
        self._record(_ADD, _ENTRY.pack(index, term) + command)

    def truncate_from(self, position: int) -> None:
        """Drop the entries from this position of `entries` on."""
        if position < len(self.entries):
            self._record(_TRUNCATE, _NUMBER.pack(self.entries[position].log_index))
            del self.entries[position:]

    def set_vote(self, term: int, vote: str) -> None:
        """Enter a term, having voted for this member in it, or for none ("")."""
        self.term, self.vote = term, vote
        self._record(_VOTE, _NUMBER.pack(term) + vote.encode())

    def set_commit_index(self, index: int) -> None:
        """Remember what is committed; written with the next sync that has something else to write.

        It only makes the next start quicker, so it costs no fsync of its own.
        """
        self.commit_index = index

    def stage_snapshot(self, snapshot: bytes) -> None:
        """The snapshot that the next `compact_to` or `clear` puts in place of what it drops."""
        self._adopting = snapshot

    def compact_to(self, position: int) -> None:
        """Drop the entries before this position, which the staged snapshot covers; durable."""
        self.entries = self.entries[position:]
        self._rewrite()

    def clear(self) -> None:
        """Drop every entry: a snapshot from the leader takes their place with the next `sync`."""
        self.entries = []
        self._replacing = True

    def sync(self) -> None:
        """Make everything durable, before anything leaves this member; ends the process if not."""
        if self._replacing:
            self._rewrite()
        elif self._pending:
            self._write_frame()

    def close(self) -> None:
        """Sync and close."""
        self.sync()
        self._fs.close(self._handle)
        self._handle = -1

    def unique_number(self) -> int:
        """Up to 56 bits that no other opening of this log had, nor will have."""
        return int.from_bytes(self._file_id[:7], "little")

    @property
    def unsynced(self) -> bool:
        """Whether anything awaits the next `sync`."""
        return self._replacing or bool(self._pending)

    @property
    def size_bytes(self) -> int:
        """Length of the file without what is not written yet."""
        return self._end

    # ---- bytes ----------------------------------------------------------------------------------

    def _record(self, kind: int, payload: bytes) -> None:
        self._pending.append(_RECORD.pack(kind, len(payload)) + payload)

    def _write_frame(self) -> None:
        if self.commit_index != self._committed_on_disk:
            self._record(_COMMIT, _NUMBER.pack(self.commit_index))
            self._committed_on_disk = self.commit_index
        frame = self._frame(self._pending)
        self._pending = []
        try:
            self._fs.pwritev(self._handle, frame, self._end)
            self._fs.fdatasync(self._handle)
        except OSError as error:
            self._fail(error)
        self._end += sum(map(len, frame))
        self.syncs += 1

    def _frame(self, records: list[bytes]) -> list[Buffer]:
        body = b"".join(records)
        checksum = _checksum(self._file_id, body)
        return [_FRAME.pack(_FRAME_MAGIC, checksum, len(body)), body]

    def _rewrite(self) -> None:
        """A new file with what is in memory, in the place of the old one."""
        if self._adopting is not None:
            self.snapshot, self._adopting = self._adopting, None
        self._file_id = self._new_file_id()
        self._pending = []
        if self.snapshot is not None:
            self._record(_SNAPSHOT, self.snapshot)
        self._record(_VOTE, _NUMBER.pack(self.term) + self.vote.encode())
        self._record(_COMMIT, _NUMBER.pack(self.commit_index))
        for entry in self.entries:
            self._record(_ADD, _ENTRY.pack(entry.log_index, entry.term) + entry.command)
        content: list[Buffer] = [MAGIC, self._file_id, *self._frame(self._pending)]
        self._pending, self._replacing = [], False
        self._committed_on_disk = self.commit_index
        try:
            write_new(self._fs, self._path, content)
        except (OSError, NearQLError) as error:
            self._fail(error)
        if self._handle >= 0:
            self._fs.close(self._handle)
        self._handle = self._fs.open(self._path)
        self._end = sum(map(len, content))
        self.syncs += 1

    def _fail(self, error: Exception) -> NoReturn:
        """After a failed write or fsync nobody knows what the disk holds: only a new start does."""
        if isinstance(error, OSError) and is_full(error):
            self._on_fatal(
                f"no space left for the metadata log {self._path}: free some space; this node "
                "takes no part in metadata until then"
            )
        self._on_fatal(f"writing {self._path} failed ({error}); its pages may be lost")

    # ---- recovery -------------------------------------------------------------------------------

    def _recover(self, data: bytes) -> None:
        if not data.startswith(MAGIC):
            if data.startswith(_FAMILY) and data[4:8].isdigit():
                found, known = int(data[4:8]), int(MAGIC[4:8])
                raise newer_format(f"metadata log {self._path}", found, known)
            raise Corruption(f"{self._path} is no metadata log.", code="metadata_corrupt")
        start = len(MAGIC) + _FILE_ID_BYTES
        self._file_id = data[len(MAGIC) : start]
        position = start
        while (body := self._frame_at(data, position)) is not None:
            for kind, payload in _records(body):
                self._replay(kind, payload)
            position += _FRAME.size + len(body)
        if position == start:
            raise self._damaged(position, "its first part is bad, which was written whole")
        self._refuse_damage(data, position)
        if self.entries:  # what was committed may have been written later than what it commits
            self.commit_index = min(self.commit_index, self.entries[-1].log_index)

    def _frame_at(self, data: bytes, position: int) -> bytes | None:
        """The records of the whole, valid frame that starts here, else None."""
        if position + _FRAME.size > len(data):
            return None
        magic, checksum, length = _FRAME.unpack_from(data, position)
        body = data[position + _FRAME.size : position + _FRAME.size + length]
        whole = magic == _FRAME_MAGIC and len(body) == length
        return body if whole and checksum == _checksum(self._file_id, body) else None

    def _replay(self, kind: int, payload: bytes) -> None:
        if kind == _ADD:
            index, term = _ENTRY.unpack_from(payload)
            if self.entries and index != self.entries[-1].log_index + 1:
                raise self._damaged(0, f"entry {index} follows entry {self.entries[-1].log_index}")
            self.entries.append(Entry(payload[_ENTRY.size :], index, term))
        elif kind == _TRUNCATE:
            (index,) = _NUMBER.unpack(payload)
            while self.entries and self.entries[-1].log_index >= index:
                self.entries.pop()
        elif kind == _VOTE:
            self.term, self.vote = _NUMBER.unpack_from(payload)[0], payload[8:].decode()
        elif kind == _COMMIT:
            (self.commit_index,) = _NUMBER.unpack(payload)
        elif kind == _SNAPSHOT:
            self.snapshot = payload
        else:
            raise newer_format(f"metadata log {self._path} (record kind {kind})", kind, _COMMIT)

    def _refuse_damage(self, data: bytes, position: int) -> None:
        """A good frame behind the bad one at `position` proves damage rather than a torn write."""
        later = data.find(_FRAME_MAGIC, position + 1)
        while later >= 0:
            if self._frame_at(data, later) is not None:
                raise self._damaged(position, f"valid data follow at byte {later}")
            later = data.find(_FRAME_MAGIC, later + 1)

    def _damaged(self, position: int, why: str) -> Corruption:
        return Corruption(
            f"The metadata log {self._path} is damaged at byte {position}: {why}, so this is no "
            "torn write. Nothing was cut. If the other voters are well, put this node's metadata "
            "folder aside and start it again: it learns everything from them.",
            code="metadata_corrupt",
        )


def _checksum(file_id: bytes, body: bytes) -> int:
    return crc32c.crc32c(body, crc32c.crc32c(file_id + _NUMBER.pack(len(body))))


def _records(body: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(body):
        kind, length = _RECORD.unpack_from(body, position)
        start = position + _RECORD.size
        yield kind, body[start : start + length]
        position = start + length
