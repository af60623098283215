"""Searches that come again: they answer as a whole run would, whatever happened meanwhile."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest

from nearql.engine.errors import InvalidValue, NearQLError
from nearql.engine.types import SearchHits, SearchRequest
from nearql.engine.view import TableView
from nearql.query.at_once import shared_key
from nearql.query.plan_cache import Prepared
from nearql.query.repeats import KEPT
from nearql.query.session import Session
from nearql.query.weight import Deferred
from support.sql import Sql

Answers = list[list[tuple[Any, ...]]]
SEARCH = "SELECT id, title, vec <-> :q AS far FROM docs ORDER BY far LIMIT 3"


def session_of(sql: Sql) -> Session:
    return sql.session


def again(
    sql: Sql, text: str, *vectors: Any, settings: Mapping[str, Any] | None = None, **more: Any
) -> Answers | None:
    """The rows that `Session.repeat` gives for a text that was run before."""
    session = session_of(sql)
    prepared = session.known_search(text)
    assert isinstance(prepared, Prepared)
    params = [{"q": vector, **more} for vector in vectors]
    key = tuple((settings or {}).items()), shared_key(prepared, params[0])
    found = session.repeat(prepared, key, params, settings)
    return None if found is None else [rows_of(answer) for answer in found.answers]


def rows_of(answer: Any) -> list[tuple[Any, ...]]:
    """The rows, which are the same in the table and in the values where there are any."""
    listed = listed_of(answer.table)
    assert answer.row_count == len(listed)
    assert [column.name for column in answer.columns] == answer.table.column_names
    if answer.values is not None:
        assert list(zip(*answer.values, strict=True)) == listed
    return listed


def whole(
    sql: Sql, text: str, vector: Any, settings: Mapping[str, Any] | None = None, **more: Any
) -> list[tuple[Any, ...]]:
    """The rows of a run of the statement."""
    answer = session_of(sql).execute(text, {"q": vector, **more}, settings)
    return listed_of(answer.table)


def listed_of(table: pa.Table) -> list[tuple[Any, ...]]:
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


@pytest.mark.parametrize(
    "text",
    [
        SEARCH,
        "SELECT id FROM docs ORDER BY vec <-> :q LIMIT 4 OFFSET 2",
        "SELECT title, price, cat, id FROM docs ORDER BY vec <=> :q, id LIMIT 5",
        "SELECT id, vec FROM docs ORDER BY vec <-> :q LIMIT 2",
        "SELECT id, 1 - (vec <=> :q) AS near FROM docs ORDER BY vec <=> :q LIMIT 3",
        "SELECT id FROM docs WHERE cat = 'a' AND price < 30 ORDER BY vec <#> :q LIMIT 3",
        "SELECT id, price FROM docs WHERE id > 26 ORDER BY vec <-> :q LIMIT 10",
        "SELECT id FROM docs WHERE id < 0 ORDER BY vec <-> :q LIMIT 3",
        "SELECT id AS n, id, id FROM docs ORDER BY vec <+> :q LIMIT 3",
        "SELECT id FROM docs ORDER BY vec <-> :q LIMIT 200",
    ],
)
def test_a_repetition_answers_as_a_whole_run(docs: Sql, text: str) -> None:
    docs.run("UPDATE docs SET title = NULL, price = NULL WHERE id IN (6, 7, 12)")
    vectors = [[1.0, 1.0], [4.0, 2.0], "[0.5,0.25]", [3, 5]]
    expected = [whole(docs, text, vector) for vector in vectors]
    assert again(docs, text, *vectors) == expected
    assert [again(docs, text, vector) for vector in vectors] == [[one] for one in expected]


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO docs VALUES (99, 'new', 1, 'a', '[1,1]')",
        "UPDATE docs SET title = 'another' WHERE id = 6",
        "DELETE FROM docs WHERE id = 6",
        "TRUNCATE docs",
        "ALTER TABLE docs ADD COLUMN extra INTEGER DEFAULT 7",
        "CREATE INDEX ON docs USING hnsw (vec vector_l2_ops)",
        "ALTER TABLE docs RENAME COLUMN title TO name",
        "DROP TABLE docs",
    ],
)
def test_what_changed_is_seen_at_once(docs: Sql, change: str) -> None:
    whole(docs, SEARCH, [1, 1])
    before = again(docs, SEARCH, [1, 1])
    assert before is not None
    known = session_of(docs).known_search(SEARCH)
    assert known is not None
    key = (), shared_key(known, {"q": [1, 1]})
    docs.run(change)
    found = outcome(lambda: session_of(docs).repeat(known, key, [{"q": [1, 1]}], None))
    expected = outcome(lambda: session_of(docs).execute(SEARCH, {"q": [1, 1]}))
    if found is not None and not isinstance(found, str):
        assert rows_of(found.answers[0]) == rows_of(expected)


def outcome(work: Any) -> Any:
    """What it gives, or the code of its error; None for what is for the long way."""
    try:
        return work()
    except Deferred:
        return None
    except NearQLError as error:
        return error.code


def test_a_filter_that_reads_another_table_is_never_taken_from_before(docs: Sql) -> None:
    docs.run("CREATE TABLE allowed (id BIGINT PRIMARY KEY)")
    docs.run("INSERT INTO allowed VALUES (1), (2)")
    text = "SELECT id FROM docs WHERE id IN (SELECT id FROM allowed) ORDER BY vec <-> :q LIMIT 9"
    assert [row[0] for row in whole(docs, text, [1, 0])] == [1, 2]
    assert again(docs, text, [1, 0]) in (None, [[(1,), (2,)]])
    docs.run("DELETE FROM allowed WHERE id = 1")
    assert again(docs, text, [1, 0]) in (None, [[(2,)]])


@pytest.mark.parametrize(
    "change",
    ["INSERT INTO docs VALUES (99, 'new', 1, 'a', '[1,1]')", "DELETE FROM docs WHERE id = 6"],
)
def test_a_filters_rows_are_those_of_now(docs: Sql, change: str) -> None:
    text = "SELECT id FROM docs WHERE cat = 'a' ORDER BY vec <-> :q LIMIT 3"
    whole(docs, text, [1, 1])
    before = again(docs, text, [1, 1])
    assert before is not None
    docs.run(change)
    with pytest.raises(Deferred):  # the filter has to be evaluated for the rows of now
        again(docs, text, [1, 1])
    expected = whole(docs, text, [1, 1])
    assert expected != before[0]
    assert again(docs, text, [1, 1]) == [expected]


def test_a_read_that_would_wait_is_for_the_long_way(docs: Sql) -> None:
    class Closed:
        """A read of a copy that is not so far."""

        seen = ()
        asked: ClassVar[list[Any]] = []

        def enter(self, *_: Any) -> Any:
            raise AssertionError("nothing is waited for")

        def at_once(self, tables: Collection[str], level: str | None) -> bool:
            self.asked.append((set(tables), level))
            return False

    session, params = session_of(docs), [{"q": [1, 1]}]
    whole(docs, SEARCH, [1, 1])
    known = session.known_search(SEARCH)
    assert known is not None
    key = (), shared_key(known, params[0])
    for _ in range(2):  # before anything is kept, and after
        assert session.repeat(known, key, params, None, [Closed()]) is None
        assert again(docs, SEARCH, [1, 1]) is not None
    uuid = docs.database.catalog().tables["docs"].uuid
    assert Closed.asked == [({uuid}, None)] * 2


def test_a_filter_that_is_not_kept_is_for_the_long_way(docs: Sql) -> None:
    text = "SELECT id FROM docs WHERE cat = 'a' ORDER BY vec <-> :q LIMIT 2"
    whole(docs, text, [1, 1])
    assert again(docs, text, [1, 1]) is not None
    filters = session_of(docs).filters
    filters._kept.clear()
    assert again(docs, text, [1, 1]) is None


def test_values_of_other_parameters_have_answers_of_their_own(docs: Sql) -> None:
    text = "SELECT id FROM docs WHERE price < :most ORDER BY vec <-> :q LIMIT 3"
    for most in (10, 30, 10.0, 30):
        expected = whole(docs, text, [1, 1], most=most)
        assert again(docs, text, [1, 1], most=most) == [expected]


def test_settings_that_leave_rows_out_or_name_a_device_are_for_the_long_way(docs: Sql) -> None:
    whole(docs, SEARCH, [1, 1])
    for settings in ({"partial_answers": "on"}, {"device": "cpu"}):
        assert again(docs, SEARCH, [1, 1], settings=settings) is None


def test_wrong_vectors_get_their_error(docs: Sql) -> None:
    whole(docs, SEARCH, [1, 1])
    assert again(docs, SEARCH, [1, 1], None) is None
    for wrong in ([1, 2, 3], "nonsense", [1, float("nan")], [1, 1e39]):
        with pytest.raises(InvalidValue):
            again(docs, SEARCH, [1, 1], wrong)


def test_values_that_the_statement_has_no_place_for_are_refused(docs: Sql) -> None:
    text, session = "SELECT id FROM docs ORDER BY vec <-> $1 LIMIT 2", session_of(docs)
    session.execute(text, [[1, 1]])
    known = session.known_search(text)
    assert known is not None
    for params, code in (([[1, 1]], None), ([[1, 1], 5], "surplus_parameter")):
        key = (), shared_key(known, params)
        found = outcome(lambda key=key, params=params: session.repeat(known, key, [params], None))
        assert found == code if code else rows_of(found.answers[0])


def test_a_time_limit_ends_it(docs: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    whole(docs, SEARCH, [1, 1])
    assert again(docs, SEARCH, [1, 1]) is not None
    (repeat,) = session_of(docs).known_search(SEARCH).repeats.values()  # type: ignore[union-attr]
    repeat._check_time()
    monkeypatch.setattr(repeat, "_until", 0.0)
    with pytest.raises(NearQLError, match="time"):
        repeat._check_time()


def test_nothing_holds_the_rows_of_before(docs: Sql) -> None:
    whole(docs, SEARCH, [1, 1])
    assert again(docs, SEARCH, [1, 1]) is not None
    table = docs.database.table(docs.database.catalog().tables["docs"].uuid)
    seen = weakref.ref(table.read_view())
    docs.run("DELETE FROM docs WHERE id = 1")
    table.read_view()
    gc.collect()
    assert seen() is None


def test_of_one_text_only_so_many_are_kept(docs: Sql) -> None:
    text = "SELECT id FROM docs WHERE price < :most ORDER BY vec <-> :q LIMIT 3"
    for most in range(KEPT + 3):
        whole(docs, text, [1, 1], most=most)
        again(docs, text, [1, 1], most=most)
    known = session_of(docs).known_search(text)
    assert known is not None
    assert 0 < len(known.repeats) <= KEPT


@pytest.mark.parametrize(("by_index", "calls"), [(True, [3]), (False, [1, 1, 1])])
def test_queries_share_a_call_where_an_index_answers(
    docs: Sql, monkeypatch: pytest.MonkeyPatch, by_index: bool, calls: list[int]
) -> None:
    vectors = [[1, 1], [2, 0], [4, 4]]
    expected = [whole(docs, SEARCH, vector) for vector in vectors]
    again(docs, SEARCH, [0, 0])
    (repeat,) = session_of(docs).known_search(SEARCH).repeats.values()  # type: ignore[union-attr]
    monkeypatch.setattr(repeat, "_shares", by_index)
    asked: list[int] = []
    search = TableView.search

    def counted(view: TableView, request: SearchRequest) -> SearchHits:
        asked.append(len(request.queries))
        return search(view, request)

    monkeypatch.setattr(TableView, "search", counted)
    assert again(docs, SEARCH, *vectors) == expected
    assert asked == calls


def test_many_rows_are_a_table(docs: Sql) -> None:
    docs.run("INSERT INTO docs SELECT i, 't', 0, 'a', [i, 0]::VECTOR(2) FROM range(100, 400) t(i)")
    text = "SELECT id, title FROM docs ORDER BY vec <-> :q LIMIT 200"
    expected = whole(docs, text, [1, 1])
    assert len(expected) == 200
    assert again(docs, text, [1, 1]) == [expected]


def test_random_rows_and_queries_answer_alike(sql: Sql) -> None:
    rng = np.random.default_rng(3)
    sql.run("CREATE TABLE docs (id BIGINT PRIMARY KEY, n INTEGER, t TEXT, vec VECTOR(6))")
    for start in range(0, 90, 30):  # several chunks
        for at in range(start, start + 30):
            name = None if at % 7 == 0 else f"ä{at}" * (at % 3)
            vec = rng.integers(-2, 3, 6).tolist()
            sql.run("INSERT INTO docs VALUES (:i, :n, :t, :v)",
                    {"i": at, "n": at % 5, "t": name, "v": vec})  # fmt: skip
    texts = [
        f"SELECT t, id, n, vec {sign} :q AS d FROM docs {where} ORDER BY d LIMIT {limit}"
        for sign in ("<->", "<=>", "<#>", "<+>")
        for where in ("", "WHERE n = 2", "WHERE t LIKE 'ä%'")
        for limit in (1, 7, 40)
    ]
    for text in texts:
        queries = [rng.integers(-2, 3, 6).tolist() for _ in range(4)]
        expected = [whole(sql, text, query) for query in queries]
        assert again(sql, text, *queries) == expected
        assert again(sql, text, queries[0]) == [expected[0]]
