"""Full-text scores: how well each row's text answers some words, by BM25.

Tantivy keeps the inverted index and scores (Robertson and Zaragoza, The Probabilistic Relevance
Framework: BM25 and Beyond, 2009; k1 = 1.2, b = 0.75). Here is what it takes to give a read view the
scores of just its rows:

- An index knows texts by row number and only grows: a search first adds the row versions that came
  since. Rows that are dead in the view are left out of its answer, not of the index, so they count
  in how rare a word is until compaction, as they do in Lucene.
- Compaction moves rows, and with them their numbers: the index is made again. A view from before
  that is still held gets an index for itself.
- It lives in memory, is made by the first search of its column, and is gone with the table.

Words are runs of letters and digits, lower-case and without accents; longer ones than WORD_BYTES
are left out.

Example: texts ["a red fox", "red", NULL], words "Red fence": rows [0, 1] have scores, row 1 the
higher one (its text is shorter), row 2 has none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import tantivy
from numpy.typing import NDArray

from nearql.engine.errors import TooLarge

WORD_BYTES = 255
_HEAP_BYTES = 32 << 20  # of a writer: texts that wait for a commit
_ANALYZER = "words"

Places = tuple[tuple[int, int, int], ...]  # per shard: number, layout, row versions
Texts = Iterable[tuple[NDArray[np.int64], pa.Array]]  # row numbers and their texts
Scores = tuple[NDArray[np.int64], NDArray[np.float32]]


class TextMemory:
    """Bytes of text that the indexes of a node hold. Invariant: 0 <= held <= limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self.held = 0

    def take(self, size: int) -> None:
        """Raises TooLarge where the limit would be passed; nothing is taken then."""
        with self._lock:
            if self.held + size > self._limit:
                raise TooLarge(
                    f"The texts that bm25() searches have more than {self._limit} bytes on this "
                    "node; raise engine.text_memory.",
                    code="text_memory_exceeded", limit=self._limit,
                )  # fmt: skip
            self.held += size

    def give(self, size: int) -> None:
        """Give back what was taken."""
        with self._lock:
            self.held -= size


@dataclass
class _Index:
    """One inverted index. seen: per shard, its layout and how many row versions are in it."""

    memory: TextMemory
    seen: dict[int, tuple[int, int]] = field(default_factory=dict)
    size: int = 0

    def __post_init__(self) -> None:
        builder = tantivy.SchemaBuilder()
        builder.add_text_field("text", tokenizer_name=_ANALYZER, index_option="freq")
        builder.add_unsigned_field("row", fast=True, indexed=False)
        self.schema = builder.build()
        self.index = tantivy.Index(self.schema)
        self.index.register_tokenizer(_ANALYZER, _analyzer())
        self.writer = self.index.writer(_HEAP_BYTES, 1)

    def add(self, texts: Texts) -> None:
        """Add rows; all or none."""
        taken, before = 0, self.size
        try:
            for rows, array in texts:
                size = array.nbytes
                self.memory.take(size)
                self.size += size
                taken += self._add(rows, array)
        except BaseException:
            self.writer.rollback()
            self.memory.give(self.size - before)
            self.size = before
            raise
        if taken:
            self.writer.commit()
            self.index.reload()

    def _add(self, rows: NDArray[np.int64], array: pa.Array) -> int:
        valid = np.flatnonzero(array.is_valid().to_numpy(zero_copy_only=False))
        found = array.take(pa.array(valid)) if len(valid) < len(array) else array
        for row, text in zip(rows[valid].tolist(), found.to_pylist(), strict=True):
            document = tantivy.Document()
            document.add_text("text", text)
            document.add_unsigned("row", row)
            self.writer.add_document(document)
        return len(valid)

    def scores(self, words: list[str]) -> Scores:
        """Row numbers, ascending, and scores of all rows that have one of the words."""
        terms = [tantivy.Query.term_query(self.schema, "text", one, "freq") for one in words]
        query = tantivy.Query.boolean_query([(tantivy.Occur.Should, one) for one in terms])
        searcher = self.index.searcher()
        hits = searcher.search(query, max(1, searcher.num_docs), count=False).hits
        scores = np.array([hit[0] for hit in hits], np.float32)
        values = searcher.fast_field_values("row", [hit[1] for hit in hits])
        rows = np.array(values, np.int64)
        order = np.argsort(rows)
        return rows[order], scores[order]

    def close(self) -> None:
        """Give the memory back."""
        self.memory.give(self.size)
        self.size = 0


class TextIndexes:
    """The indexes of one table's columns. Safe for use from several threads."""

    def __init__(self, memory: TextMemory, most_words: int) -> None:
        self._memory = memory
        self._most_words = most_words
        self._indexes: dict[int, _Index] = {}
        self._lock = threading.Lock()

    def scores(
        self, column: int, places: Places, text: str, texts_after: Callable[[Any], Texts]
    ) -> Scores:
        """Row numbers, ascending, and scores of the row versions that have a word of `text`.

        Rows beyond the view and dead ones may be among them.

        Args:
            column: its number.
            places: what the view shows.
            texts_after: the texts of row versions beyond those of a mapping, shard -> count.

        Raises:
            TooLarge: code `too_many_words`; or `text_memory_exceeded`.
        """
        words = self._words(text)
        if not words:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        index = self._current(column, places, texts_after)
        found = index.scores(words)
        if index is not self._indexes.get(column):
            index.close()
        return found

    def close(self) -> None:
        """Give all memory back."""
        with self._lock:
            for index in self._indexes.values():
                index.close()
            self._indexes.clear()

    def _words(self, text: str) -> list[str]:
        words = list(dict.fromkeys(_analyzer().analyze(text)))
        if len(words) > self._most_words:
            raise TooLarge(
                f"bm25() is asked for {len(words)} different words; at most {self._most_words} are "
                "allowed (limits.text_words).",
                code="too_many_words", setting="text_words",
            )  # fmt: skip
        return words

    def _current(self, column: int, places: Places, texts_after: Callable[[Any], Texts]) -> _Index:
        """The column's index with at least the view's rows; one of its own for an old view."""
        with self._lock:
            index = self._indexes.get(column)
            if index is not None and _is_older(places, index):
                return self._grown(_Index(self._memory), places, texts_after)
            if index is not None and not _same_layout(places, index):
                index.close()
                index = None
            if index is None:
                index = _Index(self._memory)
            self._indexes[column] = self._grown(index, places, texts_after)
            return index

    def _grown(self, index: _Index, places: Places, texts_after: Callable[[Any], Texts]) -> _Index:
        missing = {shard for shard, _, count in places if count > index.seen.get(shard, (0, 0))[1]}
        if missing:
            index.add(texts_after({shard: seen[1] for shard, seen in index.seen.items()}))
            for shard, layout, count in places:
                index.seen[shard] = (layout, max(count, index.seen.get(shard, (0, 0))[1]))
        return index


def _is_older(places: Places, index: _Index) -> bool:
    return any(layout < index.seen.get(shard, (layout, 0))[0] for shard, layout, _ in places)


def _same_layout(places: Places, index: _Index) -> bool:
    return all(layout == index.seen.get(shard, (layout, 0))[0] for shard, layout, _ in places)


def _analyzer() -> Any:
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    builder = builder.filter(tantivy.Filter.remove_long(WORD_BYTES))
    return builder.filter(tantivy.Filter.lowercase()).filter(tantivy.Filter.ascii_fold()).build()
