"""What a constant in a statement is, and what only looks like one."""

from __future__ import annotations

import pytest
from sqlglot import exp

from nearql.query.constants import bit_literal
from nearql.query.dialect import parse
from nearql.query.statements import Select


def item(text: str) -> exp.Expr:
    """The only item of SELECT `text`."""
    (statement,) = parse(f"SELECT {text}")
    assert isinstance(statement, Select)
    found = statement.tree.expressions[0]
    assert isinstance(found, exp.Expr)
    return found


@pytest.mark.parametrize("text", ["'101'", "B'101'", "'101'::bit(3)", "('101')::BIT"])
def test_bit_strings_of_the_length_asked_for(text: str) -> None:
    found = bit_literal(item(text), 3)
    assert found is not None
    assert found.tolist() == [1, 0, 1]


@pytest.mark.parametrize("text", ["101", "'101'::bit(2)", "'101'::text", "'1010'", "'10x'"])
def test_what_makes_something_else_of_it_is_none(text: str) -> None:
    """An index must not make an answer of what is an error without one."""
    assert bit_literal(item(text), 3) is None
