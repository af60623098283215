SELECT id FROM docs WHERE vec <-> :q < 0.5
----
DuckDB SELECT id FROM docs WHERE vec <-> :q < 0.5
  RangeSearch docs.vec <-> :q (l2, radius = 0.5)

SELECT id FROM docs WHERE :r >= (vec <=> :q) AND price < 3
----
DuckDB SELECT id FROM docs WHERE :r >= (vec <=> :q) AND price < 3
  RangeSearch docs.vec <=> :q (cosine, radius = :r)

SELECT id, vec <-> :q AS d FROM docs WHERE d <= 2 ORDER BY d
----
DuckDB SELECT id, vec <-> :q AS d FROM docs WHERE d <= 2 ORDER BY d
  RangeSearch docs.vec <-> :q (l2, radius = 2)

SELECT count(*), avg(vec <-> :q) FROM docs WHERE vec <-> :q < 1
----
DuckDB SELECT count(*), avg(vec <-> :q) FROM docs WHERE vec <-> :q < 1
  RangeSearch docs.vec <-> :q (l2, radius = 1)

SELECT cat, count(*) FROM docs WHERE vec <-> :q < 1 GROUP BY cat
----
DuckDB SELECT cat, count(*) FROM docs WHERE vec <-> :q < 1 GROUP BY cat
  RangeSearch docs.vec <-> :q (l2, radius = 1)

SELECT d.id FROM docs d JOIN queries q ON q.id = d.id WHERE d.vec <-> :q < 1
----
DuckDB SELECT d.id FROM docs AS d JOIN queries AS q ON q.id = d.id WHERE d.vec <-> :q < 1
  RangeSearch docs.vec <-> :q (l2, radius = 1)
  Scan queries (id)

SELECT q.id, d.id FROM queries q LEFT JOIN docs d ON q.id = d.id WHERE d.vec <-> :q < 1
----
DuckDB SELECT q.id, d.id FROM queries AS q LEFT JOIN docs AS d ON q.id = d.id WHERE d.vec <-> :q < 1
  Scan queries (id)
  RangeSearch docs.vec <-> :q (l2, radius = 1)

SELECT id FROM docs WHERE vec <-> :q < 1 OR price < 3
----
DuckDB SELECT id FROM docs WHERE vec <-> :q < 1 OR price < 3
  Scan docs (id, price) computing vec <-> :q

SELECT id FROM docs WHERE vec <-> :q < price
----
DuckDB SELECT id FROM docs WHERE vec <-> :q < price
  Scan docs (id, price) computing vec <-> :q

SELECT id FROM docs WHERE NOT vec <-> :q < 1
----
DuckDB SELECT id FROM docs WHERE NOT vec <-> :q < 1
  Scan docs (id) computing vec <-> :q

SELECT id FROM docs WHERE vec <-> :q BETWEEN 1 AND 2
----
DuckDB SELECT id FROM docs WHERE vec <-> :q BETWEEN 1 AND 2
  RangeSearch docs.vec <-> :q (l2, radius = 2)
