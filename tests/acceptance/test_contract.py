"""What the contract says, asked from outside: one small database in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import nearql
from nearql.client.sync import Connection


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    directory: Path = tmp_path_factory.mktemp("contract")
    with nearql.connect(str(directory)) as opened:
        opened.execute("CREATE TABLE docs (id BIGINT PRIMARY KEY, n INT, vec VECTOR(2))")
        opened.execute(
            "INSERT INTO docs SELECT i, i % 4, [i % 3, 0] FROM range(60, 0, -1) r(i) "
            "UNION ALL SELECT 100, 1, NULL"
        )
        yield opened


ORDER = "ORDER BY vec <-> '[0,0]' LIMIT 4"


@pytest.mark.parametrize(
    "statement",
    [
        f"SELECT id FROM docs WHERE n = 1 {ORDER}",
        f"SELECT id FROM (SELECT * FROM docs WHERE n = 1) AS sub {ORDER}",
        f"SELECT id FROM (SELECT * FROM (SELECT id, n, vec FROM docs) a WHERE a.n = 1) b {ORDER}",
        f"WITH some AS (SELECT id, vec FROM docs WHERE docs.n = 1) SELECT id FROM some {ORDER}",
        f"SELECT id FROM docs WHERE n = 1 QUALIFY count(*) OVER () > 0 {ORDER}",
    ],
)
def test_equal_distances_come_in_the_order_of_the_key(db: Connection, statement: str) -> None:
    """Rows 9, 21, 33, 45 and 57 are equally near; they were inserted the other way round."""
    assert db.sql(statement).fetchall() == [(9,), (21,), (33,), (45,)]


def test_a_row_as_one_value_has_the_columns_of_its_table(db: Connection) -> None:
    found = db.sql(f"SELECT docs FROM docs WHERE n = 1 {ORDER}").fetchall()
    assert found[0] == ({"id": 9, "n": 1, "vec": [0.0, 0.0]},)
