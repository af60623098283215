"""The golden scripts of the planner's rules, and the tables that they ask."""

from __future__ import annotations

from pathlib import Path

SCRIPTS = Path(__file__).parents[1] / "scripts" / "rules"
COLUMNS = "id BIGINT PRIMARY KEY, title TEXT, price DOUBLE, cat TEXT, vec VECTOR(2)"
SCHEMA = f"""
CREATE TABLE docs ({COLUMNS});
CREATE TABLE queries (id BIGINT PRIMARY KEY, v VECTOR(2));
CREATE VIEW red AS SELECT * FROM docs WHERE price < 3;
CREATE VIEW named (number, heading, embedding) AS SELECT id, upper(title), vec FROM red;
CREATE VIEW joined AS SELECT d.id, d.vec, q.id AS name FROM docs d JOIN queries q ON q.id = d.id;
CREATE VIEW ranked AS SELECT id, vec <-> '[1, 2]' AS d FROM docs;
CREATE VIEW few AS SELECT * FROM docs ORDER BY price LIMIT 5;
CREATE VIEW grouped AS SELECT cat, count(*) AS n, avg(vec) AS centre FROM docs GROUP BY cat
"""
INDEXES = """
CREATE INDEX half ON docs USING hnsw ((vec::halfvec(2)) halfvec_l2_ops);
CREATE INDEX bits ON docs USING hnsw ((binary_quantize(vec)::bit(2)) bit_hamming_ops);
CREATE INDEX first ON docs USING ivfflat ((subvector(vec, 1, 1)::vector(1)) vector_cosine_ops);
CREATE INDEX second ON docs USING hnsw ((subvector(vec, 2, 1)::vector(1)) vector_l2_ops)
  WHERE cat = 'x';
CREATE INDEX of_x ON docs USING hnsw (vec vector_l2_ops) WHERE cat = 'x' AND vec IS NOT NULL;
CREATE INDEX dear ON docs USING hnsw (vec vector_l1_ops) WHERE price > 5
"""


def blocks(path: Path) -> list[tuple[str, str]]:
    """(statement, plan) of each block; a blank line ends a block, `----` comes before the plan."""
    parts = [part.partition("\n----\n") for part in path.read_text().strip().split("\n\n")]
    return [(statement.strip(), plan.strip()) for statement, _, plan in parts]
