"""Long texts are parsed one at a time, and none longer than that takes a moment."""

from __future__ import annotations

import threading
import time

import pytest

from nearql.engine.errors import SqlError, StatementTimeout, TooLarge
from nearql.query import patience
from nearql.query.dialect import parse

LONG = "SELECT " + "(" * 5000


def test_who_waits_for_a_long_text_still_runs_out_of_time() -> None:
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with patience.turn(LONG):
            held.set()
            over.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(60)
    try:
        assert len(parse("SELECT 1")) == 1  # short ones pass
        past = time.monotonic() - 1
        with pytest.raises(StatementTimeout), patience.until(lambda: past):
            parse(LONG)
    finally:
        over.set()
        holder.join()
    with pytest.raises(SqlError, match="nests more than"):
        parse(LONG)


def test_a_turn_ends_with_an_error_and_may_be_taken_again_within_itself() -> None:
    for _ in range(2):
        with pytest.raises(SqlError), patience.turn(LONG):
            parse(LONG)


@pytest.mark.parametrize(("piece", "what"), [("word ", "words and numbers"), ("7 , ", "signs")])
def test_too_many_words_are_refused_before_they_are_cut_into_tokens(
    monkeypatch: pytest.MonkeyPatch, piece: str, what: str
) -> None:
    monkeypatch.setattr("nearql.query.dialect.lexer.DIALECT", None)  # nothing is cut into tokens
    with pytest.raises(TooLarge, match=f"more than 400000 {what}"):
        parse("SELECT f(" + piece * 400_100)


def test_long_texts_of_few_words_are_read() -> None:
    assert len(parse("SELECT '" + "word " * 500_000 + "' AS x")) == 1
