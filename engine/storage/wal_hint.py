"""`wal.hint`: a lower bound of what the log holds durably, rewritten in place about every second.

It is never needed to read the log. It says after a crash which records had been synced, so that
damage to one of them is not taken for a torn write; and after a clean close, where the log ends. It
is one disk sector, so that a crash leaves the old or the new one; a damaged one counts as none.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

from crc32c import crc32c

from nearql.engine.storage.files import FileSystem, newer_format

HINT_FILE = "wal.hint"
HINT_FORMAT = 1
HINT_MAGIC = b"NQWHINT\0"
HINT = struct.Struct("<8sHH4xQQQQ8s16s48x")
CRC = struct.Struct("<I")
HINT_BYTES = HINT.size + CRC.size
FLAG_CLEAN = 1


class WalHint(NamedTuple):
    """What the log knew of itself.

    clean: written by `close`; nothing was appended since. durable_lsn: synced up to here at least.
    base_lsn, offset, epoch, link: file and position right after the record `durable_lsn`.
    boot_id: the kernel's, 16 bytes; zeros where unknown.
    """

    clean: bool
    durable_lsn: int
    base_lsn: int
    offset: int
    epoch: int
    link: bytes
    boot_id: bytes

    def pack(self) -> bytes:
        """The file's contents."""
        flags = FLAG_CLEAN if self.clean else 0
        body = HINT.pack(HINT_MAGIC, HINT_FORMAT, flags, *self[1:])
        return body + CRC.pack(crc32c(body))


def read_hint(fs: FileSystem, directory: Path) -> WalHint | None:
    """The hint; None where there is none or it is damaged.

    Raises:
        Unavailable: code `newer_format`.
    """
    path = directory / HINT_FILE
    if not fs.exists(path):
        return None
    data = bytes(fs.map(path))
    if len(data) < HINT_BYTES or data[: len(HINT_MAGIC)] != HINT_MAGIC:
        return None
    if CRC.unpack_from(data, HINT.size)[0] != crc32c(data[: HINT.size]):
        return None
    _, version, flags, *rest = HINT.unpack_from(data)
    if version > HINT_FORMAT:
        raise newer_format(str(path), version, HINT_FORMAT)
    return WalHint(bool(flags & FLAG_CLEAN), *rest)
