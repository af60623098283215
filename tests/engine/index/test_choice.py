"""What a segment gets: sizes, kinds, and nothing at all where FAISS is missing."""

from __future__ import annotations

import sys

import pytest

from nearql.engine.index import choice, registry
from nearql.engine.index.choice import AUTO_KIND, AUTO_ROWS, kind_for, least_rows
from nearql.engine.types import Metric
from support.indexes import index_def


@pytest.fixture
def no_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(choice, "index_kinds", registry.index_kinds.__wrapped__)


@pytest.mark.usefixtures("no_faiss")
@pytest.mark.parametrize("name", ["auto", "flat", "hnsw", "ivfflat", "ivfpq", "ivfrabitq", "cagra"])
def test_without_faiss_nothing_is_built(name: str) -> None:
    assert least_rows(index_def(name), 100) is None
    assert kind_for(index_def(name), 1 << 20, 100) is None


@pytest.mark.parametrize("name", ["hnsw", "ivfflat", "ivfpq", "ivfrabitq"])
def test_a_named_kind_from_the_settings_rows_on(name: str) -> None:
    pytest.importorskip("faiss", reason="FAISS isn't installed")
    assert kind_for(index_def(name), 4999, 5000) is None
    kind = kind_for(index_def(name), 5000, 5000)
    assert kind is not None
    assert kind.name == name
    assert least_rows(index_def(name), 1) == kind.least_rows


def test_auto_reads_few_rows_and_compresses_many() -> None:
    pytest.importorskip("faiss", reason="FAISS isn't installed")
    assert kind_for(index_def("auto"), AUTO_ROWS - 1, 100) is None
    kind = kind_for(index_def("auto"), AUTO_ROWS, 100)
    assert kind is not None
    assert kind.name == AUTO_KIND
    by_l1 = kind_for(index_def("auto", Metric.L1), AUTO_ROWS, 100)
    assert by_l1 is not None
    assert by_l1.name == "hnsw"


@pytest.mark.parametrize("name", ["flat", "cagra"])
def test_kinds_that_hold_nothing(name: str) -> None:
    assert kind_for(index_def(name), 1 << 20, 100) is None
