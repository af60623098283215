SELECT id, title, vec <-> :q AS d FROM docs ORDER BY vec <-> :q LIMIT 5
----
Project (id, title, d) without DuckDB
  VectorSearch docs.vec <-> :q (l2, k = 5)

SELECT * FROM docs ORDER BY vec <=> :q LIMIT 5 OFFSET 10
----
Project (id, title, price, cat, vec) without DuckDB
  VectorSearch docs.vec <=> :q (cosine, k = 5 + 10)

SELECT id, vec <#> :q AS d FROM docs ORDER BY d LIMIT :k OFFSET :o
----
Project (id, d) without DuckDB
  VectorSearch docs.vec <#> :q (inner_product, k = :k + :o)

SELECT id, vec <+> :q FROM docs ORDER BY 2 LIMIT 5
----
Project (id, vec <+> :q) without DuckDB
  VectorSearch docs.vec <+> :q (l1, k = 5)

SELECT id FROM docs ORDER BY vec <-> '[1, 2]' ASC, id LIMIT 5
----
Project (id) without DuckDB
  VectorSearch docs.vec <-> a vector of 2 dimensions (l2, k = 5)

SELECT id FROM docs ORDER BY '[1, 2]' <-> vec LIMIT 5
----
Project (id) without DuckDB
  VectorSearch docs.vec <-> a vector of 2 dimensions (l2, k = 5)

SELECT id FROM docs ORDER BY vec <-> ARRAY[1, 2] LIMIT 5
----
Project (id) without DuckDB
  VectorSearch docs.vec <-> a vector of 2 dimensions (l2, k = 5)

SELECT id FROM docs ORDER BY l2_distance(vec, :q::vector) LIMIT 5
----
Project (id) without DuckDB
  VectorSearch docs.vec <-> :q (l2, k = 5)

SELECT id FROM docs ORDER BY inner_product(vec, :q) DESC LIMIT 5
----
Project (id) without DuckDB
  VectorSearch docs.vec <#> :q (inner_product, k = 5)

SELECT id FROM docs ORDER BY -(vec <#> :q) DESC LIMIT 5
----
Project (id) without DuckDB
  VectorSearch docs.vec <#> :q (inner_product, k = 5)

SELECT id FROM docs ORDER BY vec <-> (SELECT vec FROM docs WHERE id = 7) LIMIT 5
----
Project (id) without DuckDB
  VectorSearch docs.vec <-> ((SELECT vec FROM docs WHERE id = 7)) (l2, k = 5)
    QueryVector (SELECT vec FROM docs WHERE id = 7)
      Scan docs (id, vec)

SELECT id FROM docs WHERE price < :p AND cat IN ('a', 'b') ORDER BY vec <-> :q LIMIT 5
----
Project (id) without DuckDB
  VectorSearch docs.vec <-> :q (l2, k = 5)
    Filter price < :p AND cat IN ('a', 'b')
      Scan docs (price, cat)

SELECT id FROM docs WHERE price < 3 OR cat = 'a' ORDER BY vec <-> :q LIMIT 5
----
Project (id) without DuckDB
  VectorSearch docs.vec <-> :q (l2, k = 5)
    Filter (price < 3 OR cat = 'a')
      Scan docs (price, cat)

SELECT id FROM docs WHERE id IN (SELECT id FROM queries) ORDER BY vec <-> :q LIMIT 5
----
Project (id) without DuckDB
  VectorSearch docs.vec <-> :q (l2, k = 5)
    Filter id IN (SELECT id FROM queries)
      Scan docs (id)
      Scan queries (id)

SELECT id FROM docs WHERE vec <-> :q < 0.5 AND price < 3 ORDER BY vec <-> :q LIMIT 5
----
DuckDB SELECT id FROM docs WHERE vec <-> :q < 0.5 AND price < 3 ORDER BY vec <-> :q LIMIT 5
  VectorSearch docs.vec <-> :q (l2, k = 5)
    Filter price < 3
      Scan docs (price)

SELECT id FROM docs WHERE vec <-> :q > 0.5 ORDER BY vec <-> :q LIMIT 5
----
Project (id) without DuckDB
  VectorSearch docs.vec <-> :q (l2, k = 5)
    Filter vec <-> :q > 0.5
      Scan docs () computing vec <-> :q

SELECT upper(title) FROM docs ORDER BY vec <-> :q LIMIT 5
----
DuckDB SELECT upper(title) FROM docs ORDER BY vec <-> :q LIMIT 5
  VectorSearch docs.vec <-> :q (l2, k = 5)

WITH near AS (SELECT id, cat FROM docs ORDER BY vec <-> :q LIMIT 5) SELECT cat, count(*) FROM near GROUP BY cat
----
DuckDB WITH near AS (SELECT id, cat FROM docs ORDER BY vec <-> :q LIMIT 5) SELECT cat, count(*) FROM near GROUP BY cat
  VectorSearch docs.vec <-> :q (l2, k = 5)

WITH few AS (SELECT id FROM queries) SELECT id FROM docs WHERE id IN (SELECT id FROM few) ORDER BY vec <-> :q LIMIT 5
----
DuckDB WITH few AS (SELECT id FROM queries) SELECT id FROM docs WHERE id IN (SELECT id FROM few) ORDER BY vec <-> :q LIMIT 5
  VectorSearch docs.vec <-> :q (l2, k = 5)
    Filter id IN (SELECT id FROM few)
      Scan docs (id)
      Scan queries (id)
  Scan queries (id)

SELECT d.id, q.id FROM (SELECT id FROM docs ORDER BY vec <-> :q LIMIT 5) d JOIN queries q ON q.id = d.id
----
DuckDB SELECT d.id, q.id FROM (SELECT id FROM docs ORDER BY vec <-> :q LIMIT 5) AS d JOIN queries AS q ON q.id = d.id
  Scan queries (id)
  VectorSearch docs.vec <-> :q (l2, k = 5)

SELECT d.id, q.id FROM docs d LEFT JOIN queries q ON q.id = d.id ORDER BY d.vec <-> :q LIMIT 5
----
DuckDB SELECT d.id, q.id FROM docs AS d LEFT JOIN queries AS q ON q.id = d.id ORDER BY d.vec <-> :q LIMIT 5
  VectorSearch docs.vec <-> :q (l2, k = 5)
  Scan queries (id)

(SELECT id FROM docs ORDER BY vec <-> :q LIMIT 2) UNION ALL (SELECT id FROM docs ORDER BY vec <=> :q LIMIT 2)
----
DuckDB (SELECT id FROM docs ORDER BY vec <-> :q LIMIT 2) UNION ALL (SELECT id FROM docs ORDER BY vec <=> :q LIMIT 2)
  VectorSearch docs.vec <-> :q (l2, k = 2)
  VectorSearch docs.vec <=> :q (cosine, k = 2)

SELECT id FROM docs WHERE id IN (SELECT id FROM docs ORDER BY vec <-> :q LIMIT 9) ORDER BY vec <=> :p LIMIT 3
----
Project (id) without DuckDB
  VectorSearch docs.vec <=> :p (cosine, k = 3)
    Filter id IN (SELECT id FROM docs ORDER BY vec <-> :q LIMIT 9)
      Scan docs (id)
      VectorSearch docs.vec <-> :q (l2, k = 9)

SELECT id, 1 - (vec <=> :q) AS score, -(vec <=> :q) FROM docs ORDER BY vec <=> :q LIMIT 5
----
Project (id, score, -(vec <=> :q)) without DuckDB
  VectorSearch docs.vec <=> :q (cosine, k = 5)

SELECT d.id, q.id FROM docs d JOIN queries q ON q.id = d.id WHERE d.price < 3 AND q.id > 5 ORDER BY d.vec <-> :q LIMIT 5
----
DuckDB SELECT d.id, q.id FROM docs AS d JOIN queries AS q ON q.id = d.id WHERE d.price < 3 AND q.id > 5 ORDER BY d.vec <-> :q LIMIT 5
  VectorSearch docs.vec <-> :q (l2, k = 5, more until the join gives as many)
    Filter d.price < 3
      Scan docs (price)
  Scan queries (id)

SELECT d.id FROM queries q, docs d WHERE d.id = q.id ORDER BY d.vec <-> :q LIMIT 5
----
DuckDB SELECT d.id FROM queries AS q, docs AS d WHERE d.id = q.id ORDER BY d.vec <-> :q LIMIT 5
  Scan queries (id)
  VectorSearch docs.vec <-> :q (l2, k = 5, more until the join gives as many)
