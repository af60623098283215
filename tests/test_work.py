"""Short requests take no more function calls and plans than `benchmarks/work.json` says."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from nearql.query.repeats import Repeat

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The benchmark, as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import work as found  # type: ignore[import-not-found]

    yield found
    sys.modules.pop("work", None)


def test_nothing_takes_more_than_it_may(work: ModuleType) -> None:
    budgets = json.loads(work.BUDGETS.read_text())
    found = work.counts()
    assert found.keys() == budgets.keys()
    told = "`python3 dev.py bench work --record` where it is worth it"
    assert not work.grown(found, budgets), told


def test_a_search_that_keeps_nothing_is_found_out(
    work: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Repeat, "view", lambda _: None)
    told = work.grown(work.counts(), json.loads(work.BUDGETS.read_text()))
    assert any(line.startswith("again, over HTTP: calls") for line in told)
    assert any(line.startswith("under a filter, over HTTP: calls") for line in told)
