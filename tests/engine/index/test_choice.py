"""What a segment gets: sizes, kinds, and nothing at all where FAISS is missing."""

from __future__ import annotations

import sys

import pytest

from nearql.engine.index import choice, registry
from nearql.engine.index.choice import (
    AUTO_FEWEST,
    AUTO_KIND,
    AUTO_MOST,
    auto_rows,
    kind_for,
    least_rows,
)
from nearql.engine.types import Metric
from support.indexes import index_def

ROW = 4 * 384  # bytes of a vector


@pytest.fixture
def no_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(choice, "index_kinds", registry.index_kinds.__wrapped__)


@pytest.mark.usefixtures("no_faiss")
@pytest.mark.parametrize("name", ["auto", "flat", "hnsw", "ivfflat", "ivfpq", "ivfrabitq", "cagra"])
def test_without_faiss_nothing_is_built(name: str) -> None:
    assert least_rows(index_def(name), 100, ROW) is None
    assert kind_for(index_def(name), 1 << 20, 100, ROW) is None


@pytest.mark.parametrize("name", ["hnsw", "ivfflat", "ivfpq", "ivfrabitq"])
def test_a_named_kind_from_the_settings_rows_on(name: str) -> None:
    pytest.importorskip("faiss", reason="FAISS isn't installed")
    assert kind_for(index_def(name), 4999, 5000, ROW) is None
    kind = kind_for(index_def(name), 5000, 5000, ROW)
    assert kind is not None
    assert kind.name == name
    assert least_rows(index_def(name), 1, ROW) == kind.least_rows


def test_auto_reads_few_rows_and_compresses_many() -> None:
    pytest.importorskip("faiss", reason="FAISS isn't installed")
    assert kind_for(index_def("auto"), 19_999, 100, ROW) is None
    kind = kind_for(index_def("auto"), 20_000, 100, ROW)
    assert kind is not None
    assert kind.name == AUTO_KIND
    by_l1 = kind_for(index_def("auto", Metric.L1), 20_000, 100, ROW)
    assert by_l1 is not None
    assert by_l1.name == "hnsw"


def test_auto_goes_by_bytes_within_bounds_of_rows() -> None:
    assert auto_rows(ROW) == 20_000
    assert auto_rows(ROW // 2) == 40_000  # HALFVEC
    assert auto_rows(4 * 1536) == 5_000
    assert auto_rows(4 * 16_384) == AUTO_FEWEST
    assert auto_rows(4) == AUTO_MOST


@pytest.mark.parametrize("name", ["flat", "cagra"])
def test_kinds_that_hold_nothing(name: str) -> None:
    assert kind_for(index_def(name), 1 << 20, 100, ROW) is None
