"""BM25 scores of a read view's rows, with an index that follows inserts, deletes and compaction."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nearql.engine.errors import InvalidValue, TooLarge
from nearql.engine.settings import EngineSettings
from nearql.engine.table import Table
from nearql.engine.types import OnConflict
from nearql.engine.view import TableView
from support.tables import SMALL, context, create, definition, delete, insert, row, table_of

WORDS = replace(SMALL, text_words=3, text_memory_bytes=5_000)


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    """An empty table of two shards and small segments."""
    made = create(tmp_path / "t", definition=definition(shards=2), context=context(WORDS))
    yield made
    made.close()


def put(table: Table, texts: dict[int, str | None], **options: OnConflict) -> None:
    """Write rows, id -> title."""
    rows = [{**row(key), "title": text} for key, text in texts.items()]
    conflict = options.get("on_conflict", OnConflict.REPLACE)
    table.insert(table_of(rows), conflict)


def found(view: TableView, text: str) -> dict[int, float]:
    """Scores by id."""
    rows, scores = view.text_scores("title", text)
    assert (np.diff(rows) > 0).all()
    ids = view.take(["id"], rows).column("id").to_pylist()
    return dict(zip(ids, scores.tolist(), strict=True))


def bm25(texts: list[list[str]], at: int, words: list[str]) -> float:
    """The textbook formula with Lucene's idf, k1 = 1.2 and b = 0.75."""
    mean = sum(len(one) for one in texts) / len(texts)
    total = 0.0
    for word in words:
        holding = sum(word in one for one in texts)
        rare = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
        often = texts[at].count(word)
        length = 1.2 * (1 - 0.75 + 0.75 * len(texts[at]) / mean)
        total += rare * often * 2.2 / (often + length)
    return total


def test_scores_are_bm25(table: Table) -> None:
    texts = {1: "a red fox", 2: "red red wine", 3: "blue", 4: None, 5: "the end of a long day"}
    put(table, texts)
    split = [text.split() for text in texts.values() if text]
    scores = found(table.read_view(), "red wine")
    assert scores == {
        1: pytest.approx(bm25(split, 0, ["red", "wine"]), rel=1e-5),
        2: pytest.approx(bm25(split, 1, ["red", "wine"]), rel=1e-5),
    }
    assert found(table.read_view(), "Wine RED!") == scores, "case and punctuation don't matter"
    assert found(table.read_view(), "red red wine") == scores, "nor does saying a word twice"


@pytest.mark.parametrize("text", ["", "  ", "?!", "zebra", "re", 'OR +x:y ~"('])
def test_nothing_is_found_where_no_word_is(table: Table, text: str) -> None:
    """A search is words, never an expression with operators of its own."""
    put(table, {1: "a red fox", 2: "foo"})
    assert found(table.read_view(), text) == {}


def test_accents_and_alphabets(table: Table) -> None:
    put(table, {1: "Crème brûlée", 2: "Привет мир", 3: "日本 語"})
    view = table.read_view()
    assert set(found(view, "CREME")) == {1}
    assert set(found(view, "мир")) == {2}
    assert set(found(view, "日本")) == {3}


def test_a_view_shows_its_own_rows_only(table: Table) -> None:
    put(table, {1: "red", 2: "red", 3: "blue"})
    before = table.read_view()
    table.modify(lambda view: delete(view, 1))
    put(table, {2: "blue", 4: "red"})
    after = table.read_view()
    assert set(found(after, "red")) == {4}
    assert set(found(before, "red")) == {1, 2}, "an older view, asked later"
    assert set(found(after, "blue")) == {2, 3}


def test_rows_are_found_after_compaction_and_in_views_from_before(table: Table) -> None:
    put(table, {key: f"word{key} all" for key in range(60)})
    assert len(found(table.read_view(), "all")) == 60
    table.modify(lambda view: delete(view, *range(0, 60, 2)))
    before = table.read_view()
    table.checkpoint()
    after = table.read_view()
    assert after.data_version != before.data_version, "rows have moved"
    odd = set(range(1, 60, 2))
    assert set(found(after, "all")) == odd
    assert set(found(before, "all")) == odd, "an index of its own"
    assert set(found(after, "word31")) == {31}
    put(table, {100: "all"})
    assert set(found(table.read_view(), "all")) == odd | {100}


def test_after_truncate_and_reopening(tmp_path: Path) -> None:
    table = create(tmp_path / "t", context=context(WORDS))
    put(table, {1: "red", 2: "red"})
    assert len(found(table.read_view(), "red")) == 2
    table.truncate()
    assert found(table.read_view(), "red") == {}
    put(table, {3: "red"})
    assert set(found(table.read_view(), "red")) == {3}
    table.close()
    table = Table.open(tmp_path / "t", definition(), context(WORDS))
    assert set(found(table.read_view(), "red")) == {3}
    table.close()


def test_only_text_columns(table: Table) -> None:
    with pytest.raises(InvalidValue, match=r"id is BIGINT; bm25\(\) needs a TEXT column"):
        table.read_view().text_scores("id", "red")


def test_the_limit_of_words(table: Table) -> None:
    put(table, {1: "one two three four"})
    assert len(found(table.read_view(), "one two three three")) == 1
    with pytest.raises(TooLarge) as caught:
        table.read_view().text_scores("title", "one two three four")
    assert caught.value.code == "too_many_words"


def test_the_limit_of_memory_leaves_nothing_half_done(tmp_path: Path) -> None:
    """What doesn't fit is refused; dropping rows and compaction make room again."""
    shared = context(WORDS)
    table = create(tmp_path / "t", context=shared)
    put(table, {1: "red " * 700})
    assert set(found(table.read_view(), "red")) == {1}
    held = shared.text_memory.held
    assert 2_800 <= held < 3_000
    put(table, {2: "red " * 700})
    for _ in range(2):
        with pytest.raises(TooLarge) as caught:
            table.read_view().text_scores("title", "red")
        assert caught.value.code == "text_memory_exceeded"
        assert shared.text_memory.held == held
    table.close()
    assert shared.text_memory.held == 0


def test_searches_and_writes_at_once(tmp_path: Path) -> None:
    settings = EngineSettings(seal_rows=50, search_threads=1)
    table = create(tmp_path / "t", context=context(settings))

    def write(start: int) -> None:
        for key in range(start, start + 100, 5):
            insert(table, range(key, key + 5), "red fox")

    def read() -> list[int]:
        counts = []
        for _ in range(20):
            view = table.read_view()
            counts.append(len(found(view, "fox")) - view.row_count)
        return counts

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for writer in [pool.submit(write, start) for start in (0, 1_000)]:
            writer.result()
        assert [count for reader in readers for count in reader.result() if count] == []
    assert len(found(table.read_view(), "red")) == 200
    table.close()
