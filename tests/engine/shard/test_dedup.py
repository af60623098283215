"""Remembered request ids: bounded by count, age and size, the same whoever reads the log."""

from __future__ import annotations

import msgpack
import pytest

from nearql.engine.errors import Conflict
from nearql.engine.request_id import NO_REQUEST
from nearql.engine.settings import EngineSettings
from nearql.engine.shard.dedup import Dedup, Recorded
from nearql.engine.shard.records import Counts

HOUR = 3_600_000


def request(number: int) -> bytes:
    return number.to_bytes(16, "big")


def recorded(number: int, time_ms: int = 1, skipped: bytes | None = None) -> Recorded:
    return Recorded(number, 1, Counts(inserted=number, skipped=skipped), time_ms)


def remembered(dedup: Dedup) -> list[int]:
    dedup.check_invariants()
    return [n for n in range(100) if dedup.get(request(n)) is not None]


def test_the_oldest_go_first_beyond_a_count() -> None:
    dedup = Dedup(EngineSettings(dedup_entries=3))
    for number in range(1, 6):
        dedup.add(request(number), recorded(number))
    assert remembered(dedup) == [3, 4, 5]
    found = dedup.get(request(4))
    assert found == recorded(4)


def test_they_are_forgotten_after_a_day_of_the_logs_time() -> None:
    dedup = Dedup(EngineSettings())
    for number in range(1, 5):
        dedup.add(request(number), recorded(number, number * HOUR))
    dedup.add(NO_REQUEST, recorded(9, 25 * HOUR))
    assert remembered(dedup) == [1, 2, 3, 4], "exactly a day is not beyond it"
    dedup.add(NO_REQUEST, recorded(10, 26 * HOUR + 1))
    assert remembered(dedup) == [3, 4], "a write without a request id moves the time on too"


def test_a_clock_that_goes_back_brings_nothing_back_and_loses_nothing() -> None:
    dedup = Dedup(EngineSettings())
    dedup.add(request(1), recorded(1, 100 * HOUR))
    dedup.add(request(2), recorded(2, 10 * HOUR))
    assert remembered(dedup) == [1, 2], "the oldest in log order is not due"
    dedup.add(request(3), recorded(3, 125 * HOUR))
    assert remembered(dedup) == [3]


def test_what_was_skipped_counts_by_its_size() -> None:
    dedup = Dedup(EngineSettings(dedup_bytes=10_000))
    for number in range(1, 5):
        dedup.add(request(number), recorded(number, skipped=bytes(3_000)))
    assert remembered(dedup) == [3, 4]


@pytest.mark.parametrize("at", [0, 3, 7])
def test_a_checkpoint_on_the_way_changes_nothing(at: int) -> None:
    settings = EngineSettings(dedup_entries=5, dedup_ms=4 * HOUR)
    straight, paused = Dedup(settings), Dedup(settings)
    for number in range(1, 12):
        if number == at:
            paused = Dedup.unpack(paused.pack(), settings)
        for one in (straight, paused):
            one.add(request(number), recorded(number, number * HOUR))
    assert straight.pack() == paused.pack()


def test_entries_of_an_earlier_version_have_no_time_and_stay_by_count() -> None:
    data = msgpack.packb([[request(1), 1, 1, [1, 0, 0, None]]])
    dedup = Dedup.unpack(data, EngineSettings(dedup_entries=2))
    dedup.add(NO_REQUEST, recorded(2, 1000 * HOUR))
    assert remembered(dedup) == [1]


def test_another_request_under_the_same_number_is_refused() -> None:
    dedup = Dedup(EngineSettings())
    dedup.add(b"content1" + b"sender-1", recorded(1))
    with pytest.raises(Conflict, match="sent before"):
        dedup.get(b"content2" + b"sender-1")
