"""The background verification of sealed files: whole rounds, bounded rate, an end when asked."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from nearql.engine.errors import Corruption
from nearql.engine.scrub import Scrubber
from nearql.engine.segment.damage import Damage
from nearql.engine.storage.files import LocalFileSystem
from nearql.engine.table import Table
from support.tables import SMALL, create, definition, insert, keys, one_thread

FAST = 1 << 40  # bytes a second: no wait that counts


def made(directory: Path, name: str) -> Table:
    alone = one_thread(replace(SMALL, seal_rows=1000), LocalFileSystem())
    table = create(directory / name, context=alone, definition=definition(name=name))
    insert(table, range(20))
    table.checkpoint()
    return table


def break_file(directory: Path, name: str) -> Path:
    (path,) = (directory / name / "shard-0000").glob("segment-*")
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(bytes(data))
    return path


def scrubber(tables: list[Table], found: list[tuple[str, Damage]], **given: float) -> Scrubber:
    options = {"rate_bytes": FAST, "interval_s": 1e-3} | given
    return Scrubber(
        lambda: tables,
        lambda table, damage: found.append((table.definition.name, damage)),
        rate_bytes=int(options["rate_bytes"]), interval_s=options["interval_s"],
    )  # fmt: skip


def test_a_round_reads_every_file_and_reports_what_is_bad(tmp_path: Path) -> None:
    tables = [made(tmp_path, "docs"), made(tmp_path, "papers")]
    found: list[tuple[str, Damage]] = []
    scrub = scrubber(tables, found)
    assert scrub.round() == 0
    assert scrub.read_bytes > 0
    path = break_file(tmp_path, "docs")
    assert scrub.round() == 1
    assert scrub.rounds == 2
    ((name, damage),) = found
    assert (name, damage.file, damage.everything) == ("docs", str(path), True)
    with pytest.raises(Corruption, match=path.name):
        keys(tables[0])
    assert keys(tables[1]) == set(range(20)), "other tables are served"


def test_a_closed_table_does_not_end_the_round(tmp_path: Path) -> None:
    tables = [made(tmp_path, "docs"), made(tmp_path, "papers")]
    tables[0].close()
    break_file(tmp_path, "papers")
    found: list[tuple[str, Damage]] = []
    assert scrubber(tables, found).round() == 1


def test_the_thread_goes_round_and_ends_when_asked(tmp_path: Path) -> None:
    tables = [made(tmp_path, "docs")]
    told = threading.Event()
    scrub = Scrubber(lambda: tables, lambda *_: told.set(), rate_bytes=FAST, interval_s=1e-3)
    break_file(tmp_path, "docs")
    scrub.start()
    assert told.wait(60)
    scrub.close()


def test_a_slow_round_ends_at_once_when_asked(tmp_path: Path) -> None:
    """At a byte a second it would take an hour."""
    began = threading.Event()

    def tables() -> list[Table]:
        began.set()
        return [made_one]

    made_one = made(tmp_path, "docs")
    scrub = Scrubber(tables, lambda *_: None, rate_bytes=1, interval_s=1e-3)
    scrub.start()
    assert began.wait(60)
    scrub.close()
    assert scrub.rounds == 0


@pytest.mark.parametrize("off", [{"rate_bytes": 0}, {"interval_s": 0}])
def test_it_can_be_switched_off(off: dict[str, float]) -> None:
    scrub = scrubber([], [], **off)
    scrub.start()
    assert scrub._thread is None
    scrub.close()
