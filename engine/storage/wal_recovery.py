"""What a log found on disk is: whole, torn at its end, or corrupt; and how it is taken over.

A write that was never acknowledged may be torn by a crash, and is cut off. A record that was
durable once must never be cut off, however it is damaged now. The two are told apart at the first
bad record, LSN b, in this order:

    b <= wal.hint                                        it was durable           corrupt
    its header is good, but of another place or log      no crash does that       corrupt
    a good record r > b follows within 32 MiB, and
        r's group began after b                          b was synced before r    corrupt
        the machine has not restarted since              a dying process tears
                                                         only the end             corrupt
        whether it has is not known                      to be safe               corrupt
        it has (power loss)                              pages of one group reach
                                                         the disk in any order,
                                                         b was not acknowledged   torn
    otherwise                                                                     torn

Only the last file can be torn: a new one is made when all before it is durable (`Wal._roll`). Older
files are verified when they are read. On why a corrupt middle must not be cut see "Protocol-Aware
Recovery for Consensus-Based Storage", FAST 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from nearql.engine import errors
from nearql.engine.storage.files import Buffer, FileSystem, is_full
from nearql.engine.storage.wal_file import (
    FIRST_ALLOCATION,
    WAL_SUFFIX,
    ActiveFile,
    WalFile,
    file_name,
    make_file,
    publish_file,
)
from nearql.engine.storage.wal_format import (
    FILE_HEADER_BYTES,
    RECORD_HEADER_BYTES,
    FileHeader,
    LogIdentity,
    unpack_file_header,
)
from nearql.engine.storage.wal_hint import WalHint, read_hint
from nearql.engine.storage.wal_scan import (
    WINDOW_BYTES,
    BadRecord,
    ChainPosition,
    LogFileReader,
    corrupt_record,
    later_records,
    moved,
    read_record,
)

SEARCH_BYTES = 32 << 20  # how far a good record after a bad one is looked for


@dataclass(frozen=True, slots=True)
class FoundLog:
    """A log on disk, inspected without touching it.

    files: in order; the last is the active one, of `size` bytes.
    end: position after the last good record.
    proven: position after the last record known to be durable; not after `end`.
    records: how many of the active file were scanned. torn_bytes: what a crash left after `end`.
    clean: it was closed properly and nothing followed.
    """

    files: tuple[WalFile, ...]
    size: int
    end: ChainPosition
    proven: ChainPosition
    records: int
    torn_bytes: int
    clean: bool


def inspect_log(fs: FileSystem, directory: Path, identity: LogIdentity) -> FoundLog | None:
    """Find out what is there; None where no log was ever made.

    Raises:
        Corruption: names file, offset and LSN.
        Unavailable: code `newer_format`.
    """
    hint = read_hint(fs, directory)
    files = _find_files(fs, directory, identity)
    if not files:
        if hint is not None and hint.durable_lsn > 0:
            raise _missing(directory, f"no WAL file, though LSN {hint.durable_lsn} was durable")
        return None
    reader = LogFileReader(fs, files[-1].path, files[-1].header.format)
    try:
        return _closed_cleanly(files, reader, hint) or _scan(
            files, reader, identity.tag, hint=hint, boot_id=fs.boot_id()
        )
    finally:
        reader.close()


def _find_files(fs: FileSystem, directory: Path, identity: LogIdentity) -> tuple[WalFile, ...]:
    """The log's files in order, headers verified, none missing in between."""
    names = [n for n in fs.names(directory) if n.endswith(WAL_SUFFIX)]
    files = [_read_file_header(fs, directory / name, identity) for name in names]
    for before, after in zip(files, files[1:], strict=False):
        if after.header.previous_base != before.base_lsn:
            wanted = file_name(after.header.previous_base)
            raise _missing(directory, f"{wanted} between {before.path.name} and {after.path.name}")
    return tuple(files)


def _read_file_header(fs: FileSystem, path: Path, identity: LogIdentity) -> WalFile:
    handle = fs.open(path)
    try:
        data = fs.pread(handle, FILE_HEADER_BYTES, 0)
    finally:
        fs.close(handle)
    header = unpack_file_header(data, identity, str(path))
    if isinstance(header, FileHeader) and path.name != file_name(header.base_lsn):
        header = f"its header says that it begins with LSN {header.base_lsn}"
    if isinstance(header, str):
        raise errors.Corruption(
            f"WAL file {path} is corrupt at offset 0: {header}; "
            "restore this copy from a backup or another node",
            file=str(path),
            offset=0,
        )
    return WalFile(path, header)


def _missing(directory: Path, what: str) -> errors.Corruption:
    return errors.Corruption(
        f"the WAL in {directory} is incomplete: it lacks {what}; "
        "restore this copy from a backup or another node",
        file=str(directory),
    )


def _closed_cleanly(
    files: tuple[WalFile, ...], reader: LogFileReader, hint: WalHint | None
) -> FoundLog | None:
    """Trust the hint of a clean close, if it fits what is there: the log need not be scanned."""
    if hint is None or not hint.clean or hint.base_lsn != files[-1].base_lsn:
        return None
    if hint.offset > reader.size or any(reader.peek(hint.offset, RECORD_HEADER_BYTES)):
        return None
    end = ChainPosition(hint.durable_lsn + 1, hint.epoch, hint.link, hint.offset)
    return FoundLog(files, reader.size, end, end, records=0, torn_bytes=0, clean=True)


def _scan(
    files: tuple[WalFile, ...],
    reader: LogFileReader,
    tag: bytes,
    *,
    hint: WalHint | None,
    boot_id: bytes,
) -> FoundLog:
    """Verify the active file up to its end, and decide what the end is."""
    durable_lsn = hint.durable_lsn if hint is not None else 0
    at = proven = ChainPosition.start_of(files[-1].header)
    records = 0
    while not isinstance(found := read_record(reader, at, tag), BadRecord):
        at = found[2]
        records += 1
        if at.lsn - 1 <= durable_lsn:
            proven = at
    same_boot = hint is None or not any(hint.boot_id) or hint.boot_id == boot_id
    _refuse_corruption(reader, at, found, tag, durable_lsn=durable_lsn, same_boot=same_boot)
    garbage = _garbage_bytes(reader, at.offset)
    return FoundLog(
        files, reader.size, at, proven, records=records, torn_bytes=garbage, clean=False
    )


def _refuse_corruption(
    reader: LogFileReader,
    at: ChainPosition,
    bad: BadRecord,
    tag: bytes,
    *,
    durable_lsn: int,
    same_boot: bool,
) -> None:
    """Raise where the bad record at a position was durable once; see the table above."""
    if at.lsn <= durable_lsn:
        reason = f"{bad.reason}, though {reader.path.parent}/wal.hint says it was durable"
        raise corrupt_record(reader, at, reason)
    if bad.foreign:
        raise corrupt_record(reader, at, bad.reason)
    for later in later_records(reader, at, tag, SEARCH_BYTES):
        if same_boot or later.lsn - later.group_back > at.lsn:
            reason = f"{bad.reason}, though the record with LSN {later.lsn} after it is good"
            raise corrupt_record(reader, at, reason)


def _garbage_bytes(reader: LogFileReader, start: int) -> int:
    """Bytes from `start` to the last one in the file that is not zero."""
    end = offset = start
    while offset < reader.size:
        chunk = bytes(reader.view(offset, WINDOW_BYTES))
        kept = len(chunk.rstrip(b"\0"))
        end = offset + kept if kept else end
        offset += len(chunk)
    return end - start


class TakenOver(NamedTuple):
    """A log ready to be written.

    files: all of them, the active one last. written: position after its last record.
    copied_bytes: what `take_over` rewrote.
    """

    files: list[WalFile]
    active: ActiveFile
    written: ChainPosition
    copied_bytes: int


def take_over(
    fs: FileSystem, directory: Path, identity: LogIdentity, found: FoundLog, *, limit: int
) -> TakenOver:
    """Cut a torn end off, and make sure that the disk has the rest. Errors are `OSError`."""
    if found.end != found.proven:
        return _rescue(fs, directory, identity, found, limit=limit)
    files = list(found.files)
    end = found.end.offset
    active = ActiveFile(fs, files[-1], limit=limit, allocated=found.size, end_offset=end)
    if found.torn_bytes:
        active.cut()
    active.release()
    return TakenOver(files, active, found.end, 0)


def _rescue(
    fs: FileSystem, directory: Path, identity: LogIdentity, found: FoundLog, *, limit: int
) -> TakenOver:
    """Copy the records that are not proven durable into a new file, and go on there.

    The page cache may show data that the disk has lost, after a failed fsync for example, and
    another fsync of the same pages would not tell.
    """
    old, start = found.files[-1], found.proven
    replaces = start.lsn == old.base_lsn
    previous = old.header.previous_base if replaces else old.base_lsn
    header = FileHeader(start.lsn, start.epoch, start.link, previous, old.header.format)
    make = partial(make_file, fs, directory, header, identity, limit=limit)
    reader = LogFileReader(fs, old.path, old.header.format)
    try:
        active = _made(make, partial(_chunks, reader, start.offset, found.end.offset))
        if active is None:
            return _rewrite(fs, found, reader, limit=limit)
        publish_file(fs, active.file)
    finally:
        reader.close()
    files = [*(found.files[:-1] if replaces else found.files), active.file]
    written = moved(found.end, active.end_offset)
    return TakenOver(files, active, written, found.end.offset - start.offset)


def _made(
    make: Callable[..., ActiveFile], records: Callable[[], Iterator[Buffer]]
) -> ActiveFile | None:
    """The file with these records, as roomy as the disk allows; None where it allows none."""
    for allocation in (FIRST_ALLOCATION, 0):
        try:
            return make(allocation=allocation, records=records())
        except OSError as error:
            if not is_full(error):
                raise
    return None


def _rewrite(fs: FileSystem, found: FoundLog, reader: LogFileReader, *, limit: int) -> TakenOver:
    """Write the records that are not proven durable once more where they stand, which takes no
    room: their pages must then be written again, so that a sync tells whether the disk has them.

    A full disk must not keep the server from starting, or nobody could make room.
    """
    files, start, end = list(found.files), found.proven.offset, found.end.offset
    active = ActiveFile(fs, files[-1], limit=limit, allocated=found.size, end_offset=end)
    for offset in range(start, end, WINDOW_BYTES):
        same = bytes(reader.view(offset, min(WINDOW_BYTES, end - offset)))
        active.write([same], offset)
    if found.torn_bytes:
        active.cut()
    active.release()
    return TakenOver(files, active, found.end, end - start)


def _chunks(reader: LogFileReader, start: int, end: int) -> Iterator[Buffer]:
    for offset in range(start, end, WINDOW_BYTES):
        yield reader.view(offset, min(WINDOW_BYTES, end - offset))
