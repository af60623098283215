"""The slow-query log tells where time went and no value."""

from __future__ import annotations

import pytest

from nearql.query.dialect.redact import READ_CHARS, without_values
from nearql.query.running import Statements
from nearql.server import slow


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("SELECT 1", "SELECT ?"),
        ("select *  from t\nwhere a='x''y' and b<7.5e3", "select * from t where a=? and b<?"),
        ("SELECT vec <-> '[1,2]'::vector FROM t -- secret", "SELECT vec <-> ?::vector FROM t"),
        ("SELECT /* secret */ :q, :other", "SELECT :q, :other"),
        ("INSERT INTO t VALUES (1, $$secret$$, E'se\\'cret')", "INSERT INTO t VALUES (?, ?, ?)"),
        ('SELECT "a b" FROM t', 'SELECT "a b" FROM t'),
        ("SELECT 'unclosed secret", "SELECT..."),
        ("bulk replace of 500 rows into docs", "bulk replace of ? rows into docs"),
    ],
)
def test_texts_without_values(text: str, shown: str) -> None:
    assert without_values(text) == shown


def test_a_long_text_is_cut() -> None:
    shown = without_values("SELECT " + ", ".join(["'secret'"] * READ_CHARS))
    assert "secret" not in shown
    assert shown.endswith("...")


def test_each_slow_statement_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, object]] = []

    class Log:
        def warning(self, event: str, **more: object) -> None:
            told.append({"event": event, **more})

    monkeypatch.setattr(slow, "log", Log())
    statements = Statements(0, 10)
    statements.on_slow = slow.log_slow
    with statements.running("SELECT 'secret'", "ann") as running:
        running.rows = 3
    (line,) = told
    assert (line["event"], line["user"], line["rows"]) == ("slow_statement", "ann", 3)
    assert (line["text"], line["state"]) == ("SELECT ?", "done")
    quick = Statements(60_000, 10)
    quick.on_slow = slow.log_slow
    with quick.running("SELECT 1"):
        pass
    assert len(told) == 1
