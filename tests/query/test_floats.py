"""FLOAT(n), by its binary digits as in PostgreSQL."""

from __future__ import annotations

import pytest

from nearql.engine.errors import NearQLError
from nearql.query.result import ResultColumn
from support.sql import Sql


@pytest.mark.parametrize(
    ("written", "kind"),
    [("FLOAT(1)", "FLOAT"), ("float(24)", "FLOAT"), ("FLOAT ( 25 )", "DOUBLE"),
     ("FLOAT(53)", "DOUBLE"), ("float8", "DOUBLE"), ("float4", "FLOAT"), ("real", "FLOAT")],
)  # fmt: skip
def test_floats_by_their_digits(sql: Sql, written: str, kind: str) -> None:
    sql.run(f"CREATE TABLE t (id BIGINT PRIMARY KEY, x {written})")
    assert sql.rows("DESCRIBE t")[1][:2] == ("x", kind)
    assert sql.run(f"SELECT 1.5::{written} AS x, CAST(NULL AS {written}) AS y").columns == (
        ResultColumn("x", kind), ResultColumn("y", kind),
    )  # fmt: skip


@pytest.mark.parametrize("written", ["FLOAT(0)", "FLOAT(54)"])
def test_floats_of_too_many_digits(sql: Sql, written: str) -> None:
    for text in (f"CREATE TABLE t (x {written})", f"SELECT 1::{written}"):
        with pytest.raises(NearQLError, match="1 to 53 binary digits") as found:
            sql.run(text)
        assert found.value.code == "invalid_value"
