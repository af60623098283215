WITH n AS (SELECT id, price FROM docs ORDER BY vec <-> :q LIMIT 5) SELECT avg(price) FROM n
----
DuckDB WITH n AS (SELECT id, price FROM docs ORDER BY vec <-> :q LIMIT 5) SELECT avg(price) FROM n
  VectorSearch docs.vec <-> :q (l2, k = 5)

WITH n AS MATERIALIZED (SELECT * FROM docs WHERE cat = 'a') SELECT id FROM n ORDER BY vec <-> :q LIMIT 5
----
Project (id) without DuckDB
  VectorSearch docs.vec <-> :q (l2, k = 5)
    Filter cat = 'a'
      Scan docs (cat)

WITH n AS NOT MATERIALIZED (SELECT * FROM docs WHERE cat = 'a') SELECT id FROM n ORDER BY vec <-> :q LIMIT 5
----
Project (id) without DuckDB
  VectorSearch docs.vec <-> :q (l2, k = 5)
    Filter cat = 'a'
      Scan docs (cat)

WITH n AS (SELECT id, vec <-> :q AS d FROM docs) SELECT id, d FROM n WHERE d < 3 ORDER BY d LIMIT 5
----
DuckDB WITH n AS (SELECT id, vec <-> :q AS d FROM docs) SELECT id, d FROM n WHERE d < 3 ORDER BY d LIMIT 5
  VectorSearch docs.vec <-> :q (l2, k = 5)

SELECT id FROM docs WHERE id IN (SELECT id FROM docs ORDER BY vec <-> :q LIMIT 5)
----
DuckDB SELECT id FROM docs WHERE id IN (SELECT id FROM docs ORDER BY vec <-> :q LIMIT 5)
  Scan docs (id)
  VectorSearch docs.vec <-> :q (l2, k = 5)

SELECT (SELECT id FROM docs ORDER BY vec <-> :q LIMIT 1) AS nearest
----
DuckDB SELECT (SELECT id FROM docs ORDER BY vec <-> :q LIMIT 1) AS nearest
  VectorSearch docs.vec <-> :q (l2, k = 1)

(SELECT id FROM docs ORDER BY vec <-> :q LIMIT 2) UNION ALL (SELECT id FROM docs ORDER BY vec <=> :p LIMIT 2)
----
DuckDB (SELECT id FROM docs ORDER BY vec <-> :q LIMIT 2) UNION ALL (SELECT id FROM docs ORDER BY vec <=> :p LIMIT 2)
  VectorSearch docs.vec <-> :q (l2, k = 2)
  VectorSearch docs.vec <=> :p (cosine, k = 2)

SELECT id FROM (SELECT id, vec FROM docs UNION ALL SELECT id, v FROM queries) u ORDER BY vec <-> :q LIMIT 2
----
DuckDB SELECT id FROM (SELECT id, vec FROM docs UNION ALL SELECT id, v FROM queries) AS u ORDER BY vec <-> :q LIMIT 2
  Scan docs (id, vec)
  Scan queries (id, v)
Note: vec <-> :q: not pushed down, because the sub-query u can't be merged: it unites rows; computed exactly for every row

SELECT a.id, b.id FROM (SELECT id FROM docs ORDER BY vec <-> :q LIMIT 2) a, (SELECT id FROM docs ORDER BY vec <-> :p LIMIT 2) b
----
DuckDB SELECT a.id, b.id FROM (SELECT id FROM docs ORDER BY vec <-> :q LIMIT 2) AS a, (SELECT id FROM docs ORDER BY vec <-> :p LIMIT 2) AS b
  VectorSearch docs.vec <-> :q (l2, k = 2)
  VectorSearch docs.vec <-> :p (l2, k = 2)

SELECT id FROM docs WHERE id IN (SELECT id FROM docs ORDER BY vec <-> :p LIMIT 9) ORDER BY vec <-> :q LIMIT 3
----
Project (id) without DuckDB
  VectorSearch docs.vec <-> :q (l2, k = 3)
    Filter id IN (SELECT id FROM docs ORDER BY vec <-> :p LIMIT 9)
      Scan docs (id)
      VectorSearch docs.vec <-> :p (l2, k = 9)

SELECT d.id FROM docs d JOIN (SELECT id FROM docs ORDER BY vec <-> :q LIMIT 5) n ON n.id = d.id ORDER BY d.price
----
DuckDB SELECT d.id FROM docs AS d JOIN (SELECT id FROM docs ORDER BY vec <-> :q LIMIT 5) AS n ON n.id = d.id ORDER BY d.price
  Scan docs (id, price)
  VectorSearch docs.vec <-> :q (l2, k = 5)

SELECT d.id, q.id FROM docs d JOIN queries q ON q.id = d.id ORDER BY d.vec <-> :q LIMIT 3
----
DuckDB SELECT d.id, q.id FROM docs AS d JOIN queries AS q ON q.id = d.id ORDER BY d.vec <-> :q LIMIT 3
  VectorSearch docs.vec <-> :q (l2, k = 3, more until the join gives as many)
  Scan queries (id)

SELECT d.id, q.id FROM docs d LEFT JOIN queries q ON q.id = d.id ORDER BY d.vec <-> :q LIMIT 3
----
DuckDB SELECT d.id, q.id FROM docs AS d LEFT JOIN queries AS q ON q.id = d.id ORDER BY d.vec <-> :q LIMIT 3
  VectorSearch docs.vec <-> :q (l2, k = 3)
  Scan queries (id)

SELECT d.id, q.id FROM queries q LEFT JOIN docs d ON q.id = d.id ORDER BY d.vec <-> :q LIMIT 3
----
DuckDB SELECT d.id, q.id FROM queries AS q LEFT JOIN docs AS d ON q.id = d.id ORDER BY d.vec <-> :q LIMIT 3
  Scan queries (id)
  Scan docs (id) computing vec <-> :q
Note: d.vec <-> :q: not pushed down, because the kind of join needs every row of the table; computed exactly for every row

SELECT d.id FROM docs d SEMI JOIN queries q ON q.id = d.id ORDER BY d.vec <-> :q LIMIT 3
----
DuckDB SELECT d.id FROM docs AS d SEMI JOIN queries AS q ON q.id = d.id ORDER BY d.vec <-> :q LIMIT 3
  VectorSearch docs.vec <-> :q (l2, k = 3, more until the join gives as many)
  Scan queries (id)

SELECT id FROM docs WHERE EXISTS (SELECT 1 FROM queries q WHERE q.id = docs.id) ORDER BY vec <-> :q LIMIT 3
----
Project (id) without DuckDB
  VectorSearch docs.vec <-> :q (l2, k = 3)
    Filter EXISTS(SELECT 1 FROM queries AS q WHERE q.id = docs.id)
      Scan docs (id)
      Scan queries (id)

SELECT id FROM docs WHERE id NOT IN (SELECT id FROM queries) ORDER BY vec <-> :q LIMIT 3
----
Project (id) without DuckDB
  VectorSearch docs.vec <-> :q (l2, k = 3)
    Filter id NOT IN (SELECT id FROM queries)
      Scan docs (id)
      Scan queries (id)
