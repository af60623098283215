SELECT id, vec <-> :q AS d FROM docs ORDER BY d LIMIT 3
----
Project (id, d) without DuckDB
  VectorSearch docs.vec <-> :q (l2, k = 3)

SELECT id, vec <-> :q FROM docs ORDER BY 2 LIMIT 3
----
Project (id, vec <-> :q) without DuckDB
  VectorSearch docs.vec <-> :q (l2, k = 3)

SELECT id FROM docs ORDER BY l2_distance(vec, :q) LIMIT 3
----
Project (id) without DuckDB
  VectorSearch docs.vec <-> :q (l2, k = 3)

SELECT id FROM docs ORDER BY :q <-> vec LIMIT 3 OFFSET 2
----
Project (id) without DuckDB
  VectorSearch docs.vec <-> :q (l2, k = 3 + 2)

SELECT id FROM docs ORDER BY (vec <-> :q), id LIMIT 3
----
Project (id) without DuckDB
  VectorSearch docs.vec <-> :q (l2, k = 3)

SELECT id FROM docs ORDER BY vec <#> :q LIMIT 3
----
Project (id) without DuckDB
  VectorSearch docs.vec <#> :q (inner_product, k = 3)

SELECT id FROM docs ORDER BY inner_product(vec, :q) DESC LIMIT 3
----
Project (id) without DuckDB
  VectorSearch docs.vec <#> :q (inner_product, k = 3)

SELECT id FROM docs ORDER BY vec <-> :q DESC LIMIT 3
----
DuckDB SELECT id FROM docs ORDER BY vec <-> :q DESC LIMIT 3
  Scan docs (id) computing vec <-> :q
Note: vec <-> :q: the order isn't that of rising distances, so it is computed exactly for every row

SELECT id FROM docs ORDER BY vec <-> :q DESC OFFSET 2
----
DuckDB SELECT id FROM docs ORDER BY vec <-> :q DESC OFFSET 2
  Scan docs (id) computing vec <-> :q
Note: vec <-> :q: no LIMIT, so it is computed exactly for every row

SELECT id FROM docs ORDER BY 2 * (vec <-> :q) LIMIT 3
----
DuckDB SELECT id FROM docs ORDER BY 2 * (vec <-> :q) LIMIT 3
  Scan docs (id) computing vec <-> :q
Note: vec <-> :q: the order isn't that of rising distances, so it is computed exactly for every row

SELECT id, 1 - (vec <=> :q) AS score FROM docs ORDER BY vec <=> :q LIMIT 3
----
Project (id, score) without DuckDB
  VectorSearch docs.vec <=> :q (cosine, k = 3)

SELECT id, 1 - (vec <=> :q) AS score FROM docs ORDER BY score DESC LIMIT 3
----
DuckDB SELECT id, 1 - (vec <=> :q) AS score FROM docs ORDER BY score DESC LIMIT 3
  Scan docs (id) computing vec <=> :q
Note: vec <=> :q: the order isn't that of rising distances, so it is computed exactly for every row

SELECT id FROM docs ORDER BY vec <-> (SELECT v FROM queries WHERE id = 1) LIMIT 3
----
Project (id) without DuckDB
  VectorSearch docs.vec <-> ((SELECT v FROM queries WHERE id = 1)) (l2, k = 3)
    QueryVector (SELECT v FROM queries WHERE id = 1)
      Scan queries (id, v)

SELECT id FROM docs ORDER BY vec <-> :q LIMIT (SELECT count(*) FROM queries)
----
Project (id) without DuckDB
  VectorSearch docs.vec <-> :q (l2, k = ((SELECT count(*) FROM queries)))

SELECT id FROM docs ORDER BY vec <-> :q LIMIT :k OFFSET :o
----
Project (id) without DuckDB
  VectorSearch docs.vec <-> :q (l2, k = :k + :o)

SELECT id FROM docs WHERE vec <-> :q < 2 ORDER BY vec <-> :q LIMIT 3
----
DuckDB SELECT id FROM docs WHERE vec <-> :q < 2 ORDER BY vec <-> :q LIMIT 3
  VectorSearch docs.vec <-> :q (l2, k = 3)

SELECT id FROM docs WHERE vec <-> :q < 2 AND vec <=> :p < 1 ORDER BY vec <-> :q LIMIT 3
----
DuckDB SELECT id FROM docs WHERE vec <-> :q < 2 AND vec <=> :p < 1 ORDER BY vec <-> :q LIMIT 3
  VectorSearch docs.vec <-> :q (l2, k = 3)
    Filter vec <=> :p < 1
      RangeSearch docs.vec <=> :p (cosine, radius = 1)

SELECT id FROM docs WHERE vec <-> :q < 2 ORDER BY price LIMIT 3
----
DuckDB SELECT id FROM docs WHERE vec <-> :q < 2 ORDER BY price LIMIT 3
  RangeSearch docs.vec <-> :q (l2, radius = 2)

SELECT id FROM docs ORDER BY vec <-> :q NULLS FIRST LIMIT 3
----
DuckDB SELECT id FROM docs ORDER BY vec <-> :q NULLS FIRST LIMIT 3
  Scan docs (id) computing vec <-> :q
Note: vec <-> :q: NULLS FIRST asks for rows that no search finds, so it is computed exactly for every row

SELECT id FROM docs FETCH FIRST 3 ROWS ONLY
----
DuckDB SELECT id FROM docs LIMIT 3
  Scan docs (id)
