"""The cost model, at its edges: which way of searching a segment is taken."""

from __future__ import annotations

import numpy as np
import pytest

from nearql.engine.costs import Best, Machine, Rung, Sizes, choose, exact_plan, wanted, widen

MACHINE = Machine(call_us=50, scan_ns=0.03, visit_ns=25, visit_byte_ns=0.03)
ROW = 1536  # 384 float32: a scanned row costs 0.046 us, a visited one 0.071


def ladder(*steps: tuple[int, float]) -> Best:
    """Efforts that find so many nearest rows for so many microseconds."""

    def best(k: int) -> Rung | None:
        return next(
            (Rung(size, 10 * size, size, 0.96, us) for size, us in steps if size >= k), None
        )

    return best


INDEX = ladder((10, 60), (40, 100), (160, 250), (640, 700))


def sizes(rows: int, qualifying: int | None = None, k: int = 10) -> Sizes:
    """A segment of 384 dimensions."""
    return Sizes(rows, rows if qualifying is None else qualifying, k, ROW, ROW)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (sizes(0), ("exact", 0)),
        (sizes(200), ("exact", 0)),  # 59 us to read, 60 to ask
        (sizes(300), ("index", 10)),
        (sizes(100_000), ("index", 10)),
        (sizes(100_000, k=11), ("index", 40)),
        (sizes(100_000, k=640), ("index", 640)),
        (sizes(100_000, k=641), ("exact", 0)),  # more than was ever measured
        (sizes(100_000, 50_000), ("widening", 40)),  # 34 wanted
        (sizes(100_000, 10_000), ("widening", 640)),  # 203 wanted: 700 us, 761 to read
        (sizes(100_000, 9_000), ("exact_filtered", 0)),
        (sizes(100_000, 2_000), ("exact_filtered", 0)),
        (sizes(1_000_000, 20_000), ("exact_filtered", 0)),  # 1,041 wanted
        (sizes(100_000, 10), ("exact_filtered", 0)),
        (sizes(100_000, 0), ("exact_filtered", 0)),
        (sizes(100_000, 99_999, k=99_999), ("exact_filtered", 0)),  # all that qualify
    ],
)
def test_choice(asked: Sizes, expected: tuple[str, int]) -> None:
    plan = choose(asked, MACHINE, INDEX)
    assert (plan.strategy, plan.effort) == expected
    assert plan.count == 10 * plan.effort


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (sizes(100_000), ("index", 10, 100)),  # nothing to leave out
        (sizes(100_000, 50_000), ("bitmap", 160, 100)),  # 81 wanted where half as many qualify
        (sizes(100_000, 10_000), ("bitmap", 640, 100)),  # 417 wanted
        (sizes(100_000, 5_000), ("exact_filtered", 0, 0)),  # 845: more than was ever measured
        (sizes(100_000, 10), ("exact_filtered", 0, 0)),
    ],
)
def test_a_bitmap_spares_an_index_with_lists_what_does_not_qualify(
    asked: Sizes, expected: tuple[str, int, int]
) -> None:
    plan = choose(asked, MACHINE, INDEX, listed=30)
    assert (plan.strategy, plan.effort, plan.count) == expected


def test_a_bitmap_names_as_many_as_the_index_needs_for_k_itself() -> None:
    """One that finds the 40 nearest and not the 10 nearest tells too little of near neighbours."""

    def coarse(k: int) -> Rung | None:
        return INDEX(k) if k > 10 else None

    asked = sizes(100_000, 50_000)
    assert choose(asked, MACHINE, INDEX, listed=30).count == 100
    assert choose(asked, MACHINE, INDEX, listed=300).count == 300
    assert choose(asked, MACHINE, coarse, listed=30).strategy == "widening"


def test_an_effort_given_by_hand_has_no_price_to_compare() -> None:
    given = ladder((1_000, 0.0))
    assert choose(sizes(100_000, 10_000), MACHINE, given, listed=30).strategy == "widening"


def by_hand(k: int) -> Rung:
    """An effort of 64: 4 rows are read for each that is kept."""
    return Rung(k, k, 64, 0.0, 0.0, 4 * max(64, k))


def test_an_effort_given_by_hand_gives_way_where_reading_what_qualifies_is_surely_cheaper() -> None:
    assert choose(sizes(100), MACHINE, by_hand).strategy == "index"  # without a filter it is meant
    assert choose(sizes(62_816, 6_282), MACHINE, by_hand).strategy == "widening"  # 224 wanted
    plan = choose(sizes(62_816, 1_256), MACHINE, by_hand)  # 1,073 wanted: 4,292 reads at least
    assert plan.strategy == "exact_filtered"
    assert widen(sizes(62_816, 6_282), MACHINE, by_hand, asked=250).strategy == "widening"
    assert widen(sizes(62_816, 6_282), MACHINE, by_hand, asked=1_000).strategy == "exact_filtered"


def test_no_rung_no_index() -> None:
    """An index that was not measured, or that misses the target, isn't asked."""
    assert choose(sizes(10**8), MACHINE, lambda k: None).strategy == "exact"


def test_codes_make_reading_cheaper() -> None:
    coded = Sizes(3_000, 3_000, 10, ROW, 1.25 * 384)
    assert choose(sizes(3_000), MACHINE, ladder((10, 100))).strategy == "index"
    assert choose(coded, MACHINE, ladder((10, 100))).strategy == "exact"


@pytest.mark.parametrize(
    ("rows", "qualifying", "us"),
    [
        (10_000, 10_000, 50 + 460.8),  # a scan
        (10_000, 100, 50 + 7.108),  # 100 visits
        (10_000, 9_000, 50 + 460.8),  # 9,000 visits cost 640: past the others instead
    ],
)
def test_reading(rows: int, qualifying: int, us: float) -> None:
    plan = exact_plan(sizes(rows, qualifying), MACHINE)
    assert plan.us == pytest.approx(us)
    assert plan.strategy == ("exact" if qualifying == rows else "exact_filtered")


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1, 0.02, 0.001])
@pytest.mark.parametrize("k", [1, 10, 100])
def test_wanted_rows_nearly_always_hold_k(k: int, share: float) -> None:
    """Binomial luck: in 10,000 draws fewer than k qualify in under 2 %."""
    asked = wanted(k, share)
    assert asked >= k / share
    drawn = np.random.default_rng(1).binomial(asked, share, 10_000)
    assert (drawn < k).mean() < 0.02


def test_wanted_without_a_filter() -> None:
    assert wanted(10, 1.0) == 10


def test_widening_asks_for_more_and_ends_in_reading() -> None:
    """A filter that is met less often near the query: four times as many, then all."""
    asked = sizes(100_000, 50_000)
    plan = choose(asked, MACHINE, INDEX)
    tried = []
    while plan.effort:
        tried.append(plan.nearest)
        plan = widen(asked, MACHINE, INDEX, asked=plan.nearest)
    assert tried == [40, 160, 640]
    assert plan.strategy == "exact_filtered"


def test_widening_is_given_up_where_reading_is_cheaper() -> None:
    few = sizes(100_000, 1_000)
    assert widen(few, MACHINE, INDEX, asked=40).strategy == "exact_filtered"
