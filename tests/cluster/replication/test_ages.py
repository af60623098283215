"""How old what a copy lacks is, in made-up time."""

from __future__ import annotations

import itertools

from nearql.cluster.replication import ages
from nearql.cluster.replication.ages import Ages


def noted(*marks: tuple[int, int]) -> Ages:
    """A log that ended at each LSN since each time."""
    made = Ages()
    for ms, lsn in marks:
        made.note(lsn, ms)
    return made


def test_a_copy_lags_by_the_age_of_what_it_lacks_and_not_by_what_it_has() -> None:
    made = noted((10, 4), (1_000, 9), (1_050, 12))
    assert made.behind_ms(12, 2_000) is None
    assert [made.behind_ms(lsn, 1_060) for lsn in (11, 9, 8, 4, 3)] == [10, 10, 60, 60, 1_050]


def test_records_that_are_close_count_as_logged_with_the_first() -> None:
    made = noted((100, 1), (100 + ages.APART_MS - 1, 2), (100 + ages.APART_MS, 3))
    assert len(made) == 2
    assert [made.behind_ms(lsn, 200) for lsn in (0, 1, 2)] == [100, 100, 100 - ages.APART_MS]


def test_what_everybody_has_is_forgotten_and_nobody_is_told_an_age_of_it() -> None:
    made = noted((10, 4), (20, 9))
    made.forget(3)
    assert made.behind_ms(0, 30) == 20
    made.forget(4)
    assert made.behind_ms(3, 30) is None
    assert made.behind_ms(4, 30) == 10


def test_another_log_begins_anew() -> None:
    made = noted((10, 4))
    made.forget(4)
    made.clear()
    made.note(2, 50)
    assert made.behind_ms(0, 60) == 10


def test_many_marks_are_thinned_out_and_ages_are_never_too_low() -> None:
    apart = ages.APART_MS
    made, now = Ages(), 0
    for lsn in range(1, 3 * ages.MOST):
        now = lsn * apart
        made.note(lsn, now)
        assert len(made) <= ages.MOST
    found = [made.behind_ms(lsn - 1, now) for lsn in range(1, 3 * ages.MOST, 97)]
    true = [now - lsn * apart for lsn in range(1, 3 * ages.MOST, 97)]
    for told, exact in zip(found, true, strict=True):
        assert told is not None
        assert exact <= told <= exact + exact // 20 + 2 * apart  # the older, the coarser
    assert all(one >= other for one, other in itertools.pairwise(t or 0 for t in found))
